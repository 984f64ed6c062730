"""`negguide benchmark`: the methods measured against each other on real weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from negguide.cli import options

SUITE = (
    "What is drawn: overlap (negatives that overlap the prompt), diversity (several images of a prompt), reference "
    "(away from an image), or a JSON or JSONL file, such as NegGenBench's; see the text of negguide.benchmark.suites."
)
METHODS = (
    "What is compared, with commas between: negative-prompt and keys of `negguide methods`, each with :STRENGTH or "
    "without, e.g. negative-prompt,perp-neg:1,perp-neg:2,nag:8 (default: all that suit the suite). Plain is always "
    "there."
)
JUDGE = (
    "What looks at the images, a folder or a hub id of transformers: a question answering model such as "
    "Salesforce/blip-vqa-base (the default) or a chat model for images, or a CLIP or SigLIP. The embedded model has "
    "its own, toyworld."
)
SIMILARITY = (
    "How images are compared: dreamsim, or a CLIP or SigLIP; auto: dreamsim where it is installed, else the judge "
    "where it is a CLIP, else openai/clip-vit-base-patch32."
)


def benchmark(
    model: options.ModelOption = options.MODEL,
    suite: Annotated[str, typer.Option(metavar="NAME|FILE", help=SUITE)] = "overlap",
    methods: Annotated[str | None, typer.Option(metavar="NAME,NAME", help=METHODS)] = None,
    judge: Annotated[str | None, typer.Option(metavar="MODEL", help=JUDGE)] = None,
    similarity: Annotated[str, typer.Option(metavar="MODEL", help=SIMILARITY)] = "auto",
    count: Annotated[int | None, typer.Option(help="Only the first so many prompts (default: all).")] = None,
    seeds: Annotated[
        int | None,
        typer.Option(help="Images of each prompt (default: overlap 1, diversity 4, reference 2)."),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Seed of the first image; those of prompt i begin at seed + 1000 i.")
    ] = options.SEED,
    steps: options.StepsOption = None,
    guidance_scale: options.GuidanceScaleOption = None,
    height: options.HeightOption = None,
    width: options.WidthOption = None,
    lora: options.LoraOption = None,
    offload: options.OffloadOption = options.OFFLOAD,
    device: options.DeviceOption = options.DEVICE,
    dtype: options.DtypeOption = options.DTYPE,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where the files go (default: out/benchmark-MODEL-SUITE)."),
    ] = None,
) -> None:
    """Measure methods on MODEL: what is kept, what is gone, how alike the images are, time and memory.

    Prints a table and writes it with JSON, a plot, a contact sheet and all images. A run that was stopped goes on when
    it is started again; one with other settings needs another folder.
    """
    from negguide.benchmark.columns import columns_of
    from negguide.benchmark.figures import lines_of
    from negguide.benchmark.generation import Sampling
    from negguide.benchmark.judges import USUAL, check_judge, load_judge
    from negguide.benchmark.judging import ask, compare
    from negguide.benchmark.report import Report
    from negguide.benchmark.runner import USUAL_SEEDS, Run, generate
    from negguide.benchmark.similarity import choose_similarity, load_similarity
    from negguide.benchmark.suites import DIVERSITY, load_suite
    from negguide.cli import draw
    from negguide.cli.errors import quiet_libraries
    from negguide.cli.job import Job, choose_device, choose_dtype
    from negguide.cli.lora import load_loras
    from negguide.cli.output import check_folder, console, remark, show, steps_bar, waiting
    from negguide.cli.syntax import parse_lora
    from negguide.domain import domain_of
    from negguide.models import check_model, usual_steps
    from negguide.pictures import file_name

    quiet_libraries()
    model = check_model(model)
    steps = usual_steps(model) if steps is None else steps
    asked = load_suite(suite, model, count)
    device = choose_device(device)
    if out is None:
        out = Path("out", f"benchmark-{file_name(Path(model).name)}-{file_name(asked.name)}")
    check_folder(out)
    # of the first image, to check what it has in common with the other commands
    job = Job(
        prompt=asked.items[0].prompt,
        model=model,
        steps=steps,
        guidance_scale=guidance_scale,
        seeds=(seed,),
        device=device,
        dtype=choose_dtype(dtype, device, model),
        height=height,
        width=width,
        loras=tuple(parse_lora(value) for value in lora or ()),
        offload=offload,
    )
    run = Run(
        sampling=Sampling(
            model,
            steps=steps,
            guidance_scale=guidance_scale,
            height=height,
            width=width,
            device=device,
            dtype=job.dtype,
            offload=offload,
            loras=tuple(one.to_dict() for one in job.loras),
            guided=asked.kind != DIVERSITY,
        ),
        suite=asked,
        columns=columns_of(methods, asked.kind),
        out=out,
        seeds=USUAL_SEEDS[asked.kind] if seeds is None else seeds,
        seed=seed,
    )
    domain = domain_of(model)
    name = (USUAL if domain is None else domain.name) if judge is None else judge
    # what cannot judge is refused before anything is drawn
    with waiting("looking for the judge"):
        check_judge(name)
        alike = choose_similarity(similarity, name)

    def prepare(pipe: Any) -> None:
        load_loras(pipe, job.loras)
        draw.offload(pipe, offload, device)

    drawn = generate(run, steps_bar, prepare)
    with waiting(f"loading {name}"):
        looking = load_judge(name, device)
    verdicts = ask(run, drawn, looking, steps_bar)
    with waiting(f"loading {alike}"):
        comparing = load_similarity(alike, device, looking)
    seen = compare(run, drawn, verdicts, comparing, steps_bar)
    report = Report(run, drawn, looking, comparing, seen, lines_of(run, drawn, seen))
    files = report.write(out)
    terminal = console(highlight=False)
    terminal.print(*report.about, sep="\n")
    terminal.print(report.table())
    for text in (report.meaning, *report.remarks):
        remark(text)
    show(*files)
