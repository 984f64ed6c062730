"""A hinge on every row and its own negatives, to be added to another loss."""

from __future__ import annotations

import torch
from torch import Tensor

from negguide.vlm.losses.info_nce import mean
from negguide.vlm.losses.masks import everyone


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
    """A pair must beat its own negatives by `margin` in cosine.

        mean over valid i of  [m - <I,T> + <I,T->]_+  and/or  [m - <I,T> + <I-,T>]_+,
        and with both also    [m - <I-,T-> + <I,T->]_+ + [m - <I-,T-> + <I-,T>]_+

    Inputs:
        | a row of the set | what it trains |
        |---|---|
        | image, caption | must be closer than |
        | negative caption or negative image | the same with either exchanged |

    Requirements:
        - One negative at least.

    Recommendations:
        - Added to a loss by `rank_margin=0.1` or so and `rank_weight`; alone it forgets the rest of the batch.
        - The intra-modal loss that was published beside it is left out: as published it pulls a caption towards its
          negative.

    Example:
        ```python
        from negguide.vlm import Settings, finetune

        finetune(Settings("mined", loss="triplet", rank_margin=0.1), Path("tuned"))
        ```

    Args:
        image, text: [N, D] of unit length.
        margin: m, a cosine in [0, 2].
        negative_text, negative_image: [N, D]; one of them at least.
        valid: bool [N], which rows have a negative; None = all.
        rows: this process's own.

    Returns:
        A scalar.

    Raises:
        ValueError: no negatives.

    Source: the cross-modal rank of CE-CLIP with a fixed margin, arXiv 2306.08832.
    """
    pair = (image * text).sum(dim=1)
    contests = []
    if negative_text is not None:
        contests.append((pair, (image * negative_text).sum(dim=1)))
    if negative_image is not None:
        contests.append((pair, (negative_image * text).sum(dim=1)))
    if negative_text is not None and negative_image is not None:
        negative_pair = (negative_image * negative_text).sum(dim=1)
        contests += [(negative_pair, wrong) for _, wrong in contests]
    if not contests:
        raise ValueError("rank_margin needs negative_text, negative_image or both")
    hinges = torch.stack([(margin - right + wrong).clamp_min(0) for right, wrong in contests]).sum(dim=0)
    return mean([(hinges[rows], everyone(image, valid))], rows)
