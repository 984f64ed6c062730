"""`negguide views --object`: a solid of the embedded model, as a mesh, a turntable and a sheet."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from negguide.cli.output import check_file, remark, show, steps_bar

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from negguide.toyworld.stage import Stage
    from negguide.views.presets import Preset
    from negguide.views.solid import Fit, SolidFit

ROUNDS = 26
NOISE = (1.0, 0.2)
"""Where on the noise schedule the first and the last round begin to denoise."""
PREVIEW_EVERY = 5
"""Rounds between two turntables of the solid as it is so far."""
FRAME_MS = 80
SHOWN = 12
"""Views of the sheet."""
ZOOM = 4


def draw_object(
    prompt: str,
    path: Path,
    *,
    model: str,
    preset: Preset,
    guidance_scale: float | None,
    seed: int,
    rounds: int,
) -> None:
    """Fit a solid to a prompt of the embedded world and write it beside `path`: .glb, .gif and .png.

    A run that is stopped goes on where it was: `<path>.fit` holds its last round.

    Raises:
        ValueError: another model than the embedded UNet, a prompt that the world does not know, or a path that does not
            end in .glb.
        ImportError: a package for meshes is missing.
    """
    from negguide.toyworld.domain import TOYWORLD, TOYWORLD_DEFAULTS
    from negguide.views.hull import check_packages, mesh, save_glb

    if model != TOYWORLD:
        raise ValueError(
            f"--object is of the embedded UNet ({TOYWORLD}), got --model {model}; for others there is "
            "negguide.views.ScoreDistillation, with a renderer of your own"
        )
    if path.suffix.lower() != ".glb":
        raise ValueError(f"--object {path}: the name must end in .glb, e.g. {path.with_suffix('.glb')}")
    # now, and not after the fit
    check_packages()
    check_file(path, "--object")
    drawn = draw_turntable(
        prompt,
        path,
        preset=preset,
        guidance_scale=TOYWORLD_DEFAULTS.guidance_scale if guidance_scale is None else guidance_scale,
        seed=seed,
        rounds=rounds,
    )
    save_glb(mesh(*drawn.fit.outlines()), path)
    drawn.state.unlink()
    remark(drawn.reading)
    show(path, drawn.turntable, drawn.sheet)


@dataclass(frozen=True)
class Turntable:
    """A solid and its pictures.

    Attributes:
        fit: with all rounds done.
        turntable, sheet: the files that were written, .gif and .png.
        state: the file with which the run would have gone on; whoever is done deletes it.
        reading: how often the judge reads the view of the camera.
    """

    fit: SolidFit
    turntable: Path
    sheet: Path
    state: Path
    reading: str


def draw_turntable(
    prompt: str, path: Path, *, preset: Preset, guidance_scale: float, seed: int, rounds: int = ROUNDS
) -> Turntable:
    """Fit a solid and write its pictures beside `path`: .gif and .png. It is resumed from `<path>.fit`.

    Raises:
        ValueError: a prompt that the world does not know, or the state of another run.
    """
    from negguide.models import load_pipeline
    from negguide.toyworld.domain import TOYWORLD
    from negguide.toyworld.stage import Stage
    from negguide.views.distillation import ScoreDistillation
    from negguide.views.schedule import Schedule
    from negguide.views.solid import Fit, SolidFit

    stage, options = Stage(prompt, preset), Fit(seed=seed)
    settings = _settings(stage, options, guidance_scale, rounds)
    pipe = load_pipeline(TOYWORLD)
    pipe.set_progress_bar_config(disable=True)
    distill = ScoreDistillation(
        pipe,
        stage.prompt,
        schedule=Schedule(rounds, *NOISE),
        views=stage.views(),
        loss="denoise",
        guidance_scale=guidance_scale,
        seed=seed,
    )
    fit = SolidFit(distill, stage.backdrop, options, straighten=stage.straighten())
    turntable, sheet, state = (path.with_suffix(end) for end in (".gif", ".png", ".fit"))
    _resume(fit, state, settings)
    with steps_bar(f"“{stage.prompt}” as a solid", rounds - fit.done) as advance:
        while fit.done < rounds:
            fit.round()
            advance()
            _keep(fit, state, settings)
            if fit.done % PREVIEW_EVERY == 0:
                _write_turntable(fit, turntable)
    _write_turntable(fit, turntable)
    right = _write_sheet(fit, stage, sheet, settings)
    reading = f"the judge reads the view of the camera in {right} of {SHOWN} pictures"
    return Turntable(fit, turntable, sheet, state, reading)


def check_state(
    prompt: str, path: Path, *, preset: Preset, guidance_scale: float, seed: int, rounds: int = ROUNDS
) -> None:
    """Refuse, before anything is drawn, where `draw_turntable` would find the state of another run.

    Raises:
        ValueError: as `draw_turntable`.
    """
    from negguide.toyworld.stage import Stage
    from negguide.views.solid import Fit

    settings = _settings(Stage(prompt, preset), Fit(seed=seed), guidance_scale, rounds)
    _stored(path.with_suffix(".fit"), settings)


def _settings(stage: Stage, options: Fit, guidance_scale: float, rounds: int) -> dict[str, Any]:
    """What decides how a solid looks."""
    from negguide.models import revision
    from negguide.pictures import versions
    from negguide.toyworld.domain import TOYWORLD
    from negguide.views import find_preset

    return {
        "command": "views --object",
        "prompt": stage.prompt,
        "preset": find_preset(stage.preset).name,
        "rounds": rounds,
        "noise": NOISE,
        "guidance_scale": guidance_scale,
        "fit": asdict(options),
        "revision": revision(TOYWORLD),
        "versions": versions(),
    }


def _fingerprint(settings: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _keep(fit: SolidFit, path: Path, settings: dict[str, Any]) -> None:
    from safetensors.torch import save

    from negguide.storage import write_whole

    write_whole(path, save(fit.state_dict(), {"fingerprint": _fingerprint(settings)}))


def _resume(fit: SolidFit, path: Path, settings: dict[str, Any]) -> None:
    state = _stored(path, settings)
    if state is not None:
        fit.load_state_dict(state)
        remark(f"goes on at round {fit.done} of {fit.rounds}, from {path}")


def _stored(path: Path, settings: dict[str, Any]) -> dict[str, Tensor] | None:
    """The state of a run that was stopped; None where there is none."""
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            fingerprint = (file.metadata() or {}).get("fingerprint")
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(_not_ours(path)) from error
    if fingerprint is None:
        raise ValueError(_not_ours(path))
    if fingerprint != _fingerprint(settings):
        raise ValueError(f"{path} is of a run with other settings; delete it, or give another name")
    return state


def _not_ours(path: Path) -> str:
    return f"{path} is no state of such a run; delete it, or give another name"


def _write_turntable(fit: SolidFit, path: Path) -> None:
    from negguide.storage import write_whole
    from negguide.toyworld.stage import as_image

    frames = [_larger(as_image(picture)) for picture in fit.turntable()]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=FRAME_MS, loop=0)
    write_whole(path, buffer.getvalue())


def _write_sheet(fit: SolidFit, stage: Stage, path: Path, settings: dict[str, Any]) -> int:
    """Write the sheet with what the judge reads; gives in how many views it reads the camera's."""
    from negguide.pictures import grid, save_png
    from negguide.toyworld.models import load_judge
    from negguide.toyworld.stage import as_image
    from negguide.views import view_prompts

    azimuths = [360 * i / SHOWN for i in range(SHOWN)]
    images = [as_image(picture) for picture in fit.turntable(tuple(azimuths))]
    seen = [scene.characters[0] if scene.characters else None for scene in load_judge().read(images)]
    readings = [f"{one.fur} {one.kind}, {one.view}" if one else "nobody" for one in seen]
    wanted = [camera.view for camera in view_prompts(azimuths, preset=stage.preset)]
    half = SHOWN // 2
    sheet = grid(
        [[_larger(image, 2) for image in images[start : start + half]] for start in (0, half)],
        title=f"“{stage.prompt}” as a solid",
        footer=f"preset {settings['preset']} · seed {settings['fit']['seed']} · {settings['rounds']} rounds",
        captions=[
            [f"{azimuths[i]:g}°: {readings[i]}" for i in range(start, start + half)] for start in (0, half)
        ],
    )
    save_png(sheet, path, {**settings, "readings": readings})
    return sum(one is not None and one.view == view for one, view in zip(seen, wanted, strict=True))


def _larger(image: Image.Image, times: int = ZOOM) -> Image.Image:
    from PIL import Image

    return image.resize((image.width * times, image.height * times), Image.Resampling.LANCZOS)
