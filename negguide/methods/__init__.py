"""What a user passes: small frozen objects that say which negatives act, how strongly, when and where.

`base` says what a method is and what a new one must define; `registry` knows those that there are. Windows are
fractions of the denoising steps, [start, stop), with the rounding of diffusers' guiders: step i of n is inside when
int(start * n) <= i < int(stop * n); or places on the noise schedule (`Timestep`), as published ones are. One that was
left to the method or to the model family holds at least one step, whatever their number.

Every method goes to JSON and back with `to_dict()`, `from_dict()` and `method_from_dict()`. An image or a mask does
not fit into JSON: `to_dict()` stores what it is, {"sha256": ..., "size": [width, height]}, and `to_dict(save)` stores
what `save(image)` returns instead, e.g. the name of the file that it wrote (anything JSON can hold, but not a list).
`from_dict(d, load)` calls `load(stored)` for each image; without `load` a dict that names an image is refused.
"""

from negguide.methods.base import (
    AttentionMethod,
    Method,
    NegativeAttention,
    NegativesMethod,
    ScoreMethod,
    TokenMethod,
    negatives_of,
)
from negguide.methods.nag import NAG
from negguide.methods.nasa import NASA
from negguide.methods.negative import AUTO, Negative
from negguide.methods.negtome import NegToMe
from negguide.methods.ong import ONG
from negguide.methods.perp_neg import PerpNeg
from negguide.methods.registry import (
    Methods,
    collect,
    method_by_key,
    method_from_dict,
    register_method,
    registered_methods,
)
from negguide.methods.serialise import Load, Save, fingerprint
from negguide.methods.validation import ImageLike, MaskLike
from negguide.methods.vsf import VSF
from negguide.methods.window import Edge, Timestep, Window

__all__ = [
    "AUTO",
    "NAG",
    "NASA",
    "ONG",
    "VSF",
    "AttentionMethod",
    "Edge",
    "ImageLike",
    "Load",
    "MaskLike",
    "Method",
    "Methods",
    "NegToMe",
    "Negative",
    "NegativeAttention",
    "NegativesMethod",
    "PerpNeg",
    "Save",
    "ScoreMethod",
    "Timestep",
    "TokenMethod",
    "Window",
    "collect",
    "fingerprint",
    "method_by_key",
    "method_from_dict",
    "negatives_of",
    "register_method",
    "registered_methods",
]
