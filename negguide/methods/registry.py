"""The methods that there are, from inside and from outside; nothing else lists them."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

from negguide._utils.plugins import load_plugins
from negguide.methods.base import AttentionMethod, Method, ScoreMethod, Space, TokenMethod
from negguide.methods.negative import Negative
from negguide.methods.serialise import Load

_SPACES: tuple[Space, ...] = get_args(Space)
_BASES: dict[Space, type[Method]] = {"score": ScoreMethod, "token": TokenMethod, "attention": AttentionMethod}
_METHODS: dict[str, type[Method]] = {}
_MethodT = TypeVar("_MethodT", bound=type[Method])


def register_method(method: _MethodT) -> _MethodT:
    """Make a method known everywhere by its name: in `negative_guidance=`, JSON, command line and demo.

    Works as a decorator. An installed package can bring methods by the entry point group "negguide": a function
    without arguments, which registers them.

    Args:
        method: a frozen dataclass derived from `ScoreMethod`, `TokenMethod` or `AttentionMethod`, with `key`, `label`,
            `summary` and `source`.

    Returns:
        The same class.

    Raises:
        TypeError: it is no such class.
        ValueError: another method has its name or key, or it lacks one of the attributes.
    """
    if not (isinstance(method, type) and issubclass(method, tuple(_BASES.values()))):
        raise TypeError(
            "register_method needs a class derived from ScoreMethod, TokenMethod or AttentionMethod of "
            f"negguide.methods, got {method!r}"
        )
    name = method.__name__
    # its own: the base class, which it inherits from, is one
    if "__dataclass_params__" not in vars(method):
        raise TypeError(f"{name} must be a frozen dataclass: @dataclass(frozen=True, ...)")
    for attribute in ("space", "key", "label", "summary", "source"):
        if not isinstance(getattr(method, attribute, None), str):
            raise ValueError(f"{name} must have the class attribute {attribute}, a string")
    if not issubclass(method, _BASES[method.space]):
        raise ValueError(f"{name} has space {method.space!r} and is no {_BASES[method.space].__name__}")
    for other in _METHODS.values():
        if other is not method and (other.__name__ == name or other.key == method.key):
            raise ValueError(
                f"a method {other.__name__} with key {other.key!r} is registered already (by {other.__module__}), got "
                f"{name} with key {method.key!r}"
            )
    _METHODS[name] = method
    return method


def registered_methods(space: Space | None = None) -> tuple[type[Method], ...]:
    """All methods, or those of one space: score space first, then token and attention space, by name."""
    _discover()
    methods = [method for method in _METHODS.values() if space in (None, method.space)]
    return tuple(sorted(methods, key=lambda method: (_SPACES.index(method.space), method.__name__)))


def method_by_key(key: str) -> type[Method]:
    """The method of this key, e.g. "perp-neg".

    Raises:
        ValueError: there is none, with those that there are.
    """
    keys = {method.key: method for method in registered_methods()}
    if key not in keys:
        raise ValueError(f"method must be one of {', '.join(keys)}, got {key!r}")
    return keys[key]


def method_from_dict(data: Mapping[str, Any], load: Load | None = None) -> Method:
    """The method that `method.to_dict()` stored; `load` turns what stands for an image back into one.

    Raises:
        ValueError: for an unknown method or key, or for an image without `load`.
    """
    names = {method.__name__: method for method in registered_methods()}
    name = data.get("method")
    if name not in names:
        raise ValueError(f"method must be one of {', '.join(names)}, got {name!r}")
    return names[name].from_dict(data, load)


@dataclass(frozen=True)
class Methods:
    """`negative_guidance=` sorted by space: at most one method each."""

    score: ScoreMethod | None = None
    token: TokenMethod | None = None
    attention: AttentionMethod | None = None

    def __iter__(self) -> Any:
        return (method for method in (self.score, self.token, self.attention) if method is not None)


def collect(negative_guidance: Method | Sequence[Method]) -> Methods:
    """Sort `negative_guidance=` by space.

    Raises:
        TypeError: for anything that is no method.
        ValueError: for an empty list, or for two methods of one space, which exclude each other.
    """
    methods = negative_guidance if isinstance(negative_guidance, list | tuple) else [negative_guidance]
    if not methods:
        raise ValueError("negative_guidance is empty; give at least one method, or None for plain generation")
    found: dict[str, Any] = {}
    for method in methods:
        if not isinstance(method, Method):
            hint = f"; wrap it: PerpNeg({method!r})" if isinstance(method, Negative | str) else ""
            names = ", ".join(kind.__name__ for kind in registered_methods())
            raise TypeError(f"negative_guidance must hold methods ({names}), got {method!r}{hint}")
        if method.space in found:
            raise ValueError(_exclusion(found[method.space], method))
        found[method.space] = method
    return Methods(**found)


def _exclusion(first: Method, second: Method) -> str:
    name, other = type(first).__name__, type(second).__name__
    if name != other:
        place = {"score": "on predictions", "token": "on tokens", "attention": "in attention"}[first.space]
        return f"negative_guidance holds {name} and {other}, which both work {place}; give one of them"
    advice = "; put all negatives into one" if hasattr(first, "negatives") else ""
    return f"negative_guidance holds two {name} objects, give one{advice}"


def _discover() -> None:
    """Import the methods of this package and those that installed packages bring."""
    import negguide.methods as package

    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    load_plugins()
