"""The tab "Hard negatives": captions made wrong in one way, painted, and checked by a judge."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr
from PIL import Image

from negguide import Negative, PerpNeg
from negguide.demo import components
from negguide.demo.as_python import code
from negguide.demo.backend import Run
from negguide.demo.limits import whole
from negguide.demo.messages import validation_messages
from negguide.demo.methods import CLASSIC, PLAIN, method_labels, with_method
from negguide.demo.state import MAX_SEED, AppState
from negguide.demo.tabs.pairs import SET, Original, Pair, marked, pack, settings_of, write_set
from negguide.demo.uploads import opened, refuse_broken
from negguide.mining.categories import CATEGORIES
from negguide.mining.edits import make_planner, plan
from negguide.mining.item import Edit
from negguide.mining.settings import Settings
from negguide.mining.verify.margins import PairJudge
from negguide.models import revision

_SET_ID = re.compile(r"call-\w{1,40}")
"""What `Outputs.new` calls its folders; the name comes back from the visitor."""
EDITS = 4
"""Unless another number is chosen."""
WEIGHT = 1.5
"""Of what was edited away."""
METHODS = (PerpNeg.key, CLASSIC, PLAIN)
"""How what was edited out is kept out of the negative picture; the mining format knows no others."""
STOP = 0.6
"""Share of the steps after which it is not kept out any more."""
NO_JUDGE = (
    "This tab needs a judge for its verdicts, and only the embedded model brings one. Start the demo with "
    "`--judge clip:MODEL` or `--judge itm:MODEL`, a CLIP, SigLIP or BLIP by its folder or hub id."
)


@dataclass(frozen=True)
class Plan:
    """What is made: the run of the original, the edits and a run for each, checked settings, and the judge."""

    run: Run
    edits: list[Edit]
    runs: list[Run]
    settings: Settings
    judge: PairJudge


@dataclass(frozen=True, eq=False)
class Mining:
    """The actions of the tab."""

    state: AppState

    def draw_scene(self, seed: int) -> tuple[str, str]:
        """Draw a scene of the toy world, with the caption that is true of it.

        Args:
            seed: another scene for another seed.

        Returns:
            The picture and its caption.
        """
        with validation_messages():
            scene = self.state.backend.page.scene
            if scene is None:
                raise ValueError(
                    "Only an embedded model has scenes of its own; give a picture and its caption."
                )
            image, caption = scene(whole("seed", seed, 0, MAX_SEED))
            path = self.state.folder() / "scene.png"
            image.save(path)
            return str(path), caption

    def hard_negatives(
        self,
        caption: str,
        categories: list[str],
        edits: int,
        method: str,
        weight: float,
        seed: int,
        steps: int,
        guidance_scale: float,
        request: gr.Request,
        image: str | None = None,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (Gradio's way to ask for it)
    ) -> Iterator[tuple[Any, ...]]:
        """Make hard negatives of a caption: edited captions and pictures of them, each checked by a judge.

        Args:
            caption: true of the picture, e.g. "a brown bear in front view wearing a red hat in a meadow".
            categories: which kinds of edits: object, attribute, count, relation, swap, add, remove, negation.
            edits: how many at most.
            method: how what was edited out is kept out of the picture: perp-neg, negative-prompt or plain.
            weight: how strongly.
            seed: of the pictures and of the choice of edits.
            steps: denoising steps.
            guidance_scale: strength of the caption.
            image: the picture; none = one is drawn from the caption.

        Returns:
            The original, every edit with its verdict and scores, the negative pictures, which to keep, the settings as
            Python code, and the id of the set for download.
        """
        with validation_messages():
            planned = self._plan(caption, categories, edits, method, weight, seed, steps, guidance_scale)
            original = self._original(planned.run.prompt, image)
        to_paint = [*([planned.run] if original is None else []), *planned.runs]
        with self.state.drawing(request, progress, to_paint) as draw:
            if original is None:
                (image_of_it,) = draw(planned.run, "The original").images
                original = Original(planned.run.prompt, image_of_it, True)
            shown = self.state.shown(original.image)
            yield shown, "", [], *[gr.skip()] * 3
            pairs: list[Pair] = []
            for edit, run in zip(planned.edits, planned.runs, strict=True):
                (drawn,) = draw(run, edit.caption).images
                pairs.append(_judged(planned.judge, original, edit, drawn))
                yield shown, _table(pairs), self._gallery(pairs), *[gr.skip()] * 3
            folder = self.state.folder()
            write_set(folder / SET, planned.settings, original, pairs)
            choices = [(f"{i} · {pair.edit.caption}", str(i)) for i, pair in enumerate(pairs, 1)]
            kept = [str(i) for i, pair in enumerate(pairs, 1) if not pair.objections]
            keep = gr.CheckboxGroup(choices=choices, value=kept, visible=True)
            yield shown, _table(pairs), self._gallery(pairs), keep, self._code(planned, original), folder.name

    def download_set(self, set_id: str, keep: list[str]) -> str:
        """Pack the pairs that are kept as a zip in the mining format.

        Args:
            set_id: what hard_negatives returned; sets are deleted after an hour.
            keep: the numbers of the pairs, from "1".

        Returns:
            The zip: a set as `negguide mine` writes it.
        """
        with validation_messages():
            if not set_id:
                raise ValueError("There is no set yet; make hard negatives first.")
            folder = self.state.outputs.folder / set_id / SET if _SET_ID.fullmatch(set_id) else None
            # an emptied folder stays for a while
            if folder is None or not any(path.is_file() for path in folder.rglob("*")):
                raise ValueError(
                    "This set is not there any more; sets are deleted after an hour. Make it again."
                )
            return str(pack(folder, self.state.folder(), keep))

    def _plan(
        self,
        caption: str,
        categories: list[str],
        edits: int,
        method: str,
        weight: float,
        seed: int,
        steps: int,
        guidance_scale: float,
    ) -> Plan:
        state, backend = self.state, self.state.backend
        if backend.judge is None:
            raise ValueError(NO_JUDGE)
        if method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
        if not 0 <= weight <= 10:
            raise ValueError(f"weight must be from 0 to 10, got {weight}")
        run = state.plain(caption, 1, seed, steps, guidance_scale, state.size)
        count = whole("edits", edits, 1, state.limits.max_images)
        planner = make_planner("rules", world=None if backend.domain is None else backend.domain.name)
        rng = random.Random(run.seeds[0])
        found, _ = plan(run.prompt, planner, categories=categories, per_item=count, rng=rng)
        if not found:
            raise ValueError(
                f"Nothing in “{run.prompt}” can be edited in these ways; choose more of them, or say more, like “a "
                "brown bear wearing a red hat in a meadow”."
            )
        runs = [self._run(run, edit, method, weight) for edit in found]
        for one in runs:
            backend.arguments(one)
        how = {
            "model": backend.model,
            "revision": revision(backend.model),
            "dtype": str(backend.pipe.dtype).removeprefix("torch."),
            "judge": backend.judge.name,
            "method": method,
            "weight": float(weight),
        }
        settings = settings_of(run, planner, categories, count, how)
        return Plan(run, found, runs, settings, backend.judge)

    def _run(self, original: Run, edit: Edit, method: str, weight: float) -> Run:
        """The run that paints the edited caption, what was edited away kept out of it."""
        negatives = [Negative(edit.avoid, weight, stop=STOP)] if edit.avoid and weight else []
        painted = replace(original, prompt=edit.prompt)
        return with_method(painted, method, negatives, None, self.state.backend.model)

    def _code(self, planned: Plan, original: Original) -> str:
        runs = [("original", planned.run)] if original.painted else []
        runs += [
            (f"{i}-{edit.category}", run)
            for i, (edit, run) in enumerate(zip(planned.edits, planned.runs, strict=True), 1)
        ]
        return code(self.state.backend, runs)

    def _original(self, caption: str, image: str | None) -> Original | None:
        """The picture that was given, or drawn by the closed world itself; None = the model has to paint it."""
        if image is not None:
            return Original(caption, opened(image), False)
        original = self.state.backend.page.original
        true_one = None if original is None else original(caption)
        return None if true_one is None else Original(caption, true_one, False)

    def _gallery(self, pairs: Sequence[Pair]) -> list[tuple[Any, str]]:
        return [
            (self.state.shown(pair.image), f"{i} · {pair.edit.category}") for i, pair in enumerate(pairs, 1)
        ]


def _judged(judge: PairJudge, original: Original, edit: Edit, drawn: Image.Image) -> Pair:
    images = [original.image, original.image, drawn, drawn]
    found = judge.score(images, [original.caption, edit.caption] * 2).tolist()
    scores = (found[0], found[1], found[2], found[3])
    return Pair(edit, drawn, scores, tuple(judge.margins.objections(scores)))


def _table(pairs: Sequence[Pair]) -> str:
    """How many are right, and every edit with its verdict and the 2x2 scores."""
    right = sum(not pair.objections for pair in pairs)
    lines = [
        f"**{right} of {len(pairs)} are right**: the judge finds each caption true of its own picture and "
        "not of the other.",
        "",
        "| | edit | negative caption | verdict | how well each caption fits, 0 to 1: true · edited |",
        "|---|---|---|---|---|",
    ]
    for i, pair in enumerate(pairs, 1):
        verdict = "rejected: " + "; ".join(pair.objections) if pair.objections else "**kept**"
        first, second = ("{:.2f} · {:.2f}".format(*row) for row in (pair.scores[:2], pair.scores[2:]))
        scores = f"the original: {first}<br>the negative: {second}"
        lines.append(f"| {i} | {pair.edit.category} | {marked(pair.edit)} | {verdict} | {scores} |")
    return "\n".join(lines)


def build(state: AppState) -> components.Tab:
    """Lay the tab out and wire it."""
    actions = Mining(state)
    page = state.backend.page
    usual = _usual_method(state)
    kept_out = (
        "" if usual == PLAIN else f", while **{method_labels()[usual]}** keeps out what was edited away"
    )
    gr.Markdown(
        "A hard negative is a caption and a picture that differ from the original in exactly one thing. The caption is "
        f"edited and a picture of the edited caption is drawn{kept_out}; then a judge, a model that scores how well a "
        "caption fits a picture, compares all four combinations. Keep what is right, and download it to train a "
        "CLIP-like model on.",
        elem_classes="intro",
    )
    judged = state.backend.judge is not None
    if not judged:
        gr.Markdown(NO_JUDGE, elem_id="mining-no-judge")
    captions = page.captions
    tries = components.examples(list(captions), "mining") if judged else []
    with components.work() as (asked, results, more):
        with asked:
            words = gr.Textbox(
                next(iter(captions.values())),
                label="Caption",
                elem_id="mining-caption",
                max_lines=3,
            )
            button = components.buttons("Make hard negatives", "mining", interactive=judged)
        with results:
            said = gr.Markdown(
                label="Edits and verdicts", elem_id="mining-said", elem_classes="said scores", min_height=48
            )
            gr.Markdown("The original", elem_classes="title")
            with gr.Row():
                original = gr.Image(
                    label="The original",
                    elem_classes="quiet",
                    format="png",
                    interactive=False,
                    buttons=["fullscreen"],
                    height=180,
                    min_width=160,
                    elem_id="mining-original",
                )
            gallery = components.gallery("The negatives: pictures of the edited captions", "mining-gallery")
            choices = [str(i) for i in range(1, state.limits.max_images + 1)]
            keep = gr.CheckboxGroup(choices, value=[], label="Keep", visible=False, elem_id="mining-keep")
            set_id = gr.Textbox("", label="Set", visible=False)
            with gr.Row():
                pack = gr.Button("Pack what is kept as a zip", elem_id="mining-pack")
            packed = gr.File(
                label="The set", interactive=False, elem_id="mining-zip", elem_classes="file-out"
            )
            python = components.python("mining")
        with more:
            image = gr.Image(
                type="filepath",
                image_mode=None,
                label="A picture of the caption (without one, it is made)",
                sources=["upload", "clipboard"],
                height=230,
                elem_id="mining-image",
            )
            refuse_broken(image)
            with gr.Row(visible=page.scene is not None, equal_height=True):
                number = gr.Number(
                    1, label="Scene number", precision=0, minimum=0, maximum=MAX_SEED, min_width=80
                )
                scene = gr.Button("Draw this scene", size="sm", min_width=120, elem_id="mining-scene")
            categories = gr.CheckboxGroup(
                list(CATEGORIES), value=list(CATEGORIES), label="What may be edited"
            )
            edits = components.up_to(state.limits.max_images, EDITS, "Edits")
            with gr.Accordion("How they are painted", open=False):
                method = gr.Radio(
                    [(method_labels()[key], key) for key in METHODS],
                    value=usual,
                    label="What was edited out is kept out by",
                )
                weight = gr.Slider(0, 10, WEIGHT, step=0.1, label="Weight", buttons=[])
                seed, steps, scale = components.sampling(state)
            components.vocabulary(state)
    scene.click(actions.draw_scene, number, [image, words], api_name="draw_scene", show_progress="hidden")
    pack.click(actions.download_set, [set_id, keep], packed, api_name="download_set", show_progress="hidden")
    outputs = [original, said, gallery, keep, python, set_id]
    events, begun = components.wire(
        state,
        actions.hard_negatives,
        [words, categories, edits, method, weight, seed, steps, scale, image],
        outputs,
        triggers=[button.draw.click, words.submit],
        api_name="hard_negatives",
        buttons=button,
        said=said,
        cleared={keep: gr.update(value=[], visible=False), python: "", set_id: ""},
        filled={
            example: [(words, value), (image, None)]
            for example, value in zip(tries, captions.values(), strict=False)
        },
    )
    return components.Tab(
        events,
        button,
        outputs,
        said,
        warm_up=warm_up if judged and state.backend.domain is not None else None,
        begun=begun,
    )


def _usual_method(state: AppState) -> str:
    """How what was edited out is kept out, unless told: without guidance not at all."""
    way = state.backend.way
    return way if way in METHODS else PLAIN


def warm_up(state: AppState) -> list[Any]:
    """The results of the first example."""
    usual = components.usual(state, images=1)
    return components.last(
        Mining(state).hard_negatives(
            caption=next(iter(state.backend.page.captions.values())),
            categories=list(CATEGORIES),
            edits=min(EDITS, state.limits.max_images),
            method=_usual_method(state),
            weight=WEIGHT,
            **{name: value for name, value in usual.items() if name not in ("images", "size")},
        )
    )
