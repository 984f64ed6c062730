"""The model as training sees it: one module that maps images and texts to features, frozen or thinned as asked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from negguide.vlm.data.loader import Batch, Inputs
from negguide.vlm.models import VisionLanguageModel

MAX_SCALE = 100.0
"""CLIP never scales its cosines by more (arXiv 2103.00020, section 2.5)."""
LORA_LAYERS = "q_proj|k_proj|v_proj|out_proj|fc1|fc2"
"""The linear layers of both towers' blocks, as CLIP and SigLIP call them."""


class Towers(nn.Module):
    """Both towers in one forward pass, so that DistributedDataParallel sees all of it.

    Args:
        vlm: the model; it is trained in place.
        adapted: the same with low-rank updates in it, as peft wraps it.
    """

    def __init__(self, vlm: VisionLanguageModel, adapted: Any = None) -> None:
        super().__init__()
        self.model = vlm.model
        self.vlm = vlm
        self.adapted = (adapted,)  # in a tuple, so that its parameters are not listed twice

    def forward(self, images: Inputs, texts: Inputs) -> tuple[Tensor, ...]:
        """Features of unit length, float32 [N, D] and [M, D], the scale of cosines, and for SigLIP the bias."""
        scale = self.model.logit_scale.float().exp().reshape(())
        features = self.vlm.image_features(images), self.vlm.text_features(texts), scale
        if self.vlm.kind == "clip":
            return features
        return *features, self.model.logit_bias.float().reshape(())

    @torch.no_grad()
    def clamp_scale(self) -> None:
        """Keep CLIP's scale within its bounds, 1 to `MAX_SCALE`. SigLIP has none; its models are above."""
        if self.vlm.kind == "clip":
            self.model.logit_scale.clamp_(0, math.log(MAX_SCALE))


def prepare(
    vlm: VisionLanguageModel,
    *,
    lock_image: bool = False,
    lock_text: bool = False,
    lora: int = 0,
    grad_checkpointing: bool = False,
    bias: bool = True,
) -> Towers:
    """Decide what of a model is trained.

    All of it, one tower (LiT, arXiv 2111.07991), or low-rank updates (LoRA, arXiv 2106.09685) of the towers that are
    not locked. The logit scale is always trained, the logit bias (SigLIP) where the loss has one.

    Raises:
        ValueError: nothing is left to train, or LoRA is asked for and peft is not installed.
    """
    if lock_image and lock_text:
        raise ValueError("lock_image and lock_text together leave nothing to train; lock one tower or none")
    locked = (["image"] if lock_image else []) + (["text"] if lock_text else [])
    for tower in locked:
        for name, parameter in vlm.model.named_parameters():
            if _tower(name) == tower:
                parameter.requires_grad_(False)
    if grad_checkpointing:
        vlm.model.gradient_checkpointing_enable({"use_reentrant": False})
    adapted = _with_lora(vlm, lora, locked) if lora else None
    if vlm.kind == "siglip":
        vlm.model.logit_bias.requires_grad_(bias)
    return Towers(vlm, adapted)


def merged(towers: Towers) -> VisionLanguageModel:
    """The trained model as it was loaded: low-rank updates are added to the weights they belong to."""
    (adapted,) = towers.adapted
    return towers.vlm if adapted is None else replace(towers.vlm, model=adapted.merge_and_unload())


@torch.no_grad()
def interpolate(start: nn.Module, tuned: nn.Module, alpha: float) -> None:
    """`tuned` <- (1 - alpha) start + alpha tuned, weight by weight. WiSE-FT, arXiv 2109.01903."""
    before = dict(start.named_parameters())
    for name, parameter in tuned.named_parameters():
        parameter.lerp_(before[name].to(parameter), 1 - alpha)


def parameter_groups(towers: nn.Module, decay: float) -> list[dict[str, Any]]:
    """What is trained, in the two groups of open_clip: gains, biases and scalars have no weight decay."""
    trained = [(n, p) for n, p in towers.named_parameters() if p.requires_grad]
    small = [p for _, p in trained if p.ndim < 2]
    large = [p for _, p in trained if p.ndim >= 2]
    return [{"params": small, "weight_decay": 0.0}, {"params": large, "weight_decay": decay}]


def split(features: tuple[Tensor, ...], batch: Batch) -> dict[str, Tensor]:
    """The features of a batch by what they are of, each [n, D]; rows without a negative or a paraphrase are zero."""
    images, texts = features[:2]
    n = len(batch.places)
    parts = {"image": images[:n], "text": texts[:n]}

    def spread(rows: Tensor, values: Tensor) -> Tensor:
        return values.new_zeros(n, values.shape[1]).index_copy(0, rows, values)

    if batch.has_images:
        parts["negative_image"] = spread(batch.negative, images[n:])
    end = n
    if batch.has_texts:
        end += len(batch.negative)
        parts["negative_text"] = spread(batch.negative, texts[n:end])
    parts["positive_text"] = spread(batch.positive, texts[end:])
    return parts


def teacher_features(teacher: VisionLanguageModel, batch: Batch) -> Mapping[str, Tensor]:
    """The start model's features of the true pairs alone, without gradient."""
    n = len(batch.places)
    with torch.no_grad():
        return {
            "image": teacher.image_features({k: v[:n] for k, v in batch.images.items()}),
            "text": teacher.text_features({k: v[:n] for k, v in batch.texts.items()}),
        }


def _tower(name: str) -> str | None:
    if name.startswith(("vision_model.", "visual_projection.")):
        return "image"
    if name.startswith(("text_model.", "text_projection.")):
        return "text"
    return None


def _with_lora(vlm: VisionLanguageModel, rank: int, locked: list[str]) -> Any:
    try:
        import peft
    except ImportError as error:
        raise ValueError(f"lora={rank} needs peft; install it with pip install peft") from error
    towers = "|".join(
        module for tower, module in (("image", "vision_model"), ("text", "text_model")) if tower not in locked
    )
    config = peft.LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules=rf"({towers})\.encoder\.layers\..*\.({LORA_LAYERS})"
    )
    adapted = peft.get_peft_model(vlm.model, config)
    vlm.model.logit_scale.requires_grad_(True)
    return adapted
