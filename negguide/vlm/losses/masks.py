"""Which rows of a batch are what to each other: positives, duplicates, false negatives, members of a group."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from negguide.vlm.losses.options import Options


def everyone(features: Tensor, chosen: Tensor | None = None) -> Tensor:
    """`chosen`, bool [N], or all rows of `features` [N, D] where it is None."""
    if chosen is None:
        return torch.ones(len(features), dtype=torch.bool, device=features.device)
    return chosen


def positives(numbers: Sequence[Tensor | None], count: int, own: slice, device: torch.device) -> Tensor:
    """bool [n, N]: i and j are one row, or have one of the `numbers` [N] in common."""
    found = torch.eye(count, dtype=torch.bool, device=device)[own]
    for number in numbers:
        if number is not None:
            found = found | (number[own][:, None] == number)
    return found


def duplicate_mask(options: Options, count: int, device: torch.device, *, negative_keys: bool) -> Tensor:
    """bool [n, N]: the negative caption of row j is word for word the caption of row i.

    With `negative_keys=False`, the caption of row j is the negative caption of row i.
    """
    own = options.rows
    if options.caption is None or options.negative_caption is None:
        return torch.zeros(count, count, dtype=torch.bool, device=device)[own]
    queries, keys = options.caption, options.negative_caption
    if not negative_keys:
        queries, keys = keys, queries
    return queries[own][:, None] == keys


def without_duplicates(options: Options, features: Tensor, *, negative_keys: bool) -> Tensor:
    """Log-weights [n, N] of the keys `features` [N, D]: -inf for those of `duplicate_mask`, 0 for the others."""
    same = duplicate_mask(options, len(features), features.device, negative_keys=negative_keys)
    return features.new_zeros(same.shape).masked_fill(same, -torch.inf)


def false_negatives(similarity: Tensor, positive: Tensor, fraction: float, weight: float) -> Tensor:
    """The log-weights [n, M] that take likely false negatives out of the denominator, or make them count less.

    A key j of row i that is no positive is a likely false negative when ``similarity_ij > fraction * best_i``, with
    ``best_i > 0`` the highest similarity to a positive of the row. It keeps the weight `weight`. In
    sentence-transformers this is the relative margin ``1 - fraction`` of the guided losses.

    Source: GISTEmbed, arXiv 2402.16829.
    """
    best = similarity.masked_fill(~positive, -torch.inf).amax(dim=1, keepdim=True)
    log_kept = similarity.new_tensor(weight).log()
    return torch.where(doubtful(similarity, best, fraction) & ~positive, log_kept, torch.zeros_like(log_kept))


def doubtful(similarity: Tensor, best: Tensor, fraction: float) -> Tensor:
    """bool [n, M]: `similarity_ij > fraction * best_i`, where `best` [n, 1], of the row's positive, is above 0."""
    return (similarity > fraction * best) & (best > 0)


def false_negative_weights(options: Options, positive: Tensor, *, image_queries: bool) -> Tensor | None:
    """`false_negatives` by the teacher's features, of images over texts or of texts over images; None: no option."""
    if (
        options.false_negative_fraction is None
        or options.teacher_image is None
        or options.teacher_text is None
    ):
        return None
    pair = (options.teacher_image, options.teacher_text)
    queries, keys = pair if image_queries else pair[::-1]
    weights = false_negatives(
        queries[options.rows] @ keys.T,
        positive,
        options.false_negative_fraction,
        options.false_negative_weight,
    )
    return weights.masked_fill(same_group(options, positive), 0.0)


def same_group(options: Options, positive: Tensor) -> Tensor:
    """bool [n, N]: j is of the group of i, and not one of its `positive` [n, N]."""
    if options.group is None:
        return torch.zeros_like(positive)
    return (options.group[options.rows][:, None] == options.group) & ~positive
