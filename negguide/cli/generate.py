"""`negguide generate`: images from a prompt, each with its settings inside; and the same images again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from negguide.cli import guidance, options
from negguide.cli.output import check_folder, remark, show
from negguide.cli.syntax import parse_lora
from negguide.storage import write_whole

if TYPE_CHECKING:
    from negguide.cli.attachments import Attachments
    from negguide.cli.draw import Drawn

_FREE_AT_REPLAY = {"replay", "out"}


def generate(
    ctx: typer.Context,
    prompt: Annotated[str | None, typer.Argument(help=options.PROMPT_HELP)] = None,
    negative: options.NegativeOption = None,
    joint: options.JointOption = False,
    refresh_every: options.RefreshOption = None,
    adaptive: options.AdaptiveOption = False,
    economy: options.EconomyOption = False,
    max_sequence_length: options.LengthOption = None,
    method: options.MethodOption = options.METHOD,
    scale: options.ScaleOption = None,
    negative_prompt: Annotated[str, typer.Option(help="The classic negative prompt of diffusers.")] = "",
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
    num_images: Annotated[int, typer.Option(help="How many images.")] = 1,
    seed: options.SeedOption = options.SEED,
    device: options.DeviceOption = options.DEVICE,
    dtype: options.DtypeOption = options.DTYPE,
    offload: options.OffloadOption = options.OFFLOAD,
    out: options.OutOption = options.OUT,
    replay: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="FILE",
            help="Make the images of a .json or .png of this command again, to the same bytes on the same machine.",
        ),
    ] = None,
) -> None:
    """Draw PROMPT, with things left out.

    Writes one PNG per image with its settings inside, and a JSON file that --from replays.
    """
    check_folder(out)
    if replay is not None:
        _replay(ctx, replay, out)
        return
    if prompt is None:
        raise ValueError("give a PROMPT, e.g. negguide generate 'a bear wearing glasses', or --from FILE")
    from negguide.cli.attachments import Attachments
    from negguide.cli.draw import draw
    from negguide.cli.job import Job, choose_device, choose_dtype
    from negguide.models import check_model, defaults, usual_steps

    model = check_model(model)
    steps = usual_steps(model) if steps is None else steps
    attachments = Attachments()
    suited = defaults(model)
    numbers = {
        "alpha": alpha,
        "threshold": threshold,
        "blocks": blocks,
        "center": center,
        "max_push": max_push,
        "perpendicular": perpendicular,
        "match_every": match_every,
    }
    said = guidance.said_of_method(joint, refresh_every, adaptive, economy, max_sequence_length)
    minus = guidance.in_words(negative, said, method, scale, suited)
    apart = guidance.negtome(
        negtome, reference, numbers, negtome_window, mask, reference_mask, suited, attachments
    )
    in_words, apart = guidance.in_timesteps(
        {} if minus is None else {method: minus}, apart, timestep_window, negtome_window
    )
    device = choose_device(device)
    job = Job(
        prompt=prompt,
        negative_prompt=negative_prompt,
        methods=(*in_words.values(), *([] if apart is None else [apart])),
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
    guidance.say_negatives(negative, minus)
    show(*_write(draw([job])[0], attachments, out)[0])


def _replay(ctx: typer.Context, source: Path, out: Path) -> None:
    given = [
        parameter.opts[0] if parameter.opts[0].startswith("-") else "PROMPT"
        for parameter in ctx.command.params
        if parameter.name not in _FREE_AT_REPLAY
        and getattr(ctx.get_parameter_source(parameter.name or ""), "name", "") == "COMMANDLINE"
    ]
    if given:
        raise ValueError(
            f"--from repeats what {source} says; it goes with --out only, not with {', '.join(given)}"
        )
    from negguide.cli.attachments import Attachments
    from negguide.cli.draw import draw
    from negguide.cli.job import Job, choose_device, choose_dtype
    from negguide.models import check_model
    from negguide.pictures import read_settings

    settings = read_settings(source)
    attachments = Attachments(source.parent)
    try:
        if settings.get("command") != "generate":
            raise ValueError(f"made by {settings.get('command', 'something else')!r}, not by 'generate'")
        job = Job.from_dict(settings, attachments.load)
        check_model(job.model)
        device = choose_device(job.device)
        dtype = choose_dtype(job.dtype, device, job.model, job.pipeline)
        job = dataclasses.replace(job, device=device, dtype=dtype)
        expected = _recorded(settings, source, len(job.seeds))
    except (TypeError, ValueError) as error:
        raise ValueError(f"--from {source}: {error}") from error
    paths, made = _write(draw([job])[0], attachments, out, expected)
    show(*paths)
    _compare(settings, made, expected)


def _write(
    drawn: Drawn, attachments: Attachments, out: Path, recorded: Mapping[int, str] = MappingProxyType({})
) -> tuple[list[Path], dict[str, Any]]:
    """Write all files; returns their paths, the JSON file's last, and what it holds.

    Args:
        recorded: {place of an image: its sha256}, of images that must not be written over by others.

    Raises:
        ValueError: one would be.
    """
    from negguide.models import revision
    from negguide.pictures import file_name, png_with, save_json, versions

    job = drawn.job
    stored = job.to_dict(attachments.save)
    digest = hashlib.sha256(json.dumps(stored, sort_keys=True).encode()).hexdigest()
    name = f"{file_name(job.prompt)}-{digest[:8]}"
    settings = {"command": "generate", **stored, "revision": revision(job.model), "versions": versions()}
    paths, contents, records = [], [], []
    for i, (image, seed) in enumerate(zip(drawn.images, job.seeds, strict=True)):
        path = out / f"{name}-seed{seed}.png"
        content = png_with(image, {**settings, "image": i})
        sha256 = hashlib.sha256(content).hexdigest()
        if sha256 != recorded.get(i, sha256) and _holds(path, recorded[i]):
            raise ValueError(
                f"--out {out}: {path.name} there is the recorded image, and the one that was made now differs; give "
                "another folder, so that both can be compared"
            )
        records.append({"file": path.name, "seed": seed, "sha256": sha256})
        paths.append(path)
        contents.append(content)
    attachments.write(out)
    for path, content in zip(paths, contents, strict=True):
        write_whole(path, content)
    # last, so that it names only what is there
    sidecar = out / f"{name}.json"
    save_json({**settings, "images": records}, sidecar)
    return [*paths, sidecar], {**settings, "images": records}


def _holds(path: Path, sha256: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256


def _recorded(settings: Mapping[str, Any], source: Path, count: int) -> dict[int, str]:
    """The sha256 of the images that `source` knows, by their place among all `count`."""
    if settings.get("image") in range(count):
        return {settings["image"]: hashlib.sha256(source.read_bytes()).hexdigest()}
    records = settings.get("images")
    if not isinstance(records, list) or len(records) != count:
        raise ValueError(f"the settings must list their {count} images")
    return {
        i: record.get("sha256", "") if isinstance(record, dict) else "" for i, record in enumerate(records)
    }


def _compare(old: Mapping[str, Any], new: Mapping[str, Any], expected: Mapping[int, str]) -> None:
    changed = [i for i, sha256 in expected.items() if new["images"][i]["sha256"] != sha256]
    if not changed:
        remark("identical to the recorded images")
        return
    then, now = (
        {"revision": settings.get("revision"), **settings.get("versions", {})} for settings in (old, new)
    )
    reasons = [f"{key} was {then.get(key)}, is {now[key]}" for key in now if then.get(key) != now[key]]
    remark(
        f"{len(changed)} of {len(expected)} images differ from the recorded ones: "
        + ("; ".join(reasons) if reasons else "the versions are the same, so another machine made them")
    )
