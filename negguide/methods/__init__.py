"""What a user passes: small frozen objects that say which negatives act, how strongly, when and where.

Windows are fractions of the denoising steps, [start, stop), with the rounding of diffusers' guiders: step i of n
is inside when int(start * n) <= i < int(stop * n).

Every method goes to JSON and back with `to_dict()`, `from_dict()` and `method_from_dict()`. An image or a mask does
not fit into JSON: `to_dict()` stores what it is, {"sha256": ..., "size": [width, height]}, and `to_dict(save)` stores
what `save(image)` returns instead, e.g. the name of the file that it wrote (anything JSON can hold, but not a list).
`from_dict(d, load)` calls `load(stored)` for each image; without `load` a dict that names an image is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from negguide.methods.attention import NAG, ONG, VSF, AttentionMethod
from negguide.methods.score import Negative, NegativesMethod, PerpNeg
from negguide.methods.tokens import NegToMe
from negguide.methods.values import ImageLike, Load, MaskLike, Save, digest

__all__ = [
    "NAG",
    "ONG",
    "VSF",
    "AttentionMethod",
    "ImageLike",
    "Load",
    "MaskLike",
    "Method",
    "Methods",
    "NegToMe",
    "Negative",
    "NegativesMethod",
    "PerpNeg",
    "Save",
    "collect",
    "digest",
    "method_from_dict",
]

Method = PerpNeg | NegToMe | NAG | ONG | VSF
_METHODS: dict[str, Any] = {cls.__name__: cls for cls in (PerpNeg, NegToMe, NAG, ONG, VSF)}


def method_from_dict(data: Mapping[str, Any], load: Load | None = None) -> Method:
    """The method that `method.to_dict()` stored; `load` turns what stands for an image back into one.

    Raises:
        ValueError: for an unknown method or key, or for an image without `load`.
    """
    name = data.get("method")
    if name not in _METHODS:
        raise ValueError(f"method must be one of {', '.join(_METHODS)}, got {name!r}")
    method: Method = _METHODS[name].from_dict(data, load)
    return method


@dataclass(frozen=True)
class Methods:
    """`negative_guidance=` sorted by place: at most one method each in score, token and attention space."""

    perp_neg: PerpNeg | None = None
    negtome: NegToMe | None = None
    attention: AttentionMethod | None = None

    def __iter__(self) -> Iterator[Method]:
        return (method for method in (self.perp_neg, self.negtome, self.attention) if method is not None)


def collect(negative_guidance: Method | Sequence[Method]) -> Methods:
    """Sort `negative_guidance=` by place.

    Raises:
        TypeError: for anything that is no method.
        ValueError: for an empty list, or for two methods of one place, which exclude each other.
    """
    methods = negative_guidance if isinstance(negative_guidance, list | tuple) else [negative_guidance]
    if not methods:
        raise ValueError("negative_guidance is empty; give at least one method, or None for plain generation")
    found: dict[str, Method] = {}
    for method in methods:
        if not isinstance(method, Method):
            hint = f"; wrap it: PerpNeg({method!r})" if isinstance(method, Negative | str) else ""
            names = ", ".join(_METHODS)
            raise TypeError(f"negative_guidance must hold methods ({names}), got {method!r}{hint}")
        place = _place(method)
        if place in found:
            raise ValueError(_exclusion(found[place], method))
        found[place] = method
    return Methods(**found)  # type: ignore[arg-type]


def _place(method: Method) -> str:
    if isinstance(method, PerpNeg):
        return "perp_neg"
    return "negtome" if isinstance(method, NegToMe) else "attention"


def _exclusion(first: Method, second: Method) -> str:
    name, other = type(first).__name__, type(second).__name__
    if name != other:
        return f"negative_guidance holds {name} and {other}, which both work in attention; give one of them"
    advice = "" if isinstance(first, NegToMe) else "; put all negatives into one"
    return f"negative_guidance holds two {name} objects, give one{advice}"
