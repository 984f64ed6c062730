"""The sigmoid loss of SigLIP: every image and text is a yes or no of its own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from negguide.vlm.losses.masks import duplicate_mask, everyone, false_negative_weights, positives
from negguide.vlm.losses.options import PLAIN, Options
from negguide.vlm.losses.registry import register_loss


@register_loss("siglip", softmax=False)
def siglip(
    image: Tensor, text: Tensor, scale: Tensor | float, bias: Tensor | float, options: Options = PLAIN
) -> Tensor:
    """-1/N sum_ij log sigmoid(z_ij (s <I_i, T_j> + b)) with z = 1 for a pair and -1 otherwise.

    Inputs:
        | a row of the set | what it trains |
        |---|---|
        | image, caption | a yes, and a no with every other row |

    Requirements:
        - A model with a logit bias (SigLIP, SigLIP 2).
        - No negatives; columns for them are not read.

    Recommendations:
        - Smaller batches than `clip` will do, for there is no softmax over the batch.
        - `smoothing`, `focal`, `dice`, `continuous`, mixing and `paraphrases` are of a softmax; they are refused.

    Example:
        ```python
        from negguide.vlm import Settings, finetune

        finetune(Settings("pairs.tsv", "google/siglip-base-patch16-224", loss="siglip"), Path("tuned"))
        ```

    Args:
        image, text: [N, D] of unit length.
        scale, bias: s and b, the factor of the cosines and what is added to them.
        options: of which it takes the rows, the equal captions and images, and the false negatives.

    Returns:
        A scalar.

    Raises:
        ValueError: options that a sigmoid loss does not have.

    Source: arXiv 2303.15343.
    """
    return sigmoid_loss(image, text, scale, bias, options)


def sigmoid_loss(
    image: Tensor,
    text: Tensor,
    scale: Tensor | float,
    bias: Tensor | float,
    options: Options,
    negatives: tuple[Tensor, Tensor] | None = None,
    valid: Tensor | None = None,
) -> Tensor:
    """The loss of all pairs, with `negatives` (images and texts [N, D]) as further ones; as in `siglip`."""
    if (
        options.continuous
        or options.smoothing
        or options.focal
        or options.dice
        or options.mixing
        or options.positive_text is not None
    ):
        raise ValueError(
            "siglip takes no continuous, smoothing, focal, dice, mixing or positive_text; they are of a softmax"
        )
    own, total, device = options.rows, len(image), image.device
    all_rows, rows = everyone(image), everyone(image, valid)
    same = positives((options.source, options.caption), total, own, device)
    log_weights = false_negative_weights(options, same, image_queries=True)
    pair = 2.0 * same - 1
    weights = all_rows[own][:, None].to(image.dtype) if log_weights is None else log_weights.exp()
    loss = _sum(image[own], text, scale, bias, pair, weights)
    count = all_rows.sum()
    if negatives is not None:
        negative_image, negative_text = negatives
        own_pairs = positives((options.negative_caption,), total, own, device)
        both = rows[own][:, None] & rows
        loss = loss + _sum(negative_image[own], negative_text, scale, bias, 2.0 * own_pairs - 1, both)
        no = -torch.ones_like(pair)
        duplicate = duplicate_mask(options, total, device, negative_keys=True)
        loss = loss + _sum(image[own], negative_text, scale, bias, no, rows & ~duplicate)
        duplicate = duplicate_mask(options, total, device, negative_keys=False)
        loss = loss + _sum(negative_image[own], text, scale, bias, no, rows[own][:, None] & ~duplicate)
        count = count + rows.sum()
    return loss / count * (total / len(image[own]))


def _sum(
    images: Tensor, texts: Tensor, scale: Tensor | float, bias: Tensor | float, pair: Tensor, weights: Tensor
) -> Tensor:
    return -(weights * F.logsigmoid(pair * (scale * images @ texts.T + bias))).sum()
