"""The mirror of NegCLIP: negative images are further images."""

from __future__ import annotations

from torch import Tensor

from negguide.vlm.losses.masks import everyone
from negguide.vlm.losses.options import PLAIN, Options
from negguide.vlm.losses.registry import register_loss
from negguide.vlm.losses.symmetric import symmetric


@register_loss("negimage")
def negimage(
    image: Tensor,
    text: Tensor,
    negative_image: Tensor,
    scale: Tensor | float,
    options: Options = PLAIN,
    *,
    valid: Tensor | None = None,
) -> Tensor:
    """CLIP's loss with every negative image of the batch as one more image, text to image only.

        1/2 (mean_i CE(s <I_i, T>, i) + mean_i CE(s <T_i, [I; I-]>, i))

    Inputs:
        | a row of the set | what it trains |
        |---|---|
        | image, caption | the pair |
        | negative image | a negative of every caption of the batch |

    Requirements:
        - Negative images.

    Recommendations:
        - An ablation: it shows what negative images give alone. Where originals are photographs and negatives are
          painted, it can learn to tell those apart instead; `triplet` and `grouped` make each negative image the
          positive of its own caption, which takes this way out.

    Example:
        ```python
        from negguide.vlm import Settings, finetune

        finetune(Settings("mined", loss="negimage"), Path("tuned"))
        ```

    Args:
        image, text, negative_image: [N, D] of unit length.
        scale: s, the factor of the cosines.
        options: what is known of the rows, and how they are to be treated.
        valid: bool [N], which rows have a negative; None = all.

    Returns:
        A scalar.

    Source: the image half of what TripletCLIP compares itself with, arXiv 2411.02545.
    """
    return symmetric(image, text, scale, options, more_images=(negative_image, everyone(image, valid)))
