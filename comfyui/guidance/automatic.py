# Written by scripts/comfyui_guidance.py from negguide/guidance/automatic.py; change that.
"""How present a negative is in what the prompt draws, and what it weighs therefore."""

import torch
from torch import Tensor

from .precision import norm_floor
from .score import check_predictions

SOFTNESS = 0.1
"""Temperature of the posterior, in units of the prompt's own evidence |p|^2."""
FROM_NOISE = 0.7
"""Presence at which a negative counts half while the image is noise and only the texts are compared."""
FROM_IMAGE = -1.0
"""Presence at which a negative counts half from then on: that of one at right angles to the prompt and as long."""
FOR_FRAGMENTS = 1.0
"""How much more a negative weighs that says nothing of what the prompt says, relative to one that repeats it."""
LONGEST = 8.0
"""The longest push of one negative, in units of |p|."""


def presence(uncond: Tensor, cond: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
    """How much nearer each negative's prediction lies to the prompt's than the unconditional one does.

    Formula: a_k = (|c - u|^2 - |c - n_k|^2) / |c - u|^2 = (2 <n, p> - |n|^2) / |p|^2, with p = c - u and n = n_k - u;
    and its part along the prompt, <n, p> / |p|^2.

    With Gaussian errors of the predictions this is the log of how much likelier what the prompt draws is under the
    negative than under no text, in units of the prompt's own evidence. A difference of predictions of one step scales
    with the parametrisation (noise, velocity, flow) and with the noise level, and the ratio is free of both. a_k = 1
    where negative and prompt say the same; 0 where the negative changes nothing, because the image shows it already or
    because the model does not know it; -1 for one at right angles to the prompt and as long; far below where it would
    have to be put into the image.

    Args:
        uncond, cond: [B, ...].
        negatives: [K, B, ...]; K may be 0.

    Returns:
        (presence, along), both [K, B] in float32 (float64 for float64). |p| is floored at the rounding unit.

    Raises:
        ValueError: a shape does not fit.
        TypeError: integer predictions.

    Source: the posterior of Dynamic Negative Guidance, arXiv 2410.14398, in the geometry of Perp-Neg; ours.
    """
    dtype = check_predictions(uncond, cond, negatives)
    floor = norm_floor(uncond.dtype)
    base = uncond.to(dtype)
    positive = (cond.to(dtype) - base).flatten(1)
    negative = (negatives.to(dtype) - base).flatten(2)
    square = (positive * positive).sum(dim=-1).clamp_min(floor * floor)
    along = (negative * positive).sum(dim=-1) / square
    length = (negative * negative).sum(dim=-1) / square
    return 2 * along - length, along


def automatic_weight(
    seen: Tensor, presence: Tensor, along: Tensor, strength: float, from_noise: bool
) -> tuple[Tensor, Tensor]:
    """The weight of a negative by how present it is, and what is to be kept of that for the next step.

    Formula: s = max(seen, sigmoid((a - a0) / 0.1)), with a0 = 0.7 while the image is noise, where only texts that say
    nearly the same tell anything, and a0 = -1 from then on;

        w = strength s (2 - clip(along, 0, 1)), at most 8 / r,

    with r = |perpendicular part of n| / |p|. The largest s so far counts: a negative that has worked is no longer
    present, and would come back if it stopped. One that speaks of a part alone ("brown fur") is weaker than one that
    repeats the prompt ("a brown bear wearing a hat"), for it carries nothing of the subject, and weighs up to
    twice as much.

    Args:
        seen: [..] the largest s so far; 0 at the first step.
        presence, along: [..] of `presence`.
        strength: weight of a negative that repeats the prompt and is present.
        from_noise: whether the image is still noise.

    Returns:
        (weight, seen), both [..].

    Source: ours; chosen on `benchmarks/overlap.py --suite first`, `first-several` and pairs beside them.
    """
    middle = FROM_NOISE if from_noise else FROM_IMAGE
    seen = torch.maximum(seen, torch.sigmoid((presence - middle) / SOFTNESS))
    weight = strength * seen * (1 + FOR_FRAGMENTS * (1 - along.clamp(0, 1)))
    # |perpendicular part|^2 / |p|^2 = |n|^2 / |p|^2 - along^2
    across = (2 * along - presence - along * along).clamp_min(0).sqrt()
    return torch.minimum(weight, LONGEST / across.clamp_min(torch.finfo(across.dtype).tiny)), seen
