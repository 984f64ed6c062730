"""The results as a table for the terminal and in Markdown, and as JSON with everything they were made by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from negguide._utils.stats import Rate
from negguide.benchmark.columns import PLAIN
from negguide.benchmark.figures import BOTH, KEPT, REMOVED, SHARES, SIMILARITY, Line, baseline
from negguide.benchmark.judges import Judge, Verdict
from negguide.benchmark.judging import Seen
from negguide.benchmark.runner import Drawn, Run
from negguide.benchmark.similarity import Similarity
from negguide.benchmark.suites import DIVERSITY, OVERLAP, REFERENCE
from negguide.pictures import save_json
from negguide.storage import write_whole

FEW = 20
"""With fewer prompts than this the intervals are rough."""

_HEADINGS = {
    OVERLAP: {KEPT: "kept", REMOVED: "removed", BOTH: "both", SIMILARITY: "like plain"},
    DIVERSITY: {SIMILARITY: "alike", KEPT: "kept"},
    REFERENCE: {SIMILARITY: "like reference", KEPT: "kept", REMOVED: "removed"},
}
_COMPARED = {OVERLAP: BOTH, DIVERSITY: SIMILARITY, REFERENCE: SIMILARITY}
"""The figure whose difference the table shows; JSON has those of all."""
_MEANING = {
    KEPT: "images that still show what the prompt asks for",
    REMOVED: "images without what the negative names",
    BOTH: "images where both hold",
}
_ALIKE = {
    OVERLAP: "similarity to the plain image of the same prompt and seed",
    DIVERSITY: "similarity of the images of one prompt to each other; lower is more varied",
    REFERENCE: "similarity to the closest reference image; lower is further away",
}


@dataclass(frozen=True)
class Cell:
    """A cell of the table; `better` is whether a difference that leaves out zero is one for the better."""

    text: str
    better: bool | None = None


@dataclass(frozen=True)
class Report:
    """Everything that was found, and by what."""

    run: Run
    drawn: Drawn
    judge: Judge
    similarity: Similarity
    seen: dict[str, list[Seen]]
    lines: list[Line]

    @property
    def about(self) -> list[str]:
        """What was compared, how it was drawn, and by what it was judged, one line each."""
        run, sampling = self.run, self.run.sampling
        settings = run.settings
        count = len(run.suite.items)
        model = Path(sampling.model).name if Path(sampling.model).is_absolute() else sampling.model
        size = (
            f", {sampling.width or '…'}x{sampling.height or '…'}" if sampling.width or sampling.height else ""
        )
        scale = "" if self.drawn.guidance_scale is None else f", guidance scale {self.drawn.guidance_scale:g}"
        versions = ", ".join(f"{name} {version}" for name, version in settings["versions"].items())
        return [
            f"{model} (revision {settings['revision'] or 'unknown'}), suite {run.suite.name}: {count} "
            f"prompt{'s' if count > 1 else ''}, {run.seeds} image{'s' if run.seeds > 1 else ''} of each",
            f"{sampling.steps} steps{scale}{size}, {sampling.dtype} on {settings['device']}, {versions}",
            f"judge: {_who(self.judge)}; similarity: {_who(self.similarity)}",
        ]

    @property
    def remarks(self) -> list[str]:
        """What a reader must know, one line each."""
        found = []
        for line in self.lines:
            label = line.column.label
            if line.reason is not None:
                found.append(f"{label}: not possible: {line.reason}")
            if line.unclear:
                found.append(
                    f"{label}: {line.unclear} answers about its {line.images} images were neither yes nor no; they "
                    "do not count as passed"
                )
            if line.left_out:
                item, reason = next(iter(line.left_out.items()))
                found.append(
                    f"{label}: {len(line.left_out)} of {len(self.run.suite.items)} prompts were not possible and are "
                    f"left out, e.g. {item}: {reason}"
                )
        if len(self.run.suite.items) < FEW:
            found.append(f"fewer than {FEW} prompts: the intervals are rough")
        return [*found, *([self.judge.remark] if self.judge.remark else [])]

    @property
    def rows(self) -> tuple[list[str], list[list[Cell]]]:
        """Headings, and a row of cells for every column that can act."""
        kind = self.run.suite.kind
        figures, compared = _HEADINGS[kind], _COMPARED[kind]
        base = baseline(kind, self.lines)
        label = next(line.column.label for line in self.lines if line.column.name == base)
        shown = [name for name in figures if any(name in line.rates for line in self.lines)]
        measured = any(line.peak_bytes is not None for line in self.lines)
        headings = [""]
        for name in shown:
            headings += [figures[name], *([f"{figures[name]} against {label}"] if name == compared else [])]
        headings += ["s/image", *(["GB"] if measured else [])]
        rows = []
        for line in self.lines:
            if line.reason is not None:
                continue
            cells = [Cell(line.column.label)]
            for name in shown:
                cells.append(_cell(name, line.rates.get(name)))
                if name == compared:
                    cells.append(_difference(name, line.differences.get(base, {}).get(name)))
            cells.append(Cell("" if line.seconds is None else f"{line.seconds:.2f}"))
            if measured:
                cells.append(Cell("" if line.peak_bytes is None else f"{line.peak_bytes / 1e9:.1f}"))
            rows.append(cells)
        return headings, rows

    @property
    def meaning(self) -> str:
        """What the figures are."""
        kind = self.run.suite.kind
        said = [
            f"{heading}: {_ALIKE[kind] if name == SIMILARITY else _MEANING[name]}"
            for name, heading in _HEADINGS[kind].items()
            if any(name in line.rates for line in self.lines)
        ]
        memory = "GB: the most memory of the GPU in a call. " if "GB" in self.rows[0] else ""
        return (
            f"{'; '.join(said)}. s/image: median seconds. {memory}Shares are in percent; intervals are of 95%; "
            "differences are paired, prompt by prompt."
        )

    def table(self) -> Table:
        """For the terminal; a difference whose interval leaves out zero is green where it is better, else red."""
        headings, rows = self.rows
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for number, heading in enumerate(headings):
            table.add_column(heading, justify="right" if number else "left", overflow="fold")
        for row in rows:
            styles = {None: "", True: "bold green", False: "bold red"}
            table.add_row(*(Text(cell.text, styles[cell.better]) for cell in row))
        return table

    def markdown(self) -> str:
        """The same, with the plot and the contact sheet beside it; differences that leave out zero are bold."""
        headings, rows = self.rows
        cells = [[cell.text if cell.better is None else f"**{cell.text}**" for cell in row] for row in rows]
        lines = [headings, [":--", *["--:"] * (len(headings) - 1)], *cells]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        about = "\n".join(f"- {line}" for line in self.about)
        remarks = "\n".join(f"- {line}" for line in self.remarks)
        parts = ["# negguide benchmark", about, table, self.meaning, remarks]
        parts += ["![kept and removed](plot.png)", "![contact sheet](contact-sheet.png)"]
        return "\n\n".join(part for part in parts if part) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """As JSON: settings, versions and revisions, the figures of every column, and what was found on every image."""
        run = self.run
        return {
            **run.settings,
            "suite": run.suite.name,
            "prompts": len(run.suite.items),
            "seeds": run.seeds,
            "guidance_scale": self.drawn.guidance_scale,
            "judge": {"name": self.judge.name, "revision": self.judge.revision},
            "similarity": {"name": self.similarity.name, "revision": self.similarity.revision},
            "columns": [line.to_dict() for line in self.lines],
            "remarks": self.remarks,
            "images": [_image(name, row) for name, rows in self.seen.items() for row in rows],
        }

    def write(self, out: Path) -> list[Path]:
        """Write table, JSON, plot and contact sheet; returns their paths."""
        from negguide.benchmark.plots import contact_sheet, scatter
        from negguide.pictures import save_png

        made_by = {**self.run.settings, "suite": self.run.suite.name}
        names = ("results.md", "results.json", "plot.png", "contact-sheet.png")
        markdown, data, plot, sheet = (out / name for name in names)
        save_png(scatter(self), plot, made_by)
        save_png(contact_sheet(self), sheet, made_by)
        write_whole(markdown, self.markdown().encode())
        save_json(self.to_dict(), data)
        return [markdown, data, plot, sheet]


def _cell(figure: str, rate: Rate | None) -> Cell:
    return Cell("" if rate is None else _in_words(figure, rate))


def _difference(figure: str, rate: Rate | None) -> Cell:
    if rate is None:
        return Cell("")
    better = None if rate.low <= 0 <= rate.high else (rate.value > 0) == (figure in SHARES)
    return Cell(_in_words(figure, rate, sign="+"), better)


def _in_words(figure: str, rate: Rate, sign: str = "") -> str:
    """A figure with its interval, shares in percent; there is one space, where a narrow table may break it."""
    factor, digits = (100, 0) if figure in SHARES else (1, 3)
    number, low, high = (f"{factor * x:{sign}.{digits}f}" for x in (rate.value, rate.low, rate.high))
    return f"{number} [{low},{high}]"


def _who(model: Any) -> str:
    name = Path(model.name).name if Path(model.name).is_absolute() else model.name
    return f"{name} (revision {model.revision or 'unknown'})"


def _image(column: str, row: Seen) -> dict[str, Any]:
    return {
        "file": row.task.image(row.seed),
        "column": column,
        "item": row.task.item.id,
        "seed": row.seed,
        "prompt": row.task.item.prompt,
        "negative": row.task.item.negative if column != PLAIN else "",
        KEPT: _said(row.kept),
        REMOVED: _said(row.removed),
        SIMILARITY: row.similarity,
    }


def _said(verdict: Verdict | None) -> dict[str, Any] | None:
    return None if verdict is None else {"passed": verdict.passed, "said": verdict.said}
