"""The loss of NegCLIP: negative captions are further texts."""

from __future__ import annotations

from torch import Tensor

from negguide.vlm.losses.masks import everyone
from negguide.vlm.losses.options import PLAIN, Options
from negguide.vlm.losses.registry import register_loss
from negguide.vlm.losses.symmetric import symmetric


@register_loss("negclip")
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

    Inputs:
        | a row of the set | what it trains |
        |---|---|
        | image, caption | the pair |
        | negative caption | a negative of every image of the batch |

    Requirements:
        - Negative captions; no negative images, so a SugarCrepe JSON or any set of captions is enough.

    Recommendations:
        - Cheap: no further image goes through the model.
        - A set whose negatives are told by their wording alone (an odd word order, a full stop) teaches just that;
          audit it first (`negguide audit`), and train with `paraphrases`.

    Example:
        ```python
        from negguide.vlm import Settings, finetune

        finetune(Settings("negatives.jsonl", loss="negclip", images="photos"), Path("tuned"))
        ```

    Args:
        image, text, negative_text: [N, D] of unit length.
        scale: s, the factor of the cosines.
        options: what is known of the rows, and how they are to be treated.
        valid: bool [N], which rows have a negative; None = all.

    Returns:
        A scalar.

    Source: arXiv 2210.01936.
    """
    return symmetric(image, text, scale, options, more_texts=(negative_text, everyone(image, valid)))
