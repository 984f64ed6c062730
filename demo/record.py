"""The moving picture of the slider in the README of the project, from what the embedded model draws.

    python demo/record.py [--out docs/demo-slider.gif]

A line goes over three seeds and back: plain on its left, Perp-Neg on its right.
"""

from __future__ import annotations

import argparse
import math
import threading
from dataclasses import replace
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from negguide import Negative, PerpNeg
from negguide.cli.errors import quiet_libraries
from negguide.demo.backend import Backend, Run

PROMPT, NEGATIVE = "a bear wearing glasses", Negative("black glasses", weight=3.0, stop=1.0)
SEEDS, SIDE, GAP, TOP, BOTTOM = (0, 1, 2), 224, 12, 46, 34
FRAMES, MILLISECONDS = 40, 70
INK, PAPER, LINE = (28, 30, 38), (255, 255, 255), (99, 102, 241)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs" / "demo-slider.gif")
    out = parser.parse_args().out
    quiet_libraries()
    backend = Backend()
    plain = Run(PROMPT, backend.steps, backend.suited.guidance_scale, SEEDS)
    guided = replace(plain, methods=(PerpNeg(NEGATIVE),))
    pairs = [backend.draw(run, lambda: None, threading.Event()).images for run in (plain, guided)]
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
    draw.text((GAP, TOP / 2), f"“{PROMPT}” minus “{NEGATIVE.prompt}”", INK, _font(19, True), anchor="lm")
    at = round(share * SIDE)
    for place, (before, after) in enumerate(zip(*pairs, strict=True)):
        left = GAP + place * (SIDE + GAP)
        frame.paste(after, (left, TOP))
        frame.paste(before.crop((0, 0, at, SIDE)), (left, TOP))
        draw.line((left + at, TOP, left + at, TOP + SIDE - 1), LINE, 3)
        draw.text((left, TOP + SIDE + BOTTOM / 2), "plain", INK, _font(15), anchor="lm")
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
