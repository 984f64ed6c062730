"""How a run ends that was not drawn to its end: an error for programs, words in its own line on the page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from typing import Any

import gradio as gr

from negguide.demo.messages import SECONDS, TITLE, StoppedRunError, as_markdown

STOPPED = "**Stopped.** Pictures that are here were drawn before you pressed Stop."
NOTHING = "**Nothing was drawn.**"


def on_page(fn: Callable[..., Any], outputs: Sequence[Any], said: Any) -> Callable[..., Iterator[Any]]:
    """The action for a page, on which nothing is left standing that was said about something else.

    Gradio shows an error over the output that says what happened, also one that was to be invisible, and takes it away
    after a while; here the words stay in that line until something new is drawn.

    Args:
        fn: an action, which yields all outputs.
        outputs: of the action.
        said: the one of them that says what happened.
    """

    def only(words: str) -> list[Any]:
        return [words if output is said else gr.skip() for output in outputs]

    # Gradio reads the signature
    @wraps(fn)
    def action(*arguments: Any, **named: Any) -> Iterator[Any]:
        try:
            yield from fn(*arguments, **named)
        except StoppedRunError as error:
            # what was begun in its place has said so
            if error.wanted:
                yield only(STOPPED)
        except gr.Error as error:
            gr.Warning(error.message, title=TITLE, duration=SECONDS)
            yield only(f"{NOTHING} {as_markdown(error.message)}")

    return action
