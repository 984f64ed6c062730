"""Both directions of a softmax loss over image-text pairs, with further keys on either side."""

from __future__ import annotations

import torch
from torch import Tensor

from negguide.vlm.losses.info_nce import contrast, keys, mean
from negguide.vlm.losses.masks import (
    everyone,
    false_negative_weights,
    positives,
    same_group,
    without_duplicates,
)
from negguide.vlm.losses.options import Options

Queries = tuple[Tensor, Tensor]
"""Losses of this process's rows [n], and which of all rows count [N]."""
More = tuple[Tensor, Tensor | None]
"""Features of further keys [N, D], and which of them count [N] (None: all)."""


def symmetric(
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
    """1/2 (mean over images of CE over all texts + mean over texts of CE over all images).

    Args:
        image, text: [N, D] of unit length, row i of each belonging together.
        scale: factor of the cosines.
        options: as everywhere.
        more_texts: further texts, negatives of every image but those whose captions say the same.
        more_images: further images, likewise negatives of every text.
        valid: bool [N], which pairs there are; None = all.
        negatives: the pairs are the negative ones of the batch.

    Returns:
        A scalar; its mean over the processes is the loss of the whole batch.
    """
    forward = image_queries(image, text, scale, options, more_texts, valid, negatives)
    backward = text_queries(image, text, scale, options, more_images, valid, negatives)
    return (mean([forward], options.rows) + mean(backward, options.rows)) / 2


def image_queries(
    image: Tensor,
    text: Tensor,
    scale: Tensor | float,
    options: Options,
    more: More | None = None,
    valid: Tensor | None = None,
    negatives: bool = False,
) -> Queries:
    """The cross entropy of each image over the texts, their paraphrases and `more`; arguments as in `symmetric`."""
    own, positive = options.rows, _pairs(image, options, negatives)
    soft_targets = None
    if negatives:
        blocks = [keys(text, positive, valid)]
    else:
        weights = false_negative_weights(options, positive, image_queries=True)
        blocks = [keys(text, positive, valid, weights)]
        if options.positive_text is not None:
            # a paraphrase is as likely a false negative as its caption
            blocks.append(
                keys(options.positive_text, positive, everyone(image, options.has_positive), weights)
            )
        if options.continuous and options.teacher_image is not None:
            soft_targets = (1 + options.teacher_image[own] @ options.teacher_image.T) / 2
            soft_targets = soft_targets.masked_fill(same_group(options, positive), 0.0)
            # an equal caption is true of the image, however it looks
            soft_targets = soft_targets.masked_fill(positive, 1.0)
            if options.positive_text is not None:
                # a paraphrase is as much of a positive as its caption; without this, its wording would be a negative
                soft_targets = torch.cat((soft_targets, soft_targets), dim=1)
    if more is not None:
        features, counted = more
        allowed = without_duplicates(options, features, negative_keys=not negatives)
        blocks.append(keys(features, torch.zeros_like(positive), counted, allowed))
    losses = contrast(image, scale, options, blocks, valid=valid, soft_targets=soft_targets)
    return losses, everyone(image, valid)


def text_queries(
    image: Tensor,
    text: Tensor,
    scale: Tensor | float,
    options: Options,
    more: More | None = None,
    valid: Tensor | None = None,
    negatives: bool = False,
) -> list[Queries]:
    """The cross entropy of each text, and of each paraphrase, over the images and `more`; as in `symmetric`."""
    positive = _pairs(image, options, negatives)
    weights = None if negatives else false_negative_weights(options, positive, image_queries=False)
    blocks = [keys(image, positive, valid, weights)]
    if more is not None:
        features, counted = more
        # a negative image shows what its own caption says: it is no negative where that is what the text says
        allowed = without_duplicates(options, features, negative_keys=True)
        blocks.append(keys(features, torch.zeros_like(positive), counted, allowed))
    parts = [(contrast(text, scale, options, blocks, valid=valid), everyone(image, valid))]
    if options.positive_text is not None and not negatives:
        has = everyone(image, options.has_positive)
        parts.append((contrast(options.positive_text, scale, options, blocks, valid=has), has))
    return parts


def _pairs(image: Tensor, options: Options, negatives: bool) -> Tensor:
    numbers = (options.negative_caption,) if negatives else (options.source, options.caption)
    return positives(numbers, len(image), options.rows, image.device)
