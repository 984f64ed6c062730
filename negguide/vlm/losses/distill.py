"""How far a model has moved from its teacher's view of a batch, to be added to another loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from negguide.vlm.losses.masks import same_group
from negguide.vlm.losses.options import Options


def distill(
    image: Tensor,
    text: Tensor,
    scale: Tensor | float,
    teacher_image: Tensor,
    teacher_text: Tensor,
    teacher_scale: Tensor | float,
    rows: slice = slice(None),
    group: Tensor | None = None,
) -> Tensor:
    """The divergence of the model's view from the teacher's, against forgetting; the teacher is the start model.

        1/2 (mean_i KL(softmax(s' <I'_i, T'>) || softmax(s <I_i, T>)) + the same for texts over images)

    with I', T' and s' of the teacher, over all rows but those of the group of i: the teacher cannot tell them from i,
    which is what it shall unlearn.

    Inputs:
        | a row of the set | what it trains |
        |---|---|
        | image, caption | the pair is told from the others as the start model tells it |

    Requirements:
        - The start model looks at every batch: a third more time.

    Recommendations:
        - Added to a loss by `distill=1.0` or so, where retrieval or zero-shot suffer. A curriculum comes before it.

    Example:
        ```python
        from negguide.vlm import Settings, finetune

        finetune(Settings("mined", loss="triplet", distill=1.0), Path("tuned"))
        ```

    Args:
        image, text: [N, D] of unit length.
        scale: s, the factor of the cosines.
        teacher_image, teacher_text, teacher_scale: the same of the teacher, without gradient.
        rows: this process's own.
        group: int64 [N]; rows with one number are of one group.

    Returns:
        A scalar.

    Source: the contrastive relational distillation of CLIP-KD, arXiv 2307.12732, used as in learning without
        forgetting, arXiv 1606.09282.
    """
    both = ((image, text, teacher_image, teacher_text), (text, image, teacher_text, teacher_image))
    losses = []
    own = torch.eye(len(image), dtype=torch.bool, device=image.device)[rows]
    left_out = same_group(Options(rows=rows, group=group), own)
    least = -1e4  # no probability, and no 0 * inf
    for queries, keys, teacher_queries, teacher_keys in both:
        now = (scale * queries[rows] @ keys.T).masked_fill(left_out, least).log_softmax(dim=1)
        before = (
            (teacher_scale * teacher_queries[rows] @ teacher_keys.T)
            .masked_fill(left_out, least)
            .log_softmax(dim=1)
        )
        losses.append(F.kl_div(now, before.detach(), log_target=True, reduction="batchmean"))
    return (losses[0] + losses[1]) / 2
