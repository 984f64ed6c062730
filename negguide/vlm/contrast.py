"""What all contrastive losses share: a softmax of queries over keys, and which key is what to which query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from negguide.vlm.mixing import Mixing, mix


@dataclass(frozen=True, eq=False)
class Options:
    """What can be combined with every softmax loss; N rows in the batch, of which n are this process's own.

    Attributes:
        rows: this process's own rows.
        source: int64 [N]; rows of one image have one number, and each is a positive of the others.
        caption, negative_caption: int64 [N]; equal sentences have one number. An equal caption is a positive, and a
            negative caption that says the same as the caption of another row is no negative of that row.
        group: int64 [N]; rows with one number are siblings: alike to the guide, and yet never false negatives.
        positive_text: [N, D], a paraphrase of each caption (a hard positive), where ``has_positive`` [N].
        guide_image, guide_text: [N, D], features of a model that is not being trained, for the next two.
        continuous: every text is a positive of every image as far as its own image is like that image (CWCL).
        share: with it, a text or image of another row whose similarity exceeds this share of the positive's is taken
            for a false negative; None: none is. See `false_negatives`.
        kept: the weight that a false negative keeps, from 0 (masked) to 1.
        smoothing: of the labels.
        focal: exponent of the focal factor; 0 is the plain loss.
        mixing: synthetic hard negatives in feature space.
    """

    rows: slice = field(default_factory=lambda: slice(None))
    source: Tensor | None = None
    caption: Tensor | None = None
    negative_caption: Tensor | None = None
    group: Tensor | None = None
    positive_text: Tensor | None = None
    has_positive: Tensor | None = None
    guide_image: Tensor | None = None
    guide_text: Tensor | None = None
    continuous: bool = False
    share: float | None = None
    kept: float = 0.0
    smoothing: float = 0.0
    focal: float = 0.0
    mixing: Mixing | None = None

    def __post_init__(self) -> None:
        if self.guide_image is None and self.continuous:
            raise ValueError(
                "continuous=True needs guide_image: the features that say how alike two images are"
            )
        if (self.guide_image is None or self.guide_text is None) and self.share is not None:
            raise ValueError(
                f"share={self.share} needs guide_image and guide_text, the features that are compared"
            )
        if self.continuous and (self.focal or self.share is not None):
            raise ValueError("continuous=True goes with neither focal nor share: it has no single positive")


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
) -> Tensor:
    """Cross entropy of every query over the keys.

        p_ij = w_ij exp(s <q_i, k_j>) / sum_m w_im exp(s <q_i, k_m>)
        l_i  = (1 - P_i)^focal * -sum_j t_ij log p_ij,     P_i = sum of p_ij over the keys with t_ij > 0

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
            (arXiv 1512.00567); ``mixed`` gets none of it.
        focal: exponent of the focal factor (arXiv 1708.02002; with hard negatives FSC-CLIP, arXiv 2410.05210).

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
    if focal:
        hit = log_p.masked_fill(targets == 0, -torch.inf).logsumexp(dim=1).exp()
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
    alike: Tensor | None = None,
) -> Tensor:
    """`info_nce` of this process's rows of ``queries`` [N, D] over the keys of all ``blocks``, [n].

    Args:
        queries, scale, options: as everywhere.
        blocks: the keys; each row's positives share the target evenly.
        valid: bool [N], the rows that will be counted; the loss of the others is some finite number.
        alike: [n, M0], in the place of the even target, for the M0 keys of the first block.
    """
    own = options.rows
    keys = torch.cat([block.features for block in blocks])
    positive = torch.cat([block.positive for block in blocks], dim=1)
    log_weights = torch.cat([block.log_weights for block in blocks], dim=1)
    if valid is not None:
        # a row that does not count may have no key at all; with all of them its loss is a number
        log_weights = log_weights.masked_fill(~valid[own][:, None], 0.0)
    targets = positive.to(queries.dtype)
    if alike is not None:
        targets[:, : alike.shape[1]] = alike
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
    )


def keys(
    features: Tensor, positive: Tensor, counted: Tensor | None = None, log_weights: Tensor | None = None
) -> Keys:
    """Keys of which only the rows ``counted`` (bool [M]) are in the denominator."""
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


def positives(numbers: Sequence[Tensor | None], count: int, own: slice, device: torch.device) -> Tensor:
    """bool [n, N]: i and j are one row, or have one of the ``numbers`` [N] in common."""
    found = torch.eye(count, dtype=torch.bool, device=device)[own]
    for number in numbers:
        if number is not None:
            found = found | (number[own][:, None] == number)
    return found


def says_the_same(options: Options, count: int, device: torch.device, *, negative_keys: bool) -> Tensor:
    """bool [n, N]: the negative caption of row j is word for word the caption of row i.

    With ``negative_keys=False``, the caption of row j is the negative caption of row i.
    """
    own = options.rows
    if options.caption is None or options.negative_caption is None:
        return torch.zeros(count, count, dtype=torch.bool, device=device)[own]
    asked, given = options.caption, options.negative_caption
    if not negative_keys:
        asked, given = given, asked
    return asked[own][:, None] == given


def false_negatives(similarity: Tensor, positive: Tensor, share: float, kept: float) -> Tensor:
    """The log-weights [n, M] that take likely false negatives out of the denominator, or make them count less.

    A key j of row i that is no positive is a likely false negative when ``similarity_ij > share * best_i``, with
    ``best_i > 0`` the highest similarity to a positive of the row. It keeps the weight ``kept``. In
    sentence-transformers this is the relative margin ``1 - share`` of the guided losses (GISTEmbed,
    arXiv 2402.16829).
    """
    best = similarity.masked_fill(~positive, -torch.inf).amax(dim=1, keepdim=True)
    doubtful = (similarity > share * best) & (best > 0) & ~positive
    log_kept = similarity.new_tensor(kept).log()
    return torch.where(doubtful, log_kept, torch.zeros_like(log_kept))


def doubts(options: Options, positive: Tensor, *, image_queries: bool) -> Tensor | None:
    """`false_negatives` by the guide's features, of images over texts or of texts over images."""
    if options.share is None or options.guide_image is None or options.guide_text is None:
        return None
    pair = (options.guide_image, options.guide_text)
    asked, given = pair if image_queries else pair[::-1]
    weights = false_negatives(asked[options.rows] @ given.T, positive, options.share, options.kept)
    return weights.masked_fill(siblings(options, positive), 0.0)


def siblings(options: Options, positive: Tensor) -> Tensor:
    """bool [n, N]: j is a sibling of i, and not one of its ``positive`` [n, N]."""
    if options.group is None:
        return torch.zeros_like(positive)
    return (options.group[options.rows][:, None] == options.group) & ~positive
