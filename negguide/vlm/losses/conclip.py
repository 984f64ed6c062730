"""The loss of CoN-CLIP: a negated caption is of another image."""

from __future__ import annotations

import torch
from torch import Tensor

from negguide.vlm.losses.info_nce import contrast, keys, mean
from negguide.vlm.losses.masks import everyone, positives, without_duplicates
from negguide.vlm.losses.options import PLAIN, Options
from negguide.vlm.losses.registry import register_loss
from negguide.vlm.losses.symmetric import image_queries, text_queries


@register_loss("conclip")
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

    Negative images are never queries.

    Inputs:
        | a row of the set | what it trains |
        |---|---|
        | image, caption | the pair, with negative captions and negative images as further negatives |
        | negative image, negative caption | the caption finds its image among all images |

    Requirements:
        - Both negatives.

    Recommendations:
        - Made for negation ("a bear without a hat", and an image that it is true of): mine with
          `--categories negation`.

    Example:
        ```python
        from negguide.vlm import Settings, finetune

        finetune(Settings("negations", loss="conclip"), Path("tuned"))
        ```

    Args:
        image, text, negative_image, negative_text: [N, D] of unit length.
        scale: s, the factor of the cosines.
        options: what is known of the rows, and how they are to be treated.
        valid: bool [N], which rows have a negative; None = all.

    Returns:
        A scalar.

    Source: after arXiv 2403.20312.
    """
    rows, own = everyone(image, valid), options.rows
    forward = image_queries(image, text, scale, options, more=(negative_text, rows))
    nobody = torch.zeros(len(image[own]), len(image), dtype=torch.bool, device=image.device)
    backward = text_queries(image, text, scale, options, more=(negative_image, rows))
    own_pairs = positives((options.negative_caption,), len(image), own, image.device)
    # an image whose own caption is the negated one is none of its negatives
    allowed = without_duplicates(options, image, negative_keys=False)
    images = [keys(image, nobody, None, allowed), keys(negative_image, own_pairs, rows)]
    backward.append((contrast(negative_text, scale, options, images, valid=rows), rows))
    return (mean([forward], own) + mean(backward, own)) / 2
