"""One file for each category: what can be changed in a caption of everyday English."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from negguide.mining.edits.caption import Candidate, Caption
from negguide.mining.edits.rules.actions import actions
from negguide.mining.edits.rules.additions import additions
from negguide.mining.edits.rules.attributes import attributes
from negguide.mining.edits.rules.counts import counts
from negguide.mining.edits.rules.negations import negations
from negguide.mining.edits.rules.objects import objects
from negguide.mining.edits.rules.relations import relations
from negguide.mining.edits.rules.removals import removals
from negguide.mining.edits.rules.swaps import swaps

RULES: Mapping[str, Callable[[Caption], Iterator[Candidate]]] = {
    "object": objects,
    "attribute": attributes,
    "count": counts,
    "relation": relations,
    "action": actions,
    "swap": swaps,
    "add": additions,
    "remove": removals,
    "negation": negations,
}
