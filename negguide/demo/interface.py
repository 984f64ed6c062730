"""The page: five tabs around one backend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from negguide.demo import compare, diversity, mining, negatives, reference
from negguide.demo.backend import Backend
from negguide.demo.limits import Limits
from negguide.demo.outputs import Outputs
from negguide.demo.parts import Tab, filling
from negguide.demo.studio import Studio
from negguide.mining.verify.judge import ClipJudge

CSS = Path(__file__).with_name("style.css")
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
    button_primary_background_fill="*primary_600",
    button_primary_background_fill_hover="*primary_700",
)
TABS: dict[str, Any] = {
    "Negative prompts": negatives,
    "Diversity": diversity,
    "Keep away from an image": reference,
    "Hard negatives": mining,
    "Compare": compare,
}
HEAD = """\
# negguide
### Tell a picture model what to leave out, and keep what you asked for
"""


def build(
    backend: Backend,
    limits: Limits | None = None,
    outputs: Outputs | None = None,
    *,
    greeting: bool = False,
) -> gr.Blocks:
    """The interface around a loaded backend.

    Args:
        backend: what draws.
        limits: how much one visitor may ask for.
        outputs: where files go; a new folder when None.
        greeting: draw the first example now, for everybody to see when the page opens.
    """
    limits = limits or Limits()
    studio = Studio(backend, limits, outputs or Outputs(limits.keep_seconds))

    def stop(request: gr.Request) -> str:
        """Stop what you are drawing."""
        # what is still waiting is taken out of the queue by the event itself
        studio.stops.stop(request.session_hash)
        return "Stopped."

    def left(request: gr.Request) -> None:
        studio.stops.stop(request.session_hash)

    with gr.Blocks(title="negguide", analytics_enabled=False) as page:
        gr.Markdown(HEAD, elem_id="head")
        if not backend.toyworld:
            gr.Markdown(_other_model(backend), elem_id="other-model")
        tabs: dict[str, Tab] = {}
        with gr.Tabs():
            for title, module in TABS.items():
                with gr.Tab(title, id=title):
                    tabs[title] = module.build(studio)
        events = [event for tab in tabs.values() for event in tab.events]
        for number, tab in enumerate(tabs.values()):
            tab.stop.click(
                stop,
                outputs=tab.said,
                api_name="stop" if number == 0 else None,
                # undocumented, so that it is no tool: tools of all clients share one session
                api_visibility="undocumented" if number == 0 else "private",
                cancels=events,
                # a full queue must not keep anybody from stopping
                queue=False,
                show_progress="hidden",
            )
        page.unload(left)
        for tab in tabs.values():
            if tab.begin:
                inputs, values = zip(*tab.begin, strict=True)
                page.load(filling(values), outputs=list(inputs), api_visibility="private", queue=False)
        if greeting:
            first = negatives.greeting(studio)
            page.load(
                lambda: first, outputs=tabs["Negative prompts"].outputs, api_visibility="private", queue=False
            )
    page.queue(max_size=limits.max_queue, api_open=False, default_concurrency_limit=4)
    return page


def _other_model(backend: Backend) -> str:
    """What the page says when it draws with another model than the embedded one."""
    numbers = (
        f"Distances are those of {backend.judge.name}"
        if isinstance(backend.judge, ClipJudge)
        else "Distances need `--judge clip:MODEL`"
    )
    name = Path(backend.model).name if Path(backend.model).is_absolute() else backend.model
    return (
        f"Drawn by **{name}**. What belongs to the embedded toy world is not here: its judge, which counts what each "
        f"picture shows, its words, its scenes and Pip. {numbers}."
    )
