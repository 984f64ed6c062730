"""`negguide evaluate`: what a CLIP-like model understands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from negguide.cli import options
from negguide.domain import default_domain
from negguide.vlm.evaluation import BATCH_SIZE

MODEL = 'CLIP or SigLIP: "toyworld", a folder or a hub id.'
SUITE = (
    # not the names themselves: suites are found by importing them, which takes seconds
    "What to measure on: toyworld; a public one with its files, such as winoground:PATH or sugarcrepe:PATH (and "
    ",images=FOLDER where the images are elsewhere, ,partial where only some are there); or the folder of a set that "
    "`negguide mine` wrote. A name that is not known is answered with all of them. Several times for several suites."
)


def evaluate(
    suite: Annotated[list[str], typer.Option("--suite", metavar="SUITE", help=SUITE)],
    model: Annotated[str, typer.Option(metavar="MODEL", help=MODEL)] = default_domain().name,
    compare: Annotated[
        str | None, typer.Option(metavar="MODEL2", help="Show the change from this model to --model.")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="At most so many items of a category (quick, but less sure; default: all)."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at once.")] = BATCH_SIZE,
    device: options.DeviceOption = options.DEVICE,
    json: Annotated[
        Path | None, typer.Option("--json", metavar="FILE.json", help="Also write all figures there.")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Also draw bars with 95% intervals, by category."),
    ] = None,
) -> None:
    """Measure how well MODEL tells captions and images apart that differ in one thing.

    Pairs give Winoground's text, image and group score and, where there are paraphrases, hard positives: a model that
    only knows "other words, other meaning" fails those. Every figure comes with its 95% interval.
    """
    from negguide.cli.errors import quiet_libraries
    from negguide.cli.job import choose_device
    from negguide.cli.output import check_file, console, remark
    from negguide.vlm.evaluation.evaluate import evaluate as measure
    from negguide.vlm.evaluation.plot import plot_results
    from negguide.vlm.evaluation.results import comparison, comparison_tables, save_json
    from negguide.vlm.evaluation.suites.registry import make_suite
    from negguide.vlm.models import load_model

    quiet_libraries()
    for option, path in (("--json", json), ("--plot", plot)):
        if path is not None:
            check_file(path, option)
    place = choose_device(device)
    status = console(stderr=True).status("reading the suites")
    results = []
    with status:
        suites = [make_suite(spec, limit=limit) for spec in suite]
        for name in (compare, model) if compare is not None else (model,):
            status.update(f"loading {name}")
            loaded = load_model(name, device=place)
            results.append(
                measure(loaded, suites, batch_size=batch_size, limit=limit, progress=status.update)
            )
    if json is not None:
        content = {"results": [entry.to_dict() for entry in results]}
        if compare is not None:
            content["changes"] = [
                {"suite": new.suite, "metric": new.metric, "category": new.category}
                | {"change": d.value, "low": d.low, "high": d.high}
                for _, new, d in comparison(*results)
            ]
        save_json(json, content)
    if plot is not None:
        plot.parent.mkdir(parents=True, exist_ok=True)
        plot_results(results, plot)
    screen = console()
    for table in results[-1].tables() if compare is None else comparison_tables(*results):
        screen.print(table, "")
    for text in dict.fromkeys(text for entry in results for text in entry.notes):
        remark(text)
    for path in (json, plot):
        if path is not None:
            remark(f"wrote {path}")
