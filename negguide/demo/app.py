"""The page: its tabs around one backend."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from negguide.demo.backend import Backend
from negguide.demo.clients import Clients
from negguide.demo.components import Tab, filling
from negguide.demo.endings import STOPPED
from negguide.demo.limits import Limits
from negguide.demo.messages import WORDS_TOOL
from negguide.demo.methods import paper
from negguide.demo.outputs import Outputs
from negguide.demo.state import AppState
from negguide.demo.tabs import compare, diversity, mining, negatives, reference, views
from negguide.demo.uploads import refuse_quietly
from negguide.demo.warm_up import WarmUps
from negguide.methods.registry import registered_methods
from negguide.mining.verify.judge import ClipJudge

CSS = Path(__file__).with_name("style.css")
SCRIPT = Path(__file__).with_name("page.js")
THEME = gr.themes.Default(
    primary_hue=gr.themes.colors.indigo,
    secondary_hue=gr.themes.colors.indigo,
    neutral_hue=gr.themes.colors.slate,
    radius_size=gr.themes.sizes.radius_md,
    # of the reader's own system: nothing is fetched
    font=["ui-sans-serif", "system-ui", "sans-serif"],
    font_mono=["ui-monospace", "Consolas", "monospace"],
).set(
    # Gradio's own are too pale to read on white: 4.5 to 1 at least
    body_text_color_subdued="*neutral_500",
    body_text_color_subdued_dark="*neutral_400",
    block_info_text_color="*neutral_500",
    # 3 to 1 for what is not text
    checkbox_border_color="*neutral_500",
    checkbox_border_color_dark="*neutral_400",
    link_text_color_dark="*primary_300",
    link_text_color_visited_dark="*primary_300",
    link_text_color_hover_dark="*primary_200",
    link_text_color_active_dark="*primary_200",
    button_primary_background_fill="*primary_600",
    button_primary_background_fill_hover="*primary_700",
)
TABS: dict[str, tuple[str, Any]] = {
    "leave-out": ("Leave out", negatives),
    "variety": ("Variety", diversity),
    "keep-away": ("Keep away from an image", reference),
    "hard-negatives": ("Hard negatives", mining),
    "compare": ("Compare", compare),
    "views": ("Views and 3D", views),
}
"""{what the address of the page ends with: (title, module)}."""
IDLE_SECONDS, PROGRESS_SECONDS = 0.02, 0.1
"""How often the queue is looked into, and progress is told."""
HEAD = """\
# negguide
### Tell a picture model what to leave out, and keep what you asked for
"""


def build(
    backend: Backend,
    limits: Limits | None = None,
    outputs: Outputs | None = None,
    *,
    clients: Clients | None = None,
    warm_up: bool = False,
) -> gr.Blocks:
    """The interface around a loaded backend.

    Args:
        backend: what draws.
        limits: how much one visitor may ask for.
        outputs: where files go; a new folder when None.
        clients: who waits for what; those of a server that watches its requests.
        warm_up: draw the first example now, for everybody to see when the page opens.
    """
    limits = limits or Limits()
    clients = clients or Clients(limits.max_waiting)
    state = AppState(backend, limits, outputs or Outputs(limits.keep_seconds), clients)

    def stop(request: gr.Request) -> str:
        """Stop what you are drawing, and what you wait for."""
        state.stop(request.session_hash)
        return "Stopped."

    def left(request: gr.Request) -> None:
        state.stop(request.session_hash)

    shown_tabs = {name: tab for name, tab in TABS.items() if backend.solids or tab[1] is not views}
    with gr.Blocks(title="negguide", analytics_enabled=False) as page:
        gr.Markdown(HEAD, elem_id="head")
        if backend.domain is None:
            gr.Markdown(_other_model(backend), elem_id="other-model")
        # for narrow pages, where Gradio puts most tabs into a menu without a name
        with gr.Row(elem_id="nav"):
            links = {
                name: gr.Button(title, size="sm", elem_id=f"nav-{name}", min_width=40)
                for name, (title, _) in shown_tabs.items()
            }
        tabs: dict[str, Tab] = {}
        opened: dict[str, gr.Tab] = {}
        with gr.Tabs() as all_tabs:
            for name, (title, module) in shown_tabs.items():
                with gr.Tab(title, id=name) as opened[name]:
                    tabs[name] = module.build(state)
        papers = ", ".join(paper(kind, kind.label) for kind in registered_methods())
        gr.Markdown(
            f"Papers: {papers}. Every tab says how to do the same in Python or in a shell.", elem_id="papers"
        )
        events = [event for tab in tabs.values() for event in tab.events]
        for tab in tabs.values():
            tab.buttons.stop.click(
                _stopping(state, tab.buttons.label, [event["id"] for event in events]),
                outputs=[tab.said, tab.buttons.draw],
                api_visibility="private",
                # a full queue must not keep anybody from stopping
                queue=False,
                show_progress="hidden",
            )
        # for programs; a page has its own
        gr.on(
            [],
            stop,
            outputs=next(iter(tabs.values())).said,
            api_name="stop",
            # so that it is no tool: tools of all clients share one session
            api_visibility="undocumented",
            queue=False,
            show_progress="hidden",
        )
        if backend.page.words:
            gr.api(_words(backend.page.words), api_name=WORDS_TOOL, queue=False)
        page.unload(left)
        _link(all_tabs, opened, links)
        begin = [pair for tab in tabs.values() for pair in tab.begin]
        inputs, values = zip(*begin, strict=True)
        begun = page.load(
            filling(values),
            outputs=list(inputs),
            api_visibility="private",
            queue=False,
            show_progress="hidden",
        )
        # every field that has a name is one that a visitor writes into
        fields = [one for one in page.blocks.values() if isinstance(one, gr.Textbox) and one.elem_id]
        names = json.dumps([one.elem_id for one in fields])
        begun.then(
            None,
            js=f"() => negguide.begin({names})",
            outputs=fields,
            api_visibility="private",
            queue=False,
            show_progress="hidden",
        )
        if warm_up:
            _warm_up(page, state, tabs, opened)
    page.queue(max_size=limits.max_queue, api_open=False, default_concurrency_limit=4)
    # Gradio looks into its queue a thousand times a second, a twentieth of a processor while nobody is there
    page._queue.sleep_when_free, page._queue.progress_update_sleep_when_free = IDLE_SECONDS, PROGRESS_SECONDS
    refuse_quietly(page)
    clients.page = page
    return page


def _words(known: Sequence[tuple[str, str]]) -> Callable[[], dict[str, str]]:
    def words() -> dict[str, str]:
        """List the words that the embedded model reads, by what they say.

        Returns:
            The words by their kind, and how they are put together.
        """
        return dict(known)

    return words


def _stopping(state: AppState, label: str, events: Sequence[int]) -> Callable[..., Any]:
    # another name than that of the endpoint, which Gradio would give to the first function that has it
    async def stop_on_the_page(request: gr.Request) -> tuple[Any, Any]:
        # what is there already is not what was stopped
        busy = await state.clients.is_busy(request.session_hash, events)
        state.stop(request.session_hash)
        state.clients.leave_queue(request.session_hash)
        return (STOPPED, label) if busy else (gr.skip(), gr.skip())

    return stop_on_the_page


def _link(all_tabs: gr.Tabs, opened: Mapping[str, gr.Tab], links: Mapping[str, gr.Button]) -> None:
    """Have the address of the page name the tab, and the buttons of narrow pages open it."""
    for name, tab in opened.items():
        tab.select(None, js=f"() => negguide.opened('{name}')", api_visibility="private", queue=False)
        links[name].click(
            lambda name=name: gr.Tabs(selected=name),
            outputs=all_tabs,
            queue=False,
            api_visibility="private",
            show_progress="hidden",
        )


def _warm_up(page: gr.Blocks, state: AppState, tabs: Mapping[str, Tab], opened: Mapping[str, gr.Tab]) -> None:
    """Show the results of the first example of a tab when it is opened first."""
    lasting = replace(state, lasting=True)
    draw = {name: partial(tab.warm_up, lasting) for name, tab in tabs.items() if tab.warm_up}
    # nobody's session
    warm_ups = WarmUps(draw, stop=lambda: state.stops.stop(None))
    state.outputs.writers.append(warm_ups.close)
    warm_ups.start()
    for name, tab in tabs.items():
        if tab.warm_up is None:
            continue

        async def greet(begun: bool, request: gr.Request, name: str = name, tab: Tab = tab) -> list[Any]:
            nothing = [gr.skip() for _ in (*tab.outputs, tab.begun)]
            if begun:
                return nothing
            asked = time.monotonic()
            shown = await warm_ups.of(name)
            if shown is None or state.clients.has_started_since(request.session_hash, asked):
                return nothing
            # Gradio takes updates apart when it sends them, and there are further visitors
            return [*copy.deepcopy(list(shown)), True]

        how: dict[str, Any] = {
            "fn": greet,
            "inputs": tab.begun,
            "outputs": [*tab.outputs, tab.begun],
            "api_visibility": "private",
            "queue": False,
            "show_progress_on": tab.said,
        }
        opened[name].select(**how)
        if name == next(iter(tabs)):
            page.load(**how)


def _other_model(backend: Backend) -> str:
    """What the page says when it draws with another model than the embedded one."""
    numbers = (
        f"Distances are those of {backend.judge.name}"
        if isinstance(backend.judge, ClipJudge)
        else "Distances need `--judge clip:MODEL`"
    )
    name = Path(backend.model).name if Path(backend.model).is_absolute() else backend.model
    return (
        f"Drawn by **{name}**. Only the built-in toy world has a judge that counts what each picture shows, a list of "
        f"words, scenes, and Pip; here they are left out. {numbers}."
    )
