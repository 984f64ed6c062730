"""Contrastive losses with hard negatives, as plain functions of normalised features; one a file.

Everywhere: `image`, `text`, `negative_image` and `negative_text` are [N, D] of unit length, row i of each belonging
together; `scale` is the factor of the cosines (a scalar, CLIP's `exp(logit_scale)`); `valid` [N] marks the rows that
have a negative (default: all). CE(z, i) is the cross entropy of the logits z with the label i. The result is a scalar.

With several processes, the features are those of all of them (see `negguide.vlm.training.gather`) and `options.rows`
are this process's own rows: the mean of the results over the processes is the loss of the whole batch, and the mean of
the gradients, which DistributedDataParallel computes, its gradient.

`register_loss` makes a function known by a name. `rank_margin` and `distill` are added to another loss.
"""

from negguide.vlm.losses.clip import clip
from negguide.vlm.losses.conclip import conclip
from negguide.vlm.losses.distill import distill
from negguide.vlm.losses.grouped import grouped
from negguide.vlm.losses.mixing import Mixing
from negguide.vlm.losses.negclip import negclip
from negguide.vlm.losses.negimage import negimage
from negguide.vlm.losses.negsiglip import negsiglip
from negguide.vlm.losses.options import PLAIN, Options
from negguide.vlm.losses.rank_margin import rank_margin
from negguide.vlm.losses.registry import Loss, loss_by_name, register_loss, registered_losses
from negguide.vlm.losses.siglip import siglip
from negguide.vlm.losses.triplet import triplet

__all__ = [
    "PLAIN",
    "Loss",
    "Mixing",
    "Options",
    "clip",
    "conclip",
    "distill",
    "grouped",
    "loss_by_name",
    "negclip",
    "negimage",
    "negsiglip",
    "rank_margin",
    "register_loss",
    "registered_losses",
    "siglip",
    "triplet",
]
