"""The modular pipelines of six families, tiny and random, beside the classic pipelines of the same parts."""

import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers.modular_pipelines.wan import encoders as wan_encoders
from packaging.version import Version

if not hasattr(wan_encoders, "ftfy"):
    # modular Wan cannot do without ftfy, which mends broken characters; there are none here
    wan_encoders.ftfy = types.SimpleNamespace(fix_text=lambda text: text)

# on older versions of diffusers these pipelines are not there
collect_ignore = (
    []
    if Version(diffusers.__version__) >= Version("0.42")
    else ["test_modular_more.py", "test_modular_twins.py"]
)
HERE = Path(__file__).parent
WHOLE = {
    "both": ("sdxl", "qwen-image", "wan"),
    "one": ("krea2", "ltx-i2v", "helios", "qwenimage-edit-plus"),
    "pair": ("krea2", "krea2-turbo", "wan-i2v"),
}
"""Of each fixture that goes through pipelines, on which of them the quick run runs every test: a U-Net, a transformer
and a video model; of the further ones also one that goes on from a picture, by chunks, and from several pictures. The
others have the main tests, each with the first of its parameters."""
PROMPT, OTHER = "a bear wearing a hat", "a cat in the snow"
SCALE = 4.0


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[Any]) -> None:
    seen: set[tuple[str, str]] = set()
    for item in items:
        if HERE not in item.path.parents or not hasattr(item, "callspec"):
            continue
        params = item.callspec.params
        for fixture in WHOLE.keys() & params.keys():
            # the first one of a test on a pipeline has the first of every other parameter
            key = (item.nodeid.partition("[")[0], params[fixture])
            main = item.get_closest_marker("main") is not None and key not in seen
            seen.add(key)
            if params[fixture] not in WHOLE[fixture] and not main:
                item.add_marker("rest")


def _unpacked(pipe: Any, latents: torch.Tensor) -> torch.Tensor:
    return pipe._unpack_latents(latents, 64, 64, pipe.vae_scale_factor)


def _before_decoding(pipe: Any, latents: torch.Tensor) -> torch.Tensor:
    """FLUX.2's latents come out of the classic pipeline as its autoencoder takes them."""
    norm = pipe.vae.bn
    deviation = torch.sqrt(norm.running_var + pipe.vae.config.batch_norm_eps).view(1, -1, 1, 1)
    return (pipe._patchify_latents(latents) - norm.running_mean.view(1, -1, 1, 1)) / deviation


@dataclass(frozen=True)
class Family:
    """How one family is built and called.

    Attributes:
        build: module and function that make the classic pipeline.
        blocks: the class of the modular pipeline's blocks.
        both, classic, modular: arguments of a call, those of both kinds of pipeline and those of one.
        latents: the classic pipeline's latents as the modular one gives them.
    """

    name: str
    build: tuple[str, str]
    blocks: str
    both: dict[str, Any]
    classic: dict[str, Any]
    modular: dict[str, Any]
    latents: Callable[[Any, torch.Tensor], torch.Tensor] = lambda pipe, latents: latents
    videos: bool = False


SCALED: dict[str, Any] = {"guidance_scale": SCALE}
SHORT: dict[str, Any] = {"max_sequence_length": 10}
CHAT: dict[str, Any] = {"max_sequence_length": 40}
EMPTY: dict[str, Any] = {"negative_prompt": ""}
FAMILIES = (
    Family("sdxl", ("tiny_unet_and_cross", "sdxl"), "StableDiffusionXLAutoBlocks", {}, SCALED, {}),
    Family("sd3", ("tiny_unet_and_cross", "sd3"), "StableDiffusion3AutoBlocks", SHORT | EMPTY, SCALED, {}),
    Family(
        "qwen-image",
        ("tiny_joint", "qwen_image"),
        "QwenImageAutoBlocks",
        EMPTY,
        {"true_cfg_scale": SCALE},
        {},
        _unpacked,
    ),
    Family("z-image", ("tiny_joint", "z_image"), "ZImageAutoBlocks", CHAT, {"guidance_scale": SCALE - 1}, {}),
    Family(
        "wan",
        ("tiny_unet_and_cross", "wan"),
        "WanBlocks",
        {**SHORT, "num_frames": 5},
        SCALED,
        {},
        videos=True,
    ),
    Family(
        "flux2-klein",
        ("tiny_joint", "flux2_klein"),
        "Flux2KleinBaseAutoBlocks",
        {**CHAT, "text_encoder_out_layers": (1, 2, 3)},
        SCALED,
        {},
        _before_decoding,
    ),
)


class Both:
    """One family's classic and modular pipeline, of the same parts, and small runs of them."""

    def __init__(self, family: Family) -> None:
        module, function = family.build
        self.family = family
        self.classic = getattr(__import__(module), function)()
        self.pipe = self.modular(family.blocks)

    def modular(self, blocks_name: str, edit: Callable[[Any], Any] = lambda blocks: None) -> Any:
        """A new modular pipeline of the same parts up to the latents, guided by SCALE; `edit` changes its blocks."""
        blocks = getattr(diffusers, blocks_name)()
        blocks.sub_blocks.pop("decode")
        edit(blocks)
        pipe = blocks.init_pipeline()
        parts = self.classic.components
        pipe.update_components(
            **{name: parts[name] for name in pipe.component_names if parts.get(name) is not None}
        )
        pipe.update_components(guider=diffusers.ClassifierFreeGuidance(guidance_scale=SCALE))
        return pipe

    def _arguments(self, prompt: Any, steps: int, images: int, changes: dict[str, Any]) -> dict[str, Any]:
        rows = images * (len(prompt) if isinstance(prompt, list) else 1)
        count = "num_videos_per_prompt" if self.family.videos else "num_images_per_prompt"
        arguments = {
            "prompt": list(prompt) if isinstance(prompt, list) else prompt,
            "height": 64,
            "width": 64,
            "num_inference_steps": steps,
            count: images,
            "generator": [torch.Generator().manual_seed(seed) for seed in range(rows)],
            **self.family.both,
            **changes,
        }
        if isinstance(prompt, list) and "negative_prompt" in arguments:
            arguments["negative_prompt"] = [arguments["negative_prompt"]] * len(prompt)
        return arguments

    def run(
        self, pipe: Any, prompt: Any = PROMPT, steps: int = 4, images: int = 1, **changes: Any
    ) -> torch.Tensor:
        """The latents of a modular pipeline."""
        arguments = self._arguments(prompt, steps, images, changes) | self.family.modular
        return pipe(**arguments, output=["latents"])["latents"]

    def run_classic(
        self,
        pipe: Any,
        prompt: Any = PROMPT,
        steps: int = 4,
        images: int = 1,
        options: dict[str, Any] | None = None,
        **changes: Any,
    ) -> torch.Tensor:
        """The latents of a classic pipeline, in the form of `run`; `options` in place of those that guide it."""
        options = self.family.classic if options is None else options
        arguments = self._arguments(prompt, steps, images, changes) | options
        return self.family.latents(pipe, pipe(**arguments, output_type="latent", return_dict=False)[0])

    def trace_of_classic(self, pipe: Any, images: int, **changes: Any) -> Any:
        """The trace of the same run."""
        arguments = self._arguments(PROMPT, 4, images, changes) | self.family.classic
        return pipe(**arguments, output_type="latent", return_dict=False)[-1]

    @property
    def denoiser(self) -> torch.nn.Module:
        return self.classic.unet if self.family.name == "sdxl" else self.classic.transformer


_built: dict[str, Both] = {}


def _both(name: str) -> Both:
    if name not in _built:
        _built[name] = Both(next(family for family in FAMILIES if family.name == name))
    return _built[name]


@pytest.fixture(params=[family.name for family in FAMILIES])
def both(request: pytest.FixtureRequest) -> Both:
    """Each family in turn."""
    return _both(request.param)


@pytest.fixture
def family() -> Callable[[str], Both]:
    """One family by its name."""
    return _both
