"""One more thing."""

from __future__ import annotations

from collections.abc import Iterator

from negguide.mining.edits.caption import Candidate, Caption
from negguide.mining.edits.lexicon import article, lexicon
from negguide.mining.edits.phrases import Phrase
from negguide.mining.edits.usage import usage

WITH = {
    "animal": (("dog", 32.0), ("cat", 29.0), ("horse", 14.0), ("cow", 12.0)),
    "person": (("man", 60.0), ("woman", 53.0), ("boy", 20.0), ("girl", 27.0)),
    "vehicle": (("bus", 12.0), ("truck", 9.0), ("car", 22.0), ("motorcycle", 12.0)),
    "plane": (("helicopter", 3.0),),
    "dish": (("sandwich", 8.0), ("banana", 6.0), ("salad", 6.0), ("donut", 8.0)),
    "fruit": (("banana", 6.0), ("apple", 5.0), ("carrot", 4.0), ("sandwich", 5.0)),
    "furniture": (("chair", 15.0),),
    "container": (("bottle", 4.0), ("book", 6.0), ("candle", 3.0)),
    "bird": (("cat", 10.0), ("duck", 4.0)),
}
"""What is put beside a thing of some class, and how common it is in captions."""
SAVANNA = ("giraffe", "zebra", "elephant")
FARM = ("horse", "cow", "sheep", "goat")
ALONE = frozenset(
    ("each", "alone", "one", "single", "lone", "other", "another", "together", "his", "her", "its", "himself",
     "herself", "itself", "it", "he", "she", "that", "selfie", "portrait", "mirror", "lap", "driver", "go", "male",
     "female",
     # worn, held, ridden or done by oneself
     "wear", "tie", "hat", "dress", "shirt", "suit", "jacket", "uniform", "beard", "pregnant", "hold", "ride", "bat",
     "racket", "racquet", "serve", "base", "tag", "swing", "dunk", "pitch", "tennis", "ball", "lead", "phone", "laptop",
     "computer", "surf", "surfing", "surfboard", "skateboard", "snowboard", "ski", "skis", "motorcycle", "bike",
     "bicycle", "stroller", "read", "book",
     # where there is no room for two, or what is in a thing
     "toilet", "chair", "sink", "tree", "full", "filled", "topped", "fill", "top", "cover", "build", "encase"),
)  # fmt: skip
FLYING = ("airplane", "plane", "jet", "aircraft", "jetliner")
PETS = ("dog", "cat", "puppy", "kitten")


def additions(caption: Caption) -> Iterator[Candidate]:
    """ "and a cat" behind the subject of a caption, with the verb that agrees."""
    subject = next((p for p in caption.affirmed if "subject" in caption.slots(p)), None)
    if subject is None or not _grows(caption, subject):
        return
    agreeing = caption.holders_number(subject, many=True) if not subject.plural else {}
    if agreeing is None:
        return
    if caption.tokens[subject.at - 1].word == "there" or caption.tokens[0].word == "there":
        agreeing = {}
    said = {p.word for p in caption.phrases}
    for word, count in _beside(subject):
        if word in said or any(lexicon().related_nouns(word, other) for other in said):
            continue
        if subject.word in ("man", "boy", "guy") and word == "boy":
            continue
        after = f"{caption.tokens[subject.at].text} and {article(word)} {word}"
        yield Candidate(caption.edit({subject.at: after} | agreeing, "add"), count / (count + 30))


def _grows(caption: Caption, subject: Phrase) -> bool:
    after = caption.after(subject.at)
    if (
        caption.in_list(subject)
        or subject.word in usage().kinds["measure"]
        or caption.tokens[subject.at].name
    ):
        return False
    if after is not None and after.tag.startswith("NN"):
        return False
    if subject.determiner is None and subject.number is None:
        return False
    if ALONE & caption.said:
        return False
    return after is None or after.tag != "IN" or after.word not in ("of", "with", "like")


def _beside(subject: Phrase) -> tuple[tuple[str, float], ...]:
    if subject.word in SAVANNA or subject.word in FARM or subject.word in PETS:
        row = next(group for group in (SAVANNA, FARM, PETS) if subject.word in group)
        counts = dict(usage().commonness)
        return tuple(
            (word, counts.get(word, 12.0)) for word in row if word in lexicon().classes["animal"]["words"]
        )
    if usage().is_a(subject.word, FLYING):
        return WITH["plane"]
    kind = next((name for name in WITH if usage().is_a(subject.word, (name,))), None)
    if kind is None or kind == "animal" or subject.word in ("people", "train", "boat", "ship", "skateboard"):
        return ()
    return WITH[kind]
