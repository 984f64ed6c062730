"""Qwen-Image 2.1: a transformer whose text and reference images come before the image, and never see it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from negguide.integration.families.base import (
    Arguments,
    Denoiser,
    Family,
    Modular,
    TextsBefore,
    TokenBudget,
)
from negguide.integration.families.common import (
    counting_tokenizer,
    packed_frame_latents,
    true_cfg_branches,
    true_cfg_disabled,
    true_cfg_scale,
)
from negguide.integration.families.modular_only import MODULAR_ONLY
from negguide.integration.families.registry import register_family
from negguide.methods import Negative


def _vision_mask(encoded: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], Tensor]:
    """Where among a text's tokens images stand, and behind it as many places as the prompt has for the image drawn."""
    text, mask = encoded["prompt_embeds"], encoded["image_pad_mask"]
    if mask is None:
        mask = _no_images(text)

    def beside(prompt: Mapping[str, Any]) -> Tensor:
        drawn = prompt["img_mask"].shape[1] - prompt["encoder_hidden_states"].shape[1]
        return torch.cat([mask, mask.new_ones(1, drawn)], dim=1)

    return beside


def _no_images(prompt_embeds: Tensor) -> Tensor:
    return prompt_embeds.new_zeros(prompt_embeds.shape[:2], dtype=torch.bool)


def _token_budget(pipe: Any, text: str, arguments: Arguments) -> TokenBudget:
    """Text is read whole."""
    processor = counting_tokenizer(pipe, "processor")
    tokens = len(processor.tokenizer(text).input_ids)
    return TokenBudget(processor.tokenizer, tokens, tokens)


# ---- The call -------------------------------------------------------------------------------------------------------


def _given_images(arguments: Arguments) -> list[Any]:
    """The images that a call was given, as PIL images where the pipeline takes them."""
    given = arguments.get("image")
    images = [] if given is None else given if isinstance(given, list) else [given]
    # what is neither the pipeline refuses
    return [PIL.Image.fromarray(image) if isinstance(image, np.ndarray) else image for image in images]


def _size_of(image: Any, arguments: Arguments) -> tuple[int, int]:
    """(width, height) at which the pipeline takes a given image."""
    # the module is there already, as that of the pipeline
    from diffusers.pipelines.qwenimage21 import pipeline_qwenimage21

    area = arguments["output_resolution"] ** 2
    width, height, _ = pipeline_qwenimage21.calculate_dimensions(area, image.size[0] / image.size[1])
    return int(width), int(height)


def _latent_size(pipe: Any, arguments: Arguments) -> tuple[int, int]:
    """In whole pairs of latents, each of which is a token; of given images the last one has the size."""
    images = _given_images(arguments)
    side = arguments["output_resolution"]
    width, height = (side, side)
    if images and isinstance(images[-1], PIL.Image.Image):
        width, height = _size_of(images[-1], arguments)
    pair = 2 * pipe.vae_scale_factor
    sides = (arguments["height"] or height, arguments["width"] or width)
    rows, columns = (2 * (int(side) // pair) for side in sides)
    return rows, columns


def _check_negative(arguments: Arguments, negative: Negative) -> None:
    """Embeddings alone do not say where among them the given images stand."""
    if arguments.get("image") is not None and negative.encoded and "image_pad_mask" not in negative.encoded:
        raise ValueError(
            f"embeds of Negative({negative.prompt!r}) must have image_pad_mask too for a call with image=, as "
            "pipe.encode_prompt gives it beside prompt_embeds for these images"
        )


def _encode_text(pipe: Any, texts: Sequence[str], arguments: Arguments) -> list[dict[str, Any]]:
    images = []
    for image in _given_images(arguments):
        width, height = _size_of(image, arguments)
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        images.append(pipe.image_processor.resize(image, width=width, height=height))
    rows = []
    # one by one: in a batch the shorter ones would be filled up, and the image would stand behind that
    for text in texts:
        embeddings, mask, vision = pipe.encode_prompt(
            prompt=[text], image=images or None, device=pipe._execution_device
        )
        rows.append(
            {
                "encoder_hidden_states": embeddings,
                "encoder_hidden_states_mask": mask,
                "img_mask": vision,
            }
        )
    return rows


def _encode_image(pipe: Any, pixels: Tensor) -> Tensor:
    """The autoencoder sees how opaque a picture is: wholly."""
    return packed_frame_latents(pipe, torch.cat([pixels, torch.ones_like(pixels[:, :1])], dim=1))


# ---- The denoiser ---------------------------------------------------------------------------------------------------


def _drawn(latent_size: tuple[int, int]) -> int:
    return latent_size[0] * latent_size[1]


def _image_tokens(sample: Tensor, latent_size: tuple[int, int]) -> tuple[int, int]:
    """Nothing stands behind the image."""
    return _drawn(latent_size), _drawn(latent_size)


def _last_tokens(prediction: Tensor, sample: Any, latent_size: tuple[int, int]) -> Tensor:
    """A prediction has all tokens, or those of the image where the model kept the others."""
    return prediction[:, -_drawn(latent_size) :]


def _size_in_shapes(inputs: Mapping[str, Any]) -> tuple[int, int]:
    _, rows, columns = inputs["img_shapes"][0][-1]
    return rows, columns


def _texts_before(model: Any, inputs: Mapping[str, Any], texts: Sequence[Mapping[str, Any]]) -> TextsBefore:
    """The prompt, behind it the negatives, each with copies of the given images' tokens, and the image.

    The image's frame is where its text ends, and it is the distance to that frame that tells how far a token is: so
    that is moved for each negative, while height and width, counted from the middle of the image, stay.
    """
    device, shapes = inputs["hidden_states"].device, inputs["img_shapes"][0]
    target = math.prod(shapes[-1])
    own = inputs["img_mask"][:1, : inputs["encoder_hidden_states"].shape[1]]
    frame = model.pos_embed.axes_dim[0]
    rotations, lengths, words, frames = [], [], [], []
    for mask in (own, *(text["img_mask"] for text in texts)):
        places = mask[0].to(device)
        # of images, a token of text is 2x2 of the image's
        inside = torch.repeat_interleave(places, torch.where(places, 4, 1))
        if int(inside.sum()) != sum(math.prod(shape) for shape in shapes[:-1]):
            raise ValueError(
                f"the call has {len(shapes) - 1} images, whose {sum(math.prod(s) for s in shapes[:-1])} tokens are not "
                f"the {int(inside.sum())} that image_pad_mask of a negative's embeds has room for; give the "
                "image_pad_mask that pipe.encode_prompt gives for these images"
            )
        whole = torch.cat([inside, inside.new_ones(target)])
        rotations.append(model.pos_embed(shapes, whole, device=device))
        lengths.append(len(inside))
        found = inside.nonzero()
        words.append(int(found.max()) + 1 if len(found) else 0)
        frames.append(int((~inside).sum()) + sum(max(rows, columns) for _, rows, columns in shapes[:-1]))
    prompt = rotations[0]
    parts = [prompt[: lengths[0]]]
    for rotation, length, end in zip(rotations[1:], lengths[1:], frames[1:], strict=True):
        moved = model.pos_embed.rope_params(torch.tensor([frames[0] - end]), frame, model.pos_embed.theta)
        text = rotation[:length].clone()
        text[:, : frame // 2] *= moved.to(device)
        parts.append(text)
    parts.append(prompt[lengths[0] :])
    given, image = inputs["hidden_states"].split([inputs["hidden_states"].shape[1] - target, target], dim=1)
    return TextsBefore(
        changes={
            "hidden_states": torch.cat([given.repeat(1, len(lengths), 1), image], dim=1),
            "img_shapes": [[*(shapes[:-1] * len(lengths)), shapes[-1]]] * len(inputs["img_shapes"]),
        },
        positions=torch.cat(parts),
        lengths=tuple(lengths),
        words=tuple(words),
    )


def _empty_cache(cache: Any) -> Any:
    return type(cache)(len(cache.layer_caches))


QWEN_IMAGE_21 = Family(
    name="Qwen-Image 2.1",
    pipelines=("QwenImage21Pipeline",),
    denoisers=("transformer",),
    text_encoders=("text_encoder",),
    sample="hidden_states",
    timestep="timestep",
    text={
        "encoder_hidden_states": "tokens",
        "encoder_hidden_states_mask": "tokens",
        "img_mask": "tokens, image",
    },
    embeds={
        "encoder_hidden_states": "prompt_embeds",
        "encoder_hidden_states_mask": "prompt_embeds_mask",
        "img_mask": "image_pad_mask",
    },
    derived={"img_mask": _no_images},
    # img_shapes has an entry for each prompt, and the model takes the first for all rows
    batched=("timestep",),
    branches=true_cfg_branches,
    sequential=True,
    guidance_scale=true_cfg_scale,
    cfg_disabled_reason=true_cfg_disabled,
    latent_size=_latent_size,
    encode_text=_encode_text,
    token_budget=_token_budget,
    encode_image=_encode_image,
    image_tokens=_image_tokens,
    check_negative=_check_negative,
    prediction_slice=_last_tokens,
    one_layout=True,
    texts_before=_texts_before,
    empty_cache=_empty_cache,
    references_first=True,
    attention=((r"^transformer_blocks\.\d+\.attn$", "text first"),),
    negtome_blocks=r"^transformer_blocks\.\d+\.attn$",
    denoiser=Denoiser(
        classes=("QwenImage21Transformer2DModel",),
        text_channels=lambda config: int(config.context_in_dim),
        noise=lambda config: 1.0,
        latent_size=_size_in_shapes,
    ),
)

QWEN_IMAGE_21_MODULAR = replace(
    QWEN_IMAGE_21,
    **MODULAR_ONLY,
    name="Qwen-Image 2.1, modular",
    text={"encoder_hidden_states": "tokens", "encoder_hidden_states_mask": "tokens", "img_mask": "tokens"},
    derived={},
    channels={"prompt_embeds": lambda config: (int(config.context_in_dim),)},
    denoiser=None,
    modular=Modular(
        "qwenimage21",
        fields={
            "encoder_hidden_states": "prompt_embeds",
            "encoder_hidden_states_mask": "prompt_embeds_mask",
            "img_mask": _vision_mask,
        },
        packed=True,
    ),
)

register_family(QWEN_IMAGE_21)
register_family(QWEN_IMAGE_21_MODULAR)
