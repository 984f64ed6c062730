"""`negguide mine`: from image-caption pairs to a verified set of hard negatives."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from negguide.cli import options
from negguide.cli.mine_build import make_images, make_text, packages
from negguide.cli.mine_refused import refuse_images, refuse_unused
from negguide.cli.mine_report import audited, nothing_written, show_funnel, speed
from negguide.cli.output import check_folder, console, remark, show, waiting
from negguide.domain import USUAL_STEPS, default_domain
from negguide.mining.settings import Settings
from negguide.storage import location, on_this_machine, write_whole

if TYPE_CHECKING:
    from negguide.mining.build_text import Built
    from negguide.mining.on_ray import RayOptions
    from negguide.mining.sources import Input

_WORLD = default_domain()
_IN, _PLAN, _PAINT, _CHECK, _RUN = "Input", "Plan", "Paint", "Check", "Run"


def mine(
    context: typer.Context,
    out: Annotated[
        str,
        typer.Option(
            metavar="DIR", help="Where the set goes, a folder or s3://, gs://, hf://; run again to go on."
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            metavar="DATA",
            help=f"{_WORLD.name}:N, an imagefolder, a data set on disk or by name, WebDataset shards, an open_clip "
            "table, or COCO captions; a path, or an address such as s3://bucket/name.parquet.",
            rich_help_panel=_IN,
        ),
    ] = f"{_WORLD.name}:200",
    limit: Annotated[int | None, typer.Option(help="Read so many pairs (all).", rich_help_panel=_IN)] = None,
    split: Annotated[str | None, typer.Option(help="Of a data set.", rich_help_panel=_IN)] = None,
    config: Annotated[str | None, typer.Option(help="Of a data set.", rich_help_panel=_IN)] = None,
    caption_column: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which column has the captions.", rich_help_panel=_IN)
    ] = None,
    images: Annotated[
        str | None, typer.Option(metavar="DIR", help="The images of COCO captions.", rich_help_panel=_IN)
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
    per_item: Annotated[
        int, typer.Option(help="Edits of one pair at most.", rich_help_panel=_PLAN)
    ] = Settings.per_item,
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
    ] = Settings.positives,
    text_only: Annotated[
        bool,
        typer.Option(
            "--text-only",
            help="Negative captions of an existing set: no image is made, no model looks at one.",
        ),
    ] = False,
    columns: Annotated[
        bool,
        typer.Option("--columns", help="Also write the input with the negatives as columns: OUT/columns."),
    ] = False,
    model: options.ModelOption = options.MODEL,
    mode: Annotated[
        str,
        typer.Option(
            metavar="[generate|edit|inpaint]",
            help="From the caption, from the image, or inside a mask.",
            rich_help_panel=_PAINT,
        ),
    ] = Settings.mode,
    method: Annotated[
        str,
        typer.Option(
            metavar="[perp-neg|negative-prompt|plain]",
            help="How what was edited out is kept out.",
            rich_help_panel=_PAINT,
        ),
    ] = Settings.method,
    weight: Annotated[
        float, typer.Option(help="Of perp-neg at the first try.", rich_help_panel=_PAINT)
    ] = Settings.weight,
    retries: Annotated[
        int, typer.Option(help="Further tries, with other seeds and more weight.", rich_help_panel=_PAINT)
    ] = Settings.retries,
    controls: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            help="Of the items, whose original caption is painted too.",
            rich_help_panel=_PAINT,
        ),
    ] = Settings.controls,
    diversify: Annotated[
        bool,
        typer.Option("--diversify", help="NegToMe among the images of one caption.", rich_help_panel=_PAINT),
    ] = False,
    strength: Annotated[
        float, typer.Option(help="Of edit and inpaint: how much noise.", rich_help_panel=_PAINT)
    ] = Settings.strength,
    region: Annotated[
        str,
        typer.Option(
            metavar="[attention|column|MODEL]",
            help="The mask of inpaint: where attention goes, the input's, or a zero-shot detector's.",
            rich_help_panel=_PAINT,
        ),
    ] = Settings.region,
    steps: Annotated[
        int | None,
        typer.Option(
            help=f"Of the sampler ({_WORLD.name} {_WORLD.model.draft_steps}, others {USUAL_STEPS} or as in "
            "`negguide models`).",
            rich_help_panel=_PAINT,
        ),
    ] = None,
    guidance_scale: options.GuidanceScaleOption = None,
    batch_size: Annotated[
        int, typer.Option(help="Images painted at once; halved when memory is short.", rich_help_panel=_PAINT)
    ] = Settings.batch_size,
    judge: Annotated[
        str | None,
        typer.Option(
            metavar=f"{_WORLD.name}|clip:MODEL|itm:MODEL",
            help=f"What scores the pairs ({_WORLD.name} for {_WORLD.title}).",
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
    ] = Settings.max_outside_change,
    max_category_share: Annotated[
        float, typer.Option(help="Of a shard, for one category.", rich_help_panel=_CHECK)
    ] = Settings.max_category_share,
    train_model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="The model that will learn from the set; the judge must be another.",
            rich_help_panel=_CHECK,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of everything random.", rich_help_panel=_RUN)] = Settings.seed,
    shard_size: Annotated[
        int | None,
        typer.Option(
            help=f"Pairs of the input that make a shard ({Settings.shard_size}; of text alone {TEXT_SHARD}).",
            rich_help_panel=_RUN,
        ),
    ] = None,
    shards_together: Annotated[
        int,
        typer.Option(
            help="Shards that are painted in common batches, by one process; 1 spreads a small set over many.",
            rich_help_panel=_PAINT,
        ),
    ] = Settings.shards_together,
    shard_format: Annotated[
        str,
        typer.Option(
            metavar="[tar|parquet]",
            help="What a shard is: an imagefolder in a tar, or parquet.",
            rich_help_panel=_RUN,
        ),
    ] = Settings.shard_format,
    device: options.DeviceOption = options.DEVICE,
    dtype: options.DtypeOption = options.DTYPE,
    engine: Annotated[
        str,
        typer.Option(
            metavar="[local|ray]", help="This process, or the actors of a Ray cluster.", rich_help_panel=_RUN
        ),
    ] = "local",
    actors: Annotated[
        int | None,
        typer.Option(
            help="Of Ray (as many as there is room for, more when nodes join).", rich_help_panel=_RUN
        ),
    ] = None,
    actor_gpus: Annotated[
        float | None, typer.Option(help="Of each actor (1 where there are GPUs).", rich_help_panel=_RUN)
    ] = None,
    judge_gpus: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Of a GPU, for one judge that all actors ask (each has its own).",
            rich_help_panel=_RUN,
        ),
    ] = None,
) -> None:
    """Make a set of hard negatives in --out, or go on with it. They are generated, not retrieved.

    Plans edits of each caption, paints them, keeps what the judge finds right in all four cells, and writes shards
    with a card, a contact sheet and an audit. It can be killed at any time; the same command goes on, also
    in several processes at once (accelerate launch -m negguide mine ...), or on a Ray cluster (--engine ray).

    With --text-only the planned captions are the set, and whatever is painted or judged has no meaning.
    """
    began = time.monotonic()
    place = location(out, "--out")
    finished = all((place / name).is_file() for name in ("set.json", "funnel.json", "README.md"))
    if not finished:
        # what is finished can be looked at again on a disk that takes no files
        check_folder(out)
    from negguide.mining.categories import CATEGORIES
    from negguide.mining.run import place_among_processes, run

    rank, world, local = place_among_processes()
    if text_only:
        refuse_images(context)
    else:
        refuse_unused(context, mode, method)
    cluster = _cluster(engine, actors, actor_gpus, judge_gpus, text_only)
    chosen = None if categories is None else tuple(categories.replace(" ", "").split(","))
    planning: dict[str, Any] = {
        "data": data,
        "data_options": {
            "split": split,
            "config": config,
            "caption": caption_column,
            "images": images,
            "licence": licence,
        },
        "backend": backend,
        "planner_options": {
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
        "device": device,
        "local": local,
        "say": remark,
        "per_item": per_item,
        "positives": positives,
        "max_category_share": max_category_share,
        "seed": seed,
        "limit": limit,
        "shard_format": shard_format,
        "shard_size": (TEXT_SHARD if text_only else Settings.shard_size)
        if shard_size is None
        else shard_size,
    }
    make: Callable[..., Built]
    if text_only:
        make = partial(make_text, **planning, out=out, categories=chosen)
    else:
        make = partial(
            make_images,
            **planning,
            categories=CATEGORIES if chosen is None else chosen,
            model=model,
            judge=judge,
            dtype=dtype,
            guidance_scale=guidance_scale,
            diversify=diversify,
            absolute_margin=absolute_margin,
            mode=mode,
            method=method,
            steps=steps,
            batch_size=batch_size,
            strength=strength,
            weight=weight,
            retries=retries,
            vqa=vqa,
            region=region,
            max_outside_change=max_outside_change,
            controls=controls,
            relative_margin=relative_margin,
            max_score=max_score,
            train_model=train_model,
            shards_together=shards_together,
        )
    if cluster is not None:
        from negguide.mining.on_ray import run_on_ray
        from negguide.mining.sources import open_source

        with packages():
            source = open_source(data, **planning["data_options"])
            _check_columns(columns, source, per_item, positives)
            with _progress(source, limit, text_only) as (done, on_painted, painted):
                outcome = run_on_ray(out, make, cluster, done=done, painted=on_painted)
    else:
        with waiting("reading the input" if text_only else "loading the models"):
            built = make()
        source = built.source
        _check_columns(columns, source, per_item, positives)
        with _progress(source, limit, text_only) as (done, on_painted, painted):
            outcome = run(
                out,
                built.settings,
                source,
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

    seconds = time.monotonic() - began
    written = outcome.funnel.total("written")
    verdicts: list[str] = []
    if not finished or outcome.made:
        verdicts = audited(place, written)
        write_card(place)
    show_funnel(outcome.funnel, text_only)
    remark(speed(outcome.funnel, painted.total(), seconds, text_only, on_cluster=cluster is not None))
    for line in verdicts:
        remark(line)
    if not written:
        remark(nothing_written(place, outcome.funnel))
        raise typer.Exit(1)
    show(out, *([_columns(place, source)] if columns else []))


TEXT_SHARD = 1000
"""Pairs of the input that make a shard of text alone, unless the user says otherwise."""


def _check_columns(wanted: bool, source: Input, per_item: int, positives: int) -> None:
    """Refuse an input that cannot have columns now, and not when the set is made."""
    if wanted:
        from negguide.mining.formats.columns import check_columns

        check_columns(source, per_item, positives)


def _columns(out: Path, source: Input) -> Path:
    """Write the input with the negatives as further columns; gives the file, or the folder of several."""
    from negguide.mining.formats.columns import write_columns

    with waiting("adding the columns"):
        if on_this_machine(out):
            return write_columns(out, source, out / "columns")
        with tempfile.TemporaryDirectory() as scratch:
            columns = Path(scratch) / "columns"
            written = write_columns(out, source, columns)
            for file in sorted(path for path in columns.rglob("*") if path.is_file()):
                write_whole(out / "columns" / file.relative_to(columns).as_posix(), file.read_bytes())
            return out / "columns" / written.relative_to(columns).as_posix()


def _cluster(
    engine: str, actors: int | None, gpus: float | None, judge_gpus: float | None, text_only: bool
) -> RayOptions | None:
    """What is asked of a Ray cluster; None where this process makes the set.

    Raises:
        ValueError: an option has no meaning for the engine, or the engine is not known.
    """
    given = {"--actors": actors, "--actor-gpus": gpus, "--judge-gpus": judge_gpus}
    said = [f"{name} {value}" for name, value in given.items() if value is not None]
    if engine == "local":
        if said:
            raise ValueError(f"{said[0]} has no meaning without --engine ray")
        return None
    if engine != "ray":
        raise ValueError(f"--engine must be local or ray, got {engine!r}")
    if text_only and judge_gpus is not None:
        raise ValueError(f"--judge-gpus {judge_gpus} has no meaning with --text-only, which judges no image")
    from negguide.mining.on_ray import RayOptions

    return RayOptions(actors, gpus=gpus, judge_gpus=judge_gpus)


@contextmanager
def _progress(
    source: Input, limit: int | None, text_only: bool
) -> Iterator[tuple[Callable[[int], None], Callable[[int], None], Counter[str]]]:
    """A progress bar: what tells it of pairs, what tells it of images, and how many images there were."""
    # only closed worlds know how many pairs they have before they are read
    known = [n for n in (limit, getattr(source, "count", None)) if isinstance(n, int)]
    total = min(known, default=None)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("captions" if text_only else "pairs, {task.fields[painted]} images painted"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console(stderr=True), transient=True) as progress:
        task = progress.add_task("mining", total=total, painted=0)
        painted: Counter[str] = Counter()

        def on_painted(count: int) -> None:
            painted["images"] += count
            progress.update(task, painted=painted.total())

        yield partial(progress.advance, task), on_painted, painted
