"""From what a user asks for to settings and the parts that make a set."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

from negguide._utils.text import listed
from negguide.domain import clip_of, registered_domains
from negguide.mining.block import Miner
from negguide.mining.build_text import Built, planner_of
from negguide.mining.render.regions import DetectorRegion, make_region
from negguide.mining.settings import Settings
from negguide.mining.sources import open_source
from negguide.mining.verify.judge import check_independent, load_judge
from negguide.mining.verify.margins import PairJudge
from negguide.mining.verify.questions import VqaAsker


def build(
    *,
    data: str,
    data_options: Mapping[str, Any],
    backend: str,
    planner_options: Mapping[str, Any],
    model: str,
    judge: str | None,
    device: str,
    dtype: str,
    guidance_scale: float | None,
    diversify: bool,
    absolute_margin: float | None,
    say: Callable[[str], None] = warnings.warn,
    judge_of: Callable[[str, str], PairJudge] = load_judge,
    **options: Any,
) -> Built:
    """Open the input and load the models; ``options`` are fields of ``Settings``.

    Args:
        judge: None = that of the closed world which the input is of; other inputs have no default.
        guidance_scale, absolute_margin: None = what suits the model, and the judge.
        judge_of: gives the judge of a name, on a device.
        say: is told what the server of a planner does not take, and when it is waited for.

    Raises:
        TypeError, ValueError: an option is wrong, or something cannot be loaded.
        ImportError: a package is missing that an option needs.
    """
    source = open_source(data, **data_options)
    if judge is None:
        judge = source.world
    if judge is None:
        titles = [domain.title for domain in registered_domains().values()]
        raise ValueError(
            f"--judge is needed for data that are not of {listed(titles, 'or')}: clip:MODEL or itm:MODEL, e.g. "
            "itm:Salesforce/blip-itm-base-coco"
        )
    own = registered_domains().get(judge)
    if own is not None and source.world != own.name:
        raise ValueError(f"--judge {judge} reads pictures of {own.title} alone; use clip:MODEL or itm:MODEL")
    # before anything is loaded; a world's judge is no CLIP, though its CLIP goes by the same name
    if own is None:
        check_independent(judge.partition(":")[2] or judge, options.get("train_model"))
    if diversify and options.get("per_item", 1) < 2:
        raise ValueError(
            "--diversify pushes the images of one caption apart, and with --per-item 1 each has but one; use "
            "--per-item 2 or more, or leave --diversify out"
        )
    planner = planner_of(source, backend, planner_options, device, say)

    from negguide.methods import NegToMe
    from negguide.mining.render.pipeline import PipelinePainter
    from negguide.models import check_model, defaults, load_pipeline, own_guidance_scale, revision
    from negguide.pictures import versions

    model = check_model(model)
    suited = defaults(model)
    loaded = judge_of(judge, device)
    push = NegToMe("others", **suited.negtome) if diversify else None
    names = {f.name for f in fields(Settings)}
    unknown = sorted(set(options) - names)
    if unknown:
        raise TypeError(f"build has no argument {', '.join(unknown)}")
    pipe = load_pipeline(model, dtype=_dtype(dtype, device), device=device)
    if dtype == "bfloat16" and device == "cpu":
        _autocast(pipe)
    if guidance_scale is None:
        guided = options.get("method", "perp-neg") != "plain"
        guidance_scale = own_guidance_scale(pipe, guided=guided)
    settings = Settings(
        data={"name": source.name, "licence": source.licence, **source.description},
        planner=planner.description,
        model=model,
        revision=revision(model),
        judge=loaded.name,
        judge_revision=_judge_revision(loaded.model, judge),
        dtype=dtype,
        guidance_scale=guidance_scale,
        diversify=None if push is None else push.to_dict(),
        absolute_margin=loaded.margins.absolute_margin if absolute_margin is None else absolute_margin,
        **options,
    )
    painter = PipelinePainter(
        pipe,
        mode=settings.mode,  # type: ignore[arg-type]
        method=settings.method,  # type: ignore[arg-type]
        steps=settings.steps,
        guidance_scale=settings.guidance_scale,
        batch_size=settings.batch_size,
        strength=settings.strength,
        diversify=push,
    )
    region = None
    if settings.mode == "inpaint":
        region = make_region(settings.region, pipe, painter.family, device)
    asker = None if settings.vqa is None else VqaAsker(settings.vqa, device)
    # known when they are loaded
    settings = replace(
        settings,
        vqa_revision=None if asker is None else asker.revision,
        region_revision=region.revision if isinstance(region, DetectorRegion) else None,
    )
    miner = Miner(settings, planner, painter, loaded, region, asker, licence=source.licence)
    return Built(source, settings, miner, versions())


def _dtype(name: str, device: str) -> Any:
    import torch

    # on the CPU only the denoiser computes in half precision, see _autocast
    return torch.float32 if device == "cpu" else getattr(torch, name)


def _autocast(pipe: Any) -> None:
    """Let the denoiser compute in bfloat16, with its weights and all around it in float32."""
    import torch

    for name in pipe.family.denoisers:
        denoiser = getattr(pipe, name, None)
        if denoiser is not None:
            denoiser.forward = torch.autocast("cpu", torch.bfloat16)(denoiser.forward)


def _judge_revision(model: str, judge: str) -> str | None:
    from negguide.models import revision, transformers_revision

    own, clip = registered_domains().get(judge), clip_of(model)
    if own is not None:
        return None if own.judge_folder is None else revision(str(own.judge_folder))
    if clip is not None:
        return revision(str(clip.folder))
    return transformers_revision(model)
