"""The loss of TripletCLIP: NegCLIP, and NegCLIP with the roles exchanged."""

from __future__ import annotations

from torch import Tensor

from negguide.vlm.losses.masks import everyone
from negguide.vlm.losses.options import PLAIN, Options
from negguide.vlm.losses.registry import register_loss
from negguide.vlm.losses.symmetric import symmetric


@register_loss("triplet")
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

    Inputs:
        | a row of the set | what it trains |
        |---|---|
        | image, caption | the pair, with all negative captions as further texts |
        | negative image, negative caption | a pair as well, with all captions as further texts |

    Requirements:
        - Both negatives; rows without take no part in the second loss.

    Recommendations:
        - The loss to begin with: a negative image that is not quite what its caption says does little harm, for it is
          compared with captions only.
        - Twice the images of `negclip` go through the model.

    Example:
        ```python
        from negguide.vlm import Settings, finetune

        finetune(Settings("mined", loss="triplet"), Path("tuned"))
        ```

    Args:
        image, text, negative_image, negative_text: [N, D] of unit length.
        scale: s, the factor of the cosines.
        options: what is known of the rows, and how they are to be treated.
        valid: bool [N], which rows have a negative; None = all.

    Returns:
        A scalar.

    Source: arXiv 2411.02545.
    """
    rows = everyone(image, valid)
    first = symmetric(image, text, scale, options, more_texts=(negative_text, rows))
    second = symmetric(
        negative_image, negative_text, scale, options, more_texts=(text, None), valid=rows, negatives=True
    )
    return first + second
