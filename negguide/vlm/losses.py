"""Contrastive losses with hard negatives, as plain functions of normalised features.

Everywhere: ``image``, ``text``, ``negative_image`` and ``negative_text`` are [N, D] of unit length, row i of each
belonging together; ``scale`` is the factor of the cosines (a scalar, CLIP's exp(logit_scale)); ``valid`` [N] marks
the rows that have a negative (default: all). CE(z, i) is the cross entropy of the logits z with the label i. The
result is a scalar.

With several processes, the features are those of all of them (see `negguide.vlm.gather`) and ``options.rows`` are this
process's own rows: the mean of the results over the processes is the loss of the whole batch, and the mean of the
gradients, which DistributedDataParallel computes, its gradient.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from negguide.vlm.contrast import (
    Keys,
    Options,
    contrast,
    doubts,
    keys,
    mean,
    positives,
    says_the_same,
    siblings,
)

MAX_SCALE = 100.0
"""CLIP never scales its cosines by more (arXiv 2103.00020, section 2.5)."""

PLAIN = Options()


def clip(image: Tensor, text: Tensor, scale: Tensor | float, options: Options = PLAIN) -> Tensor:
    """Symmetric InfoNCE.

        1/2 (mean_i CE(s <I_i, T>, i) + mean_i CE(s <T_i, I>, i))

    CLIP, arXiv 2103.00020. With `negguide.vlm.sampler.GroupSampler` it is the loss "grouped", whose negatives are the
    siblings in the batch.
    """
    return _symmetric(image, text, scale, options)


def negclip(
    image: Tensor,
    text: Tensor,
    negative_text: Tensor,
    scale: Tensor | float,
    options: Options = PLAIN,
    *,
    valid: Tensor | None = None,
) -> Tensor:
    """CLIP's loss with every negative caption of the batch as one more text, image to text only.

        1/2 (mean_i CE(s <I_i, [T; T-]>, i) + mean_i CE(s <T_i, I>, i))

    NegCLIP, arXiv 2210.01936.
    """
    return _symmetric(image, text, scale, options, more_texts=(negative_text, _all(image, valid)))


def negimage(
    image: Tensor,
    text: Tensor,
    negative_image: Tensor,
    scale: Tensor | float,
    options: Options = PLAIN,
    *,
    valid: Tensor | None = None,
) -> Tensor:
    """The mirror of `negclip`: every negative image of the batch is one more image, text to image only.

        1/2 (mean_i CE(s <I_i, T>, i) + mean_i CE(s <T_i, [I; I-]>, i))

    The image half of what TripletCLIP (arXiv 2411.02545) compares itself with.
    """
    return _symmetric(image, text, scale, options, more_images=(negative_image, _all(image, valid)))


def triplet(
    image: Tensor,
    text: Tensor,
    negative_image: Tensor,
    negative_text: Tensor,
    scale: Tensor | float,
    options: Options = PLAIN,
    *,
    valid: Tensor | None = None,
) -> Tensor:
    """Two NegCLIP losses, the second with the roles exchanged: L(I, T, T-) + L(I-, T-, T).

    TripletCLIP, arXiv 2411.02545. Rows without a negative take no part in the second.
    """
    rows = _all(image, valid)
    first = _symmetric(image, text, scale, options, more_texts=(negative_text, rows))
    second = _symmetric(
        negative_image, negative_text, scale, options, more_texts=(text, None), valid=rows, negatives=True
    )
    return first + second


def conclip(
    image: Tensor,
    text: Tensor,
    negative_image: Tensor,
    negative_text: Tensor,
    scale: Tensor | float,
    options: Options = PLAIN,
    *,
    valid: Tensor | None = None,
) -> Tensor:
    """A negated caption is a negative of the image and the positive of the negative image.

        1/2 (mean_i CE(s <I_i, [T; T-]>, i)
             + mean over all i of both CE(s <T_i, [I; I-]>, i) and CE(s <T-_i, [I; I-]>, N + i))

    After CoN-CLIP (arXiv 2403.20312), where T- is a negated caption and I- an image that it is true of. Negative
    images are never queries.
    """
    rows, own = _all(image, valid), options.rows
    forward = _image_queries(image, text, scale, options, more=(negative_text, rows))
    nobody = torch.zeros(len(image[own]), len(image), dtype=torch.bool, device=image.device)
    backward = _text_queries(image, text, scale, options, more=(negative_image, rows))
    twins = positives((options.negative_caption,), len(image), own, image.device)
    # an image whose own caption is the negated one is none of its negatives
    true = says_the_same(options, len(image), image.device, negative_keys=False)
    allowed = image.new_zeros(true.shape).masked_fill(true, -torch.inf)
    images = [keys(image, nobody, None, allowed), keys(negative_image, twins, rows)]
    backward.append((contrast(negative_text, scale, options, images, valid=rows), rows))
    return (mean([forward], own) + mean(backward, own)) / 2


def siglip(
    image: Tensor,
    text: Tensor,
    scale: Tensor | float,
    bias: Tensor | float,
    options: Options = PLAIN,
    *,
    negative_image: Tensor | None = None,
    negative_text: Tensor | None = None,
    valid: Tensor | None = None,
) -> Tensor:
    """The sigmoid loss: -1/N sum_ij log sigmoid(z_ij (s <I_i, T_j> + b)) with z = 1 for a pair and -1 otherwise.

    SigLIP, arXiv 2303.15343. With negatives ("negsiglip", ours, the sigmoid form of `triplet`) the images are [I; I-]
    and the texts [T; T-] without the invalid rows, N counts them all, and (I-_i, T-_i) is a pair as well.

    Of ``options``, it takes ``rows``, the equal captions and images, and the false negatives.

    Raises:
        ValueError: negative images without negative texts or the other way round, or options that a sigmoid loss
            does not have.
    """
    if (
        options.continuous
        or options.smoothing
        or options.focal
        or options.mixing
        or options.positive_text is not None
    ):
        raise ValueError(
            "siglip takes no continuous, smoothing, focal, mixing or positive_text; they are of a softmax"
        )
    own, total, device = options.rows, len(image), image.device
    everyone, rows = _all(image, None), _all(image, valid)
    same = positives((options.source, options.caption), total, own, device)
    doubt = doubts(options, same, image_queries=True)
    pair = 2.0 * same - 1
    weights = everyone[own][:, None].to(image.dtype) if doubt is None else doubt.exp()
    loss = _sigmoid(image[own], text, scale, bias, pair, weights)
    count = everyone.sum()
    if negative_image is not None and negative_text is not None:
        twins = positives((options.negative_caption,), total, own, device)
        true = rows[own][:, None] & rows
        loss = loss + _sigmoid(negative_image[own], negative_text, scale, bias, 2.0 * twins - 1, true)
        wrong = -torch.ones_like(pair)
        equal = says_the_same(options, total, device, negative_keys=True)
        loss = loss + _sigmoid(image[own], negative_text, scale, bias, wrong, rows & ~equal)
        equal = says_the_same(options, total, device, negative_keys=False)
        loss = loss + _sigmoid(negative_image[own], text, scale, bias, wrong, rows[own][:, None] & ~equal)
        count = count + rows.sum()
    elif negative_image is not None or negative_text is not None:
        raise ValueError("siglip takes negative_image and negative_text together, or neither")
    return loss / count * (total / len(image[own]))


def rank_margin(
    image: Tensor,
    text: Tensor,
    margin: float,
    *,
    negative_text: Tensor | None = None,
    negative_image: Tensor | None = None,
    valid: Tensor | None = None,
    rows: slice = slice(None),
) -> Tensor:
    """A pair must beat its own negatives by ``margin`` in cosine; a hinge that is added to another loss.

        mean over valid i of  [m - <I,T> + <I,T->]_+  and/or  [m - <I,T> + <I-,T>]_+,
        and with both also    [m - <I-,T-> + <I,T->]_+ + [m - <I-,T-> + <I-,T>]_+

    The cross-modal rank of CE-CLIP (arXiv 2306.08832) with a fixed margin. Its intra-modal loss is left out: as
    published it pulls a caption towards its negative.

    Raises:
        ValueError: no negatives.
    """
    pair = (image * text).sum(dim=1)
    contests = []
    if negative_text is not None:
        contests.append((pair, (image * negative_text).sum(dim=1)))
    if negative_image is not None:
        contests.append((pair, (negative_image * text).sum(dim=1)))
    if negative_text is not None and negative_image is not None:
        twin = (negative_image * negative_text).sum(dim=1)
        contests += [(twin, wrong) for _, wrong in contests]
    if not contests:
        raise ValueError("rank_margin needs negative_text, negative_image or both")
    hinges = torch.stack([(margin - right + wrong).clamp_min(0) for right, wrong in contests]).sum(dim=0)
    return mean([(hinges[rows], _all(image, valid))], rows)


def distill(
    image: Tensor,
    text: Tensor,
    scale: Tensor | float,
    guide_image: Tensor,
    guide_text: Tensor,
    guide_scale: Tensor | float,
    rows: slice = slice(None),
    group: Tensor | None = None,
) -> Tensor:
    """How far the model has moved from the start model's view of the batch; added to another loss, against forgetting.

        1/2 (mean_i KL(softmax(s' <I'_i, T'>) || softmax(s <I_i, T>)) + the same for texts over images)

    with I', T' and s' of the start model, over all rows but the siblings of i, those with i's number in ``group``
    (int64 [N]): the start model cannot tell them from i, which is what it shall unlearn. The contrastive relational
    distillation of CLIP-KD (arXiv 2307.12732), used as in learning without forgetting (arXiv 1606.09282).
    """
    both = ((image, text, guide_image, guide_text), (text, image, guide_text, guide_image))
    losses = []
    own = torch.eye(len(image), dtype=torch.bool, device=image.device)[rows]
    left_out = siblings(Options(rows=rows, group=group), own)
    least = -1e4  # no probability, and no 0 * inf
    for queries, others, guide_queries, guide_others in both:
        now = (scale * queries[rows] @ others.T).masked_fill(left_out, least).log_softmax(dim=1)
        before = (
            (guide_scale * guide_queries[rows] @ guide_others.T)
            .masked_fill(left_out, least)
            .log_softmax(dim=1)
        )
        losses.append(F.kl_div(now, before.detach(), log_target=True, reduction="batchmean"))
    return (losses[0] + losses[1]) / 2


Queries = tuple[Tensor, Tensor]
"""Losses of this process's rows [n], and which of all rows count [N]."""
More = tuple[Tensor, Tensor | None]
"""Features of further keys [N, D], and which of them count [N] (None: all)."""


def _symmetric(
    image: Tensor,
    text: Tensor,
    scale: Tensor | float,
    options: Options,
    *,
    more_texts: More | None = None,
    more_images: More | None = None,
    valid: Tensor | None = None,
    negatives: bool = False,
) -> Tensor:
    """Both directions, over pairs that are the negative ones (``negatives``) or the positive ones."""
    forward = _image_queries(image, text, scale, options, more_texts, valid, negatives)
    backward = _text_queries(image, text, scale, options, more_images, valid, negatives)
    return (mean([forward], options.rows) + mean(backward, options.rows)) / 2


def _image_queries(
    image: Tensor,
    text: Tensor,
    scale: Tensor | float,
    options: Options,
    more: More | None = None,
    valid: Tensor | None = None,
    negatives: bool = False,
) -> Queries:
    own, positive = options.rows, _pairs(image, options, negatives)
    alike = None
    if negatives:
        blocks = [keys(text, positive, valid)]
    else:
        blocks = [keys(text, positive, valid, doubts(options, positive, image_queries=True))]
        if options.positive_text is not None:
            # a paraphrase is as doubtful as its caption
            doubt = doubts(options, positive, image_queries=True)
            blocks.append(keys(options.positive_text, positive, _all(image, options.has_positive), doubt))
        if options.continuous and options.guide_image is not None:
            alike = (1 + options.guide_image[own] @ options.guide_image.T) / 2
            alike = alike.masked_fill(siblings(options, positive), 0.0)
    if more is not None:
        blocks.append(_negative_texts(*more, options, negative_keys=not negatives))
    return contrast(image, scale, options, blocks, valid=valid, alike=alike), _all(image, valid)


def _text_queries(
    image: Tensor,
    text: Tensor,
    scale: Tensor | float,
    options: Options,
    more: More | None = None,
    valid: Tensor | None = None,
    negatives: bool = False,
) -> list[Queries]:
    positive = _pairs(image, options, negatives)
    doubt = None if negatives else doubts(options, positive, image_queries=False)
    blocks = [keys(image, positive, valid, doubt)]
    if more is not None:
        features, counted = more
        # a negative image shows what its own caption says: it is no negative where that is what the text says
        same = says_the_same(options, len(image), image.device, negative_keys=True)
        weights = features.new_zeros(same.shape).masked_fill(same, -torch.inf)
        blocks.append(keys(features, torch.zeros_like(positive), counted, weights))
    parts = [(contrast(text, scale, options, blocks, valid=valid), _all(image, valid))]
    if options.positive_text is not None and not negatives:
        has = _all(image, options.has_positive)
        parts.append((contrast(options.positive_text, scale, options, blocks, valid=has), has))
    return parts


def _negative_texts(
    features: Tensor, counted: Tensor | None, options: Options, *, negative_keys: bool
) -> Keys:
    same = says_the_same(options, len(features), features.device, negative_keys=negative_keys)
    weights = features.new_zeros(same.shape).masked_fill(same, -torch.inf)
    return keys(features, torch.zeros_like(same), counted, weights)


def _pairs(image: Tensor, options: Options, negatives: bool) -> Tensor:
    numbers = (options.negative_caption,) if negatives else (options.source, options.caption)
    return positives(numbers, len(image), options.rows, image.device)


def _sigmoid(
    images: Tensor, texts: Tensor, scale: Tensor | float, bias: Tensor | float, pair: Tensor, weights: Tensor
) -> Tensor:
    return -(weights * F.logsigmoid(pair * (scale * images @ texts.T + bias))).sum()


def _all(image: Tensor, valid: Tensor | None) -> Tensor:
    if valid is None:
        return torch.ones(len(image), dtype=torch.bool, device=image.device)
    return valid
