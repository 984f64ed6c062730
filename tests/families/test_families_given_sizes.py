"""The size of what a call is given: known beforehand, where it is not the one that is asked for."""

import inspect
from collections.abc import Callable
from typing import Any

import PIL.Image
import pytest
import torch
from tiny_pipelines import denoiser

from negguide.integration.families import denoiser_family

Run = Callable[..., torch.Tensor]
UNSIZED: dict[str, Any] = {"height": None, "width": None}


def pixels(height: int, width: int) -> torch.Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))


def pil(height: int, width: int) -> PIL.Image.Image:
    return PIL.Image.new("RGB", (width, height), (90, 120, 30))


def latents(channels: int, height: int, width: int) -> torch.Tensor:
    return torch.randn(1, channels, height, width, generator=torch.Generator().manual_seed(0))


CASES: dict[str, list[tuple[dict[str, Any], tuple[int, int]]]] = {
    # images given as latents are not resized, and neither are tensors for a ControlNet
    "sd3-img2img": [
        ({"image": latents(16, 6, 10)}, (6, 10)),
        ({"image": latents(16, 6, 10), **UNSIZED}, (6, 10)),
        ({"image": pixels(48, 80)}, (8, 8)),
        ({"image": pil(48, 80), "generator": None}, (8, 8)),
    ],
    "sd3-controlnet": [
        ({"control_image": pixels(48, 80), **UNSIZED}, (6, 10)),
        ({"control_image": pil(48, 80)}, (8, 8)),
        ({"control_image": pixels(48, 80), "latents": latents(16, 6, 10)}, (6, 10)),
    ],
    "sd3-controlnet-inpaint": [
        ({"control_image": pil(48, 80), "control_mask": pil(48, 80).convert("L")}, (8, 8)),
    ],
    "flux-controlnet": [
        ({"control_image": [pixels(32, 80)] * 2, **UNSIZED}, (4, 10)),
        ({"control_image": [pil(32, 80)] * 2}, (8, 8)),
    ],
    "flux-control": [({"control_image": pil(32, 80)}, (8, 8))],
    "flux-controlnet-img2img": [({"control_image": [pixels(48, 80)]}, (8, 8))],
    # the image's own size in whole patches, or the nearest that Kontext was trained on
    "flux-kontext-inpaint": [
        ({"image": pil(70, 100)}, (8, 12)),
        ({"image": pixels(70, 100)}, (8, 12)),
        ({"image": pil(70, 100), "_auto_resize": True}, (104, 156)),
        ({"image": [pil(100, 70)], "_auto_resize": True}, (156, 104)),
    ],
    # the area of a square of 64 pixels, in whole patches
    "hidream": [
        ({"height": 64, "width": 96}, (6, 8)),
        ({"height": 1024, "width": 512}, (10, 4)),
        ({"height": 70, "width": 100}, (6, 8)),
        (UNSIZED, (8, 8)),
        ({"latents": latents(4, 6, 10), "height": 48, "width": 80}, (6, 10)),
    ],
    "flux2-klein-inpaint": [
        ({"image": pil(70, 100), "height": 32, "width": 32}, (8, 12)),
        ({"image": pil(2000, 800)}, (202, 80)),
        ({"image": latents(16, 5, 3), "height": 32, "width": 32}, (10, 6)),
    ],
}


class CalledError(Exception):
    """The denoiser is called."""


@pytest.mark.families(*CASES)
def test_the_latents_of_a_call_have_the_size_that_is_known_beforehand(
    base: Any, pipe: Any, run: Run, tiny: Any
) -> None:
    seen: list[dict[str, Any]] = []

    def keep(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        seen.append(kwargs)
        raise CalledError

    model, defaults = denoiser(base), inspect.signature(type(base).__call__).parameters
    handle = model.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        for changes, size in CASES[tiny.name]:
            arguments = {name: p.default for name, p in defaults.items()} | tiny.call() | changes
            assert pipe.family.latent_size(pipe, arguments) == size
            with pytest.raises(CalledError):
                base(prompt="a bear", **{**tiny.call(), **changes})
            assert denoiser_family(model)[1].latent_size(seen[-1]) == size
    finally:
        handle.remove()
