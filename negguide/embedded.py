"""The embedded models by name: where they lie, how they are called, and what suits them. Nothing is loaded here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any


def _frozen(**values: Any) -> Mapping[str, Any]:
    return MappingProxyType(values)


@dataclass(frozen=True)
class Defaults:
    """What suits a model unless the user says otherwise.

    Attributes:
        guidance_scale: of classifier-free guidance, where the pipeline is not asked (`own_guidance_scale`).
        negtome: arguments of `NegToMe` that differ from its own defaults.
        negtome_images: those of it with reference images; None = `negtome`, as without.
        negative: arguments of a `Negative` of `PerpNeg` that do.
        attention: {key: arguments} of the methods in attention space that do, e.g. of "nag".
    """

    guidance_scale: float = 7.5
    negtome: Mapping[str, Any] = field(default_factory=_frozen)
    negtome_images: Mapping[str, Any] | None = None
    negative: Mapping[str, Any] = field(default_factory=_frozen)
    attention: Mapping[str, Mapping[str, Any]] = field(default_factory=_frozen)

    def arguments(self, key: str, images: bool = False) -> Mapping[str, Any]:
        """The arguments of the method with this key that differ from its own defaults, with reference images or not."""
        return self.of_negtome(images) if key == "negtome" else self.attention.get(key, {})

    def of_negtome(self, images: bool) -> Mapping[str, Any]:
        """Arguments of `NegToMe`, with reference images or without."""
        return self.negtome if self.negtome_images is None or not images else self.negtome_images


@dataclass(frozen=True)
class Embedded:
    """An embedded text-to-image model of the toy world.

    Attributes:
        name: accepted wherever a model id goes.
        about: what it is, in a few words.
        folder: below the package's weights.
        pipeline: the class that it is loaded as.
        steps: of the sampler, that suit it.
        draft_steps: where many pictures are drawn while somebody waits: in the demo, for mining and benchmarks.
        always_guided: whether it draws poorly without classifier-free guidance; the others take it only where negatives
            need it.
        call: further arguments of its pipeline's call, without which it draws another size or longer texts than it has
            learned.
        defaults: of it and of the methods on it.
        base: the embedded model whose weights it shares; its own are stored as differences (`toyworld.deltas`).
    """

    name: str
    about: str
    folder: str
    pipeline: str
    steps: int
    draft_steps: int
    defaults: Defaults
    always_guided: bool = False
    call: Mapping[str, Any] = field(default_factory=_frozen)
    base: str | None = None


TOYWORLD = "toyworld"
"""The name of the embedded model that is used unless another is named."""
TOYWORLD_FLOW = "toyworld-flow"
TOYWORLD_DISTILLED = "toyworld-flow-distilled"
TOYWORLD_TURBO = "toyworld-flow-turbo"

TOYWORLD_DEFAULTS = Defaults(
    guidance_scale=5.0,
    # A small model's tokens are nearly parallel, so it is pushed much harder than SDXL; at its 8x8 feature maps, which
    # decide what is seen and cost next to nothing.
    negtome=_frozen(
        alpha=10.0,
        threshold=0.65,
        stop=0.25,
        blocks=r"(down_blocks\.1|mid_block|up_blocks\.0).*attn1$",
    ),
    # goes far from the trademark character and keeps most of what was asked for (benchmarks/reference.py)
    negtome_images=_frozen(
        alpha=8.0,
        threshold=0.3,
        stop=0.25,
        blocks="attn1$",
        center=True,
        perpendicular=True,
        match_every=4,
    ),
    # keeps and removes most (benchmarks/overlap.py); larger models are broken by so much
    negative=_frozen(weight=3.0),
    # how they were chosen: docs/values.md
    attention=_frozen(
        # the published cap and blend are those of large models; with these the scale alone decides
        nag=_frozen(scale=3.0, tau=5.0, alpha=1.0),
        ong=_frozen(scale=2.0),
        # a negative's text, as long as the prompt's with its padding, would take half of the attention from it
        vsf=_frozen(orthogonal=True),
    ),
)

FLOW_DEFAULTS = Defaults(
    guidance_scale=4.0,
    # What is published for FLUX suits the four-step model (benchmarks/sweep_attention.py, sweep_negtome.py) but for two
    # things, as on the UNet: it moves nothing away from an image, and VSF loses the prompt with it.
    negtome_images=_frozen(
        alpha=3.0,
        threshold=0.3,
        stop=0.25,
        blocks=r"^transformer_blocks",
        center=True,
        perpendicular=True,
    ),
    attention=_frozen(vsf=_frozen(scale=1.5, orthogonal=True)),
)

# FLUX's pipeline draws 1024x1024 from 512 tokens unless told
_FLOW_CALL = _frozen(height=64, width=64, max_sequence_length=64)

EMBEDDED: Mapping[str, Embedded] = MappingProxyType(
    {
        model.name: model
        for model in (
            Embedded(
                name=TOYWORLD,
                about="a UNet of Stable Diffusion's kind",
                folder="text-to-image",
                pipeline="StableDiffusionPipeline",
                steps=25,
                draft_steps=12,
                always_guided=True,
                defaults=TOYWORLD_DEFAULTS,
            ),
            Embedded(
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
            Embedded(
                name=TOYWORLD_DISTILLED,
                about="distilled from it: guidance is an input, as of FLUX.1 [dev]",
                folder="flow-distilled",
                pipeline="FluxPipeline",
                steps=20,
                draft_steps=12,
                call=_frozen(**_FLOW_CALL, guidance_scale=4.0),
                defaults=FLOW_DEFAULTS,
                base=TOYWORLD_FLOW,
            ),
            Embedded(
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
