"""What `negguide mine` says of a set when it is there."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from negguide.cli.output import console, waiting

if TYPE_CHECKING:
    from negguide.mining.funnel import Funnel

AUDITED = 10_000
"""Sets of more pairs are not audited at once: near-duplicates are looked for among all images."""

# as narrow as a terminal of 80 columns
_LOOK: dict[str, Any] = {
    "title_justify": "left",
    "box": SIMPLE_HEAD,
    "collapse_padding": True,
    "pad_edge": False,
    "show_edge": False,
}


def show_funnel(funnel: Funnel, text_only: bool = False) -> None:
    """The funnel, and why things were lost, on stderr."""
    from negguide.mining.funnel import STAGES
    from negguide.mining.text_only import STAGES as TEXT_STAGES

    stages = TEXT_STAGES if text_only else STAGES
    screen = console(stderr=True)
    read, bad = funnel.sources["read"], funnel.sources["bad"]
    table = Table(title=f"{read} pairs read, {bad} bad", **_LOOK)
    table.add_column("category")
    for stage in stages:
        table.add_column(stage, justify="right")
    *rows, total = funnel.rows(stages)
    for row in rows:
        table.add_row(*row)
    table.add_section()
    table.add_row(*total)
    screen.print(table)
    reasons = funnel.reasons()
    if not reasons:
        return
    table = Table(title="Lost, and why", **_LOOK)
    for heading in ("stage", "reason"):
        table.add_column(heading)
    table.add_column("number", justify="right")
    for row in reasons:
        table.add_row(*row)
    screen.print(table)


def nothing_written(out: Path, funnel: Funnel) -> str:
    """Why a set has no pairs, by what most were lost to."""
    lost = [f"{reason} ({stage}, {number})" for stage, reason, number in funnel.reasons()[:3]]
    return (
        f"{out} holds no pair: of {funnel.sources['read']} pairs read, {funnel.sources['planned']} had an edit and "
        f"none was kept; most were lost to: {'; '.join(lost)}. Each is in {out / 'rejects'}; give a new folder for "
        "other settings"
    )


def audited(out: Path, written: int) -> list[str]:
    """What an audit of the set finds, for its card; nothing where the set is too small or too large, or was audited."""
    try:
        from negguide.mining import audit as auditing
    except ImportError as error:
        # all that mining itself needs is there
        return [f"not audited: {error}"]
    from negguide.mining.card import AUDIT

    if written > AUDITED or _is_audited(out / AUDIT / "audit.json", written):
        return []
    # a set without items has no pairs to be read
    if not written or not auditing.large_enough(auditing.read_pairs(out)):
        return ["not audited: too few pairs to be judged"]
    with waiting("auditing"):
        found = auditing.audit(out)
        auditing.write_report(found, out / AUDIT)
    return auditing.verdict_lines(found)


def _is_audited(report: Path, written: int) -> bool:
    """Whether the report is of the whole set."""
    if not report.is_file():
        return False
    found = json.loads(report.read_bytes())
    # reports of earlier versions do not say whether the set was complete
    return found["mined"]["pairs"] == written and not found.get("not complete", {}).get("set", False)


def speed(funnel: Funnel, painted: int, seconds: float, text_only: bool, on_cluster: bool) -> str:
    """What a run did in its time, in a line."""
    memory = "" if on_cluster else f", {_peak_memory()}"
    if text_only:
        return f"{funnel.sources['read']} captions in {seconds:.0f} s{memory}"
    return f"{painted} images painted in {seconds:.0f} s ({painted / seconds:.2f} a second){memory}"


def _peak_memory() -> str:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and (most := torch.cuda.max_memory_allocated()):
        return f"at most {most / 2**20:.0f} MiB of the GPU's memory"
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return f"at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20:.0f} MiB of memory"
