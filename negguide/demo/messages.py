"""What the page says: the model's words, what is wrong with an input, how a run ended, and what a negative did."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import gradio as gr

from negguide.demo.stopping import NotWantedError, StoppedError
from negguide.domain import Language
from negguide.integration.diagnostics.trace import Trace
from negguide.methods import Method, NegToMe, ScoreMethod

WORDS_TOOL = "words"
"""The action that lists the words of a closed world."""


_WEIGHTED = re.compile(r"[(\[][^()\[\]]*:\s*\d*\.?\d+\s*[)\]]|\({2,}|\+\+")


def weighted(text: str) -> str | None:
    """The answer to words that carry weights, as other programs read them; None for words without."""
    if _WEIGHTED.search(text) is None:
        return None
    return (
        f"Weights inside words, as in “{text}”, are not read here. Write the words alone; what is left out has its "
        "weight in the slider beside it, and “Guidance scale” is the strength of the whole prompt."
    )


JUDGE = (
    "The judge is a small classifier that reads what each picture shows; it was trained on the world's own drawings "
    "and takes no part in drawing."
)


def complaint(text: str, language: Language) -> str | None:
    """What is wrong with words of a closed world, in words for a visitor; None when they can be drawn."""
    try:
        language.check(text)
    except ValueError as error:
        known = language.vocabulary()
        unknown = list(dict.fromkeys(word for word in language.words_of(text) if word not in known))
        if "without" in unknown:
            return (
                f"“{text}”: this world does not read “without”. Write what is not wanted into “Leave out”, as a "
                "negative, and leave it out of the prompt."
            )
        if not unknown:
            expected, got = _EXPECTED.search(str(error)), _GOT.search(str(error))
            wanted = f" Expected here: {expected[1]}." if expected else ""
            at = f" at “{got[1]}”" if got else ""
            return f"This little world cannot read “{text}”{at}.{wanted} See “Words you can use”."
        close = [match for word in unknown for match in difflib.get_close_matches(word, known, n=1)]
        meant = f" Did you mean {_listed(close)}?" if close else ""
        listed = "Its words are listed under “Words you can use”."
        return f"This little world does not know {_listed(unknown)}.{meant} {listed}"
    return None


def as_markdown(words: str) -> str:
    """A visitor's words for a page of Markdown, where they stand as they were written: no link, picture or HTML."""
    return re.sub(r"[\\`*_\[\]<>&~|!]|:(?=//)", lambda sign: f"&#{ord(sign[0])};", words)


_EXPECTED = re.compile(r"expected (.*?)(?:, got|$)")
_GOT = re.compile(r"got '(.*)'$")


_OBJECT = re.compile(r"""Negative\((?:'([^']*)'|"([^"]*)")\)""")
MAX_MESSAGE = 500
"""Characters of a message, which may repeat what it was given."""


def as_message(text: str) -> str:
    """A message for a place that shows HTML, which must not become markup, and that programs get as well."""
    text = _OBJECT.sub(lambda found: f"“{found[1] or found[2]}”", text)
    if len(text) > MAX_MESSAGE:
        text = f"{text[: MAX_MESSAGE // 2]} … {text[-MAX_MESSAGE // 2 :]}"
    for sign, said in ((">=", "at least"), ("<=", "at most")):
        text = text.replace(f" {sign} ", f" {said} ")
    return text.translate({ord("<"): "‹", ord(">"): "›"})


def _listed(words: Sequence[str]) -> str:
    return ", ".join(f"“{word}”" for word in dict.fromkeys(words))


TITLE, SECONDS = "Please change this", 20
"""Of a message about an input, and how long it is shown."""


class StoppedRunError(gr.Error):
    """What a program gets whose run was stopped; a page says it in its own line.

    Args:
        wanted: whether Stop was pressed; otherwise nobody waits for the results, or something newer was begun.
    """

    def __init__(self, *, wanted: bool) -> None:
        super().__init__("Stopped.", title="Stopped", print_exception=False)
        self.wanted = wanted


def refused(message: str) -> gr.Error:
    """What a program gets whose input is wrong, in one line of the log."""
    return gr.Error(as_message(message), title=TITLE, duration=SECONDS, print_exception=False)


@contextmanager
def validation_messages() -> Iterator[None]:
    """Turn what is wrong with an input, and a stopped run, into an error that programs get and pages show."""
    try:
        yield
    except StoppedError as error:
        raise StoppedRunError(wanted=not isinstance(error, NotWantedError)) from None
    except gr.Error:
        # which is a ValueError, and says it already
        raise
    # a missing package: its message says how to install it
    except (ValueError, TypeError, ImportError) as error:
        raise refused(str(error)) from error


def verdict(label: str, prompt: str, kept: Mapping[str, int], gone: Mapping[str, int], total: int) -> str:
    """What came of it, in plain words.

    Args:
        label: of the method.
        prompt: what was asked for.
        kept: {"method": in how many pictures all of the prompt is, "classic": the same of the classic negative prompt,
            where it was drawn}.
        gone: {what was left out: in how many of the method's pictures it is not}.
        total: pictures of each.
    """
    pictures = f"{total} picture" + "s" * (total > 1)
    mine, asked = kept["method"], f"“{as_markdown(prompt)}”"
    if "classic" not in kept:
        said = f"{label} kept all of {asked} in {mine} of {pictures}."
    elif mine == kept["classic"]:
        said = f"Here both do the same: all of {asked} is in {mine} of {pictures}."
    else:
        order = [(label, mine), ("the classic negative prompt", kept["classic"])]
        (first, more), (second, fewer) = sorted(order, key=lambda one: -one[1])
        said = f"{first} kept all of {asked} in {more} of {pictures}, {second} in {fewer}."
    away = " and ".join(f"“{as_markdown(name)}” in {count} of {total}" for name, count in gone.items())
    return f"**{said[0].upper()}{said[1:]}** Gone with {label}: {away}."


def what_happened(method: Method | None, trace: Trace | None, negatives: Sequence[str]) -> str:
    """One sentence on what the negatives did, from the numbers of the trace.

    Args:
        method: what took the negatives; None = a classic negative prompt, or nothing.
        trace: of its run.
        negatives: in words.
    """
    negatives = [as_markdown(negative) for negative in negatives]
    if not negatives:
        return "Nothing was left out: both sides show the same."
    if method is None or trace is None:
        return (
            f"A classic negative prompt pushes away from everything in {_listed(negatives)}, "
            "including what it shares with the prompt."
        )
    if isinstance(method, ScoreMethod):
        return _overlap(method, trace)
    changed = _mean(trace.changed) if trace.changed is not None else math.nan
    if math.isnan(changed):
        return _never_acted(method.label)
    away = f"away from {_listed(negatives)}"
    return f"{method.label} changed what attention reads from the prompt by {changed:.0%}, {away}."


def _never_acted(label: str) -> str:
    return f"{label} never acted: none of these steps lies between its start and its end."


def _overlap(method: ScoreMethod, trace: Trace) -> str:
    cosines = {name: _mean(trace.cosine[:, k]) for k, name in enumerate(trace.negatives)}
    acted = {name: cosine for name, cosine in cosines.items() if not math.isnan(cosine)}
    if not acted:
        return _never_acted(method.label)
    name = max(acted, key=lambda each: acted[each])
    cosine, kept = acted[name], _mean(trace.kept[:, trace.negatives.index(name)])
    start = f"“{as_markdown(name)}” overlaps the prompt by {cosine:.2f}"
    if cosine < 0.2:
        return f"{start}, hardly at all: a classic negative prompt would do much the same here."
    return (
        f"{start}. (0: they have nothing in common; 1: they say the same.) A classic negative prompt would have "
        f"subtracted that too; only the rest, {kept:.0%} of the negative, is what the prompt did not ask for."
    )


def pushed_sentence(trace: Trace | None) -> str:
    """One sentence on the share of tokens that NegToMe pushed."""
    share = math.nan if trace is None or trace.pushed is None else _mean(trace.pushed)
    if math.isnan(share):
        return _never_acted(NegToMe.label)
    return f"While it acted, {NegToMe.label} pushed {share:.0%} of the patches (tokens) of each picture."


def _mean(values: object) -> float:
    import torch

    assert isinstance(values, torch.Tensor)
    return float(values.nanmean())
