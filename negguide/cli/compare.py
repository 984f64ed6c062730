"""`negguide compare`: the same seeds with several methods or weights, as one labelled picture."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from negguide._utils.text import listed
from negguide.cli import guidance, options
from negguide.cli.output import check_folder, remark, show
from negguide.cli.syntax import parse_lora

if TYPE_CHECKING:
    from PIL import Image

    from negguide.cli.job import Job
    from negguide.domain import Defaults
    from negguide.integration.diagnostics.trace import Trace
    from negguide.methods import Method, NegativesMethod, NegToMe

PLAIN, CLASSIC = "plain", "negative-prompt"
"""The columns without a method."""


def compare(
    prompt: Annotated[str, typer.Argument(help=options.PROMPT_HELP)],
    negative: options.NegativeOption = None,
    joint: options.JointOption = False,
    refresh_every: options.RefreshOption = None,
    adaptive: options.AdaptiveOption = False,
    economy: options.EconomyOption = False,
    max_sequence_length: options.LengthOption = None,
    negtome: options.NegToMeOption = None,
    reference: options.ReferenceOption = None,
    alpha: options.AlphaOption = None,
    threshold: options.ThresholdOption = None,
    negtome_window: options.WindowOption = None,
    blocks: options.BlocksOption = None,
    center: options.CenterOption = None,
    max_push: options.MaxPushOption = None,
    perpendicular: options.PerpendicularOption = None,
    match_every: options.MatchEveryOption = None,
    mask: options.MaskOption = None,
    reference_mask: options.ReferenceMaskOption = None,
    methods: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,NAME",
            help=f"Columns: {PLAIN}, {CLASSIC}, and methods of `negguide methods` such as perp-neg or negtome, or "
            "several joined by + (what the other options ask for).",
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(metavar="NUMBER,NUMBER", help="Columns: plain, then Perp-Neg at each of these weights."),
    ] = None,
    model: options.ModelOption = options.MODEL,
    pipeline: options.PipelineOption = None,
    lora: options.LoraOption = None,
    steps: options.StepsOption = None,
    guidance_scale: options.GuidanceScaleOption = None,
    height: options.HeightOption = None,
    width: options.WidthOption = None,
    timestep_window: options.TimestepWindowOption = None,
    image: options.ImageOption = None,
    strength: options.StrengthOption = None,
    mask_image: options.MaskImageOption = None,
    control_image: options.ControlImageOption = None,
    control_mode: options.ControlModeOption = None,
    num_images: Annotated[int, typer.Option(help="How many rows; one seed each.")] = 4,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain",
            help="For each column with a method, also draw where in the images it acted, and when and how much.",
        ),
    ] = False,
    seed: options.SeedOption = options.SEED,
    device: options.DeviceOption = options.DEVICE,
    dtype: options.DtypeOption = options.DTYPE,
    offload: options.OffloadOption = options.OFFLOAD,
    out: options.OutOption = options.OUT,
) -> None:
    """Draw PROMPT with several methods on the same seeds: rows are seeds, columns methods or weights.

    Columns, unless --methods or --weights says which: plain; with --negative the classic negative prompt and Perp-Neg;
    NegToMe with --negtome or --reference, and where there is no --negative. Writes one PNG with its settings inside.
    """
    from negguide.cli.attachments import Attachments
    from negguide.cli.draw import describe, draw
    from negguide.cli.job import Job, choose_device, choose_dtype
    from negguide.domain import negative_prompt_of
    from negguide.methods import NegToMe, PerpNeg
    from negguide.methods.choices import methods_in_words, options_of
    from negguide.models import check_model, defaults, revision, usual_steps
    from negguide.pictures import file_name, grid, save_png, versions

    check_folder(out)
    model = check_model(model)
    steps = usual_steps(model) if steps is None else steps
    suited = defaults(model)
    attachments = Attachments()
    numbers = {
        "alpha": alpha,
        "threshold": threshold,
        "blocks": blocks,
        "center": center,
        "max_push": max_push,
        "perpendicular": perpendicular,
        "match_every": match_every,
    }
    words = tuple(negative or ())
    wanted = _columns(methods, weights, bool(words), negtome is not None or bool(reference))
    parts = {part for name in wanted for part in name.split("+")} | (
        {PerpNeg.key} if weights is not None else set()
    )
    said = guidance.said_of_method(joint, refresh_every, adaptive, economy, max_sequence_length)
    _check_said(said, parts)
    # Perp-Neg also where it is no column: it reads the negatives for the title and the negative prompt
    asked = {
        key: guidance.in_words(words, {n: said[n] for n in said if n in options_of(kind)}, key, None, suited)
        for key, kind in methods_in_words().items()
        if words and key in parts | {PerpNeg.key}
    }
    apart = guidance.negtome(
        "" if negtome is None and not reference and NegToMe.key in parts else negtome,
        reference,
        numbers,
        negtome_window,
        mask,
        reference_mask,
        suited,
        attachments,
    )
    found = {key: one for key, one in asked.items() if one is not None}
    in_words, apart = guidance.in_timesteps(found, apart, timestep_window, negtome_window)
    minus = in_words.get(PerpNeg.key)
    device = choose_device(device)
    plain = Job(
        prompt=prompt,
        model=model,
        steps=steps,
        guidance_scale=guidance.guidance_scale(guidance_scale, model),
        seeds=tuple(range(seed, seed + num_images)),
        device=device,
        dtype=choose_dtype(dtype, device, model, pipeline),
        pipeline=pipeline,
        height=height,
        width=width,
        strength=strength,
        control_mode=control_mode,
        loras=tuple(parse_lora(value) for value in lora or ()),
        offload=offload,
        **guidance.pictures(attachments, image=image, mask_image=mask_image, control_image=control_image),
    )
    if weights is not None and minus is not None:
        labels, jobs = _weighted(plain, minus, weights, suited)
    else:
        try:
            texts = [] if minus is None else [negative.prompt for negative in minus.negatives]
            together = negative_prompt_of(plain.model, texts) if CLASSIC in parts and texts else ""
        except ValueError as error:
            if methods is not None:
                raise ValueError(f"--methods {methods!r}: no column {CLASSIC}, for {error}") from error
            remark(f"without the column {CLASSIC}: {error}")
            wanted.remove(CLASSIC)
            together = ""
        column_labels = _labels()
        labels = ["+".join(column_labels[part] for part in name.split("+")) for name in wanted]
        jobs = [_with(plain, name.split("+"), in_words, apart, together) for name in wanted]
    _check_used(jobs, minus, apart)
    if explain and not any(job.methods for job in jobs):
        raise ValueError(
            "--explain shows what methods do, and no column has one; give --negative or --negtome"
        )
    guidance.say_negatives(negative, minus)
    drawn = draw(jobs, trace=explain)
    jobs = [one.job for one in drawn]

    title = f"“{prompt}”"
    if minus is not None:
        title += " minus " + " and ".join(f"“{n.prompt}”" for n in minus.negatives)
    sheet = grid(
        [[one.images[row] for one in drawn] for row in range(num_images)],
        row_labels=[f"seed {s}" for s in plain.seeds],
        column_labels=labels,
        title=title,
        footer=describe(jobs[0], methods=[*{m: None for job in jobs for m in job.methods}]),
    )
    columns = [{"label": a, **b.to_dict(attachments.save)} for a, b in zip(labels, jobs, strict=True)]
    settings = {"command": "compare", "columns": columns, "revision": revision(model), "versions": versions()}
    digest = hashlib.sha256(json.dumps(columns, sort_keys=True).encode()).hexdigest()
    path = out / f"compare-{file_name(prompt)}-{digest[:8]}.png"
    attachments.write(out)
    save_png(sheet, path, settings)
    paths = [path]
    for name, one in zip(wanted or labels, drawn, strict=True):
        if one.trace is not None:
            stem = path.with_name(f"{path.stem}-{file_name(name)}")
            paths += _explain(one.trace, one.images, stem, settings)
    show(*paths)


def _explain(trace: Trace, images: list[Image.Image], path: Path, settings: Mapping[str, Any]) -> list[Path]:
    """Write where the methods of a column acted, and when and how much; returns the files."""
    from negguide.integration.diagnostics.maps import plot_maps
    from negguide.integration.diagnostics.trace import plot_trace
    from negguide.pictures import save_png

    files = []
    for picture, name in ((plot_maps(trace, images), "where"), (plot_trace(trace), "when")):
        file = path.with_name(f"{path.name}-{name}.png")
        save_png(picture, file, settings)
        files.append(file)
    return files


def _labels() -> dict[str, str]:
    """What a column can be, and how it is labelled. Methods joined by + act together in one column."""
    from negguide.methods import NegToMe
    from negguide.methods.choices import methods_in_words

    in_words = {key: method.label for key, method in methods_in_words().items()}
    return {PLAIN: "plain", CLASSIC: "negative prompt", **in_words, NegToMe.key: NegToMe.label}


def _check_said(said: Mapping[str, Any], parts: Collection[str]) -> None:
    """Refuse options of methods that are in no column."""
    from negguide.methods.choices import methods_in_words, options_of

    for name in said:
        owners = {key: kind for key, kind in methods_in_words().items() if name in options_of(kind)}
        if not set(owners) & set(parts):
            raise ValueError(
                f"{guidance.flags([name])} acts on {listed((kind.label for kind in owners.values()), 'or')}, which is "
                f"in no column; add {listed(owners, 'or')} to --methods, with a --negative"
            )


def _columns(methods: str | None, weights: str | None, minus: bool, apart: bool) -> list[str]:
    from negguide.methods import NegToMe, PerpNeg
    from negguide.methods.choices import methods_in_words

    if weights is not None:
        if not minus:
            raise ValueError("--weights are of the things to leave out; give at least one --negative")
        if methods is not None or apart:
            raise ValueError(
                "--weights makes the columns itself; leave out --methods, --negtome and --reference"
            )
        return []
    if methods is None:
        wanted = [PLAIN]
        wanted += [CLASSIC, PerpNeg.key] if minus else []
        wanted += [NegToMe.key] if apart or not minus else []
        return wanted
    in_words, columns = methods_in_words(), _labels()
    wanted = [name.strip() for name in methods.split(",")]
    for name in wanted:
        parts = name.split("+")
        if (
            not set(parts) <= set(columns)
            or len(set(parts)) < len(parts)
            or (PLAIN in parts and len(parts) > 1)
            or max(Counter(in_words[part].space for part in parts if part in in_words).values(), default=0)
            > 1
        ):
            raise ValueError(
                f"--methods {methods!r}: {name!r} is no column; use {', '.join(columns)}, or several of them joined "
                f"by + (not {PLAIN}, and of each space of `negguide methods` one)"
            )
        if not minus and {CLASSIC, *in_words} & set(parts):
            raise ValueError(f"--methods {methods!r}: {name!r} needs something to leave out; give --negative")
    _check_once("--methods", wanted)
    return wanted


def _weighted(
    plain: Job, minus: NegativesMethod, weights: str, suited: Defaults
) -> tuple[list[str], list[Job]]:
    for negative in minus.negatives:
        if negative.weight not in (1.0, suited.negative.get("weight", 1.0)):
            raise ValueError(
                f"--weights takes the place of the weight {negative.weight_in_words} of --negative "
                f"{negative.prompt!r}; leave out one of the two"
            )
    labels, jobs = ["plain"], [plain]
    for text in weights.split(","):
        try:
            weight = float(text)
        except ValueError:
            weight = math.nan
        if not 0 <= weight < math.inf:
            raise ValueError(
                f"--weights must be numbers >= 0 with commas between, e.g. 0.5,1,2, got {weights!r}"
            )
        negatives = [replace(negative, weight=weight) for negative in minus.negatives]
        labels.append(f"weight {weight:g}")
        jobs.append(replace(plain, methods=(minus.with_negatives(*negatives),)))
    _check_once("--weights", labels)
    return labels, jobs


def _check_once(option: str, columns: Sequence[str]) -> None:
    twice = [name for name, count in Counter(columns).items() if count > 1]
    if twice:
        raise ValueError(f"{option}: {', '.join(twice)} is there more than once; each column differs")


def _with(
    plain: Job, parts: list[str], in_words: Mapping[str, Any], apart: NegToMe | None, negative_prompt: str
) -> Job:
    found: list[Method] = [method for key, method in in_words.items() if key in parts]
    if apart is not None and apart.key in parts:
        found.append(apart)
    return replace(
        plain,
        methods=tuple(found),
        negative_prompt=negative_prompt if CLASSIC in parts else "",
    )


def _check_used(jobs: list[Job], minus: NegativesMethod | None, apart: NegToMe | None) -> None:
    """Refuse options that no column shows."""
    from negguide.methods.choices import methods_in_words

    if apart is not None and not any(apart in job.methods for job in jobs):
        raise ValueError(f"--negtome and --reference are in no column; add {apart.key} to --methods")
    if minus is not None and not any(job.negatives or job.negative_prompt for job in jobs):
        raise ValueError(
            f"--negative is in no column; add one of {CLASSIC}, {', '.join(methods_in_words())} to --methods"
        )
