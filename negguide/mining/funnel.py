"""How many edits came through each stage, and why the others did not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from negguide.mining.categories import CATEGORIES

STAGES = ("planned", "rendered", "retried", "verified", "deduplicated", "balanced", "written")
"""In this order; "rendered" edits have at least one image, "retried" ones more than one, and all others are what is
left after the stage."""


@dataclass
class Funnel:
    """Counts over one shard, or over a whole set.

    Attributes:
        sources: of the input: "read", "bad" (they could not be used), "planned" (they have an edit).
        stages: {stage: {category: edits}}.
        rejects: {stage at which they were lost: {reason: number}}; proposals that the planner refused, and controls
            that could not be drawn, are in it beside the edits.
        images: pictures painted, all tries and controls.
        controls: items that have one.
        first: {category: edits that passed on their first try}.
        failures: what went wrong with a planner's model.
    """

    sources: Counter[str] = field(default_factory=Counter)
    stages: dict[str, Counter[str]] = field(default_factory=lambda: {stage: Counter() for stage in STAGES})
    rejects: dict[str, Counter[str]] = field(default_factory=dict)
    images: int = 0
    controls: int = 0
    first: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)

    def count(self, stage: str, category: str) -> None:
        """One more has passed a stage."""
        self.stages[stage][category] += 1

    def reject(self, stage: str, reason: str) -> None:
        """One more was rejected at a stage."""
        self.rejects.setdefault(stage, Counter())[reason] += 1

    def total(self, stage: str) -> int:
        """How many have passed a stage, of all categories."""
        return self.stages[stage].total()

    @property
    def categories(self) -> list[str]:
        """Those that occur, in the usual order."""
        found = set().union(*self.stages.values())
        return [name for name in CATEGORIES if name in found]

    def add(self, other: Funnel) -> None:
        """Count ``other`` in."""
        self.sources.update(other.sources)
        for stage in STAGES:
            self.stages[stage].update(other.stages[stage])
        for stage, reasons in other.rejects.items():
            self.rejects.setdefault(stage, Counter()).update(reasons)
        self.images += other.images
        self.controls += other.controls
        self.first.update(other.first)
        self.failures.update(other.failures)

    @classmethod
    def sum(cls, parts: Iterable[Funnel]) -> Funnel:
        """The counts of several together."""
        whole = cls()
        for part in parts:
            whole.add(part)
        return whole

    def to_dict(self) -> dict[str, Any]:
        """As JSON, with sorted keys; ``from_dict`` reads it back."""
        return {
            "sources": _sorted(self.sources),
            "stages": {stage: _sorted(self.stages[stage]) for stage in STAGES},
            "rejects": {stage: _sorted(self.rejects[stage]) for stage in sorted(self.rejects)},
            "images": self.images,
            "controls": self.controls,
            "first": _sorted(self.first),
            "failures": _sorted(self.failures),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Funnel:
        """The inverse of `to_dict`."""
        return cls(
            sources=Counter(data["sources"]),
            stages={stage: Counter(data["stages"].get(stage, {})) for stage in STAGES},
            rejects={stage: Counter(reasons) for stage, reasons in data["rejects"].items()},
            images=data["images"],
            controls=data["controls"],
            first=Counter(data["first"]),
            failures=Counter(data["failures"]),
        )

    def rows(self, stages: Sequence[str] = STAGES) -> list[list[str]]:
        """The table by category, a row of totals at its end: category and one number for each of ``stages``."""
        table = [[name, *(str(self.stages[stage][name]) for stage in stages)] for name in self.categories]
        return [*table, ["all", *(str(self.total(stage)) for stage in stages)]]

    def reasons(self) -> list[list[str]]:
        """Why something was lost, most frequent first: stage, reason, number."""
        found = [
            (stage, reason, n) for stage, reasons in self.rejects.items() for reason, n in reasons.items()
        ]
        found += [("planner", reason, n) for reason, n in self.failures.items()]
        return [
            [stage, reason, str(n)] for stage, reason, n in sorted(found, key=lambda f: (-f[2], f[0], f[1]))
        ]


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items()))
