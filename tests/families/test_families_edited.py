"""Editing: negatives are encoded with the images that the prompt is encoded with, and the size is that of an image."""

from collections.abc import Callable
from typing import Any

import PIL.Image
import pytest
import torch
from tiny_pipelines import NEGATIVES, OTHER, PROMPT, differ

from negguide import NAG, Negative, PerpNeg

Run = Callable[..., torch.Tensor]
EDITING = pytest.mark.families("qwen-image-edit", "qwen-image-edit-inpaint", "qwen-image-edit-plus")


def picture(seed: int, width: int = 64, height: int = 64) -> PIL.Image.Image:
    pixels = torch.randint(
        0, 256, (height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )
    return PIL.Image.fromarray(pixels.numpy())


@EDITING
def test_a_negative_is_encoded_with_the_images_of_the_prompt(
    base: Any, pipe: Any, run: Run, tiny: Any, monkeypatch: Any
) -> None:
    seen: list[Any] = []
    encode = base.processor.image_processor.preprocess

    def keeping(images: Any, *args: Any, **kwargs: Any) -> Any:
        result = encode(images, *args, **kwargs)
        seen.append(result["pixel_values"])
        return result

    monkeypatch.setattr(base.processor.image_processor, "preprocess", keeping)
    # of a size that the pipeline changes
    arguments = {"image": picture(1, 200, 120), "height": None, "width": None, "steps": 1}
    if tiny.name == "qwen-image-edit-inpaint":
        arguments["mask_image"] = PIL.Image.new("L", (200, 120), 255)
    run(pipe, negative_guidance=[PerpNeg(NEGATIVES[0]), NAG(NEGATIVES[1])], **arguments)
    # two negatives, the prompt and the negative prompt
    assert len(seen) == 4
    for other in seen[1:]:
        torch.testing.assert_close(torch.as_tensor(other), torch.as_tensor(seen[0]), rtol=0, atol=0)


@EDITING
def test_without_a_size_it_is_that_of_the_image_and_masks_lie_over_it(
    base: Any, pipe: Any, run: Run, tiny: Any
) -> None:
    image: Any = picture(2, 160, 96)
    arguments = {"image": image, "steps": 1, "height": None, "width": None}
    if tiny.name == "qwen-image-edit-plus":
        # the last of several
        arguments["image"] = [picture(3), image]
    if tiny.name == "qwen-image-edit-inpaint":
        arguments["mask_image"] = PIL.Image.new("L", (160, 96), 255)
    plain = run(base, **arguments)
    assert plain.shape[1] == 5 * 3
    mask = torch.zeros(24, 40)
    mask[:, :20] = 1
    method = PerpNeg(Negative(NEGATIVES[0], stop=1.0, mask=mask))
    moved = (run(pipe, negative_guidance=method, **arguments) - plain).norm(dim=2).reshape(3, 5)
    assert moved[:, :2].min() > 1e-3 and moved[:, 3:].max() == 0
    with pytest.raises(ValueError, match=r"is 24x24 .* the image is 80x48: .*aspect ratio"):
        run(pipe, negative_guidance=NAG(Negative(NEGATIVES[0], mask=torch.ones(24, 24))), **arguments)


@pytest.mark.families("qwen-image-edit-inpaint")
def test_inpainting_takes_no_notice_of_height_and_width(pipe: Any, run: Run) -> None:
    mask = torch.ones(24, 24)
    result = run(
        pipe, height=128, width=64, negative_guidance=NAG(Negative(NEGATIVES[0], mask=mask), scale=3.0)
    )
    assert result.shape[1] == 16


@pytest.mark.families("qwen-image-edit", "qwen-image-edit-inpaint")
def test_an_image_for_each_prompt_is_refused_unless_they_are_the_same(pipe: Any, run: Run) -> None:
    for image, says in (
        ([picture(1), picture(2)], "image holds 2 images, .* give one image a call"),
        ([picture(1), picture(1, 32, 32)], "image holds 2 images"),
    ):
        with pytest.raises(ValueError, match=says):
            run(pipe, [PROMPT, OTHER], image=image, negative_guidance=NAG(NEGATIVES[0]))
    assert (
        run(pipe, [PROMPT, OTHER], image=[picture(1)] * 2, negative_guidance=NAG(NEGATIVES[0]))
        .isfinite()
        .all()
    )


@EDITING
def test_what_is_no_image_is_refused(pipe: Any) -> None:
    for image in (None, "bear.png", torch.ones(1, 3, 64, 64), [], [torch.ones(3, 64, 64)]):
        with pytest.raises(TypeError, match=r"^image must be a PIL image or a list of them, got "):
            pipe(prompt=PROMPT, image=image, negative_guidance=NAG(NEGATIVES[0]))


@pytest.mark.families("qwen-image-edit-plus")
def test_every_image_counts(pipe: Any, run: Run) -> None:
    method = NAG(NEGATIVES[0], scale=3.0)
    one, other = (run(pipe, image=[picture(seed), picture(3)], negative_guidance=method) for seed in (1, 2))
    assert differ(one, other) > 1e-3
