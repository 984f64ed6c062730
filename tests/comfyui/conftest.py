"""A server of each version of ComfyUI, and the embedded model on both sides."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from comfyui_server import ROOT, Server
from comfyui_toy import PROMPT, SCALE, SEED, STEPS, Toy
from safetensors.torch import save_file

VERSIONS = ("0.30.0", "0.3.75")


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
def files(tmp_path_factory: pytest.TempPathFactory, toyworld_pipeline: Any) -> Callable[..., str]:
    """Files for the server: of texts in words, and of tensors."""
    folder = tmp_path_factory.mktemp("files")
    made: dict[str | None, str] = {}

    def write(words: str | None = None, **tensors: torch.Tensor) -> str:
        if words in made:
            return made[words]
        file = str(folder / f"{len(list(folder.iterdir()))}.safetensors")
        if words is not None:
            made[words] = file
            tensors["text"], _ = toyworld_pipeline.encode_prompt([words], "cpu", 1, False)
        save_file({key: value.contiguous() for key, value in tensors.items()}, file)
        return file

    return write


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory, toyworld_pipeline: Any) -> str:
    """The embedded model's UNet in single precision, with its noise schedule."""
    folder = tmp_path_factory.mktemp("embedded")
    toyworld_pipeline.unet.save_pretrained(folder / "unet", safe_serialization=True)
    alphas = toyworld_pipeline.scheduler.alphas_cumprod
    save_file({"alphas_cumprod": alphas.contiguous()}, folder / "alphas_cumprod.safetensors")
    return str(folder)


@pytest.fixture(scope="session")
def toy(comfyui: Server, files: Callable[..., str], model_folder: str) -> Toy:
    return Toy(comfyui, files, model_folder)


@pytest.fixture(scope="session")
def diffusers_latents(toyworld_pipeline: Any) -> Callable[..., torch.Tensor]:
    """What negguide makes of the same on diffusers."""
    pipe = toyworld_pipeline

    def sample(
        *guidance: Any, batch: int = 1, cfg: float = SCALE, seed: int = SEED, **options: Any
    ) -> torch.Tensor:
        noise = torch.randn(batch, 8, 16, 16, generator=torch.manual_seed(seed))
        given = {"prompt": PROMPT, "negative_prompt": "", "num_inference_steps": STEPS, **options}
        if guidance:
            given["negative_guidance"] = list(guidance)
        images = pipe(
            **given, latents=noise, guidance_scale=cfg, num_images_per_prompt=batch, output_type="latent"
        ).images
        return images

    return sample
