"""What a chat model was asked for, as a JSON schema, and what is read of its answer, however it is wrapped."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

REQUIRED = ("category", "before", "after")
OPTIONAL = ("draw", "avoid")
"""Fields of negatives alone; an answer may leave them out or give null."""

_THOUGHT = re.compile(r"<(think|thinking|reasoning)>.*?(</\1>|\Z)", re.DOTALL | re.IGNORECASE)
_THOUGHT_END = re.compile(r"</(?:think|thinking|reasoning)>", re.IGNORECASE)
# places where JSON may begin; a failure costs time that grows with the text
_MOST_TRIES = 1000
# an object or a list of objects begins like this; brackets in prose seldom do
_BEGIN = re.compile(r"\{(?=\s*[\"}])|\[(?=\s*[{\]])")


def schema(categories: Sequence[str]) -> dict[str, Any]:
    """The JSON schema of an answer, as servers with structured output take it: all fields required, no others.

    Args:
        categories: that were asked for.
    """
    properties: dict[str, Any] = {name: {"type": "string"} for name in REQUIRED}
    properties["category"] = {"type": "string", "enum": list(categories)}
    if tuple(categories) != ("paraphrase",):
        properties |= {name: {"type": ["string", "null"]} for name in OPTIONAL}
    edit = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "properties": {"edits": {"type": "array", "items": edit}},
        "required": ["edits"],
        "additionalProperties": False,
    }


def without_thoughts(answer: str) -> str:
    """``answer`` without what a model thinks aloud (``<think>...</think>``), also where the opening tag is missing."""
    return _THOUGHT_END.split(_THOUGHT.sub("", answer))[-1].strip()


def parse_answer(answer: str) -> list[dict[str, str]]:
    """The proposals in a model's answer.

    Read are ``{"edits": [...]}``, a bare list, and a single edit; in a code fence, in prose, after thoughts; of several
    such in one answer the last that holds an edit. Names of fields and categories may have any case, null is an empty
    text, other fields are left out. A proposal that lacks a field of ``REQUIRED`` keeps those that it has.

    Raises:
        ValueError: "not JSON", or "wrong schema: not {"edits": [...]}".
    """
    values = list(_values(without_thoughts(answer)))
    if not values:
        raise ValueError("not JSON")
    found = [proposals for value in values if (proposals := _proposals(value)) is not None]
    if not found:
        raise ValueError('wrong schema: not {"edits": [...]}')
    return next((proposals for proposals in reversed(found) if proposals), [])


def _values(text: str) -> Iterator[Any]:
    """Every JSON object and list of objects in ``text`` that is in no other, in order."""
    decoder = json.JSONDecoder()
    at = tries = 0
    while (begin := _BEGIN.search(text, at)) and tries < _MOST_TRIES:
        tries += 1
        try:
            value, at = decoder.raw_decode(text, begin.start())
        except RecursionError:
            return
        except ValueError:
            at = begin.start() + 1
        else:
            yield value


def _proposals(value: Any) -> list[dict[str, str]] | None:
    if isinstance(value, dict):
        fields = {str(name).strip().lower(): field for name, field in value.items()}
        if "edits" in fields:
            value = fields["edits"] or []
        elif set(REQUIRED) <= set(fields):
            value = [value]
    if not isinstance(value, list):
        return None
    return [_proposal(one) if isinstance(one, dict) else {} for one in value]


def _proposal(value: dict[str, Any]) -> dict[str, str]:
    read = {}
    for name, field in value.items():
        name = str(name).strip().lower()
        if name in (*REQUIRED, *OPTIONAL) and (field is None or isinstance(field, str | int | float)):
            read[name] = "" if field is None else str(field)
    if "category" in read:
        read["category"] = read["category"].strip().lower()
    return read
