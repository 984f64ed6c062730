"""Images that are not square, sizes that the pipeline chooses, latents for images: masks lie where they should."""

import inspect
from collections.abc import Callable
from typing import Any

import PIL.Image
import pytest
import torch
from tiny_pipelines import NEGATIVES, assert_same, build, denoiser, differ, taken

from negguide import NAG, Negative, NegToMe, PerpNeg, from_pipe

Run = Callable[..., torch.Tensor]


def wide(tiny: Any) -> dict[str, Any]:
    """The arguments for an image of 80x48, or 64x32 where sides must be whole 32s; what is given has that size too."""
    own = tiny.call()
    height, width = (32, 64) if tiny.side == 32 else (48, 80)
    arguments: dict[str, Any] = {"height": height, "width": width} if "height" in own else {}
    if isinstance(own.get("image"), torch.Tensor):
        arguments["image"] = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    if "height" not in own and isinstance(own.get("image"), PIL.Image.Image):
        arguments["image"] = own["image"].resize((width, height))
    if "control_image" in own:
        control = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(1))
        several = isinstance(own["control_image"], list)
        arguments["control_image"] = [control] * len(own["control_image"]) if several else control
    for name in ("mask_image", "control_mask"):
        if name in own:
            arguments[name] = torch.ones(1, 1, height, width)
    if "max_area" in own:
        arguments["max_area"] = height * width
    return arguments


def masked(tiny: Any, mask: torch.Tensor | None) -> list[Any]:
    return taken(
        tiny,
        PerpNeg(Negative(NEGATIVES[0], stop=1.0, mask=mask)),
        NAG(Negative(NEGATIVES[1], mask=mask), scale=3.0),
    )


def test_a_mask_of_ones_is_no_mask_and_one_of_zeros_no_negative(
    base: Any, pipe: Any, run: Run, tiny: Any
) -> None:
    arguments = {"steps": 1, **wide(tiny)}
    # some draw in whole 32s
    half = tiny.side == 32 or tiny.like == "qwen-image-21"
    ones = torch.ones(4, 8) if half else torch.ones(24, 40)
    everywhere = run(pipe, negative_guidance=masked(tiny, None), **arguments)
    plain = run(base, **arguments)
    assert_same(run(pipe, negative_guidance=masked(tiny, ones), **arguments), everywhere)
    assert_same(run(pipe, negative_guidance=masked(tiny, 0 * ones), **arguments), plain)
    somewhere = ones.clone()
    somewhere[:, : ones.shape[1] // 2] = 0
    result = run(pipe, negative_guidance=masked(tiny, somewhere), **arguments)
    assert differ(result, everywhere) > 1e-4 and differ(result, plain) > 1e-4
    if tiny.reference_images:
        push = {"alpha": 2.0, "threshold": 0.1, "stop": 1.0}
        image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
        pushed = run(pipe, negative_guidance=NegToMe(image, mask=ones, **push), **arguments)
        assert differ(pushed, plain) > 1e-4
        assert torch.equal(run(pipe, negative_guidance=NegToMe(image, **push), **arguments), pushed)


@pytest.mark.families("pixart-sigma", "sana")
def test_sizes_that_a_pipeline_was_trained_on_are_known_beforehand(tiny: Any, run: Run) -> None:
    base = build(tiny)
    denoiser(base).register_to_config(sample_size={"pixart-sigma": 32, "sana": 16}[tiny.name])
    arguments = {"use_resolution_binning": True, "height": 64, "width": 128}
    # twice as wide as high, whatever the size
    result = run(from_pipe(base), steps=1, negative_guidance=masked(tiny, torch.ones(10, 20)), **arguments)
    assert result.shape[3] == 2 * result.shape[2] > 2 * 8


@pytest.mark.families(
    "sd",
    "sd-controlnet",
    "sd-controlnet-img2img",
    "sd-controlnet-inpaint",
    "sd-inpaint",
    "sd-adapter",
    "sd-depth",
    "lcm",
    "lcm-img2img",
    "sdxl",
    "sdxl-controlnet-inpaint",
    "sdxl-union",
    "sdxl-union-img2img",
    "sdxl-adapter",
)
def test_the_size_is_known_where_a_side_is_left_to_the_pipeline(
    base: Any, pipe: Any, run: Run, tiny: Any
) -> None:
    """It is the image's, in whole multiples of what the model shrinks it by, or the model's own."""
    own = tiny.call()
    defaults = {name: p.default for name, p in inspect.signature(type(base).__call__).parameters.items()}
    pixels = torch.randint(
        0, 256, (77, 107, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    image = PIL.Image.fromarray(pixels.numpy())
    arguments = {name: image for name in ("image", "mask_image", "control_image") if name in own}
    if isinstance(own.get("control_image"), list):
        arguments["control_image"] = [image] * len(own["control_image"])
    given: list[dict[str, Any]] = [{"height": None, "width": None}] if "height" in own else [{}]
    if "height" in own:
        given += [{"height": 64, "width": None}, {"height": None, "width": 96}]
    for sides in given:
        call = {**own, **arguments, **sides}
        made = tuple(run(base, steps=1, **arguments, **sides).shape[-2:])
        assert pipe.family.latent_size(pipe, {**defaults, **call}) == made


@pytest.mark.families("sdxl-img2img")
def test_image_to_image_of_latents_has_their_size(base: Any, pipe: Any, run: Run, tiny: Any) -> None:
    arguments = {
        "image": torch.randn(1, 4, 6, 10, generator=torch.Generator().manual_seed(0)),
        "strength": 1.0,
    }
    ones = torch.ones(48, 80)
    ones[:, 40:] = 0
    result = run(pipe, negative_guidance=masked(tiny, ones), **arguments)
    assert result.shape == (1, 4, 6, 10) and differ(result, run(base, **arguments)) > 1e-4
    assert differ(result, run(pipe, negative_guidance=masked(tiny, None), **arguments)) > 1e-4


@pytest.mark.families("sdxl")
def test_an_autoencoder_that_overflows_in_half_precision_encodes_in_single(
    tiny: Any, run: Run, monkeypatch: Any
) -> None:
    base = build(tiny).to(torch.float16)
    base.vae.register_to_config(force_upcast=True)
    pipe, seen = from_pipe(base), []
    encode = base.vae.encode

    def watched(pixels: torch.Tensor) -> Any:
        seen.append((pixels.dtype, base.vae.dtype))
        return encode(pixels)

    monkeypatch.setattr(base.vae, "encode", watched)
    push = NegToMe(torch.rand(3, 64, 64), alpha=0.5, threshold=0.1, stop=1.0)
    assert torch.isfinite(run(pipe, negative_guidance=push)).all()
    assert seen == [(torch.float32, torch.float32)] and base.vae.dtype == torch.float16

    def failing(pixels: torch.Tensor) -> Any:
        raise MemoryError("stop")

    monkeypatch.setattr(base.vae, "encode", failing)
    with pytest.raises(MemoryError, match="stop"):
        run(pipe, negative_guidance=push)
    assert base.vae.dtype == torch.float16


@pytest.mark.families("qwen-image-controlnet", "z-image-controlnet")
def test_a_control_image_that_is_a_tensor_decides_the_size(base: Any, pipe: Any, run: Run, tiny: Any) -> None:
    arguments = {"steps": 1, "control_image": torch.rand(1, 3, 48, 80)}
    ones = torch.ones(24, 40)
    everywhere = run(pipe, negative_guidance=masked(tiny, None), **arguments)
    assert_same(run(pipe, negative_guidance=masked(tiny, ones), **arguments), everywhere)
    assert differ(everywhere, run(base, **arguments)) > 1e-3
    with pytest.raises(ValueError, match=r"the image is 80x48: .*aspect ratio"):
        run(pipe, negative_guidance=masked(tiny, torch.ones(24, 24)), **arguments)


@pytest.mark.families("z-image-img2img")
def test_an_image_without_a_size_gives_its_own(base: Any, pipe: Any, run: Run, tiny: Any) -> None:
    arguments = {"image": torch.rand(1, 3, 48, 80), "height": None, "width": None}
    ones = torch.ones(24, 40)
    everywhere = run(pipe, negative_guidance=masked(tiny, None), **arguments)
    assert everywhere.shape[2:] == (6, 10)
    assert_same(run(pipe, negative_guidance=masked(tiny, ones), **arguments), everywhere)
    assert differ(everywhere, run(base, **arguments)) > 1e-3
