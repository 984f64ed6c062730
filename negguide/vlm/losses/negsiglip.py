"""The sigmoid form of TripletCLIP's loss."""

from __future__ import annotations

from torch import Tensor

from negguide.vlm.losses.options import PLAIN, Options
from negguide.vlm.losses.registry import register_loss
from negguide.vlm.losses.siglip import sigmoid_loss


@register_loss("negsiglip", softmax=False)
def negsiglip(
    image: Tensor,
    text: Tensor,
    negative_image: Tensor,
    negative_text: Tensor,
    scale: Tensor | float,
    bias: Tensor | float,
    options: Options = PLAIN,
    *,
    valid: Tensor | None = None,
) -> Tensor:
    """SigLIP's loss over the images [I; I-] and the texts [T; T-], of which (I-_i, T-_i) is a pair as well.

    N counts all pairs, without the rows that have no negative.

    Inputs:
        | a row of the set | what it trains |
        |---|---|
        | image, caption | a yes, and a no with every other caption and negative caption |
        | negative image, negative caption | a yes, and a no with every other one |

    Requirements:
        - A model with a logit bias (SigLIP, SigLIP 2).
        - Both negatives; rows without take part as plain pairs.

    Recommendations:
        - Experimental: it is measured nowhere yet.
        - What `triplet` is for CLIP; options as in `negguide.vlm.losses.siglip`.

    Example:
        ```python
        from negguide.vlm import Settings, finetune

        finetune(Settings("mined", "google/siglip-base-patch16-224", loss="negsiglip"), Path("tuned"))
        ```

    Args:
        image, text, negative_image, negative_text: [N, D] of unit length.
        scale, bias: s and b, the factor of the cosines and what is added to them.
        options: of which it takes the rows, the equal captions and images, and the false negatives.
        valid: bool [N], which rows have a negative; None = all.

    Returns:
        A scalar.

    Raises:
        ValueError: options that a sigmoid loss does not have.

    Source: ours, after arXiv 2303.15343 and arXiv 2411.02545.
    """
    return sigmoid_loss(image, text, scale, bias, options, (negative_image, negative_text), valid)
