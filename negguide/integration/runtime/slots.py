"""Negatives of different prompts side by side: what no image shares is computed as one."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from negguide.integration.families.base import Family
from negguide.integration.runtime.batching import expand_text
from negguide.methods import Negative

Slot = tuple[int, ...]
"""Numbers of negatives of which no two belong to one prompt."""


def slots_of(
    negatives: Sequence[Negative],
    acting: Sequence[int],
    alike: Callable[[int, int], bool] = lambda one, other: True,
) -> list[Slot]:
    """The acting negatives in as few slots as they fit in, in their order.

    The j-th negatives of several prompts share one; where the order counts (`joint`, `ONG`) it is that of each prompt.

    Args:
        negatives: of the method.
        acting: numbers of those that act.
        alike: whether two negatives can share a slot, besides being of different prompts.
    """
    slots: list[list[int]] = []
    for k in acting:
        own = negatives[k].prompt_index
        meets = [
            own is None or any(negatives[other].prompt_index in (None, own) for other in slot)
            for slot in slots
        ]
        first = max((i for i, met in enumerate(meets) if met), default=-1) + 1
        free = next((slot for slot in slots[first:] if alike(slot[0], k)), None)
        if free is None:
            slots.append([k])
        else:
            free.append(k)
    return [tuple(slot) for slot in slots]


def alike_texts(family: Family, one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two texts of one row each can be rows of one batch, with nothing between them but what they say."""
    if family.texts_before is not None:
        # it computes each text by itself
        return False
    for path, kind in family.text.items():
        if kind == "pooled":
            continue
        mine, others = one.get(path), other.get(path)
        if not isinstance(mine, Tensor) or not isinstance(others, Tensor):
            # rows of a list have lengths of their own
            if type(mine) is not type(others):
                return False
        elif mine.shape != others.shape or (kind == "positions" and not mine.equal(others)):
            return False
    lengths = family.text_lengths
    return lengths is None or lengths(one) == lengths(other)


def slot_text(family: Family, path: str, texts: Sequence[tuple[slice, Mapping[str, Any]]], rows: int) -> Any:
    """A text input for each of `rows`: at the rows of each text its own, at all others the first one's.

    Args:
        family: of the denoiser.
        path: the text input.
        texts: of one row each, with the rows that are theirs.
        rows: how many there are.
    """
    (_, first), *others = texts
    if family.text[path] == "positions":
        # which all rows have in common
        return first[path]
    whole = expand_text(family, {path: first[path]}, rows)[path]
    if not others or whole is None:
        return whole
    whole = whole.clone() if isinstance(whole, Tensor) else list(whole)
    for own, text in others:
        part = expand_text(family, {path: text[path]}, own.stop - own.start)[path]
        if isinstance(whole, Tensor) and family.batch_axis(path):
            whole[:, own] = part
        else:
            whole[own] = part
    return whole
