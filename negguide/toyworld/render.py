"""Draw a scene: friendly, anti-aliased, at any size, in about a millisecond at 64 pixels."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from negguide.toyworld.scene import Character, Scene, is_complete

RGB = tuple[int, int, int]

FUR_RGB: dict[str, RGB] = {
    "brown": (141, 88, 52),
    "grey": (144, 148, 158),
    "white": (244, 240, 231),
    "orange": (240, 142, 52),
    "black": (62, 60, 70),
}
COLOR_RGB: dict[str, RGB] = {
    "red": (222, 40, 48),
    "yellow": (252, 212, 40),
    "green": (40, 158, 80),
    "blue": (40, 96, 222),
    "purple": (138, 60, 184),
    "pink": (252, 128, 184),
    "white": (255, 255, 255),
    "black": (14, 12, 16),
}
# What is above the horizon, what is below it, and the thing in the corner (sun, moon, ...).
BACKGROUND_RGB: dict[str, tuple[RGB, RGB, RGB]] = {
    "meadow": ((190, 228, 250), (150, 210, 120), (255, 232, 130)),
    "beach": ((104, 202, 228), (248, 224, 164), (255, 246, 206)),
    "snow": ((206, 216, 234), (236, 242, 252), (250, 250, 255)),
    "night": ((58, 62, 122), (84, 98, 148), (250, 240, 190)),
    "room": ((250, 208, 198), (200, 146, 122), (168, 214, 240)),
}
EYE: RGB = (28, 24, 28)
BLUSH: RGB = (246, 150, 150)
LENS: RGB = (226, 240, 250)

# Head radius, height of the head's centre and the centres from left to right, in units of the picture's side.
LAYOUTS = {
    1: (0.190, 0.44, (0.5,)),
    2: (0.138, 0.50, (0.27, 0.73)),
    3: (0.104, 0.53, (0.18, 0.5, 0.82)),
}
SUPERSAMPLING = 4


@dataclass(frozen=True)
class _Pen:
    """Draws in units of the head's radius around the head's centre; ``flip`` mirrors left and right."""

    draw: ImageDraw.ImageDraw
    x: float
    y: float
    r: float
    flip: bool = False

    def _box(self, x0: float, y0: float, x1: float, y1: float) -> tuple[float, float, float, float]:
        if self.flip:
            x0, x1 = -x1, -x0
        return (self.x + x0 * self.r, self.y + y0 * self.r, self.x + x1 * self.r, self.y + y1 * self.r)

    def _stroke(self, width: float) -> int:
        return max(1, round(width * self.r))

    def oval(self, x: float, y: float, rx: float, ry: float, fill: RGB, outline: RGB | None = None) -> None:
        self.draw.ellipse(self._box(x - rx, y - ry, x + rx, y + ry), fill, outline, self._stroke(0.06))

    def ring(self, x: float, y: float, radius: float, color: RGB, width: float) -> None:
        self.oval(x, y, radius + 0.05, radius + 0.05, _outline(color))
        self.draw.ellipse(
            self._box(x - radius, y - radius, x + radius, y + radius), LENS, color, self._stroke(width)
        )

    def slab(
        self,
        x0: float,
        y0: float,
        x1: float,
        y1: float,
        fill: RGB,
        outline: RGB | None = None,
        corner: float = 0.1,
    ) -> None:
        self.draw.rounded_rectangle(
            self._box(x0, y0, x1, y1), corner * self.r, fill, outline, self._stroke(0.06)
        )

    def shape(self, points: Sequence[tuple[float, float]], fill: RGB, outline: RGB | None = None) -> None:
        sign = -1 if self.flip else 1
        corners = [(self.x + sign * x * self.r, self.y + y * self.r) for x, y in points]
        self.draw.polygon(corners, fill, outline, self._stroke(0.06))

    def line(self, points: Sequence[tuple[float, float]], color: RGB, width: float) -> None:
        sign = -1 if self.flip else 1
        corners = [(self.x + sign * x * self.r, self.y + y * self.r) for x, y in points]
        self.draw.line(corners, color, self._stroke(width), joint="curve")

    def smile(self, x: float, y: float, radius: float, color: RGB, start: int = 20, end: int = 160) -> None:
        if self.flip:
            start, end = 180 - end, 180 - start
        self.draw.arc(
            self._box(x - radius, y - radius, x + radius, y + radius), start, end, color, self._stroke(0.09)
        )


def render(scene: Scene, size: int = 64, seed: int | None = None) -> Image.Image:
    """Draw ``scene`` as an RGB image of ``size`` x ``size`` pixels.

    Args:
        scene: a complete scene (kind, fur, view, background and all colours said).
        size: side of the image in pixels, at least 16.
        seed: varies the pose (place, size, and which way a character seen from the side looks); ``None`` draws the
            middle pose, in which side views look to the right.

    Raises:
        ValueError: when the scene leaves something open, or ``size`` is below 16.
    """
    if not is_complete(scene):
        raise ValueError(
            f"scene={scene!r} leaves something open; say kind, fur, view, colours, background, relation"
        )
    if size < 16:
        raise ValueError(f"size={size} is too small to see anything; use at least 16")
    rng = random.Random(seed) if seed is not None else None
    side = size * SUPERSAMPLING
    image = Image.new("RGB", (side, side))
    draw = ImageDraw.Draw(image)
    _draw_background(draw, scene.background or "", side)
    radius, height, centres = LAYOUTS[scene.count]
    for character, centre in zip(scene.left_to_right, centres, strict=True):
        dx = dy = 0.0
        scale, flip = 1.0, False
        if rng is not None:
            dx, dy = rng.uniform(-0.025, 0.025), rng.uniform(-0.025, 0.025)
            scale, flip = rng.uniform(0.94, 1.05), rng.random() < 0.5
        pen = _Pen(draw, (centre + dx) * side, (height + dy) * side, radius * scale * side, flip)
        _draw_character(pen, character)
    return image.reduce(SUPERSAMPLING)


def background(name: str, size: int = 64) -> Image.Image:
    """Draw a place with nobody in it, as `render` does.

    Raises:
        ValueError: an unknown place.
    """
    if name not in BACKGROUND_RGB:
        raise ValueError(f"name must be one of {', '.join(BACKGROUND_RGB)}, got {name!r}")
    side = size * SUPERSAMPLING
    image = Image.new("RGB", (side, side))
    _draw_background(ImageDraw.Draw(image), name, side)
    return image.reduce(SUPERSAMPLING)


def _draw_background(draw: ImageDraw.ImageDraw, name: str, side: int) -> None:
    above, below, thing = BACKGROUND_RGB[name]
    draw.rectangle((0, 0, side, side), above)
    draw.rectangle((0, 0.72 * side, side, side), below)
    if name == "room":
        draw.rectangle(
            (0.06 * side, 0.07 * side, 0.26 * side, 0.27 * side), thing, (255, 255, 255), side // 48
        )
    elif name != "snow":
        draw.ellipse((0.06 * side, 0.06 * side, 0.22 * side, 0.22 * side), thing)
    if name == "night":
        draw.ellipse((0.11 * side, 0.04 * side, 0.25 * side, 0.18 * side), above)
    if name == "snow":
        for x, y in (
            (0.08, 0.12),
            (0.2, 0.34),
            (0.06, 0.58),
            (0.9, 0.1),
            (0.8, 0.3),
            (0.94, 0.52),
            (0.33, 0.08),
        ):
            draw.ellipse(((x - 0.02) * side, (y - 0.02) * side, (x + 0.02) * side, (y + 0.02) * side), thing)


def _mix(color: RGB, other: RGB, share: float) -> RGB:
    r, g, b = (round(a + (c - a) * share) for a, c in zip(color, other, strict=True))
    return (r, g, b)


def _outline(color: RGB) -> RGB:
    """Darker than the fill, but lighter where the fill is dark, so that black stays visible on black."""
    if sum(color) < 240:
        return _mix(color, (255, 255, 255), 0.38)
    return _mix(color, (40, 24, 24), 0.38)


def _draw_character(pen: _Pen, character: Character) -> None:
    fur = FUR_RGB[character.fur or ""]
    light, dark, line = _mix(fur, (255, 246, 236), 0.5), _mix(fur, (20, 14, 20), 0.22), _outline(fur)
    if character.fur == "white":
        light = (255, 232, 226)
    view = character.view
    robot = character.kind == "robot"
    if character.kind == "dog" and view != "front":
        pen.line(((-0.7, 1.9), (-1.05, 1.5), (-1.0, 1.2)), line, 0.3)
    if character.kind == "cat" and view == "side":
        pen.line(((-0.6, 2.0), (-1.1, 1.9), (-1.15, 1.4)), line, 0.24)
    if robot:
        pen.slab(-0.7, 0.85, 0.7, 2.25, dark, line, 0.15)
        pen.slab(-0.35, 1.45, 0.35, 1.95, light, line, 0.1)
    else:
        pen.oval(0, 1.5, 0.82, 0.85, dark, line)
        if view == "front":
            pen.oval(0, 1.62, 0.48, 0.56, light)
        if view == "side":
            pen.oval(0.3, 1.62, 0.4, 0.52, light)
    if view == "back" and not robot:
        _draw_tail(pen, character.kind or "", fur, light, line)
    _draw_ears(pen, character.kind or "", view or "", fur, light, dark, line)
    if robot:
        width = 0.7 if view == "side" else 0.95
        pen.slab(-width, -0.9, width, 0.85, fur, line, 0.22)
    else:
        pen.oval(0, 0, 1.0, 0.95, fur, line)
    if character.kind == "dog":
        _draw_dog_ears(pen, view or "", dark, line)
    if view == "front":
        _draw_front_face(pen, character.kind or "", fur, light)
    elif view == "side":
        _draw_side_face(pen, character.kind or "", fur, light, line)
    elif robot:
        for x, y in ((-0.62, -0.55), (0.62, -0.55), (-0.62, 0.5), (0.62, 0.5)):
            pen.oval(x, y, 0.12, 0.12, dark)
        for y in (-0.1, 0.12):
            pen.line(((-0.35, y), (0.35, y)), dark, 0.1)
    if character.scarf:
        _draw_scarf(pen, COLOR_RGB[character.scarf], view or "")
    if character.glasses:
        _draw_glasses(
            pen, COLOR_RGB[character.glasses], view or "", 0.7 if robot and view == "side" else 0.96
        )
    if character.hat:
        _draw_hat(pen, COLOR_RGB[character.hat])


def _draw_ears(pen: _Pen, kind: str, view: str, fur: RGB, light: RGB, dark: RGB, line: RGB) -> None:
    sides = (-0.2,) if view == "side" else (-1.0, 1.0)
    for side in sides:
        if kind == "bear":
            pen.oval(side * 0.76, -0.72, 0.38, 0.38, fur, line)
            if view == "front":
                pen.oval(side * 0.76, -0.72, 0.19, 0.19, light)
        elif kind == "cat":
            pen.shape(((side * 0.95, -0.3), (side * 0.86, -1.38), (side * 0.16, -0.8)), fur, line)
            if view == "side":
                pen.shape(((-0.6, -0.6), (-0.1, -1.42), (0.25, -0.7)), fur, line)
            if view == "front":
                pen.shape(((side * 0.82, -0.5), (side * 0.79, -1.08), (side * 0.4, -0.82)), BLUSH)
        elif kind == "rabbit":
            pen.oval(side * 0.42, -1.35, 0.26, 0.72, fur, line)
            if view == "front":
                pen.oval(side * 0.42, -1.35, 0.12, 0.5, BLUSH)
    if kind == "robot":
        pen.line(((0, -0.9), (0, -1.4)), line, 0.12)
        pen.oval(0, -1.5, 0.2, 0.2, (238, 80, 70))


def _draw_dog_ears(pen: _Pen, view: str, dark: RGB, line: RGB) -> None:
    if view == "side":
        pen.oval(-0.3, 0.0, 0.28, 0.62, dark, line)
        return
    for side in (-1.0, 1.0):
        pen.oval(side * 1.0, 0.0, 0.28, 0.68, dark, line)


def _draw_tail(pen: _Pen, kind: str, fur: RGB, light: RGB, line: RGB) -> None:
    if kind == "bear":
        pen.oval(0, 1.85, 0.24, 0.24, fur, line)
    elif kind == "rabbit":
        pen.oval(0, 1.8, 0.34, 0.34, light, line)
    elif kind == "cat":
        pen.line(((0.1, 2.1), (0.55, 1.8), (0.35, 1.25)), line, 0.24)
    elif kind == "dog":
        pen.line(((0, 2.0), (0.2, 1.55), (0.1, 1.25)), line, 0.28)


def _draw_eye(pen: _Pen, x: float, y: float, fur: RGB) -> None:
    if sum(fur) < 240:
        pen.oval(x, y, 0.2, 0.22, (255, 255, 255))
    pen.oval(x, y, 0.14, 0.16, EYE)
    pen.oval(x + 0.05, y - 0.06, 0.05, 0.05, (255, 255, 255))


def _draw_front_face(pen: _Pen, kind: str, fur: RGB, light: RGB) -> None:
    mouth = (255, 240, 230) if sum(fur) < 240 and kind in ("robot", "cat", "rabbit") else EYE
    for side in (-1.0, 1.0):
        _draw_eye(pen, side * 0.4, -0.1, fur)
        if kind != "robot":
            pen.oval(side * 0.64, 0.26, 0.17, 0.11, BLUSH)
    if kind == "robot":
        pen.slab(-0.42, 0.3, 0.42, 0.56, light, EYE, 0.1)
        for x in (-0.15, 0.15):
            pen.line(((x, 0.3), (x, 0.56)), EYE, 0.07)
        return
    if kind in ("bear", "dog"):
        pen.oval(0, 0.36, 0.4, 0.32, light)
        pen.oval(0, 0.22, 0.17, 0.12, EYE)
        pen.smile(0, 0.3, 0.22, EYE)
        if kind == "dog":
            pen.oval(0, 0.6, 0.12, 0.15, (240, 100, 110))
    else:
        pen.oval(0, 0.2, 0.12, 0.09, (240, 110, 120))
        for x in (-0.13, 0.13):
            pen.smile(x, 0.26, 0.14, mouth)
        if kind == "cat":
            for side in (-1.0, 1.0):
                pen.line(((side * 0.55, 0.42), (side * 1.1, 0.36)), mouth, 0.06)
                pen.line(((side * 0.52, 0.52), (side * 1.05, 0.58)), mouth, 0.06)
        else:
            pen.slab(-0.11, 0.4, 0.11, 0.62, (255, 255, 255), (180, 170, 170), 0.04)


def _draw_side_face(pen: _Pen, kind: str, fur: RGB, light: RGB, line: RGB) -> None:
    if kind == "robot":
        _draw_eye(pen, 0.32, -0.1, fur)
        pen.slab(0.55, 0.26, 0.98, 0.56, light, EYE, 0.06)
        return
    reach = {"bear": 1.0, "dog": 1.12, "cat": 0.92, "rabbit": 0.92}[kind]
    pen.oval(reach - 0.12, 0.28, 0.36, 0.28, light, line)
    pen.oval(reach + 0.16, 0.14, 0.14, 0.12, EYE if kind in ("bear", "dog") else (240, 110, 120))
    _draw_eye(pen, 0.42, -0.1, fur)
    pen.oval(0.3, 0.32, 0.16, 0.11, BLUSH)


def _draw_scarf(pen: _Pen, color: RGB, view: str) -> None:
    line = _outline(color)
    if view != "back":
        x = 0.42 if view == "front" else 0.05
        pen.slab(x - 0.2, 0.95, x + 0.2, 1.72, color, line, 0.08)
    pen.slab(-0.82, 0.72, 0.82, 1.1, color, line, 0.18)


def _draw_glasses(pen: _Pen, color: RGB, view: str, head: float) -> None:
    line = _outline(color)
    if view == "back":
        # From behind one sees the strap that holds them.
        pen.slab(-head, -0.24, head, 0.06, color, line, 0.04)
        return
    if view == "side":
        pen.slab(-head, -0.2, 0.1, 0.0, color, line, 0.02)
        pen.ring(0.44, -0.1, 0.4, color, 0.17)
        pen.oval(0.46, -0.1, 0.12, 0.14, EYE)
        return
    pen.line(((-head, -0.16), (head, -0.16)), color, 0.16)
    for x in (-0.43, 0.43):
        pen.ring(x, -0.1, 0.4, color, 0.17)
        pen.oval(x, -0.1, 0.12, 0.14, EYE)


def _draw_hat(pen: _Pen, color: RGB) -> None:
    line = _outline(color)
    pen.slab(-0.56, -1.52, 0.56, -0.6, color, line, 0.16)
    pen.slab(-0.98, -0.8, 0.98, -0.54, color, line, 0.12)
