"""Qwen-Image-Edit: Qwen-Image whose text encoder sees the images to edit, which the denoiser gets as tokens too."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import PIL.Image

from negguide.integration.families.base import Arguments, Modular, TokenBudget
from negguide.integration.families.common import counting_tokenizer
from negguide.integration.families.qwen_image import QWEN_IMAGE, before_references, size_in_shapes
from negguide.integration.families.registry import register_family

# the pipelines bring every image to about this many pixels
_AREA = 1024 * 1024


def _images(arguments: Arguments) -> list[PIL.Image.Image]:
    """The images of a call.

    Raises:
        TypeError: one of them is no PIL image, or there is none.
    """
    image = arguments["image"]
    images = image if isinstance(image, list) else [image]
    if not images or not all(isinstance(one, PIL.Image.Image) for one in images):
        raise TypeError(f"image must be a PIL image or a list of them, got {image!r}")
    return images


def _one_image(arguments: Arguments) -> PIL.Image.Image:
    """The image of a call that edits one, which may be in a list once for each prompt.

    Raises:
        ValueError: there are several; a negative is encoded with one image, and would be wrong for the others.
    """
    first, *others = _images(arguments)
    if any(other != first for other in others):
        raise ValueError(
            f"image holds {1 + len(others)} images, and negatives are encoded together with the image to edit: give "
            "one image a call"
        )
    return first


def _fitted(image: PIL.Image.Image, area: int) -> tuple[int, int]:
    """(height, width) in pixels that the pipelines give an image of about `area` pixels."""
    # the module is there already, as that of the pipeline
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit

    width, height, _ = pipeline_qwenimage_edit.calculate_dimensions(area, image.width / image.height)
    return height, width


def _in_patches(pipe: Any, pixels: tuple[int, int]) -> tuple[int, int]:
    patch = 2 * pipe.vae_scale_factor
    return 2 * (pixels[0] // patch), 2 * (pixels[1] // patch)


def _latent_size(
    pipe: Any, arguments: Arguments, image: Callable[[Arguments], PIL.Image.Image]
) -> tuple[int, int]:
    """That of the image, unless height and width are given; `image(arguments)` is the one that counts."""
    height, width = _fitted(image(arguments), _AREA)
    return _in_patches(pipe, (arguments["height"] or height, arguments["width"] or width))


def _inpainted_size(pipe: Any, arguments: Arguments) -> tuple[int, int]:
    """That of the image: inpainting takes height and width, and does not use them."""
    return _in_patches(pipe, _fitted(_one_image(arguments), _AREA))


def _image_to_encode(pipe: Any, arguments: Arguments) -> Any:
    """What the text encoder sees: the image at its size in the call; in a list as it is."""
    image = _one_image(arguments)
    if isinstance(arguments["image"], list):
        return [image]
    return pipe.image_processor.resize(image, *_fitted(image, _AREA))


def _images_to_encode(pipe: Any, arguments: Arguments) -> Any:
    """What the text encoder sees of several images: all of them, smaller than the denoiser does."""
    from diffusers.pipelines.qwenimage.pipeline_qwenimage_edit_plus import CONDITION_IMAGE_SIZE

    return [
        pipe.image_processor.resize(image, *_fitted(image, CONDITION_IMAGE_SIZE))
        for image in _images(arguments)
    ]


def _encode_text(
    pipe: Any, texts: Sequence[str], arguments: Arguments, images: Callable[[Any, Arguments], Any]
) -> list[dict[str, Any]]:
    seen, rows = images(pipe, arguments), []
    # one by one: in a batch the shorter ones would be padded, and need masks
    for text in texts:
        embeddings, mask = pipe.encode_prompt(prompt=[text], image=seen, device=pipe._execution_device)
        rows.append({"encoder_hidden_states": embeddings, "encoder_hidden_states_mask": mask})
    return rows


def _token_budget(pipe: Any, text: str, arguments: Arguments) -> TokenBudget:
    """Text is read whole, whatever `max_sequence_length` is."""
    tokenizer = counting_tokenizer(pipe)
    tokens = len(tokenizer(text).input_ids)
    return TokenBudget(tokenizer, tokens, tokens)


def _modular_reader(components: Any) -> Any:
    """What a modular pipeline calls otherwise."""
    return SimpleNamespace(tokenizer=components.processor.tokenizer)


_MODULAR = Modular(
    "qwenimage-edit",
    fields={
        "encoder_hidden_states": "prompt_embeds",
        "encoder_hidden_states_mask": "prompt_embeds_mask",
    },
    packed=True,
    reader=_modular_reader,
    generated=before_references,
    latent_size=size_in_shapes,
    check=_one_image,
)

QWEN_IMAGE_EDIT = replace(
    QWEN_IMAGE,
    name="Qwen-Image-Edit",
    pipelines=("QwenImageEditPipeline",),
    latent_size=partial(_latent_size, image=_one_image),
    encode_text=partial(_encode_text, images=_image_to_encode),
    token_budget=_token_budget,
    denoiser=None,
    modular=_MODULAR,
)

QWEN_IMAGE_EDIT_INPAINT = replace(
    QWEN_IMAGE_EDIT,
    name="Qwen-Image-Edit inpainting",
    pipelines=("QwenImageEditInpaintPipeline",),
    latent_size=_inpainted_size,
    # its modular pipelines inpaint too
    modular=None,
)

QWEN_IMAGE_EDIT_PLUS = replace(
    QWEN_IMAGE_EDIT,
    name="Qwen-Image-Edit Plus",
    pipelines=("QwenImageEditPlusPipeline",),
    latent_size=partial(_latent_size, image=lambda arguments: _images(arguments)[-1]),
    encode_text=partial(_encode_text, images=_images_to_encode),
    modular=replace(_MODULAR, model_name="qwenimage-edit-plus", check=_images),
)

register_family(QWEN_IMAGE_EDIT)
register_family(QWEN_IMAGE_EDIT_INPAINT)
register_family(QWEN_IMAGE_EDIT_PLUS)
