"""Numbers of tokens and predictions as maps over the latents."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from negguide.guidance.grid import token_grid
from negguide.integration.runtime.masks import packed_frames
from negguide.methods import ScoreMethod


def token_map(values: Tensor, latent_size: tuple[int, int], frames: int = 1) -> Tensor:
    """One value a token, [B, frames * tokens], as a map over the latents [B, h, w]; the frames' mean."""
    grid = token_grid(values.shape[1] // frames, latent_size)
    return over_latents(values.unflatten(1, (frames, *grid)).mean(dim=1), latent_size)


def over_latents(values: Tensor, latent_size: tuple[int, int]) -> Tensor:
    """[B, rows, columns] as [B, h, w], each cell as large as it is."""
    return interpolate(values[:, None], size=latent_size, mode="nearest")[:, 0]


def shift_maps(
    method: ScoreMethod,
    uncond: Tensor,
    cond: Tensor,
    negatives: Tensor,
    weights: Tensor,
    masks: Tensor | None,
    latent_size: tuple[int, int],
) -> list[Tensor]:
    """Where each negative took something away from the guidance, [B, h, w] each.

    Formula, at each place over the channels: |S_k| / rms(|p|) with S_k what negative k adds to what `method` takes away
    from the conditional prediction, and the root mean square of p = cond - uncond over all places; 1 = as much as
    guidance does there on the whole. The arguments are those of `ScoreMethod.guide`.
    """
    maps = []
    direction = _lengths(cond.float() - uncond.float(), latent_size)
    scale = (
        direction.square().mean(dim=(1, 2), keepdim=True).sqrt().clamp_min(torch.finfo(torch.float32).tiny)
    )
    before: Tensor | None = None
    for k in range(-1, len(negatives)):
        # what negative k takes away beside those before it: with `joint` that is not what it does alone
        first = slice(0, k + 1)
        some_masks = None if masks is None else masks[first]
        guided = method.guide(uncond, cond, negatives[first], weights[first], 1.0, some_masks)
        if before is not None:
            maps.append(_lengths((before - guided).float(), latent_size) / scale)
        before = guided
    return maps


def _lengths(prediction: Tensor, latent_size: tuple[int, int]) -> Tensor:
    """|.| over the channels at each place of a prediction [B, C, h, w], [B, C, frames, h, w] or [B, tokens, C]."""
    if prediction.ndim == 3:
        frames = packed_frames(prediction.shape[1], latent_size)
        return token_map(torch.linalg.vector_norm(prediction, dim=2), latent_size, frames)
    lengths: Tensor = torch.linalg.vector_norm(prediction, dim=1)
    return lengths.mean(dim=1) if lengths.ndim == 4 else lengths
