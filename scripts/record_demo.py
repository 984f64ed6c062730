"""The moving pictures of the demo, from what the embedded model draws.

    python scripts/record_demo.py [--out docs/demo-slider.gif]
    python scripts/record_demo.py --turntables

The first goes into the README of the project: a line over three seeds and back, a classic negative
prompt on its left, Perp-Neg on its right. `--turntables` writes the solids that the demo shows first.
"""

from __future__ import annotations

import argparse
import math
import threading
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from negguide import Negative
from negguide.cli.errors import quiet_libraries
from negguide.demo.backend import Backend, Run
from negguide.demo.methods import CLASSIC, with_method
from negguide.demo.solids import MADE, SEED, solid_of, turntable
from negguide.demo.solids import PROMPT as PROMPT_OF_SOLIDS
from negguide.toyworld.page import PAGE

FIRST = PAGE.leave_out[0]
SEEDS, SIDE, GAP, TOP, BOTTOM = (0, 1, 2), 224, 12, 46, 34
FRAMES, MILLISECONDS = 40, 70
INK, PAPER, LINE = (28, 30, 38), (255, 255, 255), (99, 102, 241)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs" / "demo-slider.gif")
    parser.add_argument("--turntables", action="store_true", help="the solids of the demo, in the package")
    arguments = parser.parse_args()
    quiet_libraries()
    backend = Backend()
    if arguments.turntables:
        _turntables(backend)
    else:
        _slider(backend, arguments.out)


def _turntables(backend: Backend) -> None:
    for said_by, path in MADE.items():
        fit = solid_of(backend.pipe, PROMPT_OF_SOLIDS, said_by, SEED)
        while fit.done < fit.rounds:
            fit.round()
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(turntable(fit))
        print(f"{path} ({path.stat().st_size / 1024:.0f} kB)")


def _slider(backend: Backend, out: Path) -> None:
    plain = Run(FIRST.prompt, backend.steps, backend.suited.guidance_scale, SEEDS)
    weight, start, stop = backend.strength()
    negatives = [Negative(words, weight, start, stop) for words in FIRST.negatives]
    runs = [with_method(plain, way, negatives, None, backend.model) for way in (CLASSIC, FIRST.method)]
    pairs = [backend.draw(run, lambda: None, threading.Event()).images for run in runs]
    large = [[image.resize((SIDE, SIDE), Image.Resampling.BICUBIC) for image in images] for images in pairs]
    frames = [_frame(large, (1 - math.cos(2 * math.pi * i / FRAMES)) / 2) for i in range(FRAMES)]
    # one palette for all frames, so that nothing flickers
    palette = _palette(frames)
    small = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    out.parent.mkdir(parents=True, exist_ok=True)
    small[0].save(out, save_all=True, append_images=small[1:], duration=MILLISECONDS, loop=0, optimize=True)
    print(f"{out} ({out.stat().st_size / 1024:.0f} kB)")


def _frame(pairs: list[list[Image.Image]], share: float) -> Image.Image:
    """The pictures with the line at `share` of their width; left of it the first of each pair."""
    width = len(SEEDS) * (SIDE + GAP) + GAP
    frame = Image.new("RGB", (width, TOP + SIDE + BOTTOM), PAPER)
    draw = ImageDraw.Draw(frame)
    draw.text(
        (GAP, TOP / 2),
        " − ".join(f"“{words}”" for words in (FIRST.prompt, *FIRST.negatives)),
        INK,
        _font(19, True),
        anchor="lm",
    )
    at = round(share * SIDE)
    for place, (before, after) in enumerate(zip(*pairs, strict=True)):
        left = GAP + place * (SIDE + GAP)
        frame.paste(after, (left, TOP))
        frame.paste(before.crop((0, 0, at, SIDE)), (left, TOP))
        draw.line((left + at, TOP, left + at, TOP + SIDE - 1), LINE, 3)
        draw.text((left, TOP + SIDE + BOTTOM / 2), "negative prompt", INK, _font(15), anchor="lm")
        draw.text((left + SIDE, TOP + SIDE + BOTTOM / 2), "Perp-Neg", INK, _font(15), anchor="rm")
    return frame


def _palette(frames: list[Image.Image]) -> Image.Image:
    step = len(frames) // 4
    sample = Image.new("RGB", (frames[0].width, 4 * frames[0].height))
    for i in range(4):
        sample.paste(frames[i * step], (0, i * frames[0].height))
    return sample.quantize(128, Image.Quantize.MAXCOVERAGE)


def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", name), size)


if __name__ == "__main__":
    main()
