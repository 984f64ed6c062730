"""The loss of CLIP on batches of siblings: the negatives of a row are rows of their own beside it."""

from __future__ import annotations

from torch import Tensor

from negguide.vlm.losses.options import PLAIN, Options
from negguide.vlm.losses.registry import register_loss
from negguide.vlm.losses.symmetric import symmetric


@register_loss("grouped", siblings=True)
def grouped(image: Tensor, text: Tensor, scale: Tensor | float, options: Options = PLAIN) -> Tensor:
    """Symmetric InfoNCE, as in `negguide.vlm.losses.clip`; what differs is which rows share a batch.

        1/2 (mean_i CE(s <I_i, T>, i) + mean_i CE(s <T_i, I>, i)),   siblings of i among I and T

    Inputs:
        | a row of the set | what it trains |
        |---|---|
        | image, caption | a pair, once, however many negatives it has |
        | negative image, negative caption | a pair of its own, in the same batch |

    Requirements:
        - Both negatives; rows without fill up batches as plain pairs.
        - Batches are drawn by `negguide.vlm.data.sampler.GroupSampler`: a fraction `group_fraction` of each is groups
          of at most `group_size` siblings.

    Recommendations:
        - Learns the most of generated negatives here, for every picture is seen once and contrasted both ways.
        - Against forgetting, add plain pairs of the start model's own kind to the set and set `group_fraction=0.5`.

    Example:
        ```python
        from negguide.vlm import Settings, finetune

        finetune(Settings("mined", loss="grouped", group_size=6, group_fraction=1.0), Path("tuned"))
        ```

    Args:
        image, text: [N, D] of unit length.
        scale: s, the factor of the cosines.
        options: what is known of the rows, and how they are to be treated.

    Returns:
        A scalar.

    Source: the batches of Generative Negative Mining, arXiv 2311.03964.
    """
    return symmetric(image, text, scale, options)
