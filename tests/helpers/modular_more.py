"""Further modular pipelines, tiny and random, and how each is called."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from modular_more_parts import (
    anima,
    ernie,
    first_tokens,
    flux3,
    helios,
    helios_pyramid,
    hunyuan,
    krea2,
    of_classic,
    qwen_edit,
    qwen_image_21,
    rescaled,
    wan22_i2v,
    wan_i2v,
    wan_vace,
)
from tiny_joint import pil_picture
from torch import Tensor

PROMPT, OTHER = "a bear wearing a hat", "a cat in the snow"


@dataclass(frozen=True)
class More:
    """How one of them is built and called.

    Attributes:
        build: the pipeline up to its latents.
        call: the arguments of a small run, beside prompt and steps.
        several: the argument for the number of images, where it takes several prompts; None where it does not.
        own: `own(prediction)` -> the generated image's part of what the denoiser gives.
        stepped: what the scheduler is given of a guided prediction.
    """

    name: str
    build: Callable[[], Any]
    call: dict[str, Any] = field(default_factory=dict)
    several: str | None = "num_images_per_prompt"
    own: Callable[[Tensor], Tensor] = lambda prediction: prediction
    stepped: Callable[[Tensor, Tensor], Tensor] = lambda guided, cond: guided
    chunks: int = 1
    empty: bool = False
    """Whether several prompts need as many negative prompts."""


SQUARE: dict[str, Any] = {"height": 64, "width": 64}
VIDEO: dict[str, Any] = {**SQUARE, "num_frames": 5, "max_sequence_length": 10}
VIDEOS = "num_videos_per_prompt"

LTX: dict[str, Any] = {"height": 32, "width": 32, "num_frames": 9, "max_sequence_length": 10}
PICTURE: dict[str, Any] = {"image": pil_picture()}


def without_first_frame(prediction: Tensor) -> Tensor:
    """Of latents of 8x8, in packed form."""
    return prediction[:, 64:]


def frames_of(prediction: Tensor) -> Tensor:
    """Packed frames of 8x8 as the scheduler gets them, without the given one."""
    frames: Tensor = prediction.unflatten(1, (-1, 8, 8)).permute(0, 4, 1, 2, 3)
    return frames


MORE = (
    More("krea2", krea2, {**SQUARE, "max_sequence_length": 20}),
    More(
        "flux3",
        flux3,
        {**SQUARE, "max_sequence_length": 160, "text_encoder_out_layers": (1, 2, 3)},
        several=None,
    ),
    More("anima", anima, {**SQUARE, "max_sequence_length": 20}),
    More("ernie-image", ernie, SQUARE),
    More("qwenimage21", qwen_image_21, SQUARE, empty=True),
    More("ltx", of_classic("tiny_ltx", "ltx", "LTXAutoBlocks"), LTX, VIDEOS),
    More(
        "ltx-i2v",
        of_classic("tiny_ltx", "ltx_i2v", "LTXAutoBlocks"),
        {**LTX, "image": pil_picture().resize((32, 32))},
        several=None,
        own=without_first_frame,
        stepped=lambda guided, cond: frames_of(guided),
    ),
    # two chunks of 33 frames
    More("helios", helios, {**SQUARE, "num_frames": 66, "max_sequence_length": 10}, VIDEOS, chunks=2),
    More(
        "helios-pyramid",
        helios_pyramid,
        {
            **SQUARE,
            "num_frames": 33,
            "max_sequence_length": 10,
            "pyramid_num_inference_steps_list": [2, 2, 2],
        },
        VIDEOS,
    ),
    More("hunyuan-video-1.5", hunyuan, {**SQUARE, "num_frames": 5}, VIDEOS),
    More("wan-i2v", wan_i2v, {**VIDEO, **PICTURE}, several=None),
    More("wan22-i2v", wan22_i2v, {**VIDEO, **PICTURE}, several=None),
    More("wan-vace", wan_vace, VIDEO, several=None),
    More(
        "qwenimage-edit",
        qwen_edit("qwen_image_edit", "QwenImageEditAutoBlocks"),
        {**SQUARE, **PICTURE},
        several=None,
        own=first_tokens(16),
        stepped=rescaled,
    ),
    More(
        "qwenimage-edit-plus",
        qwen_edit("qwen_image_edit_plus", "QwenImageEditPlusAutoBlocks"),
        {**SQUARE, "image": [pil_picture(), pil_picture().rotate(90)]},
        several=None,
        own=first_tokens(16),
        stepped=rescaled,
    ),
    More(
        "qwenimage-layered",
        qwen_edit("qwen_image_edit", "QwenImageLayeredAutoBlocks"),
        {**PICTURE, "layers": 2},
        several=None,
        own=first_tokens(12),
        stepped=rescaled,
    ),
)
