"""The suites that there are, from inside and from outside; nothing else lists them."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from negguide._utils.plugins import load_plugins
from negguide.domain import registered_domains
from negguide.vlm.evaluation.suites.base import Suite
from negguide.vlm.evaluation.suites.fingerprint import with_items

INPUTS = ("path", "images", "limit", "partial")
"""What a reader can take."""
IMAGES, PARTIAL = ",images=", ",partial"
_READERS: dict[str, Reader] = {}
_FunctionT = TypeVar("_FunctionT", bound=Callable[..., Suite])


@dataclass(frozen=True)
class Reader:
    """A registered suite: its function, and which of `INPUTS` it takes."""

    name: str
    function: Callable[..., Suite]
    takes: tuple[str, ...]

    @property
    def form(self) -> str:
        """How it is asked for."""
        form = f"{self.name}:PATH" if "path" in self.takes else self.name
        form += f"[{IMAGES}FOLDER]" if "images" in self.takes else ""
        return form + (f"[{PARTIAL}]" if "partial" in self.takes else "")

    def read(self, values: Mapping[str, Any]) -> Suite:
        """The suite, of those values that it takes."""
        return self.function(**{name: value for name, value in values.items() if name in self.takes})


def register_suite(name: str) -> Callable[[_FunctionT], _FunctionT]:
    """Make a function known as the reader of a suite: `make_suite("NAME:PATH")`, `negguide evaluate --suite NAME:PATH`.

    The names of the function's parameters say what it gets, all of them by keyword:

    - `path`: what stands behind the colon, a file or folder that exists; without it the suite is asked for by its name;
    - `images`: the folder of `,images=FOLDER`, or None;
    - `limit`: the most items of a category, or None for all;
    - `partial`: True when `,partial` was said: leave out what images are missing for, and say so in the suite.

    It gives a `negguide.vlm.evaluation.suites.base.Suite`, which is data alone. Where it takes a `path`, `make_suite`
    adds a hash of the items to the version (`with_items`), so that a changed file is seen; where it takes none, changed
    items need a new version. An installed package can bring suites by the entry point group "negguide": a function
    without arguments, which registers them.

    Args:
        name: as it is asked for; without a colon.

    Returns:
        A decorator that gives the function back as it is.

    Raises:
        ValueError: another suite has the name, or the function takes what there is not.

    Example:
        ```python
        from negguide.vlm import register_suite
        from negguide.vlm.evaluation.suites.base import Choice, Choices, ImageFiles, Suite

        @register_suite("mine")
        def mine(path):
            files = sorted(path.glob("*.png"))
            items = tuple(Choice(i, (f"a {f.stem}", "nothing"), 0, "kind") for i, f in enumerate(files))
            return Suite("mine", "1", {"": Choices(ImageFiles(files), items)})
        ```
    """
    if ":" in name or not name:
        raise ValueError(f"suite name {name!r} must be a word without a colon")

    def register(function: _FunctionT) -> _FunctionT:
        takes = tuple(inspect.signature(function).parameters)
        unknown = [parameter for parameter in takes if parameter not in INPUTS]
        if unknown:
            raise ValueError(
                f"suite {name!r}: {function.__name__} takes {', '.join(unknown)}; a suite can take {', '.join(INPUTS)}"
            )
        other = _READERS.get(name)
        if other is not None and other.function is not function:
            raise ValueError(
                f"a suite {name!r} is registered already (by {other.function.__module__}); give another name"
            )
        _READERS[name] = Reader(name, function, takes)
        return function

    return register


def registered_suites() -> Mapping[str, Reader]:
    """All suites by name; those that need no files come first."""
    _discover()
    return MappingProxyType(
        dict(sorted(_READERS.items(), key=lambda item: ("path" in item[1].takes, item[0])))
    )


def make_suite(spec: str, *, limit: int | None = None) -> Suite:
    """The suite that `spec` names; the version of one from files ends with a hash of its items, see `with_items`.

    Args:
        spec: the name of a suite, such as "toyworld"; with ":PATH" where it needs files, as "winoground:PATH", and then
            with ",images=FOLDER" where the images are elsewhere, and ",partial" where only some of them are there; or
            the folder of a set that `negguide mine` wrote.
        limit: the most items of a category (of images, in retrieval); None = all.

    Raises:
        ValueError: no such suite, no such folder, files or images that are missing or of another form.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit} must be at least 1; leave it out to evaluate everything")
    readers = registered_suites()
    name, colon, rest = spec.partition(":")
    if name in readers and bool(colon) == ("path" in readers[name].takes):
        suite = readers[name].read({"limit": limit, **_places(spec, rest, readers[name])})
        return with_items(suite) if "path" in readers[name].takes else suite
    folder = Path(spec).expanduser()
    if not folder.is_dir():
        known = ", ".join(reader.form for reader in readers.values())
        raise ValueError(f"suite={spec!r} is unknown; use one of: {known}, or the folder of a mined set")
    from negguide.vlm.evaluation.suites.mined import mined

    return with_items(mined(folder, limit))


def _places(spec: str, rest: str, reader: Reader) -> dict[str, Any]:
    """What stands behind the colon."""
    if "path" not in reader.takes:
        return {}
    partial = rest.endswith(PARTIAL)
    place, images_given, images = rest.removesuffix(PARTIAL).partition(IMAGES)
    for given, name in ((images_given, "images"), (partial, "partial")):
        if given and name not in reader.takes:
            raise ValueError(f"suite={spec!r}: {reader.name} takes no {name}; its form is {reader.form}")
    path = Path(place).expanduser()
    if not place or not path.exists():
        raise ValueError(f"suite={spec!r}: there is no {place or 'path after the colon'}")
    return {"path": path, "images": Path(images).expanduser() if images else None, "partial": partial}


def _discover() -> None:
    """Import the suites of this package, and register those that installed packages and closed worlds bring."""
    import negguide.vlm.evaluation.suites as package

    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    load_plugins()
    for domain in registered_domains().values():
        for name, suite in domain.evaluation.items():
            register_suite(name)(suite)
