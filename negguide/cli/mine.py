"""`negguide mine`: from image-caption pairs to a verified set of hard negatives."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from negguide.cli import options
from negguide.cli.output import check_folder, console, remark, show, waiting

if TYPE_CHECKING:
    from negguide.mining.build import Built
    from negguide.mining.funnel import Funnel

TOYWORLD_STEPS = 12
AUDITED = 10_000
"""Sets of more pairs are not audited at once: near-duplicates are looked for among all images."""
_IN, _PLAN, _PAINT, _CHECK, _RUN = "Input", "Plan", "Paint", "Check", "Run"


def mine(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the set goes; run again to go on.")],
    data: Annotated[
        str,
        typer.Option(
            metavar="DATA",
            help="toyworld:N, an imagefolder, a data set on disk or by name, WebDataset shards, an open_clip table, or "
            "COCO captions.",
            rich_help_panel=_IN,
        ),
    ] = "toyworld:200",
    limit: Annotated[int | None, typer.Option(help="Read so many pairs (all).", rich_help_panel=_IN)] = None,
    split: Annotated[str | None, typer.Option(help="Of a data set.", rich_help_panel=_IN)] = None,
    config: Annotated[str | None, typer.Option(help="Of a data set.", rich_help_panel=_IN)] = None,
    caption_column: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which column has the captions.", rich_help_panel=_IN)
    ] = None,
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The images of COCO captions.", rich_help_panel=_IN)
    ] = None,
    licence: Annotated[
        str | None, typer.Option(help="Of the input, for the card.", rich_help_panel=_IN)
    ] = None,
    categories: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,...",
            help="object, attribute, count, relation, swap, add, remove, negation (all).",
            rich_help_panel=_PLAN,
        ),
    ] = None,
    per_item: Annotated[int, typer.Option(help="Edits of one pair at most.", rich_help_panel=_PLAN)] = 1,
    backend: Annotated[
        str, typer.Option(metavar="[rules|fill-mask|llm]", help="What plans edits.", rich_help_panel=_PLAN)
    ] = "rules",
    backend_model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Of fill-mask and llm.", rich_help_panel=_PLAN)
    ] = None,
    english_model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Installed spaCy pipeline that reads everyday English (en_core_web_sm), or lexicon.",
            rich_help_panel=_PLAN,
        ),
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(metavar="URL", help="OpenAI-compatible, for --backend llm.", rich_help_panel=_PLAN),
    ] = None,
    llm_max_tokens: Annotated[
        int | None, typer.Option(help="Of an answer, its thoughts included (4096).", rich_help_panel=_PLAN)
    ] = None,
    llm_temperature: Annotated[
        float | None, typer.Option(help="0 = the likeliest words always (0).", rich_help_panel=_PLAN)
    ] = None,
    llm_timeout: Annotated[
        float | None, typer.Option(help="Seconds to wait for an answer (120).", rich_help_panel=_PLAN)
    ] = None,
    llm_concurrency: Annotated[
        int | None, typer.Option(help="Requests at once (1).", rich_help_panel=_PLAN)
    ] = None,
    llm_max_failures: Annotated[
        int | None,
        typer.Option(
            help="Of one request in a row; then the run ends, to go on later (8).", rich_help_panel=_PLAN
        ),
    ] = None,
    views: Annotated[
        bool,
        typer.Option(
            "--views",
            help="Of the embedded world: attribute edits also turn characters around.",
            rich_help_panel=_PLAN,
        ),
    ] = False,
    positives: Annotated[
        int, typer.Option(help="Paraphrases of each caption at most.", rich_help_panel=_PLAN)
    ] = 1,
    model: options.ModelOption = "toyworld",
    mode: Annotated[
        str,
        typer.Option(
            metavar="[generate|edit|inpaint]",
            help="From the caption, from the image, or inside a mask.",
            rich_help_panel=_PAINT,
        ),
    ] = "generate",
    method: Annotated[
        str,
        typer.Option(
            metavar="[perp-neg|negative-prompt|plain]",
            help="How what was edited out is kept out.",
            rich_help_panel=_PAINT,
        ),
    ] = "perp-neg",
    weight: Annotated[
        float, typer.Option(help="Of perp-neg at the first try.", rich_help_panel=_PAINT)
    ] = 1.0,
    retries: Annotated[
        int, typer.Option(help="Further tries, with other seeds and more weight.", rich_help_panel=_PAINT)
    ] = 3,
    controls: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            help="Of the items, whose original caption is painted too.",
            rich_help_panel=_PAINT,
        ),
    ] = 0.25,
    diversify: Annotated[
        bool,
        typer.Option("--diversify", help="NegToMe among the images of one caption.", rich_help_panel=_PAINT),
    ] = False,
    strength: Annotated[
        float, typer.Option(help="Of edit and inpaint: how much noise.", rich_help_panel=_PAINT)
    ] = 0.8,
    region: Annotated[
        str,
        typer.Option(
            metavar="[attention|column|MODEL]",
            help="The mask of inpaint: where attention goes, the input's, or a zero-shot detector's.",
            rich_help_panel=_PAINT,
        ),
    ] = "attention",
    steps: Annotated[
        int | None,
        typer.Option(help=f"Of the sampler (toyworld {TOYWORLD_STEPS}, others 25).", rich_help_panel=_PAINT),
    ] = None,
    guidance_scale: options.GuidanceScaleOption = None,
    batch_size: Annotated[
        int, typer.Option(help="Images painted at once; halved when memory is short.", rich_help_panel=_PAINT)
    ] = 16,
    judge: Annotated[
        str | None,
        typer.Option(
            metavar="toyworld|clip:MODEL|itm:MODEL",
            help="What scores the pairs (toyworld for the toy world).",
            rich_help_panel=_CHECK,
        ),
    ] = None,
    absolute_margin: Annotated[
        float | None,
        typer.Option(
            help="Least difference of a right and a wrong score (the judge's own).", rich_help_panel=_CHECK
        ),
    ] = None,
    relative_margin: Annotated[
        float | None,
        typer.Option(help="A wrong score is at most (1 - this) x the right one.", rich_help_panel=_CHECK),
    ] = None,
    max_score: Annotated[
        float | None, typer.Option(help="A wrong score is at most this.", rich_help_panel=_CHECK)
    ] = None,
    vqa: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="Also ask this model about the edited phrase.", rich_help_panel=_CHECK
        ),
    ] = None,
    max_outside_change: Annotated[
        float, typer.Option(help="Of inpaint: mean change outside the mask.", rich_help_panel=_CHECK)
    ] = 0.02,
    max_category_share: Annotated[
        float, typer.Option(help="Of a shard, for one category.", rich_help_panel=_CHECK)
    ] = 1.0,
    train_model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="The model that will learn from the set; the judge must be another.",
            rich_help_panel=_CHECK,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of everything random.", rich_help_panel=_RUN)] = 0,
    shard_size: Annotated[
        int, typer.Option(help="Pairs of the input that make a shard.", rich_help_panel=_RUN)
    ] = 64,
    device: options.DeviceOption = "auto",
    dtype: options.DtypeOption = "auto",
) -> None:
    """Make a set of hard negatives in --out, or go on with it.

    Plans edits of each caption, paints them, keeps what the judge finds right in all four cells, and writes an
    imagefolder with a card, a contact sheet and an audit. It can be killed at any time; the same command goes on, also
    in several processes at once (accelerate launch -m negguide mine ...).
    """
    began = time.monotonic()
    check_folder(out)
    from negguide.cli.errors import quiet_libraries
    from negguide.mining.item import CATEGORIES
    from negguide.mining.run import place_among_processes, run
    from negguide.models import TOYWORLD

    rank, world, local = place_among_processes()
    device, dtype = _where(device, dtype, model, local)
    quiet_libraries()
    from negguide.mining.build import build

    with waiting("loading the models"), _packages():
        built = build(
            data=data,
            data_options={
                "split": split,
                "config": config,
                "caption": caption_column,
                "images": images,
                "licence": licence,
            },
            backend=backend,
            planner_options={
                name: value
                for name, value in (
                    ("model", backend_model),
                    ("english_model", english_model),
                    ("base_url", endpoint),
                    ("views", views or None),
                    ("max_tokens", llm_max_tokens),
                    ("temperature", llm_temperature),
                    ("timeout", llm_timeout),
                    ("concurrency", llm_concurrency),
                    ("max_failures", llm_max_failures),
                )
                if value is not None
            },
            model=model,
            judge=judge,
            device=device,
            dtype=dtype,
            guidance_scale=guidance_scale,
            diversify=diversify,
            absolute_margin=absolute_margin,
            say=remark,
            categories=CATEGORIES if categories is None else tuple(categories.replace(" ", "").split(",")),
            per_item=per_item,
            mode=mode,
            method=method,
            steps=(TOYWORLD_STEPS if model == TOYWORLD else 25) if steps is None else steps,
            batch_size=batch_size,
            strength=strength,
            weight=weight,
            retries=retries,
            vqa=vqa,
            region=region,
            max_outside_change=max_outside_change,
            controls=controls,
            positives=positives,
            max_category_share=max_category_share,
            relative_margin=relative_margin,
            max_score=max_score,
            seed=seed,
            limit=limit,
            shard_size=shard_size,
            train_model=train_model,
        )
    with _progress(built, limit) as (done, on_painted, painted):
        outcome = run(
            out,
            built.settings,
            built.source,
            built.miner,
            made_by=built.made_by,
            rank=rank,
            world=world,
            done=done,
            painted=on_painted,
        )
    if outcome.missing:
        remark(f"{out}: other processes are still making {outcome.missing} shards")
        return
    from negguide.mining.card import write_card

    verdicts = _audited(out, outcome.funnel.total("written"))
    write_card(out)
    show_funnel(outcome.funnel)
    seconds = time.monotonic() - began
    remark(
        f"{painted.total()} images painted in {seconds:.0f} s ({painted.total() / seconds:.2f} a second), "
        f"{_peak_memory(device)}"
    )
    for line in verdicts:
        remark(line)
    if not outcome.funnel.total("written"):
        remark(_nothing_written(out, outcome.funnel))
        raise typer.Exit(1)
    show(out)


# as narrow as a terminal of 80 columns
_LOOK: dict[str, Any] = {
    "title_justify": "left",
    "box": SIMPLE_HEAD,
    "collapse_padding": True,
    "pad_edge": False,
    "show_edge": False,
}


def show_funnel(funnel: Funnel) -> None:
    """The funnel, and why things were lost, on stderr."""
    from negguide.mining.funnel import STAGES

    screen = console(stderr=True)
    read, bad = funnel.sources["read"], funnel.sources["bad"]
    table = Table(title=f"{read} pairs read, {bad} bad", **_LOOK)
    table.add_column("category")
    for stage in STAGES:
        table.add_column(stage, justify="right")
    *rows, total = funnel.rows()
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


def _nothing_written(out: Path, funnel: Funnel) -> str:
    """Why a set has no pairs, by what most were lost to."""
    lost = [f"{reason} ({stage}, {number})" for stage, reason, number in funnel.reasons()[:3]]
    return (
        f"{out} holds no pair: of {funnel.sources['read']} pairs read, {funnel.sources['planned']} had an edit and "
        f"none was kept; most were lost to: {'; '.join(lost)}. Each is in {out / 'rejects'}; give a new folder for "
        "other settings"
    )


def _audited(out: Path, written: int) -> list[str]:
    """What an audit of the set finds, for its card; nothing where the set is too small or too large, or was audited."""
    try:
        from negguide.mining import audit as auditing
    except ImportError as error:
        # all that mining itself needs is there
        return [f"not audited: {error}"]
    from negguide.mining.card import AUDIT

    done = out / AUDIT / "audit.json"
    if written > AUDITED or (
        done.is_file() and json.loads(done.read_text(encoding="utf-8"))["mined"]["pairs"] == written
    ):
        return []
    # a set without items has no pairs to be read
    if not written or not auditing.large_enough(auditing.read_pairs(out)):
        return ["not audited: too few pairs to be judged"]
    with waiting("auditing"):
        found = auditing.audit(out)
        auditing.write_report(found, out / AUDIT)
    return auditing.verdict_lines(found)


def _where(device: str, dtype: str, model: str, local: int) -> tuple[str, str]:
    import torch

    from negguide.cli.job import choose_device, choose_dtype
    from negguide.models import TOYWORLD

    chosen = choose_device(device)
    if chosen == "cuda":
        chosen = f"cuda:{local % torch.cuda.device_count()}"
    if dtype == "auto" and chosen == "cpu" and model == TOYWORLD and torch.cpu._is_avx512_bf16_supported():
        # as the model was trained, and twice as fast where the processor has it
        return chosen, "bfloat16"
    return chosen, choose_dtype(dtype, chosen, model)


@contextmanager
def _packages() -> Iterator[None]:
    """A package of the extra that is missing is wrong input: the message says how to install it."""
    try:
        yield
    except ImportError as error:
        raise ValueError(str(error)) from error


@contextmanager
def _progress(
    built: Built, limit: int | None
) -> Iterator[tuple[Callable[[int], None], Callable[[int], None], Counter[str]]]:
    """A progress bar: what tells it of pairs, what tells it of images, and how many images there were."""
    # only the toy world knows how many pairs it has before they are read
    known = [n for n in (limit, getattr(built.source, "count", None)) if isinstance(n, int)]
    total = min(known, default=None)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("pairs, {task.fields[painted]} images painted"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console(stderr=True), transient=True) as progress:
        task = progress.add_task("mining", total=total, painted=0)
        painted: Counter[str] = Counter()

        def on_painted(count: int) -> None:
            painted["images"] += count
            progress.update(task, painted=painted.total())

        yield partial(progress.advance, task), on_painted, painted


def _peak_memory(device: str) -> str:
    if device.startswith("cuda"):
        import torch

        return f"at most {torch.cuda.max_memory_allocated() / 2**20:.0f} MiB of the GPU's memory"
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return f"at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20:.0f} MiB of memory"
