"""The losses that there are, from inside and from outside; nothing else lists them."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

from torch import Tensor

from negguide._utils.plugins import load_plugins

INPUTS: Mapping[str, str | None] = MappingProxyType(
    {
        "image": None,
        "text": None,
        "negative_image": "negative_image",
        "negative_text": "negative_caption",
        "valid": None,
        "scale": None,
        "bias": None,
        "options": None,
    }
)
"""What a loss can take, and the column of the set that it comes from (image and caption are in every set)."""
_LOSSES: dict[str, Loss] = {}
_FunctionT = TypeVar("_FunctionT", bound=Callable[..., Tensor])


@dataclass(frozen=True)
class Loss:
    """A registered loss.

    Attributes:
        name: `--loss` and `Settings.loss` call it so.
        function: takes some of `INPUTS` by name, and gives a scalar.
        takes: which.
        columns: of the set, that it needs besides image and caption.
        softmax: it honours all of `negguide.vlm.losses.Options`; other losses take those for duplicates and false
            negatives alone.
        siblings: its batches are groups of siblings, in which every negative is a row of its own.
    """

    name: str
    function: Callable[..., Tensor]
    takes: tuple[str, ...]
    columns: tuple[str, ...]
    softmax: bool
    siblings: bool

    @property
    def needs_bias(self) -> bool:
        """Whether the model must have a logit bias, as SigLIP has."""
        return "bias" in self.takes

    @property
    def takes_options(self) -> bool:
        """Whether duplicates, paraphrases, false negatives and the like can be handed to it."""
        return "options" in self.takes

    def __call__(self, inputs: Mapping[str, Any]) -> Tensor:
        """The loss of a batch, from everything that is known of it."""
        return self.function(**{name: inputs[name] for name in self.takes})


def register_loss(
    name: str, *, softmax: bool = True, siblings: bool = False
) -> Callable[[_FunctionT], _FunctionT]:
    """Make a function known as a loss by its name: in `Settings.loss` and as `negguide finetune --loss`.

    The names of the function's parameters say what it gets, all of them by keyword:

    - `image`, `text`: [N, D] of unit length, row i of each belonging together;
    - `negative_image`, `negative_text`: [N, D], the negatives of the rows; the set must have them;
    - `valid`: bool [N], which rows have a negative (those of the others are zero);
    - `scale`: the factor of the cosines, a scalar with gradient;
    - `bias`: what is added to them; the model must have one (SigLIP);
    - `options`: `negguide.vlm.losses.Options`, what is known of the rows (duplicates, paraphrases, ...) and how they
      are to be treated. A loss without it is refused together with settings that need it.

    With several processes the features are those of all of them, and the mean of the results over the processes must be
    the loss of the whole batch: so a plain function of all rows is right as it is.

    An installed package can bring losses by the entry point group "negguide": a function without arguments, which
    registers them.

    Args:
        name: as it is asked for.
        softmax: False for a loss that cannot honour `smoothing`, `focal`, `dice`, `continuous`, `mixing`, paraphrases.
        siblings: batches are groups of siblings, in which every negative is a row of its own (as in "grouped").

    Returns:
        A decorator that gives the function back as it is.

    Raises:
        ValueError: another loss has the name, or the function takes what there is not.

    Example:
        ```python
        from negguide.vlm import register_loss

        @register_loss("cosine")
        def cosine(image, text):
            return 1 - (image * text).sum(dim=1).mean()
        ```
    """

    def register(function: _FunctionT) -> _FunctionT:
        takes = tuple(inspect.signature(function).parameters)
        unknown = [parameter for parameter in takes if parameter not in INPUTS]
        if unknown:
            raise ValueError(
                f"loss {name!r}: {function.__name__} takes {', '.join(unknown)}; a loss can take {', '.join(INPUTS)}"
            )
        other = _LOSSES.get(name)
        if other is not None and other.function is not function:
            raise ValueError(
                f"a loss {name!r} is registered already (by {other.function.__module__}); give another name"
            )
        needed = tuple(INPUTS) if siblings else takes
        columns = tuple(sorted(column for key in needed if (column := INPUTS[key]) is not None))
        _LOSSES[name] = Loss(name, function, takes, columns, softmax, siblings)
        return function

    return register


def registered_losses() -> Mapping[str, Loss]:
    """All losses by name, in the order of the alphabet."""
    _discover()
    return MappingProxyType(dict(sorted(_LOSSES.items())))


def loss_by_name(name: str) -> Loss:
    """The loss of this name.

    Raises:
        ValueError: there is none, with those that there are.
    """
    known = registered_losses()
    if name not in known:
        raise ValueError(f"loss={name!r} is not known; use one of {', '.join(known)}")
    return known[name]


def _discover() -> None:
    """Import the losses of this package and those that installed packages bring."""
    import negguide.vlm.losses as package

    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    load_plugins()
