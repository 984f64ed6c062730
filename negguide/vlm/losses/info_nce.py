"""A softmax of queries over keys: what all contrastive losses of this package but the sigmoid ones share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from negguide.vlm.losses.mixing import mix
from negguide.vlm.losses.options import Options


@dataclass(frozen=True, eq=False)
class Keys:
    """What queries are compared with.

    Attributes:
        features: [M, D].
        positive: bool [n, M], which are positives of which query.
        log_weights: [n, M], the logarithm of each one's weight in the denominator; -inf takes it out.
    """

    features: Tensor
    positive: Tensor
    log_weights: Tensor


def info_nce(
    queries: Tensor,
    keys: Tensor,
    scale: Tensor | float,
    targets: Tensor,
    *,
    log_weights: Tensor | None = None,
    mixed: Tensor | None = None,
    smoothing: float = 0.0,
    focal: float = 0.0,
    dice: bool = False,
) -> Tensor:
    """Cross entropy of every query over the keys, or its Dice loss.

        p_ij = w_ij exp(s <q_i, k_j>) / sum_m w_im exp(s <q_i, k_m>)
        l_i  = (1 - P_i)^focal * -sum_j t_ij log p_ij,     P_i = sum of p_ij over the keys with t_ij > 0
        l_i  = (1 - P_i)^focal * (1 - 2 P_i / (P_i + 1))   with `dice`

    Args:
        queries: q, [n, D].
        keys: k, [M, D].
        scale: s.
        targets: t, [n, M]; each row sums to 1. A single 1 is InfoNCE; 1/|P| on each of |P| positives is SupCon's
            L_out (arXiv 2004.11362) and UniCL's target (arXiv 2204.03610); other weights are CWCL's
            (arXiv 2309.14580).
        log_weights: log w, [n, M]; -inf takes a key out.
        mixed: further negatives of each query alone, [n, S, D].
        smoothing: t <- (1 - smoothing) t + smoothing / (number of the row's keys), for the keys with w > 0
            (arXiv 1512.00567); `mixed` gets none of it.
        focal: exponent of the focal factor (arXiv 1708.02002; with hard negatives FSC-CLIP, arXiv 2410.05210).
        dice: the Dice loss (arXiv 1911.02855), whose gradient in a positive's logit is that of the cross entropy times
            2 P / (1 + P)^2: pairs that are nearly right and those that are hopelessly wrong teach less. The paper's
            weight of easy examples, (1 - P)^a, stands on P inside the fraction, which is then best at P = 1 / (1 + a);
            here it is the focal factor, and 1 stays best.

    Returns:
        l, [n].
    """
    logits = scale * queries @ keys.T
    counted = torch.ones_like(logits, dtype=torch.bool)
    if log_weights is not None:
        logits = logits + log_weights
        counted = log_weights > -torch.inf
    if mixed is not None:
        logits = torch.cat((logits, scale * torch.einsum("nd,nsd->ns", queries, mixed)), dim=1)
    log_p = logits.log_softmax(dim=1)[:, : len(keys)]
    aims = targets
    if smoothing:
        aims = (1 - smoothing) * targets + smoothing * counted / counted.sum(dim=1, keepdim=True)
    # where nothing is aimed at, log p may be -inf
    loss = -(aims * log_p.masked_fill(aims == 0, 0.0)).sum(dim=1)
    if focal or dice:
        hit = log_p.masked_fill(targets == 0, -torch.inf).logsumexp(dim=1).exp()
    if dice:
        loss = 1 - 2 * hit / (hit + 1)
    if focal:
        # rounding may put the sum above 1, and x^focal may have no gradient at 0
        loss = (1 - hit).clamp_min(torch.finfo(hit.dtype).eps) ** focal * loss
    return loss


def contrast(
    queries: Tensor,
    scale: Tensor | float,
    options: Options,
    blocks: Sequence[Keys],
    *,
    valid: Tensor | None = None,
    soft_targets: Tensor | None = None,
) -> Tensor:
    """`info_nce` of this process's rows of `queries` [N, D] over the keys of all `blocks`, [n].

    Args:
        queries, scale, options: as everywhere.
        blocks: the keys; each row's positives share the target evenly.
        valid: bool [N], the rows that will be counted; the loss of the others is some finite number.
        soft_targets: [n, M0], in the place of the even target, for the first M0 keys.
    """
    own = options.rows
    keys = torch.cat([block.features for block in blocks])
    positive = torch.cat([block.positive for block in blocks], dim=1)
    log_weights = torch.cat([block.log_weights for block in blocks], dim=1)
    if valid is not None:
        # a row that does not count may have no key at all; with all of them its loss is a number
        log_weights = log_weights.masked_fill(~valid[own][:, None], 0.0)
    targets = positive.to(queries.dtype)
    if soft_targets is not None:
        targets[:, : soft_targets.shape[1]] = soft_targets
    targets = targets.masked_fill(log_weights == -torch.inf, 0.0)
    targets = targets / targets.sum(dim=1, keepdim=True)
    mixed = None
    if options.mixing is not None:
        mixed = mix(queries[own], keys, ~positive & (log_weights > -torch.inf), options.mixing)
    return info_nce(
        queries[own],
        keys,
        scale,
        targets,
        log_weights=log_weights,
        mixed=mixed,
        smoothing=options.smoothing,
        focal=options.focal,
        dice=options.dice,
    )


def keys(
    features: Tensor, positive: Tensor, counted: Tensor | None = None, log_weights: Tensor | None = None
) -> Keys:
    """Keys of which only the rows `counted` (bool [M]) are in the denominator."""
    if log_weights is None:
        log_weights = features.new_zeros(positive.shape)
    if counted is not None:
        log_weights = log_weights.masked_fill(~counted, -torch.inf)
    return Keys(features, positive, log_weights)


def mean(parts: Sequence[tuple[Tensor, Tensor]], own: slice) -> Tensor:
    """The mean of losses [n] over the rows that count (bool [N]), 0 where none does.

    Of this process's rows it is their sum over the number of *all* rows that count, times the number of processes;
    so its mean over the processes is the mean over all rows.
    """
    total = torch.stack([(loss * counts[own]).sum() for loss, counts in parts]).sum()
    count = torch.stack([counts.sum() for _, counts in parts]).sum()
    everyone = parts[0][1]
    return total / count.clamp_min(1) * (len(everyone) / len(everyone[own]))
