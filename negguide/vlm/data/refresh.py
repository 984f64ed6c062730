"""Negatives that follow the model: part of every batch is exchanged for what the model confuses with the rest of it.

From scores to the choice; the scores come from `negguide.vlm.training.refresh`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from negguide.vlm.losses.masks import doubtful

AT_ONCE = 256
"""Anchors that are compared with the pool at once: the matrices are of so many rows."""


@dataclass(frozen=True, eq=False)
class Scored:
    """What the present model makes of the P rows of a pool, and what is known of them.

    Attributes:
        image, text: [P, D] of unit length.
        valid: bool [P], which rows have a negative.
        source, caption, negative_caption, group: int64 [P], equal numbers for equal ones; as in
            `negguide.vlm.data.loader.Batch`.
        negative_image, negative_text: [P, D], where the loss takes them; those of rows without a negative do not count.
    """

    image: Tensor
    text: Tensor
    valid: Tensor
    source: Tensor
    caption: Tensor
    negative_caption: Tensor
    group: Tensor
    negative_image: Tensor | None = None
    negative_text: Tensor | None = None

    def take(self, places: Tensor) -> Scored:
        """The rows at `places`, int64."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        taken: dict[str, Any] = {
            name: None if value is None else value[places] for name, value in values.items()
        }
        return Scored(**taken)


@dataclass(frozen=True)
class Refreshed:
    """Batches after a refresh.

    Attributes:
        batches: places of rows in the set, a list a step.
        exchanged: how many of these rows came in from outside their batch.
        held_back: how many would have come in or stayed, and were held back as likely false negatives.
    """

    batches: list[list[int]]
    exchanged: int
    held_back: int


def pool_of(
    batches: Iterable[Sequence[int]], groups: Sequence[Hashable], allowed: Iterable[int]
) -> list[int]:
    """The rows of `batches` and all other `allowed` ones of their `groups`: further negatives of their images."""
    taken = {groups[row] for batch in batches for row in batch}
    return [row for row in allowed if groups[row] in taken]


def confusion(scored: Scored, anchors: Tensor, fraction: float) -> tuple[Tensor, Tensor]:
    """By how much the model prefers what a row brings into a batch to an anchor's pair, and where it may be right.

        lead_ij = max over what j brings of  s(I_i, T_j), s(T_i, I_j), s(I_i, T-_j), s(T_i, I-_j),   minus s(I_i, T_i)

    without what is no negative of i: its own image or caption, and negatives that say what its caption says. Row j is
    doubtful where one of these scores exceeds `fraction` times s(I_i, T_i) > 0. Generated negatives of the same image
    never are: the model confuses them because it is wrong.

    Args:
        scored: the pool.
        anchors: int64 [A], the rows that stay.
        fraction: of the pair's score, above 0.

    Returns:
        lead: [A, P], a difference of cosines; -inf where row j has no negative for i.
        doubted: bool [A, P].

    Source: the threshold is TopK-PercPos of NV-Retriever, arXiv 2407.15831.
    """
    image, text = scored.image[anchors], scored.text[anchors]
    pair = (image * text).sum(dim=1, keepdim=True)
    group, caption = scored.group[anchors][:, None], scored.caption[anchors][:, None]
    same = (scored.source[anchors][:, None] == scored.source) | (caption == scored.caption)
    no_negative = ~scored.valid | (caption == scored.negative_caption)
    brought = [(image, scored.text, same), (text, scored.image, same)]
    if scored.negative_text is not None:
        brought.append((image, scored.negative_text, no_negative))
    if scored.negative_image is not None:
        brought.append((text, scored.negative_image, no_negative))
    lead = pair.new_full(same.shape, -torch.inf)
    doubted = torch.zeros_like(same)
    for queries, keys, left_out in brought:
        similarity = queries @ keys.T
        lead = torch.maximum(lead, (similarity - pair).masked_fill(left_out, -torch.inf))
        doubted |= doubtful(similarity, pair, fraction) & ~left_out & (group != scored.group)
    return lead, doubted


def hardest(scored: Scored, anchors: Tensor, fraction: float) -> tuple[Tensor, Tensor]:
    """The largest lead of each row of the pool over an anchor, [P], and whether a doubt holds it back, bool [P].

    One doubt is enough, for in a batch each is contrasted with all. Arguments as in `confusion`.
    """
    leads, doubts = [], []
    for part in anchors.split(AT_ONCE):
        lead, doubted = confusion(scored, part, fraction)
        leads.append(lead.amax(dim=0))
        doubts.append(doubted.any(dim=0))
    return torch.stack(leads).amax(dim=0), torch.stack(doubts).any(dim=0)


def choose(
    lead: Tensor,
    held: Tensor,
    kinds: Sequence[Hashable],
    wanted: Counter[Hashable],
    excluded: Collection[int],
) -> tuple[list[int], int]:
    """The rows of the pool that a batch is confused with the most.

    Args:
        lead: [P], as `hardest` gives it; -inf is never chosen.
        held: bool [P], what is held back.
        kinds: [P], of what kind each row is.
        wanted: how many rows of each kind.
        excluded: rows that cannot be chosen.

    Returns:
        Their places in the pool, hardest first, fewer where there are no more; and how many were held back on the way.
    """
    order = lead.argsort(descending=True, stable=True)[: int((lead > -torch.inf).sum())]
    doubts = held.tolist()
    left, chosen, held_back = Counter(wanted), list[int](), 0
    for place in order.tolist():
        if not left.total():
            break
        if place in excluded or not left[kinds[place]]:
            continue
        if doubts[place]:
            held_back += 1
        else:
            chosen.append(place)
            left[kinds[place]] -= 1
    return chosen, held_back


def exchange(
    batches: Sequence[Sequence[int]],
    pool: Sequence[int],
    scored: Scored,
    kinds: Sequence[Hashable],
    *,
    leaving: int,
    fraction: float,
) -> Refreshed:
    """The last `leaving` rows of every batch exchanged for what is confused with the rows before them.

    A row goes for one of its kind, so that a batch keeps its number of negatives and images, and is chosen for one
    batch at most: what resembles everything would be in all of them. Where nothing can be chosen, a row stays.

    Args:
        batches: as the sampler gives them, places of rows in the set.
        pool: the rows that can be chosen, all rows of `batches` among them.
        scored: of the rows of `pool`, in their order.
        kinds: of the rows of `pool`.
        leaving: how many rows of a batch are exchanged at most.
        fraction: as in `confusion`.
    """
    place = {row: i for i, row in enumerate(pool)}
    used: set[int] = set()
    made, exchanged, held_back = [], 0, 0
    for batch in batches:
        places = [place[row] for row in batch]
        anchors, last = places[:-leaving], places[-leaving:]
        lead, held = hardest(scored, torch.tensor(anchors, device=scored.image.device), fraction)
        wanted = Counter(kinds[row] for row in last)
        chosen, doubts = choose(lead, held, kinds, wanted, used.union(anchors))
        used.update(chosen)
        staying = set(last).difference(chosen)
        order = (*chosen, *(row for row in last if row in staying))
        coming = {kind: [row for row in order if kinds[row] == kind] for kind in wanted}
        after = [coming[kinds[row]].pop(0) for row in last]
        exchanged += len(set(after) - set(last))
        held_back += doubts
        made.append([pool[row] for row in (*anchors, *after)])
    return Refreshed(made, exchanged, held_back)
