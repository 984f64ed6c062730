"""What a run leaves behind: a model that plain transformers loads, its card, its figures and its curves."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import accelerate
import torch
import transformers

import negguide
from negguide.vlm.log import Log, plot
from negguide.vlm.models import VisionLanguageModel
from negguide.vlm.results import Results, save_json
from negguide.vlm.settings import Settings

if TYPE_CHECKING:
    from negguide.vlm.train import Outcome

COMPOSITIONAL = ("text", "image", "group", "hard positives")
"""Figures of pairs that are shown beside what could have been forgotten."""
FORGETTING = ("text to image R@1", "image to text R@1")
"""Figures of retrieval; that of zero-shot is called "accuracy"."""

Line = tuple[str, str, float, float]
"""Suite, figure, before, after."""


def headline(before: Results, after: Results) -> list[Line]:
    """Compositional scores, retrieval and zero-shot side by side, before and after, over all categories."""
    old = {row.key: row.value for row in before.rows}
    shown = (*COMPOSITIONAL, "accuracy", *FORGETTING)
    return [
        (row.suite, row.metric, old[row.key], row.value)
        for row in after.rows
        if row.category == "all" and row.metric in shown and row.key in old
    ]


def write_result(
    vlm: VisionLanguageModel,
    settings: Settings,
    outcome: Outcome,
    revision: str | None,
    data: str,
    log: Log,
) -> None:
    """Write the model and all about it into the run's folder; ``config.json`` comes last, so that a folder that has
    one is complete.

    Args:
        vlm: the result.
        settings: of the run.
        outcome: its figures.
        revision: of the start model.
        data: fingerprint of the set.
        log: of the steps.
    """
    folder = outcome.folder
    partial = folder / ".model.partial"
    shutil.rmtree(partial, ignore_errors=True)
    vlm.model.save_pretrained(partial)
    vlm.processor.save_pretrained(partial)
    plot(log, partial / "loss.png", f"{settings.model}, {settings.loss}")
    for name, results in (("before", outcome.before), ("after", outcome.after)):
        if results is not None:
            results.save(partial / f"{name}.json")
    made_by = {
        "negguide": negguide.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "accelerate": accelerate.__version__,
        "python": platform.python_version(),
    }
    told = {"settings": asdict(settings), "start_revision": revision, "data": data, "made_by": made_by}
    save_json(partial / "finetune.json", {**told, "best": outcome.best, "remarks": outcome.remarks})
    (partial / "README.md").write_text(
        _card(vlm, settings, outcome, revision, data, made_by), encoding="utf-8"
    )
    files = sorted(partial.iterdir(), key=lambda path: path.name == "config.json")
    for file in files:
        os.replace(file, folder / file.name)
    partial.rmdir()


def _card(
    vlm: VisionLanguageModel,
    settings: Settings,
    outcome: Outcome,
    revision: str | None,
    data: str,
    made_by: dict[str, str],
) -> str:
    model, processor = type(vlm.model).__name__, type(vlm.processor).__name__
    head = ["---", "library_name: transformers", "tags: [negguide, contrastive, hard-negatives]"]
    if "/" in settings.model and not Path(settings.model).exists():
        head.append(f"base_model: {settings.model}")
    head.append("---")
    name = Path(settings.train_data).name
    lines = [
        *head,
        f"# {settings.model}, fine-tuned with hard negatives",
        "",
        f"Fine-tuned by negguide {made_by['negguide']} on `{name}` with the loss `{settings.loss}`.",
        "",
        "```python",
        f"from transformers import {model}, {processor}",
        "",
        f'model = {model}.from_pretrained("PATH")',
        f'processor = {processor}.from_pretrained("PATH")',
        "```",
        "",
        "## Figures",
        "",
    ]
    if outcome.before is not None and outcome.after is not None:
        lines += _table(
            ("suite", "figure", "before, %", "after, %", "change"),
            [
                (suite, figure, f"{100 * a:.1f}", f"{100 * b:.1f}", f"{100 * (b - a):+.1f}")
                for suite, figure, a, b in headline(outcome.before, outcome.after)
            ],
        )
        lines += ["", "With categories and 95% intervals: `before.json` and `after.json`."]
        lines += [f"- {text}" for text in outcome.after.remarks]
    else:
        lines.append("Not measured: no suite was named and no rows were held out.")
    lines += ["", "![curves](loss.png)", "", "## Data", ""]
    lines += [f"`{name}`, fingerprint of its rows {data}."]
    lines += [f"- {text}" for text in outcome.remarks]
    lines += ["", "## Training", ""]
    state = (
        f"the state after step {outcome.best[0]} of {outcome.steps}, the best on held-out rows "
        f"({100 * outcome.best[1]:.1f}%)"
        if outcome.best is not None
        else f"the state after the last of {outcome.steps} steps"
    )
    mixed = (
        f", mixed {settings.wise_ft:g} to {1 - settings.wise_ft:g} with the start model"
        if settings.wise_ft < 1
        else ""
    )
    lines += [f"Start: `{settings.model}`, revision {revision}. The weights are {state}{mixed}.", ""]
    # where files lie on this computer is in finetune.json
    told = [
        (f.name, getattr(settings, f.name))
        for f in fields(settings)
        if f.name not in ("train_data", "images")
    ]
    lines += _table(("setting", "value"), [(name, f"`{value}`") for name, value in told])
    lines += ["", "Versions: " + ", ".join(f"{key} {value}" for key, value in made_by.items()) + ".", ""]
    return "\n".join(lines)


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    lines = [columns, ["---"] * len(columns), *rows]
    return ["| " + " | ".join(str(cell) for cell in line) + " |" for line in lines]
