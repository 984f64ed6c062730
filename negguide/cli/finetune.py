"""`negguide finetune`: a better CLIP-like model from pairs with negatives."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from negguide.vlm.train import Outcome

SOURCE = (
    "What to train on: a set that `negguide mine` wrote, a folder with metadata.jsonl, parquet or tar files, a "
    ".parquet or .tar file, a SugarCrepe or COCO .json, a .jsonl, or an open_clip .tsv or .csv."
)
LOSS = (
    "triplet, negclip, negimage, conclip, grouped, clip; with SigLIP also negsiglip and siglip. The last of each kind "
    "needs no negatives; negclip needs negative captions, negimage negative images, the others both."
)
SUITE = "Asked before and after, as in `negguide evaluate`; several times for several. For model toyworld: toyworld."
MIX = "Synthetic hard negatives mixed of two hard ones, per query (MoCHi)."


def finetune(
    train_data: Annotated[str, typer.Option(metavar="SET", help=SOURCE)],
    out: Annotated[Path, typer.Option(help="Folder of the result; checkpoints, log and curves are in it.")],
    model: Annotated[
        str, typer.Option(metavar="MODEL", help='CLIP or SigLIP: "toyworld", a folder or a hub id.')
    ] = "toyworld",
    loss: Annotated[str, typer.Option(help=LOSS)] = "triplet",
    images: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Where the files that a JSON, TSV or CSV names are.")
    ] = None,
    suite: Annotated[list[str] | None, typer.Option("--suite", metavar="SUITE", help=SUITE)] = None,
    suite_limit: Annotated[
        int | None, typer.Option(min=1, help="At most so many items of a category of each suite.")
    ] = None,
    resume: Annotated[
        str | None, typer.Option(metavar="latest|STATE", help="Go on with the run in --out after a kill.")
    ] = None,
    report_to: Annotated[
        str | None, typer.Option(metavar="TRACKER", help="tensorboard, wandb, trackio, ... of accelerate.")
    ] = None,
    cpu: Annotated[bool, typer.Option("--cpu", help="Use no GPU.")] = False,
    seed: Annotated[int, typer.Option(help="Of the order of rows and all that is drawn.")] = 0,
    epochs: Annotated[int, typer.Option(help="Passes over the set.", rich_help_panel="Training")] = 5,
    train_num_samples: Annotated[
        int | None,
        typer.Option(help="Rows that make an epoch; default: all.", rich_help_panel="Training"),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(help="Rows of one process in one forward pass.", rich_help_panel="Training")
    ] = 64,
    accum_freq: Annotated[
        int,
        typer.Option(
            help="Forward passes that are contrasted together, with cached gradients.",
            rich_help_panel="Training",
        ),
    ] = 1,
    lr: Annotated[
        float | None,
        typer.Option(help="Peak learning rate; default 1e-5, for toyworld 1e-4.", rich_help_panel="Training"),
    ] = None,
    wd: Annotated[float, typer.Option(help="Weight decay.", rich_help_panel="Training")] = 0.1,
    warmup: Annotated[
        int | None, typer.Option(help="In steps; default a tenth of all.", rich_help_panel="Training")
    ] = None,
    grad_clip_norm: Annotated[
        float, typer.Option(help="Longest gradient; 0 = any.", rich_help_panel="Training")
    ] = 1.0,
    precision: Annotated[
        str, typer.Option(help="fp32, amp (float16) or amp_bf16.", rich_help_panel="Training")
    ] = "fp32",
    grad_checkpointing: Annotated[
        bool,
        typer.Option(
            "--grad-checkpointing", help="Less memory, a third more time.", rich_help_panel="Training"
        ),
    ] = False,
    workers: Annotated[
        int, typer.Option(help="Processes that open images ahead of time.", rich_help_panel="Training")
    ] = 0,
    val_share: Annotated[
        float,
        typer.Option(
            help="Of the images, held out to choose the best state by; 0 = take the last.",
            rich_help_panel="Training",
        ),
    ] = 0.1,
    val_every: Annotated[int, typer.Option(help="In epochs.", rich_help_panel="Training")] = 1,
    save_every: Annotated[
        int,
        typer.Option(
            help="In steps, beside the end of each epoch; 0 = only then.", rich_help_panel="Training"
        ),
    ] = 0,
    lock_image: Annotated[
        bool,
        typer.Option(
            "--lock-image", help="Train the text tower alone.", rich_help_panel="Against forgetting"
        ),
    ] = False,
    lock_text: Annotated[
        bool,
        typer.Option(
            "--lock-text", help="Train the image tower alone.", rich_help_panel="Against forgetting"
        ),
    ] = False,
    lora: Annotated[
        int,
        typer.Option(
            metavar="RANK",
            help="Train low-rank updates; 0 = the weights.",
            rich_help_panel="Against forgetting",
        ),
    ] = 0,
    wise_ft: Annotated[
        float,
        typer.Option(
            metavar="ALPHA",
            help="Share of the tuned weights in the result, the rest being the start model's.",
            rich_help_panel="Against forgetting",
        ),
    ] = 1.0,
    distill: Annotated[
        float,
        typer.Option(
            metavar="WEIGHT",
            help="Hold on to the start model's view of a batch.",
            rich_help_panel="Against forgetting",
        ),
    ] = 0.0,
    rank_margin: Annotated[
        float,
        typer.Option(
            metavar="COSINE", help="Pairs must beat their negatives by it; 0 = off.", rich_help_panel="Loss"
        ),
    ] = 0.0,
    rank_weight: Annotated[float, typer.Option(help="Of the rank margin.", rich_help_panel="Loss")] = 1.0,
    smoothing: Annotated[float, typer.Option(help="Of the labels.", rich_help_panel="Loss")] = 0.0,
    focal: Annotated[
        float, typer.Option(metavar="GAMMA", help="Exponent of the focal factor.", rich_help_panel="Loss")
    ] = 0.0,
    paraphrases: Annotated[
        bool,
        typer.Option(
            "--paraphrases", help="The set's positive captions are further positives.", rich_help_panel="Loss"
        ),
    ] = False,
    continuous: Annotated[
        bool,
        typer.Option(
            "--continuous", help="CWCL's weights, by the start model's images.", rich_help_panel="Loss"
        ),
    ] = False,
    false_negative_share: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Other rows more similar than this share of the pair (by the start model) are no negatives.",
            rich_help_panel="Loss",
        ),
    ] = None,
    false_negative_weight: Annotated[
        float, typer.Option(help="What such a row still counts.", rich_help_panel="Loss")
    ] = 0.0,
    mix_pairs: Annotated[int, typer.Option(help=MIX, rich_help_panel="Loss")] = 0,
    mix_queries: Annotated[
        int, typer.Option(help="The same, of a hard one and the query.", rich_help_panel="Loss")
    ] = 0,
    mix_hardest: Annotated[
        int, typer.Option(help="Of how many of the hardest they are mixed.", rich_help_panel="Loss")
    ] = 32,
    group_size: Annotated[
        int, typer.Option(help="Loss grouped: most siblings of a group.", rich_help_panel="Loss")
    ] = 2,
    group_share: Annotated[
        float, typer.Option(help="Loss grouped: share of a batch that is groups.", rich_help_panel="Loss")
    ] = 0.5,
    curriculum: Annotated[
        str,
        typer.Option(
            metavar="CATEGORIES",
            help="Categories of negatives, with commas, that are trained on alone at first.",
            rich_help_panel="Training",
        ),
    ] = "",
    curriculum_epochs: Annotated[
        int, typer.Option(help="How many epochs hold them alone.", rich_help_panel="Training")
    ] = 1,
) -> None:
    """Fine-tune MODEL on SET, keep the state that is best on held-out rows, and say what it gained and what it lost.

    The result is a folder that plain transformers loads. For several GPUs or machines:
    accelerate launch -m negguide finetune ...
    """
    chosen = dict(locals())
    from negguide.cli.errors import quiet_libraries
    from negguide.cli.output import check_folder, remark
    from negguide.embedded import TOYWORLD
    from negguide.vlm.settings import Settings, default_lr
    from negguide.vlm.suites import make_suite
    from negguide.vlm.train import finetune as train

    quiet_libraries()
    check_folder(out)
    where = ("out", "suite", "suite_limit", "resume", "report_to", "cpu")
    told: dict[str, Any] = {name: value for name, value in chosen.items() if name not in where}
    told["lr"] = default_lr(model) if lr is None else lr
    settings = Settings(**told)
    specs = suite or ([TOYWORLD] if model == TOYWORLD else [])
    outcome = train(
        settings,
        out,
        resume=resume,
        report_to=report_to,
        suites=[make_suite(spec, limit=suite_limit) for spec in specs],
        limit=suite_limit,
        cpu=cpu,
        remark=remark,
    )
    _print(outcome)


def _print(outcome: Outcome) -> None:
    """Gains and losses side by side, then the folder; other processes than the first have nothing to say."""
    from rich.table import Table

    from negguide.cli.output import console, show
    from negguide.vlm.card import headline

    if outcome.before is None or outcome.after is None:
        if outcome.written:
            show(outcome.folder)
        return
    table = Table(title="Before and after, percent", title_justify="left", title_style="bold")
    for column in ("suite", "figure", "before", "after", "change"):
        table.add_column(column, justify="left" if column in ("suite", "figure") else "right")
    for name, figure, before, after in headline(outcome.before, outcome.after):
        table.add_row(
            name, figure, f"{100 * before:.1f}", f"{100 * after:.1f}", f"{100 * (after - before):+.1f}"
        )
    console(stderr=True, width=100).print(table)
    show(outcome.folder)
