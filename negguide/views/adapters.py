"""negguide's Perp-Neg inside the guidance calls of threestudio and nerfstudio: functions of tensors alone.

Both compute the guided prediction in the middle of a method of theirs; these functions take its place there. They
differ from negguide, and from one another, in three things:

| | threestudio | nerfstudio | negguide |
|---|---|---|---|
| weight of a negative | <= 0, added | none | >= 0, subtracted |
| plain guidance | `c + s (c - u)` | `c + s (c - u)` | `u + g (c - u)`, so g = s + 1 |
| Perp-Neg | `u + s (p + ..)`, one less than plain | none | `u + g (p - ..)` |
| batch | c, u, then both negatives of the first camera, both of the second, .. | u, c | one stack a negative |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from negguide.guidance import perp_neg
from negguide.views.presets import View
from negguide.views.prompts import ViewPrompt

THREESTUDIO_NEGATIVES = 2
"""How many negatives each camera has in threestudio, whose guidance runs a batch of four predictions a camera."""


def threestudio_text(
    views: Sequence[ViewPrompt], embeddings: Mapping[View, Tensor], uncond: Tensor
) -> tuple[Tensor, Tensor]:
    """What threestudio's `get_text_embeddings_perp_neg` returns, from any preset of negguide.

    A camera with fewer negatives than two is filled up with `uncond` at weight 0, as threestudio fills up overhead
    cameras.

    Args:
        views: of the B cameras.
        embeddings: of the prompt with each view, [tokens, channels] each.
        uncond: of the empty prompt, [tokens, channels].

    Returns:
        Embeddings [4B, tokens, channels]: B positives, B times `uncond`, then the two negatives of each camera in turn;
        and weights [B, 2], <= 0.

    Raises:
        ValueError: no cameras, a view without embeddings, or a camera with more than two negatives.
    """
    if not views:
        raise ValueError("views must hold at least one camera, got none")
    needed = {name for view in views for name, _ in (*view.positive, *view.negatives)}
    if missing := sorted(needed - set(embeddings)):
        raise ValueError(
            f"embeddings must hold the views {', '.join(sorted(needed))}; {', '.join(missing)} is missing"
        )
    most = max(len(view.negatives) for view in views)
    if most > THREESTUDIO_NEGATIVES:
        raise ValueError(
            f"threestudio has {THREESTUDIO_NEGATIVES} negatives a camera, and views has one with {most}"
        )
    positives = [
        sum((fraction * embeddings[name] for name, fraction in v.positive), 0 * uncond) for v in views
    ]
    negatives, weights = [], []
    for view in views:
        empty = THREESTUDIO_NEGATIVES - len(view.negatives)
        negatives += [*(embeddings[name] for name, _ in view.negatives), *[uncond] * empty]
        weights.append([*(-weight for _, weight in view.negatives), *[0.0] * empty])
    text = torch.stack([*positives, *[uncond] * len(views), *negatives])
    return text, torch.tensor(weights, dtype=torch.float32, device=uncond.device)


def threestudio_noise(
    noise_pred: Tensor,
    neg_guidance_weights: Tensor,
    guidance_scale: float,
    *,
    scale_of: Literal["perp-neg", "plain"] = "perp-neg",
) -> Tensor:
    """The guided prediction of threestudio's guidance with Perp-Neg.

    Formula: `u + g (p + sum_k w_k perp(n_k, p))` with their `w_k <= 0`, `p = c - u`.

    Args:
        noise_pred: [(2 + K) B, ...], of the text embeddings in threestudio's order: c, u, and the K negatives of each
            camera in turn.
        neg_guidance_weights: [B, K], <= 0.
        guidance_scale: s of threestudio's config.
        scale_of: "perp-neg": g = s, what threestudio computes with `use_perp_neg`. "plain": g = s + 1, as strong as
            threestudio without it.

    Returns:
        [B, ...] in the dtype of `noise_pred`.

    Raises:
        ValueError: shapes that do not belong together, or a weight above 0.

    Source: threestudio, guidance/stable_diffusion_guidance.py: compute_grad_sds.
    """
    if scale_of not in ("perp-neg", "plain"):
        raise ValueError(f"scale_of must be 'perp-neg' or 'plain', got {scale_of!r}")
    if neg_guidance_weights.ndim != 2:
        raise ValueError(f"neg_guidance_weights must be [B, K], got {list(neg_guidance_weights.shape)}")
    batch, count = neg_guidance_weights.shape
    _check_rows(noise_pred, batch, count)
    if bool((neg_guidance_weights > 0).any()):
        raise ValueError(
            f"neg_guidance_weights must be <= 0, as threestudio has them, got {neg_guidance_weights.max():g}"
        )
    cond, uncond, interleaved = noise_pred[:batch], noise_pred[batch : 2 * batch], noise_pred[2 * batch :]
    negatives = interleaved.unflatten(0, (batch, count)).transpose(0, 1)
    scale = guidance_scale + (scale_of == "plain")
    return perp_neg(uncond, cond, negatives, -neg_guidance_weights.T, scale)


def nerfstudio_noise(noise_pred: Tensor, weights: Tensor | Sequence[float], guidance_scale: float) -> Tensor:
    """The guided prediction of nerfstudio's `sds_loss`, with negatives added to its batch.

    Formula: `u + (s + 1) (p - sum_k w_k perp(n_k, p))`, which is nerfstudio's own `c + s (c - u)` where all weights are
    0.

    Args:
        noise_pred: [(2 + K) B, ...]: u and c as nerfstudio has them, then B predictions of the first negative, B of the
            second, and so on.
        weights: [K] or [K, B], >= 0.
        guidance_scale: s of nerfstudio.

    Returns:
        [B, ...] in the dtype of `noise_pred`.

    Raises:
        ValueError: shapes that do not belong together, or a weight below 0.

    Source: nerfstudio, generative/stable_diffusion.py: sds_loss.
    """
    weights = torch.as_tensor(weights, dtype=torch.float32, device=noise_pred.device)
    if weights.ndim not in (1, 2):
        raise ValueError(f"weights must be [K] or [K, B], got {list(weights.shape)}")
    if bool((weights < 0).any()):
        raise ValueError(f"weights must be >= 0, got {weights.min():g}; negatives are subtracted here")
    count = weights.shape[0]
    batch = weights.shape[1] if weights.ndim == 2 else len(noise_pred) // (2 + count)
    _check_rows(noise_pred, batch, count)
    uncond, cond, *negatives = noise_pred.split(batch)
    stacked = torch.stack(negatives) if negatives else noise_pred.new_zeros(0, *uncond.shape)
    return perp_neg(uncond, cond, stacked, weights, guidance_scale + 1)


def _check_rows(noise_pred: Tensor, batch: int, count: int) -> None:
    wanted = (2 + count) * batch
    if noise_pred.ndim < 2 or len(noise_pred) != wanted or not batch:
        raise ValueError(
            f"noise_pred must be [(2 + K) B, ...] with K = {count} negatives, {wanted or 'at least one'} rows here, "
            f"got {list(noise_pred.shape)}"
        )
