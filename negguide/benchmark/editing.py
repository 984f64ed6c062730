"""What an instruction-following editor does with a denial: is the thing gone, and is the rest still there?

A pipeline is given the original image of an editing triplet and an instruction such as "The image has no red hat." A
judge then answers two questions about the result, and about the original and the target image, which show how far the
judge itself can be trusted: of the target images nearly all should be right, of the originals no thing is gone.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from negguide._utils.stats import Rate, share
from negguide.benchmark.judges import Judge, Verdict
from negguide.benchmark.runner import Bar, no_bar
from negguide.benchmark.suites import Check
from negguide.image_files import read_image
from negguide.mining.formats.editing import EditingRow
from negguide.models import first_sentence
from negguide.pictures import grid, save_json, save_png

Editor = Callable[[Image.Image, str, int], Image.Image]
"""Edits an image (RGB) by an instruction; the whole number is the seed."""
AT_ONCE = 16
"""Images that are judged at once."""
SHOWN = 12
"""Triplets on the picture sheet."""
EDITED, ORIGINAL, TARGET = "edited", "original", "target"
REMOVED, KEPT, BOTH = "removed", "kept", "both"


@dataclass(frozen=True)
class Measured:
    """What was found on one triplet.

    Attributes:
        row: of the set.
        image: the editor's result, relative to the folder of the run.
        verdicts: {"edited", "original" or "target": (is the thing gone, is the rest there)}.
    """

    row: EditingRow
    image: str
    verdicts: Mapping[str, tuple[Verdict, Verdict]]

    def holds(self, which: str, figure: str) -> bool:
        """Whether an image is right in a figure; an answer that is neither yes nor no is not."""
        removed, kept = (verdict.passed is True for verdict in self.verdicts[which])
        return {REMOVED: removed, KEPT: kept, BOTH: removed and kept}[figure]


@dataclass(frozen=True)
class EditingReport:
    """A whole run.

    Attributes:
        settings: model, judge, and how was edited, as JSON.
        measured: all triplets, in order.
    """

    settings: Mapping[str, Any]
    measured: Sequence[Measured]
    rates: Mapping[str, Mapping[str, Rate]] = field(init=False)

    def __post_init__(self) -> None:
        rates = {
            which: {
                figure: share([one.holds(which, figure) for one in self.measured])
                for figure in (REMOVED, KEPT, BOTH)
            }
            for which in (EDITED, TARGET, ORIGINAL)
        }
        object.__setattr__(self, "rates", rates)

    @property
    def unclear(self) -> int:
        """Answers about edited images that were neither yes nor no."""
        return sum(verdict.passed is None for one in self.measured for verdict in one.verdicts[EDITED])

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "settings": dict(self.settings),
            "figures": {
                which: {name: rate.to_dict() for name, rate in rates.items()}
                for which, rates in self.rates.items()
            },
            "unclear_answers": self.unclear,
            "triplets": [
                {
                    "id": one.row.id,
                    "instruction": one.row.instruction,
                    "removed": one.row.removed,
                    "image": one.image,
                    **{
                        which: {"removed": vars(verdicts[0]), "kept": vars(verdicts[1])}
                        for which, verdicts in one.verdicts.items()
                    },
                }
                for one in self.measured
            ],
        }

    def write(self, out: Path) -> list[Path]:
        """Write ``editing.json`` and ``editing.png`` into ``out``."""
        files = [out / "editing.json", out / "editing.png"]
        save_json(self.to_dict(), files[0])
        save_png(self._sheet(out), files[1], self.settings)
        return files

    def _sheet(self, out: Path) -> Image.Image:
        shown = self.measured[:SHOWN]
        size = read_image(shown[0].row.original).size
        rows = [
            [read_image(one.row.original), read_image(out / one.image), read_image(one.row.target)]
            for one in shown
        ]
        captions = [["", f"{_word(one, REMOVED)}, {_word(one, KEPT)}", ""] for one in shown]
        return grid(
            [[image.resize(size) for image in row] for row in rows],
            row_labels=[one.row.instruction for one in shown],
            column_labels=["original", str(self.settings["model"]), "target"],
            title="; ".join(f"{name} {rate}" for name, rate in self.rates[EDITED].items()),
            footer=f"judged by {self.settings['judge']}",
            captions=captions,
        )


def _word(one: Measured, figure: str) -> str:
    yes, no = {REMOVED: ("gone", "still there"), KEPT: ("rest kept", "rest lost")}[figure]
    return yes if one.holds(EDITED, figure) else no


def checks_of(row: EditingRow) -> tuple[Check, Check]:
    """What is asked of an image: is the thing gone, and is all that the target's caption says there?"""
    return (
        Check(row.removed, "", f"Does the picture show any {row.removed}?", yes=False, shown=False),
        Check(
            row.target_caption,
            "",
            f"Does the picture show {row.target_caption.rstrip('.')}?",
            yes=True,
            shown=True,
        ),
    )


def evaluate_editing(
    rows: Sequence[EditingRow],
    editor: Editor,
    judge: Judge,
    out: Path,
    settings: Mapping[str, Any],
    *,
    seed: int = 0,
    bar: Bar = no_bar,
) -> EditingReport:
    """Edit every original image by its instruction and let the judge answer.

    Args:
        rows: the triplets.
        editor: what edits.
        judge: of `negguide.benchmark.judges`; one that answers questions, or that of the toy world.
        out: a folder for the edited images, ``images/00000.png``, ...; those of an earlier run are not made again.
        settings: of the run, as JSON, for the report.
        seed: of the first triplet; triplet i has seed + i.
        bar: shows how far it is.

    Raises:
        ValueError: no rows, or an image that cannot be read.
    """
    if not rows:
        raise ValueError("rows is empty; an evaluation needs at least one triplet")
    files = [f"images/{number:05d}.png" for number in range(len(rows))]
    with bar(f"editing {len(rows)} images", len(rows)) as advance:
        for number, (row, file) in enumerate(zip(rows, files, strict=True)):
            if not (out / file).is_file():
                edited = editor(read_image(row.original, name=row.id), row.instruction, seed + number)
                save_png(edited, out / file, {"instruction": row.instruction, "seed": seed + number})
            advance()
    verdicts: dict[str, list[tuple[Verdict, Verdict]]] = {}
    with bar("judging", 3 * len(rows)) as advance:
        for which in (EDITED, ORIGINAL, TARGET):
            verdicts[which] = []
            for start in range(0, len(rows), AT_ONCE):
                chosen = range(start, min(start + AT_ONCE, len(rows)))
                images = [_image(rows[place], out / files[place], which) for place in chosen]
                asked = [checks_of(rows[place]) for place in chosen]
                answers = [
                    judge.verdicts(images, [checks[question] for checks in asked]) for question in (0, 1)
                ]
                verdicts[which] += zip(*answers, strict=True)
                for _ in chosen:
                    advance()
    measured = [
        Measured(row, file, {which: found[place] for which, found in verdicts.items()})
        for place, (row, file) in enumerate(zip(rows, files, strict=True))
    ]
    return EditingReport(settings, measured)


def _image(row: EditingRow, edited: Path, which: str) -> Image.Image:
    source = edited if which == EDITED else row.original if which == ORIGINAL else row.target
    return read_image(source, name=f"{row.id}, {which}")


def load_editor(
    model: str,
    *,
    device: str,
    dtype: str,
    steps: int,
    guidance_scale: float | None = None,
    image_guidance_scale: float | None = None,
) -> Editor:
    """A pipeline of diffusers that takes an image and an instruction, such as InstructPix2Pix, as an editor.

    Args:
        model: a folder or a hub id.
        device: of torch.
        dtype: "float32", "float16" or "bfloat16".
        steps: of denoising.
        guidance_scale, image_guidance_scale: None = the pipeline's own.

    Raises:
        ValueError: it cannot be loaded, takes no image and instruction, or has no such option.
    """
    from diffusers import DiffusionPipeline

    try:
        pipe = DiffusionPipeline.from_pretrained(
            model, torch_dtype=getattr(torch, dtype), use_safetensors=True
        )
    except Exception as error:
        # missing, unreachable and broken models fail in many ways
        raise ValueError(
            f"--model {model!r} cannot be loaded: {first_sentence(error)}; give a pipeline of diffusers by its folder "
            "or hub id"
        ) from error
    pipe = pipe.to(device)
    pipe.set_progress_bar_config(disable=True)
    taken = inspect.signature(type(pipe).__call__).parameters
    if not {"prompt", "image"} <= set(taken) or "mask_image" in taken or "control_image" in taken:
        raise ValueError(
            f"--model {model!r} is a {type(pipe).__name__}, which is not edited by an image and an instruction alone; "
            "use one like StableDiffusionInstructPix2PixPipeline"
        )
    given = {"guidance_scale": guidance_scale, "image_guidance_scale": image_guidance_scale}
    options = {name: value for name, value in given.items() if value is not None}
    unknown = [name for name in options if name not in taken]
    if unknown:
        name = unknown[0]
        raise ValueError(
            f"--{name.replace('_', '-')} {options[name]} has no meaning for {type(pipe).__name__}; leave it out"
        )

    def edit(image: Image.Image, instruction: str, seed: int) -> Image.Image:
        generator = torch.Generator("cpu").manual_seed(seed)
        call = {"image": image, "prompt": instruction, "num_inference_steps": steps, "generator": generator}
        result: Image.Image = pipe(**call, **options).images[0]
        return result

    return edit


def fingerprint(rows: Sequence[EditingRow]) -> str:
    """Of the triplets and their order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(row.instruction.encode() + hashlib.sha256(row.original).digest())
    return digest.hexdigest()[:16]


def editing_settings(out: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run, kept in ``out``, so that a run with others does not go on with its images.

    Raises:
        ValueError: ``out`` holds a run with other settings.
    """
    from negguide.pictures import read_settings

    path = out / "settings.json"
    wanted = dict(settings)
    if path.is_file():
        before = read_settings(path)
        different = [name for name in wanted if before.get(name) != wanted[name]]
        if different:
            name = different[0]
            raise ValueError(
                f"--out {out} holds a run with other settings ({name}: {before.get(name)!r} there, {wanted[name]!r} "
                "now); give another folder"
            )
    else:
        save_json(wanted, path)
    return wanted
