"""What one step minimises: the loss and the options that the settings name, over the features of all processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from negguide.vlm import losses
from negguide.vlm.batches import Batch
from negguide.vlm.contrast import Options
from negguide.vlm.gather import gather, own_rows
from negguide.vlm.mixing import Mixing
from negguide.vlm.settings import SIGMOID, Settings
from negguide.vlm.towers import split

Parts = dict[str, Tensor]


def objective(
    settings: Settings,
    features: Sequence[tuple[Tensor, ...]],
    batches: Sequence[Batch],
    guides: Sequence[Mapping[str, Tensor]] = (),
    guide_scale: Tensor | float = 1.0,
    *,
    distilling: bool = False,
) -> tuple[Tensor, Parts]:
    """The loss of this process's rows, and what it is made of.

    The mean over the processes is the loss of the whole batch.

    Args:
        settings: of the run.
        features: what `Towers` gave for each of ``batches``.
        batches: this process's part of the step.
        guides: `guide_features` of each of them, where ``settings.guided``.
        guide_scale: the start model's scale.
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
    valid = gather(_flags(batches, "negative"))
    guide = {name: gather(torch.cat([g[name] for g in guides])) for name in guides[0]} if guides else {}
    scale = features[0][2]
    bias = features[0][3] if len(features[0]) > 3 else scale.new_zeros(())

    options = Options(
        rows=rows,
        **numbers,
        positive_text=every["positive_text"] if settings.paraphrases else None,
        has_positive=gather(_flags(batches, "positive")) if settings.paraphrases else None,
        guide_image=guide.get("image"),
        guide_text=guide.get("text"),
        continuous=settings.continuous,
        share=settings.false_negative_share,
        kept=settings.false_negative_weight,
        smoothing=settings.smoothing,
        focal=settings.focal,
        mixing=Mixing(settings.mix_hardest, settings.mix_pairs, settings.mix_queries)
        if settings.mixing
        else None,
    )
    parts = {settings.loss: _main(settings.loss, every, valid, scale, bias, options)}
    if settings.rank_margin:
        parts["rank margin"] = settings.rank_weight * losses.rank_margin(
            every["image"],
            every["text"],
            settings.rank_margin,
            negative_text=every.get("negative_text"),
            negative_image=every.get("negative_image"),
            valid=valid,
            rows=rows,
        )
    if distilling:
        parts["distill"] = settings.distill * losses.distill(
            every["image"],
            every["text"],
            scale,
            guide["image"],
            guide["text"],
            guide_scale,
            rows,
            numbers["group"],
        )
    return torch.stack(list(parts.values())).sum(), parts


def _main(
    name: str, every: Mapping[str, Tensor], valid: Tensor, scale: Tensor, bias: Tensor, options: Options
) -> Tensor:
    image, text = every["image"], every["text"]
    if name in ("clip", "grouped"):
        return losses.clip(image, text, scale, options)
    if name == "negclip":
        return losses.negclip(image, text, every["negative_text"], scale, options, valid=valid)
    if name == "negimage":
        return losses.negimage(image, text, every["negative_image"], scale, options, valid=valid)
    if name in SIGMOID:
        negatives = {} if name == "siglip" else {k: every[k] for k in ("negative_image", "negative_text")}
        return losses.siglip(image, text, scale, bias, options, **negatives, valid=valid)
    function = {"triplet": losses.triplet, "conclip": losses.conclip}[name]
    return function(image, text, every["negative_image"], every["negative_text"], scale, options, valid=valid)


def _flags(batches: Sequence[Batch], name: str) -> Tensor:
    """bool [n]: which rows are in the ``negative`` or ``positive`` of their batch."""
    flags = []
    for batch in batches:
        rows = getattr(batch, name)
        flags.append(
            torch.zeros(len(batch.places), dtype=torch.bool, device=rows.device).index_fill(0, rows, True)
        )
    return torch.cat(flags)
