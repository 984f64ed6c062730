"""The loss of CLIP: every other row of the batch is a negative."""

from __future__ import annotations

from torch import Tensor

from negguide.vlm.losses.options import PLAIN, Options
from negguide.vlm.losses.registry import register_loss
from negguide.vlm.losses.symmetric import symmetric


@register_loss("clip")
def clip(image: Tensor, text: Tensor, scale: Tensor | float, options: Options = PLAIN) -> Tensor:
    """Symmetric InfoNCE.

        1/2 (mean_i CE(s <I_i, T>, i) + mean_i CE(s <T_i, I>, i))

    Inputs:
        | a row of the set | what it trains |
        |---|---|
        | image, caption | the pair, against all other pairs of the batch |

    Requirements:
        - No negatives; columns for them are not read.
        - Large batches: they are all the contrast that there is (`accum_freq` makes them out of small ones).

    Recommendations:
        - The control of every other loss here: the same pairs without their negatives.
        - With `paraphrases`, other wordings of the caption are further positives.

    Example:
        ```python
        from negguide.vlm import Settings, finetune

        finetune(Settings("pairs.tsv", loss="clip", batch_size=256), Path("tuned"))
        ```

    Args:
        image, text: [N, D] of unit length.
        scale: s, the factor of the cosines; CLIP's `exp(logit_scale)`.
        options: what is known of the rows, and how they are to be treated.

    Returns:
        A scalar.

    Source: arXiv 2103.00020.
    """
    return symmetric(image, text, scale, options)
