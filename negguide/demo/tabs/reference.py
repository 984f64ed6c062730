"""The tab "Keep away from an image": away from the trademark character, or from a picture of the visitor's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr
from PIL import Image, ImageChops

from negguide import NegToMe
from negguide.demo import components
from negguide.demo.as_python import code
from negguide.demo.backend import Drawn, Run
from negguide.demo.examples import Character
from negguide.demo.measures import distance, features
from negguide.demo.messages import JUDGE, pushed_sentence, validation_messages
from negguide.demo.methods import paper
from negguide.demo.state import AppState
from negguide.demo.uploads import bound, refuse_broken
from negguide.image_files import shown

PIP, UPLOAD = "pip", "upload"
_AWAY = ["away"]
"""The class of what is in the page and not shown."""
IMAGES = 4
"""Seeds that are drawn unless another number is chosen."""

_UPLOAD = 'reference = Image.open("reference.png").convert("RGB")  # your picture, given below'
_MASK = 'reference_mask = Image.open("reference-mask.png").convert("L")'


def painted(editor: dict[str, Any] | None) -> tuple[Image.Image, Image.Image | None]:
    """The uploaded picture, and where it was painted over (L, white there); None where it was not.

    Raises:
        ValueError: without a picture.
    """
    background = None if editor is None else editor.get("background")
    if editor is None or background is None:
        raise ValueError("There is no picture to keep away from; upload one.")
    background = shown(background)
    mask = Image.new("L", background.size)
    for layer in editor.get("layers") or []:
        if layer is not None:
            mask = ImageChops.lighter(mask, layer.convert("RGBA").getchannel("A").resize(background.size))
    return background, mask if mask.getbbox() else None


@dataclass(frozen=True, eq=False)
class Reference:
    """The actions of the tab."""

    state: AppState

    def keep_away(
        self,
        prompt: str,
        character: str,
        alpha: float,
        threshold: float,
        stop: float,
        center: bool,
        images: int,
        seed: int,
        steps: int,
        guidance_scale: float,
        size: int,
        request: gr.Request,
        picture: dict[str, Any] | None = None,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (Gradio's way to ask for it)
    ) -> Iterator[tuple[Any, ...]]:
        """Draw a prompt plainly and pushed away from a reference picture by NegToMe.

        Args:
            prompt: what to draw, e.g. "an explorer in a meadow".
            character: pip (the trademark character, which the embedded model alone knows) or upload (the picture that
                is given).
            alpha: how strongly, from 0.
            threshold: the least cosine at which two tokens count as alike, -1 to 1.
            stop: when it ends to act, as a fraction of the steps; 0 is as published for the model.
            center: subtract the mean token before matching, for small models.
            images: how many, each with a seed of its own.
            seed: of the first image.
            steps: denoising steps.
            guidance_scale: strength of the prompt.
            size: pixels along an edge; the embedded model has one size.
            picture: the reference as background; where a layer is painted, only that part counts.

        Returns:
            All as one PNG, what happened, the first seed before and after, all pictures, where it was pushed and how
            much at each step, the settings as Python code, the files that the code reads, and the same in numbers.
        """
        with validation_messages():
            plain = self.state.plain(prompt, images, seed, steps, guidance_scale, size)
            if character == PIP:
                reference, mask = self._known().picture(), None
            else:
                reference, mask = painted(picture)
            options = {
                # those with images are for centred tokens
                **self.state.backend.suited.of_negtome(images=center),
                "alpha": alpha,
                "threshold": threshold,
                "stop": stop or None,
                "center": center,
            }
            method = NegToMe(reference, reference_mask=mask, **options)
        pushed = replace(plain, methods=(method,))
        with self.state.drawing(request, progress, [plain, pushed]) as draw:
            before = draw(plain, "Plain")
            gallery = self._gallery([("before", plain, before)])
            yield gr.skip(), gr.skip(), gr.skip(), gallery, *[gr.skip()] * 5
            after = draw(pushed, "Away from the picture")
            yield self._all(plain, pushed, before, after, reference, mask)

    def _known(self) -> Character:
        """Whom the model knows.

        Raises:
            ValueError: it knows nobody.
        """
        known = self.state.backend.page.character
        if known is None:
            raise ValueError("This model has no character of its own to keep away from; give a picture.")
        return known

    def _gallery(self, columns: list[tuple[str, Run, Drawn]]) -> list[tuple[Any, str]]:
        seeds = columns[0][1].seeds
        return [
            (self.state.shown(drawn.images[i]), f"seed {seed} · {label}")
            for i, seed in enumerate(seeds)
            for label, _, drawn in columns
        ]

    def _all(
        self,
        plain: Run,
        pushed: Run,
        before: Drawn,
        after: Drawn,
        reference: Image.Image,
        mask: Image.Image | None,
    ) -> tuple[Any, ...]:
        known = self.state.backend.page.character
        who = known if known is not None and mask is None and reference == known.picture() else None
        title = f"“{plain.prompt}”, pushed away from {'a picture' if who is None else who.name}"
        sheet = self.state.sheet(
            [("plain", plain, before.images), ("away", pushed, after.images)], title, as_rows=True
        )
        imports, lines, files = ["from PIL import Image"], [_UPLOAD], []
        if who is not None:
            imports, lines = list(who.imports), [who.code]
        else:
            folder = self.state.folder()
            reference.save(folder / "reference.png")
            files = [folder / "reference.png"]
            if mask is not None:
                mask.save(folder / "reference-mask.png")
                lines.append(_MASK)
                files.append(folder / "reference-mask.png")
        return (
            sheet,
            self._verdict(before, after, who),
            (self.state.shown(before.images[0]), self.state.shown(after.images[0])),
            self._gallery([("before", plain, before), ("after", pushed, after)]),
            self.state.heatmap(after),
            self.state.curves(after),
            code(
                self.state.backend,
                [("before", plain), ("after", pushed)],
                imports=imports,
                reference="\n".join(lines),
            ),
            [str(path) for path in files] or None,
            self._numbers(before, after, reference, who),
        )

    def _verdict(self, before: Drawn, after: Drawn, who: Character | None) -> str:
        """What happened in plain words; for somebody whom the model knows, counted by the judge of its world."""
        if who is None:
            return (
                "**The same seeds and words, before and after.** Look for what they have in common with your picture "
                "before, and no longer have after."
            )
        first, second = (who.count(drawn.images) for drawn in (before, after))
        n = len(before.images)
        shown = f"{first} of {n} pictures show {who.alone}"
        return f"**Before, {shown}; after being pushed away from {who.pronoun}, {second}.**"

    def _numbers(self, before: Drawn, after: Drawn, reference: Image.Image, who: Character | None) -> str:
        sentence, backend = pushed_sentence(after.trace), self.state.backend
        goal = features(backend, [reference])
        vectors = [features(backend, drawn.images) for drawn in (before, after)]
        means = [distance(found, goal) for found in vectors if found is not None and goal is not None]
        if not means:
            return sentence
        rows = [("distance to the picture (0 = the same)", *(f"{mean:.2f}" for mean in means))]
        if who is not None:
            n = len(before.images)
            rows.append(
                (f"is {who.alone}", *(f"{who.count(drawn.images)} of {n}" for drawn in (before, after)))
            )
        lines = ["| what the judge sees | Before | After |", "|---|---|---|"]
        shown = [sentence, "", *lines, *(f"| {' | '.join(row)} |" for row in rows)]
        return "\n".join([*shown, "", JUDGE] if backend.reader is not None else shown)


def warm_up(state: AppState) -> list[Any]:
    """The results of the first example."""
    suited = _suited(state)
    return components.last(
        Reference(state).keep_away(
            prompt=next(iter(state.backend.page.reference.values())),
            character=PIP,
            alpha=suited["alpha"],
            threshold=suited["threshold"],
            stop=suited.get("stop") or 0,
            center=True,
            **components.usual(state, images=IMAGES),
        )
    )


def _suited(state: AppState) -> dict[str, Any]:
    return {"alpha": 0.9, **state.backend.suited.of_negtome(images=True)}


def build(state: AppState) -> components.Tab:
    """Lay the tab out and wire it."""
    actions = Reference(state)
    known, prompts = state.backend.page.character, state.backend.page.reference
    toy = known is not None
    suited = _suited(state)
    here = "" if known is None else f"{known.about} "
    gr.Markdown(
        f"{here}**NegToMe** ({paper(NegToMe)}) pushes what is drawn away from a "
        "reference picture; no word has to say what is in it.",
        elem_classes="intro",
    )
    tries = components.examples(list(prompts), "reference")
    with components.work() as (asked, results, more):
        with asked:
            prompt = gr.Textbox(
                next(iter(prompts.values())),
                label="Draw",
                elem_id="reference-prompt",
                max_lines=3,
            )
            character = gr.Radio(
                ([] if known is None else [(known.name, PIP)]) + [("my picture", UPLOAD)],
                value=PIP if toy else UPLOAD,
                label="Keep away from",
                elem_id="reference-character",
                visible=toy,
            )
            gr.Image(
                None if known is None else state.shown(known.picture()),
                label="" if known is None else known.name,
                elem_classes="quiet",
                interactive=False,
                height=160,
                buttons=[],
                visible=toy,
                elem_id="reference-pip",
                format="png",
            )
            # an editor that is not in the page when it is built does not take pictures later, and one that is itself
            # shown and hidden is another one from then on, without the checks of this one
            with gr.Column(elem_classes=_AWAY if toy else []) as own:
                picture = gr.ImageEditor(
                    label="My picture; paint over a part, and only that part counts",
                    type="pil",
                    # as it comes: Gradio's own way to RGBA cuts 16 bits a channel off
                    image_mode=None,
                    sources=["upload", "clipboard"],
                    brush=gr.Brush(default_size="auto", colors=["#f43f5e"], color_mode="fixed"),
                    transforms=[],
                    layers=False,
                    format="png",
                    elem_id="reference-picture",
                    canvas_size=(512, 512),
                )
            refuse_broken(picture)
            limits = state.limits
            bound(picture, 4 * limits.max_queue, 16 * limits.max_upload_mb << 20)
            alpha = gr.Slider(0, 20, suited["alpha"], step=0.1, label="How strongly (alpha)", buttons=[])
            button = components.buttons("Draw before and after", "reference")
        with results:
            said = gr.Markdown(
                label="What happened", elem_id="reference-said", elem_classes="said", min_height=48
            )
            slider = components.slider("reference-slider")
            gr.Markdown(
                "Left **before**, right **after**. Drag the line, or move it with the arrow keys.",
                elem_classes="title sides",
            )
            gallery = components.gallery("The same seeds before and after", "reference-gallery", columns=4)
            numbers = components.numbers("reference")
            where, when = components.acted()
            python, sheet = components.to_take_away("reference")
            files = gr.File(
                label="Files that the code reads",
                visible=not toy,
                interactive=False,
                elem_classes="file-out",
                file_count="multiple",
            )
        with more:
            settings = components.settings(state, images=IMAGES)
            with gr.Accordion("What is pushed, and when", open=False):
                threshold = components.threshold(suited["threshold"])
                stop = components.until(suited.get("stop"))
                center = gr.Checkbox(
                    state.backend.domain is not None,
                    label="subtract the mean of all patches first",
                    info="in small models all patches of a picture are nearly alike; what is left tells them apart",
                )
            components.vocabulary(state)
    character.change(
        lambda chosen: [
            gr.update(elem_classes=[] if chosen == UPLOAD else _AWAY),
            gr.update(visible=chosen == UPLOAD),
        ],
        character,
        [own, files],
        api_visibility="private",
        queue=False,
        show_progress="hidden",
    )
    outputs = [sheet, said, slider, gallery, where, when, python, files, numbers]
    chosen = [(character, PIP)] if toy else []
    events, begun = components.wire(
        state,
        actions.keep_away,
        [prompt, character, alpha, threshold, stop, center, *settings, picture],
        outputs,
        triggers=[button.draw.click, prompt.submit],
        api_name="keep_away",
        buttons=button,
        said=said,
        cleared={numbers: "", python: ""},
        filled={
            example: [(prompt, value), *chosen]
            for example, value in zip(tries, prompts.values(), strict=True)
        },
    )
    return components.Tab(events, button, outputs, said, warm_up=warm_up if toy else None, begun=begun)
