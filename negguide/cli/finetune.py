"""`negguide finetune`: a better CLIP-like model from pairs with negatives."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from negguide.cli.settings_options import takes_settings
from negguide.vlm.training.config import Settings

if TYPE_CHECKING:
    from negguide.vlm.training.outcome import Outcome

SUITE = "Measured before and after, as in `negguide evaluate`; several times for several. For model toyworld: toyworld."
PUSH = "Upload the result as this model of the Hugging Face hub, with its figures; `hf auth login` first."


@takes_settings(Settings)
def finetune(
    settings: Settings,
    out: Annotated[Path, typer.Option(help="Folder of the result; checkpoints, log and curves are in it.")],
    suite: Annotated[list[str] | None, typer.Option("--suite", metavar="SUITE", help=SUITE)] = None,
    suite_limit: Annotated[
        int | None, typer.Option(min=1, help="At most so many items of a category of each suite.")
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(metavar="latest|CHECKPOINT", help="Go on with the run in --out after a kill."),
    ] = None,
    report_to: Annotated[
        str | None, typer.Option(metavar="TRACKER", help="tensorboard, wandb, trackio, ... of accelerate.")
    ] = None,
    push_to_hub: Annotated[str | None, typer.Option(metavar="ID", help=PUSH)] = None,
    cpu: Annotated[bool, typer.Option("--cpu", help="Use no GPU.")] = False,
) -> None:
    """Fine-tune MODEL on SET, keep the checkpoint that is best on held-out rows, and say what it gained and lost.

    The result is a folder that plain transformers loads. For several GPUs or machines:
    accelerate launch -m negguide finetune ...
    """
    from negguide.cli.errors import quiet_libraries
    from negguide.cli.output import check_folder, remark
    from negguide.domain import registered_domains
    from negguide.vlm.evaluation.suites.registry import make_suite
    from negguide.vlm.training.loop import finetune as train
    from negguide.vlm.training.model_card import check_push, push_result

    quiet_libraries()
    check_folder(out)
    if push_to_hub is not None:
        check_push(push_to_hub)
    domain = registered_domains().get(settings.model)
    specs = suite or ([] if domain is None else list(domain.evaluation)[:1])
    with _shown():
        outcome = train(
            settings,
            out,
            resume=resume,
            report_to=report_to,
            suites=[make_suite(spec, limit=suite_limit) for spec in specs],
            limit=suite_limit,
            cpu=cpu,
        )
    if push_to_hub is not None and outcome.written:
        remark(f"pushed to {push_result(out, push_to_hub)}")
    _print(outcome)


@contextmanager
def _shown() -> Iterator[None]:
    """What the package logs is shown on stderr, a line each."""
    from negguide.cli.output import remark

    class Remarks(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            remark(record.getMessage())

    logger, handler = logging.getLogger("negguide"), Remarks(logging.INFO)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _print(outcome: Outcome) -> None:
    """Gains and losses side by side, then the folder; other processes than the first have nothing to say."""
    from rich import box
    from rich.table import Table

    from negguide.cli.output import console, show
    from negguide.vlm.evaluation.results import summary

    if outcome.before is None or outcome.after is None:
        if outcome.written:
            show(outcome.folder)
        return
    table = Table(
        title="Before and after, percent", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD
    )
    for column in ("suite", "figure", "before", "after", "change"):
        table.add_column(column, justify="left" if column in ("suite", "figure") else "right")
    for name, figure, before, after in summary(outcome.before, outcome.after):
        part = outcome.after.parts.get(name.partition("/")[0])
        suite = f"{name} ({part})" if part else name
        table.add_row(
            suite, figure, f"{100 * before:.1f}", f"{100 * after:.1f}", f"{100 * (after - before):+.1f}"
        )
    console(stderr=True).print(table)
    show(outcome.folder)
