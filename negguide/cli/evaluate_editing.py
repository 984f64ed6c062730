"""`negguide evaluate-editing`: whether an editor takes away what an instruction denies, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from negguide.benchmark.judges import USUAL
from negguide.cli import options
from negguide.domain import USUAL_STEPS

TRIPLETS = (
    "What `negguide export --format instructpix2pix` (or instructpix2pix-folder) wrote, or a folder or parquet file "
    "with the columns original_image, edit_prompt, edited_image, edited_prompt and removed."
)
JUDGE = (
    "What looks at the images: toyworld for triplets of the toy world, or a question answering model of transformers, "
    "by folder or hub id."
)


def evaluate_editing(
    triplets: Annotated[Path, typer.Argument(metavar="TRIPLETS", help=TRIPLETS)],
    model: Annotated[
        str,
        typer.Option(metavar="MODEL", help="A pipeline of diffusers that takes an image and an instruction."),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the images, the figures and the picture sheet.")],
    judge: Annotated[str, typer.Option(metavar="MODEL", help=JUDGE)] = USUAL,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many triplets (all).")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps.")] = USUAL_STEPS,
    guidance_scale: Annotated[
        float | None, typer.Option(help="Strength of the instruction (the pipeline's own).")
    ] = None,
    image_guidance_scale: Annotated[
        float | None, typer.Option(help="Strength of the original image (the pipeline's own).")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the first triplet; triplet i has SEED + i.")] = options.SEED,
    device: options.DeviceOption = options.DEVICE,
    dtype: options.DtypeOption = options.DTYPE,
) -> None:
    """Give MODEL the original images of TRIPLETS and their instructions, and let a judge look at the results.

    Each instruction denies a thing ("The image has no red hat."). Printed are the shares of edited images in which it
    is gone, in which the rest is kept, and both, with 95% intervals; and the same of the target and the original
    images, which says how far the judge can be trusted. A run that was stopped goes on when it is started again.
    """
    from rich.table import Table

    from negguide.benchmark.editing import editing_settings, fingerprint, load_editor
    from negguide.benchmark.editing import evaluate_editing as evaluate
    from negguide.benchmark.judges import is_two_towers, load_judge
    from negguide.cli.errors import quiet_libraries
    from negguide.cli.job import choose_device, choose_dtype
    from negguide.cli.output import check_folder, console, remark, show, steps_bar, waiting
    from negguide.domain import registered_domains
    from negguide.mining.formats.editing import read_editing
    from negguide.mining.settings import without_place
    from negguide.models import revision

    quiet_libraries()
    check_folder(out)
    device = choose_device(device)
    domains = registered_domains()
    if judge not in domains and is_two_towers(judge):
        raise ValueError(
            f"--judge {judge!r} compares images with phrases, and hardly reads what is missing; use "
            f"{', '.join(domains)} or a question answering model"
        )
    rows = read_editing(triplets, limit)
    dtype = choose_dtype(dtype, device, model)
    with waiting(f"loading {judge}"):
        looking = load_judge(judge, device)
    with waiting(f"loading {model}"):
        editor = load_editor(
            model,
            device=device,
            dtype=dtype,
            steps=steps,
            guidance_scale=guidance_scale,
            image_guidance_scale=image_guidance_scale,
        )
    # of a hub model, the revision is known once it is on this machine; and what cannot be loaded is no run
    settings = editing_settings(
        out,
        {
            "model": without_place(model),
            "revision": revision(model),
            "triplets": without_place(str(triplets)),
            "fingerprint": fingerprint(rows),
            "steps": steps,
            "guidance_scale": guidance_scale,
            "image_guidance_scale": image_guidance_scale,
            "seed": seed,
            "dtype": dtype,
        },
    )
    report = evaluate(
        rows, editor, looking, out, {**settings, "judge": without_place(judge)}, seed=seed, bar=steps_bar
    )
    files = report.write(out)
    table = Table(title=f"{len(rows)} triplets, judged by {report.settings['judge']}", title_justify="left")
    table.add_column("images")
    for figure in report.rates["edited"]:
        table.add_column(figure, justify="right")
    for which, rates in report.rates.items():
        table.add_row(which, *map(str, rates.values()))
    console(highlight=False).print(table)
    if report.unclear:
        remark(f"{report.unclear} answers about edited images were neither yes nor no, and count as wrong")
    show(*files)
