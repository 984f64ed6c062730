"""What one step minimises: the model, its teacher and the loss that the settings name, over a batch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from negguide.vlm.data.loader import Batch
from negguide.vlm.losses.distill import distill
from negguide.vlm.losses.mixing import Mixing
from negguide.vlm.losses.options import Options
from negguide.vlm.losses.rank_margin import rank_margin
from negguide.vlm.losses.registry import loss_by_name, registered_losses
from negguide.vlm.models import VisionLanguageModel, load_model
from negguide.vlm.training import gradcache
from negguide.vlm.training.config import Settings
from negguide.vlm.training.gather import gather, own_rows
from negguide.vlm.training.towers import interpolate, merged, prepare, split, teacher_features

Parts = dict[str, Tensor]
"""What a loss is made of, by name; its sum is the loss."""


class Task:
    """A model that is trained, the start model as its teacher, and the loss of a batch.

    Args:
        settings: of the run.
        device: where both models go.

    Raises:
        ValueError: the model cannot be loaded, lacks what the loss needs, or nothing of it is left to train.
    """

    def __init__(self, settings: Settings, device: torch.device) -> None:
        self.settings = settings
        self.teacher = load_model(settings.model, device=device)
        needs_bias = loss_by_name(settings.loss).needs_bias
        if needs_bias and self.teacher.kind != "siglip":
            others = ", ".join(name for name, loss in registered_losses().items() if not loss.needs_bias)
            raise ValueError(
                f"loss={settings.loss!r} needs a model with a logit bias (SiglipModel), and model={settings.model!r} "
                f"is a CLIPModel; use one of {others}"
            )
        student = load_model(settings.model, device=device)
        if settings.precision == "amp_bf16" and device.type == "cpu":
            # torch has no fast backward of fused attention in bfloat16 on CPUs: it would cost more than all the rest
            student.model.set_attn_implementation("eager")
        torch.manual_seed(derived_seed(settings.seed, 0, 0))  # low-rank updates begin with random numbers
        self.towers = prepare(
            student,
            lock_image=settings.lock_image,
            lock_text=settings.lock_text,
            lora=settings.lora,
            grad_checkpointing=settings.grad_checkpointing,
            bias=needs_bias,
        )
        self.forward: nn.Module = self.towers
        """What accelerate makes of the towers."""
        self.teacher_scale = self.teacher.model.logit_scale.detach().float().exp()

    def backward(
        self,
        batches: Sequence[Batch],
        accelerator: Accelerator,
        *,
        distilling: bool,
        check: Callable[[Tensor], None],
    ) -> tuple[Tensor, Parts]:
        """Add the gradient of the loss of `batches`, contrasted together, to the weights.

        Args:
            batches: this process's part of the step, on the device.
            accelerator: of the run; its precision and its processes.
            distilling: whether the teacher's view counts in this step.
            check: called with the loss before its gradient is computed.

        Returns:
            The loss of this process and its parts, without gradient.
        """
        settings = self.settings
        taught = distilling or settings.continuous or settings.false_negative_fraction is not None
        with accelerator.autocast():
            teacher = [teacher_features(self.teacher, batch) for batch in batches] if taught else []
        parts: Parts = {}

        def loss(features: Sequence[tuple[Tensor, ...]]) -> Tensor:
            value, found = objective(
                settings, features, batches, teacher, self.teacher_scale, distilling=distilling
            )
            parts.update(found)
            check(value.detach())
            return value

        value = gradcache.backward(
            lambda batch: self.forward(batch.images, batch.texts),
            batches,
            loss,
            loss_backward=accelerator.backward,
            no_sync=lambda: accelerator.no_sync(self.forward),
        )
        return value, {name: part.detach() for name, part in parts.items()}

    def result(self, name: str) -> VisionLanguageModel:
        """The trained model under a new name: low-rank updates merged, mixed with the start model as asked for."""
        vlm = merged(self.towers)
        if self.settings.wise_ft < 1:
            interpolate(self.teacher.model, vlm.model, self.settings.wise_ft)
        return replace(vlm, name=name, revision=None)


def derived_seed(seed: int, step: int, process: int) -> int:
    """Random numbers as a function of the step, so that a run that goes on draws the same."""
    digest = hashlib.sha256(f"{seed}-{step}-{process}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


def objective(
    settings: Settings,
    features: Sequence[tuple[Tensor, ...]],
    batches: Sequence[Batch],
    teacher: Sequence[Mapping[str, Tensor]] = (),
    teacher_scale: Tensor | float = 1.0,
    *,
    distilling: bool = False,
) -> tuple[Tensor, Parts]:
    """The loss of this process's rows, and what it is made of.

    The mean over the processes is the loss of the whole batch.

    Args:
        settings: of the run.
        features: what `Towers` gave for each of `batches`.
        batches: this process's part of the step.
        teacher: `teacher_features` of each of them, where the settings need a teacher.
        teacher_scale: the start model's scale.
        distilling: whether the start model's view counts in this step.
    """
    pieces = [split(f, b) for f, b in zip(features, batches, strict=True)]
    local = {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}
    rows = own_rows(len(local["image"]))
    every = {name: gather(value) for name, value in local.items()}
    numbers = {
        name: gather(torch.cat([getattr(batch, name) for batch in batches]))
        for name in ("source", "caption", "negative_caption", "group")
    }
    valid = gather(torch.cat([batch.has_negative for batch in batches]))
    taught = (
        {name: gather(torch.cat([part[name] for part in teacher])) for name in teacher[0]} if teacher else {}
    )
    scale = features[0][2]
    bias = features[0][3] if len(features[0]) > 3 else scale.new_zeros(())

    options = Options(
        rows=rows,
        **numbers,
        positive_text=every["positive_text"] if settings.paraphrases else None,
        has_positive=gather(torch.cat([batch.has_positive for batch in batches]))
        if settings.paraphrases
        else None,
        teacher_image=taught.get("image"),
        teacher_text=taught.get("text"),
        continuous=settings.continuous,
        false_negative_fraction=settings.false_negative_fraction,
        false_negative_weight=settings.false_negative_weight,
        smoothing=settings.smoothing,
        focal=settings.focal,
        dice=settings.dice,
        mixing=Mixing(settings.mix_hardest, settings.mix_pairs, settings.mix_queries)
        if settings.mixing
        else None,
    )
    known = {**every, "valid": valid, "scale": scale, "bias": bias, "options": options}
    parts = {settings.loss: loss_by_name(settings.loss)(known)}
    if settings.rank_margin:
        parts["rank margin"] = settings.rank_weight * rank_margin(
            every["image"],
            every["text"],
            settings.rank_margin,
            negative_text=every.get("negative_text"),
            negative_image=every.get("negative_image"),
            valid=valid,
            rows=rows,
        )
    if distilling:
        parts["distill"] = settings.distill * distill(
            every["image"],
            every["text"],
            scale,
            taught["image"],
            taught["text"],
            teacher_scale,
            rows,
            numbers["group"],
        )
    return torch.stack(list(parts.values())).sum(), parts
