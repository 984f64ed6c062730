"""What the page proposes to try: for a closed world in its words, for other models in anybody's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from PIL import Image

from negguide.domain import domain_of, frozen
from negguide.methods import PerpNeg
from negguide.methods.choices import methods_in_words


@dataclass(frozen=True)
class LeaveOut:
    """A prompt, what is left out of it, and by which method."""

    prompt: str
    negatives: tuple[str, ...]
    method: str = PerpNeg.key

    def label(self, usual: str) -> str:
        """What its button says on a page that begins with the method of the key `usual`."""
        way = "" if self.method == usual else f", by {methods_in_words()[self.method].label}"
        return " − ".join((self.prompt, *self.negatives)) + way


@dataclass(frozen=True)
class Character:
    """Somebody whom only the models of a closed world know, to keep away from without a picture of one's own.

    Attributes:
        name: e.g. "Pip".
        about: who that is, a sentence of Markdown.
        alone: how it is said that a picture shows this one alone, e.g. "Pip himself".
        pronoun: e.g. "him".
        picture: of it.
        imports, code: lines of Python that make the picture `reference`.
        count: in how many pictures it is, alone.
    """

    name: str
    about: str
    alone: str
    pronoun: str
    picture: Callable[[], Image.Image]
    imports: tuple[str, ...]
    code: str
    count: Callable[[Sequence[Image.Image]], int]


@dataclass(frozen=True)
class Variety:
    """What differs between pictures of one prompt in a closed world.

    Attributes:
        here: how the models repeat themselves, e.g. "here most bears are brown".
        what, unit: e.g. "fur" and "colour", as in "fur of 3 colours".
        values: one for each picture; None where it cannot be read.
    """

    here: str
    what: str
    unit: str
    values: Callable[[Sequence[Image.Image]], list[str | None]]


@dataclass(frozen=True)
class Page:
    """What the page proposes, and what a closed world can do beside being drawn.

    Attributes:
        leave_out, diversity: examples of these tabs, the first one drawn for everybody when the page opens.
        reference, captions: {what a button says: what is drawn}.
        compare: (prompt, negative, what the columns are).
        solids: {model: prompts of solids that are fitted with it}; with others of the world none are.
        words: (kind, words) to choose from; () = any words.
        weights: {model: the weight of a negative of Perp-Neg with which the page begins}; others begin with their own.
        models: those with which a comparison of models begins; () = models are not compared.
        character, variety: see there.
        scene: draws a scene of a seed, and says its caption.
        original: the true picture of a caption; None where it leaves something open.
    """

    leave_out: tuple[LeaveOut, ...]
    diversity: tuple[str, ...]
    reference: Mapping[str, str]
    captions: Mapping[str, str]
    compare: tuple[tuple[str, str, str], ...]
    solids: Mapping[str, tuple[str, ...]] = field(default_factory=frozen)
    words: tuple[tuple[str, str], ...] = ()
    weights: Mapping[str, float] = field(default_factory=frozen)
    models: tuple[str, ...] = ()
    character: Character | None = None
    variety: Variety | None = None
    scene: Callable[[int], tuple[Image.Image, str]] | None = None
    original: Callable[[str], Image.Image | None] | None = None


def page_of(model: str) -> Page:
    """What the page of a model proposes: that of its closed world, or of models that read any words."""
    domain = domain_of(model)
    return ANY if domain is None or domain.page is None else domain.page()


ANY_LEAVE_OUT = (
    LeaveOut("a boy wearing sunglasses", ("sunglasses with a black frame",)),
    LeaveOut("a portrait of a woman with red hair", ("freckles",)),
    LeaveOut("a city street at night", ("cars", "people")),
    LeaveOut("a bowl of fruit on a table", ("bananas",)),
    LeaveOut("a cat sleeping on a sofa", ("a grey sofa",)),
    LeaveOut("a cup of coffee on a wooden desk", ("latte art", "a laptop")),
    LeaveOut("a mountain lake at sunrise", ("clouds", "a boat")),
    LeaveOut("a bedroom with a large window", ("curtains",)),
    LeaveOut("a dog running on a beach", ("a leash", "footprints")),
    LeaveOut("an astronaut riding a horse", ("the moon",)),
    LeaveOut("a bookshelf in a living room", ("plants",)),
    LeaveOut("a watercolour of a lighthouse", ("people", "boats")),
)
USUAL_NEGATIVES = {
    "quality": "blurry, low quality, jpeg artifacts",
    "hands": "deformed hands, extra fingers",
    "writing": "text, watermark, signature",
}
"""What people leave out of almost everything, for models that know these words."""

ANY_DIVERSITY = (
    "a photograph of a chef",
    "a doctor in a hospital",
    "a cosy living room",
    "a bird on a branch",
)
ANY_REFERENCE = ("a plumber with a red cap", "a space soldier with a helmet", "a blue cartoon hedgehog")
ANY_CAPTIONS = {
    caption: caption
    for caption in (
        "a black cat on a red chair",
        "two brown dogs in a park",
        "a man in a blue shirt riding a horse",
        "a small white boat on a blue lake",
    )
}
ANY_COMPARE = (
    ("a boy wearing sunglasses", "sunglasses with a black frame", "methods"),
    ("a city street at night", "cars", "weights"),
)
ANY = Page(
    leave_out=ANY_LEAVE_OUT,
    diversity=ANY_DIVERSITY,
    reference={prompt: prompt for prompt in ANY_REFERENCE},
    captions=ANY_CAPTIONS,
    compare=ANY_COMPARE,
)
"""For models that are of no closed world."""
