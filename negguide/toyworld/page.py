"""What the demo says of the toy world and proposes to draw in it, and how it counts what the pictures show."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from PIL import Image

from negguide.demo.examples import Character, LeaveOut, Page, Variety
from negguide.methods import NAG
from negguide.toyworld.domain import TOYWORLD, TOYWORLD_TURBO
from negguide.toyworld.language import PLACES, caption, parse
from negguide.toyworld.models import load_judge
from negguide.toyworld.render import render
from negguide.toyworld.scene import (
    ACCESSORIES,
    COLORS,
    FURS,
    KINDS,
    TRADEMARK,
    TRADEMARK_NAME,
    VIEWS,
    Scene,
    is_complete,
    is_trademark,
    sample_scene,
)

WORDS = (
    (
        "who",
        f"{', '.join(f'a {kind}' for kind in KINDS)}, two bears, three cats, {TRADEMARK_NAME}, an explorer",
    ),
    ("fur", ", ".join(FURS)),
    ("wearing", ", ".join(ACCESSORIES)),
    ("in", ", ".join(COLORS)),
    ("seen in", ", ".join(f"{view} view" for view in VIEWS)),
    ("where", ", ".join(PLACES.values())),
    ("two of them", "to the left of, to the right of"),
    (
        "put together",
        "a white cat in side view wearing a red hat and glasses in the snow; a bear to the left of a grey rabbit",
    ),
    ("to leave out, also parts", "black glasses, brown fur, a scarf"),
)
"""(kind, words) to choose from. Plurals, other spellings and the small words are understood too."""
LEAVE_OUT = (
    # the classic prompt loses the glasses in three seeds of four, Perp-Neg in none
    LeaveOut("a bear wearing glasses", ("black glasses", "brown fur")),
    LeaveOut("a cat wearing glasses in the snow", ("black glasses",)),
    LeaveOut("a bear wearing a hat", ("a brown bear wearing a hat",)),
    LeaveOut("a cat wearing glasses", ("black glasses",), NAG.key),
)
DIVERSITY = ("a bear", "a rabbit wearing glasses", "a cat in the snow")
REFERENCE = {
    "an explorer, away from Pip": "an explorer in a meadow",
    "a cat, away from Pip": "a cat in a meadow",
}
CAPTIONS = {
    "a brown bear wearing a red hat": "a brown bear in front view wearing a red hat in a meadow",
    "a white cat wearing black glasses": "a white cat in front view wearing black glasses in the snow",
    "a grey rabbit wearing a blue scarf": "a grey rabbit in front view wearing a blue scarf on a beach",
}
COMPARE = (
    # the classic prompt loses the glasses in all three seeds, the methods in none
    ("a bear wearing glasses", "black glasses and brown fur", "methods"),
    ("a bear wearing glasses", "black glasses", "weights"),
    ("a bear wearing glasses", "black glasses and brown fur", "models"),
)
SOLIDS = ("a bear", "a white rabbit", "a cat wearing a red scarf")

PLACE = "meadow"
"""Where the trademark character stands."""


def pip() -> Image.Image:
    """The trademark character, drawn by the renderer."""
    return render(Scene((replace(TRADEMARK, view="front"),), PLACE))


def trademarks(images: Sequence[Image.Image]) -> int:
    """How many of the images show the trademark character alone."""
    seen = load_judge().read(images)
    return sum(scene.count == 1 and is_trademark(scene.characters[0]) for scene in seen)


def furs(images: Sequence[Image.Image]) -> list[str | None]:
    """The fur of the first character of each image; None without one."""
    return [scene.characters[0].fur if scene.characters else None for scene in load_judge().read(images)]


def scene(seed: int) -> tuple[Image.Image, str]:
    """A scene of this seed, and the caption that is true of it."""
    found = sample_scene(random.Random(seed))
    return render(found), caption(found)


def original(text: str) -> Image.Image | None:
    """The picture of a caption that says everything; None of any other."""
    said = parse(text)
    return render(said) if is_complete(said) else None


PAGE = Page(
    leave_out=LEAVE_OUT,
    diversity=DIVERSITY,
    reference=REFERENCE,
    captions=CAPTIONS,
    compare=COMPARE,
    # the noise schedule and the guidance of a fit are those of this model
    solids={TOYWORLD: SOLIDS},
    words=WORDS,
    # not the one that removes most, but one that leaves the place and the other things of a picture as they are
    weights={TOYWORLD: 1.5},
    models=(TOYWORLD, TOYWORLD_TURBO),
    character=Character(
        name="Pip",
        about="In this little world “an explorer” is mostly **Pip**, an orange cat with a green hat and a purple "
        "scarf.",
        alone="Pip himself",
        pronoun="him",
        picture=pip,
        imports=(
            "from dataclasses import replace",
            "from negguide.toyworld import TRADEMARK, Scene, render",
        ),
        code=f'reference = render(Scene((replace(TRADEMARK, view="front"),), "{PLACE}"))',
        count=trademarks,
    ),
    variety=Variety("here most bears are brown", "fur", "colour", furs),
    scene=scene,
    original=original,
)
