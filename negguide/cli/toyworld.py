"""`negguide toyworld`: look at the world that the embedded model was trained on."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from negguide.cli.output import check_file, console, remark, show
from negguide.cli.toyworld_train import evaluate, train

if TYPE_CHECKING:
    from PIL import Image

    from negguide.toyworld.scene import Character, Scene

app = typer.Typer(
    name="toyworld",
    help="The small drawn world of the embedded model. Captions are like 'a grey cat wearing a red hat in the snow', "
    "'two bears at night', 'a dog to the left of a robot', or parts such as 'black glasses' and 'back view'.",
    no_args_is_help=True,
)
app.command()(train)
app.command()(evaluate)

_SHEET_CELL = 128
_SHEET_COLUMNS = 10
_MAX_SIZE = 4096


@app.command()
def draw(
    text: Annotated[str, typer.Argument(metavar="CAPTION", help="What to draw.")],
    out: Annotated[Path, typer.Option(metavar="FILE.png", help="Where the picture goes.")] = Path(
        "out/scene.png"
    ),
    size: Annotated[int, typer.Option(help="Side in pixels.")] = 512,
    seed: Annotated[int, typer.Option(help="Decides what the caption leaves open.")] = 0,
) -> None:
    """Draw CAPTION without any model, as the training pictures were drawn.

    What the caption leaves open is drawn at random, with the biases of the world.
    """
    from negguide.pictures import save_png, versions
    from negguide.toyworld.language import caption, parse
    from negguide.toyworld.render import render

    _check_said(text)
    check_file(out)
    _check_seed(seed)
    if size > _MAX_SIZE:
        raise ValueError(f"--size must be at most {_MAX_SIZE}, got {size}")
    scene = complete(parse(text, negation=True), random.Random(seed))
    settings = {
        "command": "toyworld draw",
        "caption": caption(scene),
        "said": text,
        "size": size,
        "seed": seed,
    }
    save_png(render(scene, size, seed=seed), out, {**settings, "versions": versions()})
    show(out)
    remark(caption(scene))


@app.command()
def sheet(
    count: Annotated[int, typer.Option(help="How many scenes.")] = 60,
    out: Annotated[Path, typer.Option(metavar="FILE.png", help="Where the picture goes.")] = Path(
        "out/sheet.png"
    ),
    seed: Annotated[int, typer.Option(help="Decides which scenes.")] = 0,
) -> None:
    """Draw a sheet of scenes as the models see them in training, with the biases of the world."""
    from negguide.pictures import save_png, versions
    from negguide.toyworld.language import caption
    from negguide.toyworld.render import render
    from negguide.toyworld.scene import sample_scene

    check_file(out)
    _check_seed(seed)
    if count < 1:
        raise ValueError(f"--count must be at least 1, got {count}")
    rng = random.Random(seed)
    scenes = [sample_scene(rng) for _ in range(count)]
    image = _side_by_side([render(scene, _SHEET_CELL, seed=seed + i) for i, scene in enumerate(scenes)])
    captions = [caption(scene) for scene in scenes]
    settings = {"command": "toyworld sheet", "seed": seed, "captions": captions, "versions": versions()}
    save_png(image, out, settings)
    show(out)


@app.command(name="parse")
def parse_caption(text: Annotated[str, typer.Argument(metavar="CAPTION", help="What to read.")]) -> None:
    """Show what the toy world understands from CAPTION; a dash is something it leaves open."""
    from negguide.toyworld.language import parse
    from negguide.toyworld.scene import ACCESSORIES

    _check_said(text)
    scene = parse(text, negation=True)
    table = Table(title=f"“{text}”", title_justify="left", title_style="bold")
    columns = ("kind", "fur", "view", *ACCESSORIES)
    for heading in ("from the left", *columns):
        table.add_column(heading)
    for place, character in enumerate(scene.left_to_right, 1):
        table.add_row(str(place), *(getattr(character, name) or "-" for name in columns))
    screen = console()
    screen.print(table)
    screen.print(f"background: {scene.background or '-'}")


def _check_said(text: str) -> None:
    if not re.search(r"\w", text):
        raise ValueError(f"CAPTION holds no word, got {text!r}; write e.g. 'a bear wearing glasses'")


def _check_seed(seed: int) -> None:
    # Python's random numbers of -1 are those of 1
    if seed < 0:
        raise ValueError(f"--seed must be at least 0, got {seed}")


def complete(scene: Scene, rng: random.Random) -> Scene:
    """`scene` with everything said that it leaves open, drawn at random with the biases of the world."""
    from negguide.toyworld.scene import BACKGROUNDS, Scene, sample_character

    background = scene.background or rng.choice(BACKGROUNDS)
    if not scene.characters:
        return Scene((sample_character(rng),), background)
    if len(set(scene.characters)) == 1 and scene.relation is None:
        # several equal ones stay equal
        whole = _completed(scene.characters[0], scene.explorer, rng)
        return Scene((whole,) * scene.count, background)
    whole_ones = tuple(_completed(character, False, rng) for character in scene.characters)
    return Scene(whole_ones, background, scene.relation)


def _completed(character: Character, explorer: bool, rng: random.Random) -> Character:
    from negguide.toyworld.scene import ANY_COLOR, Character, sample_character, sample_explorer

    drawn = sample_explorer(rng) if explorer else sample_character(rng)
    if explorer:
        return replace(drawn, view=character.view or drawn.view)
    worn: dict[str, str] = {}
    for name, color in character.worn:
        while color == ANY_COLOR:
            # a colour as biased as the world's: that of whoever wears such a thing next
            color = getattr(sample_character(rng), name) or ANY_COLOR
        worn[name] = color
    return Character(
        kind=character.kind or drawn.kind,
        fur=character.fur or drawn.fur,
        view=character.view or drawn.view,
        **worn,
    )


def _side_by_side(images: list[Image.Image]) -> Image.Image:
    from PIL import Image

    columns = min(len(images), _SHEET_COLUMNS)
    rows = -(-len(images) // columns)
    page = Image.new("RGB", (columns * _SHEET_CELL, rows * _SHEET_CELL), (255, 255, 255))
    for i, image in enumerate(images):
        page.paste(image, (i % columns * _SHEET_CELL, i // columns * _SHEET_CELL))
    return page
