"""Rules for captions of the toy world: change one thing of the scene, and only the words that say it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from itertools import combinations
from typing import Any

from negguide.mining.edits.closed import NOT_OF_THIS_WORLD, Span, Target
from negguide.mining.edits.planner import check_categories, smallest
from negguide.mining.item import Edit
from negguide.toyworld import language
from negguide.toyworld.language import NEGATION, NUMBERS, PLURALS, item, parse
from negguide.toyworld.reading import Group, Reading, Said, read, wears
from negguide.toyworld.scene import (
    ABSENT,
    ACCESSORIES,
    ANY_COLOR,
    COLORS,
    FURS,
    KINDS,
    MAX_COUNT,
    VIEWS,
    Character,
    Scene,
    held_out,
)

WORDINGS = 8
"""How many other wordings of a caption are tried; many come out alike."""


def world_objection(caption: str, edit: Edit) -> str | None:
    """What speaks against an edit of a toy-world caption, by the parser: it sees through synonyms and word order.

    "not of this world" when the new caption (or what is drawn) has no meaning here; for a negative "paraphrase" when
    it means the same as before, and "not known to exclude" when a picture can be as both say ("a brown bear" and "a
    bear"); for a positive "changed meaning" when it means something else; "held out" when the edit leads from the
    scenes that models are trained on to those kept for evaluation, or back.
    """
    try:
        before, after = read(caption).scene, read(edit.caption).scene
        if edit.draw is not None:
            parse(edit.draw)
    except ValueError:
        return NOT_OF_THIS_WORLD
    if edit.meaning == "positive":
        return None if meaning(before) == meaning(after) else "changed meaning"
    if meaning(before) == meaning(after):
        return "paraphrase"
    if _agree(before, after):
        return "not known to exclude"
    if len(after.characters) == 2 and after.relation and after.characters[0] == after.characters[1]:
        return NOT_OF_THIS_WORLD  # one of them is left of its like: that is a count
    return None if held_out(_worn_only(before)) == held_out(_worn_only(after)) else "held out"


def meaning(scene: Scene) -> tuple[object, ...]:
    """What a scene says about its picture, whatever the words: in this world, what is not said is not worn."""
    shown = _worn_only(scene)
    return shown.left_to_right, shown.background, shown.explorer


def _agree(one: Scene, two: Scene) -> bool:
    """Whether a picture can be as both scenes say: where one of them leaves something open, the other may be right.

    Kinds, furs, views, colours and places may be left open; an accessory may not, for what is not said is not worn.
    """
    one, two = _spelled_out(one), _spelled_out(two)
    if one.count != two.count or not _same_or_open(one.background, two.background):
        return False
    return all(
        _same_or_open(getattr(mine, f.name), getattr(theirs, f.name), worn=f.name in ACCESSORIES)
        for mine, theirs in zip(one.left_to_right, two.left_to_right, strict=True)
        for f in fields(Character)
    )


def _same_or_open(one: str | None, two: str | None, *, worn: bool = False) -> bool:
    if worn:
        return one == two or (ANY_COLOR in (one, two) and None not in (one, two))
    return one == two or None in (one, two)


def _spelled_out(scene: Scene) -> Scene:
    """The scene by what is worn alone; an explorer is whoever has a hat and a scarf."""
    shown = _worn_only(scene)
    if not scene.explorer:
        return shown
    dressed = tuple(replace(one, hat=ANY_COLOR, scarf=ANY_COLOR) for one in shown.characters)
    return replace(shown, characters=dressed)


class ToyworldRules:
    """Edits by the grammar of the toy world.

    Categories: ``object`` (the kind), ``attribute`` (colour of the fur or of an accessory), ``count``, ``relation``
    (left and right), ``swap`` (kinds, furs or clothes of two characters, or colours of one character's clothes
    exchanged), ``add`` and ``remove`` (an accessory), ``negation`` ("without a hat" instead of the hat; of a caption
    that says "without a hat" already, a hat). "pip", the trademark character, is a name: nothing of it can be edited
    but its place. Edits lead to no more accessories than the world itself shows: three on one character, two each on
    a pair, one each on equal characters.

    Args:
        views: also turn characters around, as ``attribute``. Off by default: captions of the world that say
            "back view" are often wrong, so models follow them badly.
    """

    name = "rules"

    def __init__(self, *, views: bool = False) -> None:
        self.views = views

    @property
    def description(self) -> dict[str, Any]:
        """As JSON; see `Planner.description`."""
        return {"backend": self.name, "world": True, "views": self.views}

    def propose(self, caption: str, categories: Sequence[str], rng: random.Random) -> list[Edit]:
        """All edits of ``caption``, in random order; none for a fragment such as "a red hat".

        Raises:
            ValueError: a category is unknown, or the caption is not of the toy world (which word, says the message).
        """
        wanted = check_categories(categories)
        parse(caption, negation=True)
        try:
            reading = read(caption)
        except ValueError:
            return []
        rules = {
            "object": _kinds,
            "attribute": _colors,
            "count": _counts,
            "relation": _relations,
            "swap": _swaps,
            "add": _additions,
            "remove": _removals,
            "negation": _negations,
        }
        # this world knows no actions
        edits = [edit for name in wanted if name in rules for edit in rules[name](reading)]
        if self.views and "attribute" in wanted:
            edits += _turns(reading)
        edits = [_drawable(edit) for edit in edits]
        edits = [edit for edit in edits if world_objection(caption, edit) is None]
        rng.shuffle(edits)
        return edits

    def propose_positives(self, caption: str, rng: random.Random) -> list[Edit]:
        """Other wordings of the scene, some of them with what is *not* worn said as well ("without glasses")."""
        parse(caption, negation=True)
        try:
            reading = read(caption)
        except ValueError:
            return []
        texts = dict.fromkeys(language.caption(reading.scene, rng) for _ in range(WORDINGS))
        texts |= dict.fromkeys(_denials(reading))
        edits = []
        for text in texts:
            if text != caption:
                whole = Edit.replacing(
                    caption, 0, len(caption), text, category="paraphrase", backend="rules", meaning="positive"
                )
                edits.append(_drawable(smallest(whole)))
        rng.shuffle(edits)
        return edits

    def objection(self, caption: str, edit: Edit) -> str | None:
        """Why an edit is not what it says it is, by the scenes of both captions; None = it is."""
        return world_objection(caption, edit)

    def targets(self, caption: str) -> list[Target]:
        """Kinds, furs, numbers, colours of clothes and the relation; see `ClosedPlanner.targets`."""
        parse(caption, negation=True)
        try:
            reading = read(caption)
        except ValueError:  # a fragment, like "a red hat"
            return []
        targets = []
        for group, character in zip(reading.groups, reading.scene.characters, strict=False):
            if group.kind is not None and group.number is not None:
                targets.append(Target(group.kind, "object", character.kind or ""))
                if group.fur is not None:
                    targets.append(Target(group.fur, "attribute", f"{character.fur} fur"))
                if reading.relation is None and reading.scene.count > 1:
                    targets.append(Target(group.number, "count"))
            for said in group.worn:
                if said.color is not None:
                    color = reading.words(said.color).lower()
                    targets.append(Target(said.color, "attribute", f"{color} {said.name}"))
        if reading.relation is not None:
            targets.append(Target(reading.relation, "relation"))
        return targets

    def fits(self, old: str, target: Target, guess: str) -> bool:
        """Whether a word has the number of the one it replaces; the parser does not mind."""
        if target.category == "count":
            return guess in ("two", "three")
        return (guess in PLURALS) == (old in PLURALS)

    def naming(self, edit: Edit, phrase: str) -> Edit:
        """The edit with what is no longer in the picture, where that is so."""
        return world_naming(edit, phrase)


def _worn_only(scene: Scene) -> Scene:
    """The scene without what is said not to be worn."""
    if not any(ABSENT in (c.hat, c.glasses, c.scarf) for c in scene.characters):
        return scene
    return replace(scene, characters=tuple(replace(c, **dict.fromkeys(c.absent)) for c in scene.characters))


def _denials(reading: Reading) -> Iterator[str]:
    """The caption with one thing that nobody wears denied of one character: still true."""
    for group, character in _people(reading):
        if group.without is None:
            for name in ACCESSORIES:
                if not wears(character, name):
                    at = group.span[1]
                    yield f"{reading.text[:at]} {NEGATION} {item(name, ANY_COLOR)}{reading.text[at:]}"


def _people(reading: Reading) -> Iterator[tuple[Group, Character]]:
    """The groups whose words can be edited, each with its (first) character."""
    for index, group in enumerate(reading.groups):
        if group.kind is not None:
            yield group, reading.scene.characters[index]


def _edit(reading: Reading, span: Span, after: str, category: str, **more: Any) -> Edit:
    before = reading.words(span)
    if before[:1].isupper():
        after = after[:1].upper() + after[1:]
    return Edit.replacing(reading.text, *span, after, category=category, backend="rules", **more)


def world_naming(edit: Edit, phrase: str) -> Edit:
    """Name what was edited out as what to avoid, unless someone in the new picture still has it."""
    edit = _drawable(edit)
    wanted = [(name, value) for name, value in vars(parse(phrase).characters[0]).items() if value is not None]
    for character in parse(edit.prompt).characters:
        have = vars(character)
        if all(have[name] and (value == ANY_COLOR or have[name] == value) for name, value in wanted):
            return edit
    return replace(edit, avoid=phrase)


def _drawable(edit: Edit) -> Edit:
    """Draw from a caption without "without", which no text-to-image model reads."""
    if edit.draw is not None or NEGATION not in edit.caption.lower().split():
        return edit
    return replace(edit, draw=_strip(edit.caption))


def _strip(text: str) -> str:
    for group in reversed(read(text).groups):
        if group.without is not None:
            text = text[: group.without[0]] + text[group.without[1] :]
    return text


def _plural(kind: str, count: int) -> str:
    return kind if count == 1 else f"{kind}s"


def _article(reading: Reading, group: Group, first: str) -> str | None:
    """The right article before the word ``first``, when the one that stands there is wrong."""
    assert group.number is not None
    now = reading.words(group.number)
    right = "an" if first[0] in "aeiou" else "a"
    return right if now.lower() in ("a", "an") and now.lower() != right else None


def _kinds(reading: Reading) -> Iterator[Edit]:
    for group, character in _people(reading):
        assert group.kind is not None
        count = reading.scene.count if reading.relation is None else 1
        for kind in KINDS:
            if kind != character.kind:
                edit = _edit(reading, group.kind, _plural(kind, count), "object")
                yield world_naming(edit, character.kind or "")


def _colors(reading: Reading) -> Iterator[Edit]:
    for group, character in _people(reading):
        for fur in FURS:
            if group.fur is not None and fur != character.fur:
                edit = _edit(reading, *_new_fur(reading, group, fur), "attribute")
                yield world_naming(edit, f"{character.fur} fur")
        for said in group.worn:
            if said.color is not None:
                color = reading.words(said.color).lower()
                for other in COLORS:
                    if other != color:
                        edit = _edit(reading, said.color, other, "attribute")
                        yield world_naming(edit, f"{color} {said.name}")


def _new_fur(reading: Reading, group: Group, fur: str) -> tuple[Span, str]:
    assert group.fur is not None and group.number is not None
    article = _article(reading, group, fur) if group.fur_first else None
    if article is None:
        return group.fur, fur
    return (group.number[0], group.fur[1]), f"{article} {fur}"


def _turns(reading: Reading) -> Iterator[Edit]:
    for index, group in enumerate(reading.groups):
        old = reading.scene.characters[index].view
        for view in VIEWS:
            if group.view is not None and view != old:
                yield world_naming(_edit(reading, group.view, view, "attribute"), f"{old} view")


def _counts(reading: Reading) -> Iterator[Edit]:
    if reading.relation is not None:
        return
    for group, character in _people(reading):
        assert group.number is not None and group.kind is not None
        now = reading.scene.count
        for count in range(1, MAX_COUNT + 1):
            if count == now or (count > 1 and len(character.worn) > 1):
                continue
            between = reading.text[group.number[1] : group.kind[0]]
            number = "an" if count == 1 and between.split()[:1] == ["orange"] else NUMBERS[count]
            if 1 in (count, now):
                kind = _plural(character.kind or "", count)
                yield _edit(reading, (group.number[0], group.kind[1]), number + between + kind, "count")
            else:
                yield _edit(reading, group.number, number, "count")


def _relations(reading: Reading) -> Iterator[Edit]:
    if reading.relation is not None:
        other = {"left": "right", "right": "left"}[reading.words(reading.relation).lower()]
        yield _edit(reading, reading.relation, other, "relation")


def _exchange(reading: Reading, one: Span, two: Span) -> list[tuple[Span, str]]:
    return [(one, reading.words(two)), (two, reading.words(one))]


def _swaps(reading: Reading) -> Iterator[Edit]:
    candidates = []
    for group, _ in _people(reading):
        for mine, other in combinations(group.worn, 2):
            if mine.color and other.color:
                candidates.append(_exchange(reading, mine.color, other.color))
    people = list(_people(reading))
    if len(people) == 2:
        one, two = people[0][0], people[1][0]
        assert one.kind and two.kind
        candidates.append(_exchange(reading, one.kind, two.kind))
        if one.fur and two.fur:
            furs = [reading.words(group.fur).lower() for group in (two, one) if group.fur]
            candidates.append(
                [_new_fur(reading, group, fur) for group, fur in zip((one, two), furs, strict=True)]
            )
        one_at, two_at = (group.clothes or (group.head, group.head) for group in (one, two))
        candidates.append(_exchange(reading, one_at, two_at))
        candidates += [
            _exchange(reading, mine.color, other.color)
            for mine in one.worn
            for other in two.worn
            if mine.name == other.name and mine.color and other.color
        ]
    for changes in candidates:
        start, end = changes[0][0][0], changes[-1][0][1]
        text, at = "", start
        for (begin, stop), after in changes:
            text += reading.text[at:begin] + after
            at = stop
        old = reading.words((start, end))
        if text != old and Counter(text.lower().split()) == Counter(old.lower().split()):
            yield smallest(_edit(reading, (start, end), text, "swap"))


def _room(reading: Reading, character: Character) -> bool:
    """Whether the world shows one accessory more on such a character."""
    most = 2 if reading.relation is not None else 1 if reading.scene.count > 1 else len(ACCESSORIES)
    return len(character.worn) < most


def _additions(reading: Reading) -> Iterator[Edit]:
    for group, character in _people(reading):
        for name in ACCESSORIES:
            if wears(character, name) or name in character.absent or not _room(reading, character):
                continue
            for color in COLORS:
                at = (group.head, group.head) if group.clothes is None else (group.clothes[1],) * 2
                joint = " wearing " if group.clothes is None else " and "
                yield _edit(reading, at, joint + item(name, color), "add")


def _with_its_joint(group: Group, said: Said) -> Span:
    """What goes when ``said`` is taken off: its words and the word that joins them to the rest."""
    assert group.clothes is not None
    index = group.worn.index(said)
    if len(group.worn) == 1:
        return group.clothes
    if index == 0:
        return said.span[0], group.worn[1].span[0]
    return group.worn[index - 1].span[1], said.span[1]


def _phrase(reading: Reading, said: Said) -> str:
    return f"{reading.words(said.color).lower()} {said.name}" if said.color else said.name


def _removals(reading: Reading) -> Iterator[Edit]:
    for group, _ in _people(reading):
        for said in group.worn:
            edit = _edit(reading, _with_its_joint(group, said), "", "remove")
            yield world_naming(edit, _phrase(reading, said))


def _negations(reading: Reading) -> Iterator[Edit]:
    for group, character in _people(reading):
        for said in group.worn:
            start, end = _with_its_joint(group, said)
            name = item(said.name, ANY_COLOR)
            last = group.span[1]
            rest = reading.text[end:last]
            words = f" and {name}" if group.absent else f" {NEGATION} {name}"
            edit = _edit(reading, (start, last), rest + words, "negation")
            yield world_naming(edit, _phrase(reading, said))
        if len(group.absent) == 1 and _room(reading, character):
            assert group.without is not None
            joint = " wearing " if group.clothes is None else " and "
            for color in COLORS:
                worn = joint + item(group.absent[0].name, color)
                yield _edit(reading, group.without, worn, "negation")
