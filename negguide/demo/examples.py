"""What the page proposes to try: for the embedded world in its words, for other models in anybody's."""

from __future__ import annotations

from dataclasses import dataclass

from negguide.methods import NAG, PerpNeg
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


TOYWORLD_LEAVE_OUT = (
    # the classic prompt loses the glasses in three seeds of four, Perp-Neg in none
    LeaveOut("a bear wearing glasses", ("black glasses", "brown fur")),
    LeaveOut("a cat wearing glasses in the snow", ("black glasses",)),
    LeaveOut("a bear wearing a hat", ("a brown bear wearing a hat",)),
    LeaveOut("a cat wearing glasses", ("black glasses",), NAG.key),
)
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

TOYWORLD_DIVERSITY = ("a bear", "a rabbit wearing glasses", "a cat in the snow")
ANY_DIVERSITY = (
    "a photograph of a chef",
    "a doctor in a hospital",
    "a cosy living room",
    "a bird on a branch",
)
TOYWORLD_REFERENCE = {
    "an explorer, away from Pip": "an explorer in a meadow",
    "a cat, away from Pip": "a cat in a meadow",
}
ANY_REFERENCE = ("a plumber with a red cap", "a space soldier with a helmet", "a blue cartoon hedgehog")
TOYWORLD_CAPTIONS = {
    "a brown bear wearing a red hat": "a brown bear in front view wearing a red hat in a meadow",
    "a white cat wearing black glasses": "a white cat in front view wearing black glasses in the snow",
    "a grey rabbit wearing a blue scarf": "a grey rabbit in front view wearing a blue scarf on a beach",
}
ANY_CAPTIONS = {
    caption: caption
    for caption in (
        "a black cat on a red chair",
        "two brown dogs in a park",
        "a man in a blue shirt riding a horse",
        "a small white boat on a blue lake",
    )
}
TOYWORLD_COMPARE = (
    # the classic prompt loses the glasses in all three seeds, the methods in none
    ("a bear wearing glasses", "black glasses and brown fur", "methods"),
    ("a bear wearing glasses", "black glasses", "weights"),
    ("a bear wearing glasses", "black glasses and brown fur", "models"),
)
ANY_COMPARE = (
    ("a boy wearing sunglasses", "sunglasses with a black frame", "methods"),
    ("a city street at night", "cars", "weights"),
)
TOYWORLD_SOLIDS = ("a bear", "a white rabbit", "a cat wearing a red scarf")
