"""What a run leaves behind: a model that plain transformers loads, its card, its figures and its curves."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import accelerate
import torch
import transformers
from huggingface_hub import CommitOperationAdd, EvalResult, HfApi, ModelCard, ModelCardData, get_token
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    filter_repo_objects,
    validate_repo_id,
)

import negguide
from negguide.domain import clip_of
from negguide.vlm.evaluation.results import ALL, Results, save_json, summary
from negguide.vlm.models import VisionLanguageModel
from negguide.vlm.training.config import Settings
from negguide.vlm.training.log import Log, plot
from negguide.vlm.training.outcome import Outcome

CARD = "README.md"
PLACE = "PATH"
"""What stands in the card for where the model lies, which is told where it is pushed."""
LOCAL = ("checkpoints/*", "tracker/*", "log.jsonl", "finetune.json", ".*")
"""What is not pushed: how to go on with the run, and paths of this computer."""
TASKS = {"accuracy": "zero-shot-image-classification", "R@": "image-text-retrieval"}
"""By a part of a metric's name, the task that the hub lists it under; others are image-text matching."""


def write_result(
    vlm: VisionLanguageModel,
    settings: Settings,
    outcome: Outcome,
    revision: str | None,
    data: str,
    log: Log,
) -> None:
    """Write the model and all about it into the run's folder.

    `config.json` comes last, so that a folder that has one is complete.

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
    plot(log, partial / "loss.png", f"{shown(settings.model)}, {settings.loss}")
    for name, results in (("before", outcome.before), ("after", outcome.after)):
        if results is not None:
            replace(results, model=shown(results.model)).save(partial / f"{name}.json")
    made_by = {
        "negguide": negguide.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "accelerate": accelerate.__version__,
        "python": platform.python_version(),
    }
    record = {"settings": settings.to_dict(), "start_revision": revision, "data": data, "made_by": made_by}
    more = {"best": outcome.best, "images_seen": outcome.images_seen, "notes": outcome.notes}
    save_json(partial / "finetune.json", {**record, **more})
    model_card(vlm, settings, outcome, revision, data, made_by).save(partial / CARD)
    files = sorted(partial.iterdir(), key=lambda path: path.name == "config.json")
    for file in files:
        file.replace(folder / file.name)
    partial.rmdir()


def check_push(repo_id: str) -> None:
    """Refuse what could not be pushed, before anything is trained.

    Raises:
        ValueError: no name of a model, or nobody is logged in.
    """
    validate_repo_id(repo_id)
    if get_token() is None:
        raise ValueError(f"push_to_hub={repo_id!r} needs a token of the hub; log in with `hf auth login`")


def push_result(folder: Path, repo_id: str, *, private: bool = False, api: HfApi | None = None) -> str:
    """Upload the result of a run as a model of the hub; checkpoints, log and local paths stay here.

    Its card says how to load it from there; its figures are shown as evaluation results. The folder itself stays as it
    is, and can be pushed elsewhere as well.

    Args:
        folder: what `finetune` wrote.
        repo_id: "name" or "owner/name"; made where there is none.
        private: make it visible to its owner alone.
        api: of another endpoint or token; None = as `hf auth login` left it.

    Returns:
        The address of the model.

    Raises:
        ValueError: the folder holds no result.
    """
    path = folder / CARD
    if not (folder / "config.json").is_file() or not path.is_file():
        raise ValueError(
            f"folder={str(folder)!r} holds no result of negguide finetune; a run that ended leaves one"
        )
    hub = api or HfApi()
    address = hub.create_repo(repo_id, private=private, exist_ok=True)
    card = ModelCard.load(path)
    card.text = card.text.replace(f'"{PLACE}"', f'"{address.repo_id}"')
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    pushed = filter_repo_objects(names, ignore_patterns=[*LOCAL, CARD])
    hub.create_commit(
        address.repo_id,
        [
            CommitOperationAdd(CARD, str(card).encode()),
            *(CommitOperationAdd(name, folder / name) for name in pushed),
        ],
        commit_message="Model fine-tuned by negguide",
    )
    return str(address)


def shown(model: str) -> str:
    """How others are told of a model: by its name, and of a folder by the folder's name alone."""
    folder = clip_of(model) is None and Path(model).exists()
    return Path(model).resolve().name if folder else model


def model_card(
    vlm: VisionLanguageModel,
    settings: Settings,
    outcome: Outcome,
    revision: str | None,
    data: str,
    made_by: dict[str, str],
) -> ModelCard:
    """The card of a result: how to load it, its figures before and after, its set and its settings.

    Args:
        vlm: the result.
        settings: of the run.
        outcome: its figures.
        revision: of the start model.
        data: fingerprint of the set.
        made_by: versions, by package.
    """
    hub_model = "/" in settings.model and not Path(settings.model).exists()
    about = ModelCardData(
        library_name="transformers",
        pipeline_tag="zero-shot-image-classification",
        tags=["negguide", "contrastive", "hard-negatives"],
        base_model=settings.model if hub_model else None,
        model_name=outcome.folder.name,
        eval_results=eval_results(outcome.after) or None,
    )
    return ModelCard(
        f"---\n{about.to_yaml()}\n---\n\n{_text(vlm, settings, outcome, revision, data, made_by)}"
    )


def eval_results(results: Results | None) -> list[EvalResult]:
    """The figures over all categories as the hub's evaluation results, in percent; differences of cosines as they are.

    Args:
        results: of the model; None = it was not measured.
    """
    rows = [row for row in results.rows if row.category == ALL] if results is not None else []
    return [
        EvalResult(
            task_type=next(
                (task for part, task in TASKS.items() if part in row.metric), "image-text-matching"
            ),
            dataset_type=row.suite.replace(" ", "-").replace("/", "-"),
            dataset_name=row.suite,
            dataset_revision=results.suites.get(row.suite.partition("/")[0]) if results is not None else None,
            metric_type=row.metric.replace(" ", "_"),
            metric_name=f"{row.metric}, percent" if row.is_proportion else row.metric,
            metric_value=round(100 * row.value, 2) if row.is_proportion else round(row.value, 4),
        )
        for row in rows
    ]


def _text(
    vlm: VisionLanguageModel,
    settings: Settings,
    outcome: Outcome,
    revision: str | None,
    data: str,
    made_by: dict[str, str],
) -> str:
    model, processor = type(vlm.model).__name__, type(vlm.processor).__name__
    name = Path(settings.train_data).name
    lines = [
        f"# {shown(settings.model)}, fine-tuned with hard negatives",
        "",
        f"Fine-tuned by negguide {made_by['negguide']} on `{name}` with the loss `{settings.loss}`.",
        "",
        "```python",
        f"from transformers import {model}, {processor}",
        "",
        f'model = {model}.from_pretrained("{PLACE}")',
        f'processor = {processor}.from_pretrained("{PLACE}")',
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
                for suite, figure, a, b in summary(outcome.before, outcome.after)
            ],
        )
        lines += ["", "With categories and 95% intervals: `before.json` and `after.json`."]
        lines += [f"- {text}" for text in outcome.after.notes]
    else:
        lines.append("Not measured: no suite was named and no rows were held out.")
    lines += ["", "![curves](loss.png)", "", "## Data", ""]
    lines += [f"`{name}`, fingerprint of its rows {data}."]
    lines += [f"- {text}" for text in outcome.notes]
    lines += ["", "## Training", ""]
    checkpoint = (
        f"the checkpoint after step {outcome.best[0]} of {outcome.steps}, the best on held-out rows "
        f"({100 * outcome.best[1]:.1f}%)"
        if outcome.best is not None
        else f"the checkpoint after the last of {outcome.steps} steps"
    )
    mixed = (
        f", mixed {settings.wise_ft:g} to {1 - settings.wise_ft:g} with the start model"
        if settings.wise_ft < 1
        else ""
    )
    lines += [
        f"Start: `{shown(settings.model)}`, revision {revision}. The weights are {checkpoint}{mixed}.",
        "",
    ]
    # where files lie on this computer is in finetune.json
    told = {**settings.to_dict(), "model": shown(settings.model)}
    rows = [(key, f"`{value}`") for key, value in told.items() if key not in ("train_data", "images")]
    lines += _table(("setting", "value"), rows)
    lines += ["", "Versions: " + ", ".join(f"{key} {value}" for key, value in made_by.items()) + ".", ""]
    return "\n".join(lines)


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    lines = [columns, ["---"] * len(columns), *rows]
    return ["| " + " | ".join(str(cell) for cell in line) + " |" for line in lines]
