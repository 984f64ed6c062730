"""Solids of the embedded world, fitted view by view, and the turntables that are made in advance."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from negguide.toyworld.domain import TOYWORLD, TOYWORLD_DEFAULTS
from negguide.toyworld.scene_judge import SceneJudge
from negguide.toyworld.stage import Stage, as_image
from negguide.views import (
    Fit,
    Schedule,
    ScoreDistillation,
    SolidFit,
    ViewPrompts,
    Views,
    view_prompts,
    view_text,
)

NOTHING, WORDS, PERP_NEG = "nothing", "words", "perp-neg"
SAID_BY = {
    NOTHING: "nothing: the prompt alone at every camera",
    WORDS: "words: “back view” and so on",
    PERP_NEG: "words, and Perp-Neg against the other views",
}
"""What tells the cameras of a solid apart."""
ROUNDS = 26
NOISE = (1.0, 0.2)
"""Where on the noise schedule the first and the last round begin to denoise."""
FRAME_MS = 90
SIDE = 192
"""Pixels along an edge of a turntable."""
COLORS = 64

PROMPT, SEED = "a rabbit", 12000
"""Of the turntables that are made in advance."""
MADE = {said_by: Path(__file__).with_name("turntables") / f"{said_by}.gif" for said_by in (NOTHING, PERP_NEG)}


def solid_of(pipe: Any, prompt: str, said_by: str, seed: int, rounds: int = ROUNDS) -> SolidFit:
    """A solid to be fitted to a prompt, round by round.

    Args:
        pipe: the embedded model's.
        prompt: one character, without a view.
        said_by: a key of `SAID_BY`.
        seed: of the start, the cameras and the noise.
        rounds: each renders four views, denoises them to what their cameras should see, and fits the solid to that.

    Raises:
        ValueError: not of the world's language, a view, several characters, or an unknown `said_by`.
    """
    if said_by not in SAID_BY:
        raise ValueError(f"views must be said by one of {', '.join(SAID_BY)}, got {said_by!r}")
    stage = Stage(prompt)
    distill = ScoreDistillation(
        pipe,
        stage.prompt,
        schedule=Schedule(rounds, *NOISE),
        views=_views(stage, said_by),
        loss="denoise",
        guidance_scale=TOYWORLD_DEFAULTS.guidance_scale,
        seed=seed,
    )
    return SolidFit(distill, stage.backdrop, Fit(seed=seed), straighten=stage.straighten())


def _views(stage: Stage, said_by: str) -> Views:
    if said_by == PERP_NEG:
        return stage.views()

    def at(azimuths: Sequence[float], elevations: Sequence[float]) -> ViewPrompts:
        cameras = [
            replace(one, negatives=()) for one in view_prompts(azimuths, elevations, preset=stage.preset)
        ]
        words = [view_text(stage.prompt, one.view, model=TOYWORLD) for one in cameras]
        prompts = words if said_by == WORDS else [stage.prompt] * len(cameras)
        return ViewPrompts(prompts, [[] for _ in cameras])

    return at


def turntable(fit: SolidFit) -> bytes:
    """The solid from all around, as a GIF."""
    frames = [
        as_image(picture).resize((SIDE, SIDE), Image.Resampling.LANCZOS).quantize(COLORS)
        for picture in fit.turntable()
    ]
    buffer = io.BytesIO()
    frames[0].save(
        buffer, "GIF", save_all=True, append_images=frames[1:], duration=FRAME_MS, loop=0, optimize=True
    )
    return buffer.getvalue()


BACK = tuple(range(135, 226, 15))
"""Azimuths from which a solid is seen from behind, in degrees."""


def faces_at_the_back(fit: SolidFit) -> tuple[int, int]:
    """From how many azimuths a solid was looked at from behind, and in how many of the pictures there is a face."""
    images = [as_image(picture) for picture in fit.turntable(tuple(float(at) for at in BACK))]
    return len(BACK), SceneJudge().views(images).count("front")
