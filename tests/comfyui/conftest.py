"""A server of each version of ComfyUI, and the embedded model on both sides."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from comfyui_both import Both
from comfyui_server import ROOT, VERSIONS, Server
from comfyui_toy import PROMPT, SCALE, SEED, STEPS, Toy
from diffusers import DDIMScheduler
from safetensors.torch import save_file

from negguide.models import load_pipeline

# run by ComfyUI's own interpreter: test_comfyui_inside.py
collect_ignore = ["inside"]


@pytest.fixture(scope="session", params=VERSIONS)
def comfyui(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running server."""
    folder = request.config.getoption("--comfyui")
    if folder is None:
        pytest.skip("needs ComfyUI: python scripts/comfyui_environment.py FOLDER, and --comfyui FOLDER")
    base = tmp_path_factory.mktemp(f"comfyui-{request.param}")
    packs = {"negguide": ROOT / "comfyui", "tests": Path(__file__).parent / "pack"}
    with Server(Path(folder).resolve(), request.param, base, packs) as server:
        yield server


@pytest.fixture(scope="session")
def embedded() -> Any:
    """The embedded model, with the noise schedule of Stable Diffusion.

    Its own begins at a sigma of 20,000, beside which ComfyUI's float32 holds an image to three digits only.
    """
    pipe = load_pipeline("toyworld")
    pipe.scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory, embedded: Any) -> Callable[..., str]:
    """Files for the server: of texts in words, and of tensors."""
    folder = tmp_path_factory.mktemp("files")
    made: dict[str | None, str] = {}

    def write(words: str | None = None, **tensors: torch.Tensor) -> str:
        if words in made:
            return made[words]
        file = str(folder / f"{len(list(folder.iterdir()))}.safetensors")
        if words is not None:
            made[words] = file
            tensors["text"], _ = embedded.encode_prompt([words], "cpu", 1, False)
        save_file({key: value.contiguous() for key, value in tensors.items()}, file)
        return file

    return write


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory, embedded: Any) -> str:
    """The embedded model's UNet in single precision, with its noise schedule."""
    folder = tmp_path_factory.mktemp("embedded")
    embedded.unet.save_pretrained(folder / "unet", safe_serialization=True)
    alphas = embedded.scheduler.alphas_cumprod
    save_file({"alphas_cumprod": alphas.contiguous()}, folder / "alphas_cumprod.safetensors")
    return str(folder)


@pytest.fixture(scope="session")
def toy(comfyui: Server, files: Callable[..., str], model_folder: str) -> Toy:
    return Toy(comfyui, files, model_folder)


@pytest.fixture(scope="session")
def diffusers_latents(embedded: Any) -> Callable[..., torch.Tensor]:
    """What negguide makes of the same on diffusers."""
    pipe = embedded

    plain: dict[tuple[int, float], torch.Tensor] = {}

    def sample(*guidance: Any, batch: int = 1, cfg: float = SCALE, **options: Any) -> torch.Tensor:
        if not guidance and not options and (batch, cfg) in plain:
            return plain[batch, cfg]
        noise = torch.randn(batch, 8, 16, 16, generator=torch.manual_seed(SEED))
        given = {"prompt": PROMPT, "negative_prompt": "", "num_inference_steps": STEPS, **options}
        if guidance:
            given["negative_guidance"] = list(guidance)
        images = pipe(
            **given, latents=noise, guidance_scale=cfg, num_images_per_prompt=batch, output_type="latent"
        ).images
        if not guidance and not options:
            plain[batch, cfg] = images
        return images

    return sample


@pytest.fixture(scope="session")
def built() -> dict[tuple[str, str], Both]:
    return {}


@pytest.fixture
def both(
    comfyui: Server, tmp_path_factory: pytest.TempPathFactory, built: dict[tuple[str, str], Both]
) -> Callable[[str], Both]:
    def get(kind: str) -> Both:
        key = (comfyui.version, kind)
        if key not in built:
            built[key] = Both(comfyui, tmp_path_factory.mktemp(kind), kind)
        return built[key]

    return get
