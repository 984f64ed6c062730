"""What a solid of `negguide views --object` costs, and whether its mesh is one that other programs can use.

    python benchmarks/solid.py

Runs the command for a bear in a process of its own, `--runs` times: seconds from start to end, of them on the
processor, and the most memory. Then fits a solid of every kind and makes its mesh: seconds, how many pieces, whether it
is closed, whether its colours are the same when the GLB is read again, and what the judge reads when the GLB is drawn
from four sides before the solid's background. Seconds mean something only while nothing else runs.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from PIL import Image, ImageDraw
from report import arguments, models, print_table, write_json

from negguide.cli.views_object import draw_turntable
from negguide.pictures import grid
from negguide.toyworld import KINDS
from negguide.toyworld.domain import TOYWORLD, TOYWORLD_DEFAULTS
from negguide.toyworld.stage import Stage, as_image
from negguide.views import find_preset
from negguide.views.hull import mesh, save_glb
from negguide.views.solid import Fit

SIDES = (0, 90, 180, 270)
FIRST_SEED = 10_000
LARGER = 4
"""Of the drawing over the judge's picture, which is made smaller for smooth edges."""


def whole_run(folder: Path, threads: int) -> dict[str, float]:
    """The command in a process of its own."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "negguide", "views", "a bear", "--object", str(folder / "bear.glb")],
        check=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(threads)},
        capture_output=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "seconds": time.monotonic() - began,
        "processor_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        # of the largest child so far, in KiB on Linux
        "megabytes": after.ru_maxrss / 1024,
    }


def drawn(surface: Any, azimuth: float, backdrop: Image.Image, height: int, bottom: int) -> Image.Image:
    """A mesh from one side without perspective: its triangles from the farthest to the nearest."""
    angle = np.deg2rad(azimuth)
    x, y, z = np.asarray(surface.vertices).T
    across = np.cos(angle) * x + np.sin(angle) * z
    depth = np.cos(angle) * z - np.sin(angle) * x
    size = backdrop.width * LARGER
    picture = backdrop.resize((size, size), Image.Resampling.NEAREST)
    canvas = ImageDraw.Draw(picture)
    columns = (across * height + backdrop.width / 2) * LARGER
    rows = (backdrop.height - bottom - (y + 0.5) * height) * LARGER
    colors = np.asarray(surface.visual.vertex_colors)[:, :3]
    faces = np.asarray(surface.faces)
    for face in faces[np.argsort(depth[faces].mean(axis=1))]:
        canvas.polygon(
            [(columns[i], rows[i]) for i in face], fill=tuple(colors[face].mean(axis=0).round().astype(int))
        )
    return picture.resize(backdrop.size, Image.Resampling.BOX)


def mesh_of(kind: str, number: int, folder: Path, judge: Any) -> tuple[dict[str, Any], list[Image.Image]]:
    """The figures of one kind's mesh, and how it looks."""
    preset, seed = find_preset(TOYWORLD), FIRST_SEED + 1000 * number
    path = folder / f"{kind}.glb"
    began = time.monotonic()
    solid = draw_turntable(
        f"a {kind}", path, preset=preset, guidance_scale=TOYWORLD_DEFAULTS.guidance_scale, seed=seed
    )
    fitted = time.monotonic()
    surface = mesh(*solid.fit.outlines())
    made = time.monotonic()
    save_glb(surface, path)
    loaded: Any = trimesh.load(path, force="mesh")
    colors = np.asarray(loaded.visual.vertex_colors)
    backdrop = as_image(Stage(f"a {kind}", preset).backdrop)
    height = solid.fit.solid.height
    pictures = [drawn(loaded, side, backdrop, height, Fit().bottom) for side in SIDES]
    seen = [scene.characters[0] if scene.characters else None for scene in judge.read(pictures)]
    return {
        "name": kind,
        "fit_seconds": fitted - began,
        "mesh_seconds": made - fitted,
        "bytes": path.stat().st_size,
        "pieces": len(loaded.split(only_watertight=False)),
        "watertight": bool(loaded.is_watertight),
        "same_colors": bool((colors == np.asarray(surface.visual.vertex_colors)).all()),
        "kinds": [one.kind if one else None for one in seen],
        "views": [one.view if one else None for one in seen],
    }, pictures


def main() -> None:
    args = arguments("What a solid costs, and whether its mesh is whole.", runs=3)
    judge = models()[1]
    with tempfile.TemporaryDirectory() as name:
        runs = [whole_run(Path(name), args.threads) for _ in range(args.runs)]
        made = [mesh_of(kind, number, Path(name), judge) for number, kind in enumerate(KINDS)]
    rows = [row for row, _ in made]
    path = args.out / "solid.json"
    settings = {"runs": args.runs, "threads": args.threads, "first_seed": FIRST_SEED}
    write_json(path, settings, [*({"name": "whole run", **run} for run in runs), *rows])
    grid(
        [pictures for _, pictures in made],
        row_labels=list(KINDS),
        column_labels=[f"{side}°" for side in SIDES],
        title="Meshes as the judge sees them",
        captions=[[f"{k}, {v}" for k, v in zip(row["kinds"], row["views"], strict=True)] for row, _ in made],
    ).save(path.with_suffix(".png"))
    print_table(
        "A bear, the whole command",
        ("seconds", "on the processor", "MB"),
        [(f"{r['seconds']:.1f}", f"{r['processor_seconds']:.1f}", f"{r['megabytes']:.0f}") for r in runs],
    )
    print_table(
        "Meshes",
        ("kind", "fit, s", "mesh, s", "kB", "pieces", "closed", "colours kept", "read as"),
        [
            (
                row["name"],
                f"{row['fit_seconds']:.1f}",
                f"{row['mesh_seconds']:.2f}",
                f"{row['bytes'] / 1000:.0f}",
                row["pieces"],
                row["watertight"],
                row["same_colors"],
                ", ".join(map(str, row["kinds"])),
            )
            for row in rows
        ],
    )


if __name__ == "__main__":
    main()
