"""The toy world as a domain, and its text-to-image models by name. Nothing is loaded here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from negguide.domain import Defaults, Domain, DomainClip, DomainModel, frozen, register_domain

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

    from negguide.demo.examples import Page
    from negguide.domain import DomainJudge, Language
    from negguide.mining.edits.closed import ClosedPlanner
    from negguide.mining.sources import Input
    from negguide.mining.verify.margins import PairJudge
    from negguide.views import Preset
    from negguide.vlm.evaluation.suites.base import Suite

WEIGHTS = Path(__file__).parent / "weights"
TEXT_TO_IMAGE = WEIGHTS / "text-to-image"
CLIP = WEIGHTS / "clip"
JUDGE = WEIGHTS / "judge"
_PROMPTS = Path(__file__).parent / "prompts"


@dataclass(frozen=True, kw_only=True)
class ToyworldModel(DomainModel):
    """An embedded text-to-image model of the toy world.

    Attributes:
        folder: below the package's weights.
        base: the embedded model whose weights it shares; its own are stored as differences (`toyworld.deltas`).
        bfloat16: as all were trained.
    """

    folder: str
    base: str | None = None
    bfloat16: bool = True


TOYWORLD = "toyworld"
"""The name of the embedded model that is used unless another is named."""
TOYWORLD_FLOW = "toyworld-flow"
TOYWORLD_DISTILLED = "toyworld-flow-distilled"
TOYWORLD_TURBO = "toyworld-flow-turbo"

TOYWORLD_DEFAULTS = Defaults(
    guidance_scale=5.0,
    # A small model's tokens are nearly parallel, so it is pushed much harder than SDXL; at its 8x8 feature maps, which
    # decide what is seen and cost next to nothing.
    negtome=frozen(
        alpha=10.0,
        threshold=0.65,
        stop=0.25,
        blocks=r"(down_blocks\.1|mid_block|up_blocks\.0).*attn1$",
    ),
    # goes far from the trademark character and keeps most of what was asked for (benchmarks/reference.py)
    negtome_images=frozen(
        alpha=8.0,
        threshold=0.3,
        stop=0.25,
        blocks="attn1$",
        center=True,
        perpendicular=True,
        match_every=4,
    ),
    # keeps and removes most (benchmarks/overlap.py); larger models are broken by so much
    negative=frozen(weight=3.0),
    # how they were chosen: docs/values.md
    attention=frozen(
        # the published cap and blend are those of large models; with these the scale alone decides
        nag=frozen(scale=3.0, tau=5.0, alpha=1.0),
        ong=frozen(scale=2.0),
        # a negative's text, as long as the prompt's with its padding, would take half of the attention from it
        vsf=frozen(orthogonal=True),
    ),
)

FLOW_DEFAULTS = Defaults(
    guidance_scale=4.0,
    # What is published for FLUX suits the four-step model (benchmarks/sweep_attention.py, sweep_negtome.py) but for two
    # things, as on the UNet: it moves nothing away from an image, and VSF loses the prompt with it.
    negtome_images=frozen(
        alpha=3.0,
        threshold=0.3,
        stop=0.25,
        blocks=r"^transformer_blocks",
        center=True,
        perpendicular=True,
    ),
    # keeps and removes all there (benchmarks/overlap.py --model toyworld-flow)
    negative=frozen(weight=3.0),
    attention=frozen(vsf=frozen(scale=1.5, orthogonal=True)),
)

# with the scale of the four-step model VSF keeps too little (benchmarks/overlap.py --model toyworld-flow-distilled)
DISTILLED_DEFAULTS = replace(FLOW_DEFAULTS, attention=frozen(vsf=frozen(scale=1.0, orthogonal=True)))

# FLUX's pipeline draws 1024x1024 from 512 tokens unless told
_FLOW_CALL = frozen(height=64, width=64, max_sequence_length=64)

EMBEDDED: Mapping[str, ToyworldModel] = MappingProxyType(
    {
        model.name: model
        for model in (
            ToyworldModel(
                name=TOYWORLD,
                about="a UNet of Stable Diffusion's kind",
                folder="text-to-image",
                pipeline="StableDiffusionPipeline",
                steps=25,
                draft_steps=12,
                always_guided=True,
                defaults=TOYWORLD_DEFAULTS,
            ),
            ToyworldModel(
                name=TOYWORLD_FLOW,
                about="a flow-matching transformer of FLUX's kind, guided by true CFG",
                folder="flow",
                pipeline="FluxPipeline",
                steps=20,
                draft_steps=12,
                always_guided=True,
                call=_FLOW_CALL,
                defaults=FLOW_DEFAULTS,
            ),
            ToyworldModel(
                name=TOYWORLD_DISTILLED,
                about="distilled from it: guidance is an input, as of FLUX.1 [dev]",
                folder="flow-distilled",
                pipeline="FluxPipeline",
                steps=20,
                draft_steps=12,
                call=frozen(**_FLOW_CALL, guidance_scale=4.0),
                defaults=DISTILLED_DEFAULTS,
                base=TOYWORLD_FLOW,
            ),
            ToyworldModel(
                name=TOYWORLD_TURBO,
                about="distilled from that: four steps without guidance, as of FLUX.1 [schnell]",
                folder="flow-turbo",
                pipeline="FluxPipeline",
                steps=4,
                draft_steps=4,
                call=_FLOW_CALL,
                defaults=FLOW_DEFAULTS,
                base=TOYWORLD_FLOW,
            ),
        )
    }
)
"""The embedded models by name, the one that is used unless another is named first."""


def _load_pipeline(name: str, dtype: torch.dtype, kind: type[DiffusionPipeline] | None) -> Any:
    from negguide.toyworld.models import load_pipeline

    return load_pipeline(name, dtype=dtype, kind=kind)


def _folders(name: str) -> tuple[Path, ...]:
    from negguide.toyworld.models import folders_of

    return folders_of(name)


def _language() -> Language:
    from negguide.toyworld import language

    return language


def _planner(**options: Any) -> ClosedPlanner:
    from negguide.toyworld.edits import ToyworldRules

    return ToyworldRules(**options)


def _pair_judge(device: str) -> PairJudge:
    from negguide.toyworld.pair_judge import WorldJudge

    return WorldJudge(device)


def _judge(device: str) -> DomainJudge:
    from negguide.toyworld.scene_judge import SceneJudge

    return SceneJudge(device)


def _source(count: int, **options: Any) -> Input:
    from negguide.toyworld.source import ToyworldScenes

    return ToyworldScenes(count, **options)


def _first_draw(limit: int | None = None) -> Suite:
    from negguide.toyworld.suite import toyworld

    return toyworld(limit)


def _second_draw(limit: int | None = None) -> Suite:
    from negguide.toyworld.suite import toyworld

    return toyworld(limit, draw=2)


def _preset() -> Preset:
    from negguide.views import find_preset

    return find_preset(TOYWORLD)


def _page() -> Page:
    from negguide.toyworld.page import PAGE

    return PAGE


DOMAIN = register_domain(
    Domain(
        name=TOYWORLD,
        title="the toy world",
        models=EMBEDDED,
        load_pipeline=_load_pipeline,
        folders=_folders,
        language=_language,
        planner=_planner,
        pair_judge=_pair_judge,
        judge=_judge,
        source=_source,
        judge_folder=JUDGE,
        clip=DomainClip(CLIP, lr=1e-4),
        suites=frozen(**{kind: _PROMPTS / f"{kind}.json" for kind in ("overlap", "diversity", "reference")}),
        evaluation={TOYWORLD: _first_draw, f"{TOYWORLD}-2": _second_draw},
        preset=_preset,
        page=_page,
    )
)
