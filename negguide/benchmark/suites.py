"""What is drawn and what is asked about the pictures: the built-in lists, NegGenBench, and files of one's own.

A file is JSON, a list of items or `{"kind": ..., "about": ..., "items": [...]}`, or JSONL with an item a line. The
fields of one:

| field | what it is | without it |
|---|---|---|
| `prompt` | what is drawn | an error |
| `negative` | what is to be left out, in words | nothing; kind "overlap" needs it |
| `keep` | what must still be shown | the prompt |
| `remove` | what must not be shown | the negative |
| `reference` | files of images to stay away from, one or a list, relative to the file | in kind "reference" the first \
plain image |
| `id` | a name for the files | its number |

`keep` and `remove` are a phrase ("a boy wearing sunglasses"), a question for yes and no (it ends in "?"), or an object:
`present`, a phrase for what may be shown; `absent`, a phrase for a picture without it, which a CLIP-like judge compares
it with; `question`; and `yes`, whether the answer yes is what is hoped for (true for `keep`, false for `remove`).

The `kind` is "overlap", "diversity" or "reference"; left out, it is "reference" where items have a `reference`,
"overlap" where they have a `negative`, and "diversity" otherwise.

NegGenBench (arXiv 2508.10931, `prompts/test_prompts.json` of github.com/weathon/VSF) is read as it is: a list of
`prompt`, `missing_element`, `question_1` (yes = the subject is there) and `question_2` (yes = the element is missing);
so is its JSONL, whose lines hold such lists as `prompts`, with or without the questions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from negguide._utils.text import listed
from negguide.domain import Language, domain_of

OVERLAP, DIVERSITY, REFERENCE = "overlap", "diversity", "reference"
KINDS = (OVERLAP, DIVERSITY, REFERENCE)
"""What a suite measures; also the names of the built-in suites."""

_DATA = Path(__file__).parent / "data"
_SUITE_FIELDS = ("kind", "about", "items")
_FIELDS = ("prompt", "negative", "keep", "remove", "reference", "id")
_CHECK_FIELDS = ("present", "absent", "question", "yes")
_NEGGENBENCH = ("prompt", "missing_element", "question_1", "question_2")
_FILE_NAME = re.compile(r"[\w-][\w.-]{0,79}")


@dataclass(frozen=True)
class Check:
    """One thing that is asked about a picture.

    Attributes:
        present: a phrase for what may be shown.
        absent: a phrase for a picture without it; "" = not said.
        question: to be answered with yes or no.
        yes: whether the answer yes is what is hoped for.
        shown: whether `present` should be shown.
    """

    present: str
    absent: str
    question: str
    yes: bool
    shown: bool


@dataclass(frozen=True)
class Item:
    """One prompt of a suite; the fields are those of the module's text, `remove` None where nothing must go."""

    id: str
    prompt: str
    negative: str
    keep: Check
    remove: Check | None
    reference: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Suite:
    """Items of one kind.

    Attributes:
        name: "overlap", ..., or the name of the file.
        kind: of `KINDS`.
    """

    name: str
    kind: str
    items: tuple[Item, ...]


def load_suite(name: str, model: str, count: int | None = None) -> Suite:
    """The suite that `--suite` names.

    Args:
        name: of `KINDS`, or a file.
        model: those of closed worlds have built-in suites of their own, in the words that they know.
        count: at most so many items, the first ones; None = all.

    Raises:
        ValueError: there is no such suite, or its file is wrong, naming what would be right.
    """
    path = Path(name).expanduser()
    domain = domain_of(model)
    if name in KINDS:
        if domain is not None and name not in domain.suites:
            raise ValueError(
                f"--suite {name}: {domain.title} brings none; give a JSON or JSONL file in its words"
            )
        path = _DATA / f"{name}.json" if domain is None else domain.suites[name]
    elif not path.is_file():
        raise ValueError(f"--suite must be one of {', '.join(KINDS)}, or a JSON or JSONL file, got {name!r}")
    try:
        kind, rows = _read(path)
        items = tuple(_item(row, number, path.parent) for number, row in enumerate(rows))
        kind = _kind(items) if kind is None else kind
        _check(items, kind)
    except (TypeError, ValueError) as error:
        raise ValueError(f"--suite {name}: {error}") from error
    if count is not None and not 1 <= count <= len(items):
        raise ValueError(f"--count must be from 1 to {len(items)}, the prompts of {name}, got {count}")
    suite = Suite(name if name in KINDS else path.stem, kind, items[:count])
    if domain is not None:
        _check_words(suite, domain.language())
    return suite


def _read(path: Path) -> tuple[str | None, list[Any]]:
    """The kind, where the file says it, and its items."""
    text = path.read_text(encoding="utf-8")
    try:
        data = json.loads(text)
    except ValueError:
        data = _lines(text)
    kind = None
    if isinstance(data, dict) and "prompt" in data:
        # JSONL of one line is JSON too
        data = [data]
    if isinstance(data, dict):
        key = "items" if "items" in data else "prompts"
        if not isinstance(data.get(key), list):
            raise ValueError(f"it must be a list of items, or an object with items, got {_short(data)}")
        if key == "items":
            _check_keys(data, _SUITE_FIELDS, "it")
        data, kind = data[key], data.get("kind")
        if kind is not None and kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if not isinstance(data, list) or not data:
        raise ValueError(f"it must hold at least one item, got {_short(data)}")
    return kind, data


def _lines(text: str) -> list[Any]:
    """JSONL: an item a line, or a line with a list of them."""
    found: list[Any] = []
    # not by other signs that end lines, which may stand in a text
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(
                f"it is neither JSON nor JSONL; line {number} cannot be read: {error}"
            ) from error
        found += row["prompts"] if isinstance(row, dict) and isinstance(row.get("prompts"), list) else [row]
    return found


def _item(row: Any, number: int, folder: Path) -> Item:
    where = f"item {number + 1}"
    if not isinstance(row, Mapping):
        raise ValueError(f"{where} must be an object, got {_short(row)}")
    if "missing_element" in row:
        row = _from_neggenbench(row, where)
    _check_keys(row, _FIELDS, where)
    prompt, negative = (_text(row, name, where) for name in ("prompt", "negative"))
    if not prompt:
        raise ValueError(f"{where} has no prompt")
    name = str(row.get("id", f"{number + 1:03d}"))
    if not _FILE_NAME.fullmatch(name):
        raise ValueError(
            f"{where}: id must be letters, digits, - and _, at most 80, for it names files, got {name!r}"
        )
    paths = row.get("reference") or []
    paths = [paths] if isinstance(paths, str) else paths
    if not (isinstance(paths, list) and all(isinstance(path, str) for path in paths)):
        raise ValueError(f"{where}: reference must be a file or a list of files, got {paths!r}")
    references = tuple(folder / path for path in paths)
    missing = [str(path) for path in references if not path.is_file()]
    if missing:
        raise ValueError(f"{where}: there is no reference image {missing[0]}")
    keep = _check_of(row.get("keep"), f"{where}: keep", prompt, shown=True)
    asked = negative or row.get("remove")
    remove = _check_of(row.get("remove"), f"{where}: remove", negative, shown=False) if asked else None
    return Item(name, prompt, negative, keep, remove, references)


def _from_neggenbench(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    _check_keys(row, _NEGGENBENCH, f"{where} of NegGenBench")
    remove = {"present": row["missing_element"]}
    if "question_2" in row:
        # "Are the sails missing?"
        remove |= {"question": row["question_2"], "yes": True}
    keep = {"question": row["question_1"]} if "question_1" in row else None
    return {"prompt": row.get("prompt"), "negative": row["missing_element"], "keep": keep, "remove": remove}


def _check_of(value: Any, where: str, phrase: str, *, shown: bool) -> Check:
    if value is None:
        value = {}
    if isinstance(value, str):
        value = {"question" if value.rstrip().endswith("?") else "present": value}
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} must be a phrase, a question or an object, got {_short(value)}")
    _check_keys(value, _CHECK_FIELDS, where)
    present = _text(value, "present", where) or phrase
    if not present:
        raise ValueError(f"{where} needs present, a phrase: the item has no negative to take it from")
    question = _text(value, "question", where)
    yes = value.get("yes", shown)
    if not isinstance(yes, bool):
        raise ValueError(f"{where}: yes must be true or false, got {yes!r}")
    if not question:
        if yes != shown:
            raise ValueError(f"{where}: yes is about a question, and there is none")
        question = f"Does the picture show {present}?" if shown else f"Is there {present} in the picture?"
    return Check(present, _text(value, "absent", where), question, yes, shown)


def _kind(items: Sequence[Item]) -> str:
    if any(item.reference for item in items):
        return REFERENCE
    return OVERLAP if any(item.negative for item in items) else DIVERSITY


def _check(items: Sequence[Item], kind: str) -> None:
    names = [item.id for item in items]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"id {twice!r} is there more than once; it names files")
    if kind == OVERLAP:
        bare = next((item.id for item in items if not item.negative), None)
        if bare is not None:
            raise ValueError(f"kind overlap needs a negative in every item; {bare} has none")


def _check_words(suite: Suite, language: Language) -> None:
    """Refuse prompts that the model cannot draw, before anything is drawn."""
    for item in suite.items:
        for text in (item.prompt, item.negative):
            if text:
                try:
                    language.check(text)
                except ValueError as error:
                    raise ValueError(f"--suite {suite.name}: {error}") from error


def _check_keys(row: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    unknown = [str(key) for key in row if key not in known]
    if unknown:
        raise ValueError(f"{where} has the unknown field {unknown[0]!r}; fields are {listed(known)}")


def _text(row: Mapping[str, Any], name: str, where: str) -> str:
    value = row.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"{where}: {name} must be a string, got {_short(value)}")
    return value.strip()


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
