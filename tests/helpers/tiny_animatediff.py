"""Tiny random pipelines of AnimateDiff: the tiny UNets with motion modules between."""

from typing import Any

import torch
from diffusers import (
    AnimateDiffControlNetPipeline,
    AnimateDiffPipeline,
    AnimateDiffSDXLPipeline,
    AnimateDiffVideoToVideoPipeline,
    DiffusionPipeline,
    MotionAdapter,
)
from tiny_parts import Tiny, ready, size
from tiny_unet_and_cross import controlnet, sd_parts, sdxl_parts, unheard
from torch import Tensor, nn

FRAMES = 3


def motion(layers: int = 1) -> nn.Module:
    """Motion modules behind every block, the middle one too."""
    adapter: nn.Module = MotionAdapter(
        block_out_channels=(16, 32),
        motion_layers_per_block=layers,
        motion_norm_num_groups=4,
        motion_num_attention_heads=4,
        motion_max_seq_length=8,
    )
    return adapter


def parts() -> dict[str, Any]:
    own = sd_parts()
    return {name: own[name] for name in ("vae", "text_encoder", "tokenizer", "unet", "scheduler")}


def animatediff() -> DiffusionPipeline:
    torch.manual_seed(61)
    return ready(AnimateDiffPipeline(**parts(), motion_adapter=motion()))


def animatediff_controlnet() -> DiffusionPipeline:
    torch.manual_seed(62)
    own = parts()
    control = controlnet(own["unet"])
    return ready(AnimateDiffControlNetPipeline(**own, motion_adapter=motion(), controlnet=control))


def animatediff_v2v() -> DiffusionPipeline:
    torch.manual_seed(63)
    return ready(AnimateDiffVideoToVideoPipeline(**parts(), motion_adapter=motion()))


def animatediff_sdxl() -> DiffusionPipeline:
    torch.manual_seed(64)
    own = {name: part for name, part in sdxl_parts().items() if name != "add_watermarker"}
    return ready(AnimateDiffSDXLPipeline(**own, motion_adapter=motion()))


def frames() -> list[Tensor]:
    """Of a video, each float [3, 64, 64]."""
    return list(torch.rand(FRAMES, 3, 64, 64, generator=torch.Generator().manual_seed(9)))


VIDEO: dict[str, Any] = {"video": True, "reference_images": False, "one_each": True}
TINY: tuple[Tiny, ...] = (
    Tiny("animatediff", animatediff, size(num_frames=FRAMES), **VIDEO),
    Tiny(
        "animatediff-controlnet",
        animatediff_controlnet,
        size(num_frames=FRAMES, conditioning_frames=frames),
        like="animatediff",
        alike=unheard,
        # the frames that tell it what to draw are those of one video
        one_prompt=True,
        **VIDEO,
    ),
    Tiny(
        "animatediff-v2v",
        animatediff_v2v,
        size(video=frames, strength=0.6),
        like="animatediff",
        one_prompt=True,
        **VIDEO,
    ),
    Tiny("animatediff-sdxl", animatediff_sdxl, size(num_frames=FRAMES), **VIDEO),
)
