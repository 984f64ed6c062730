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
from negguide.demo import parts
from negguide.demo.as_python import code
from negguide.demo.backend import Run
from negguide.demo.how import CLASSIC, PLAIN, method_labels, with_method
from negguide.demo.limits import whole
from negguide.demo.pairs import SET, Original, Pair, marked, pack, settings_of, write_set
from negguide.demo.studio import MAX_SEED, Studio
from negguide.demo.uploads import opened, refuse_broken
from negguide.demo.words import said_on_the_page
from negguide.mining.edits import make_planner, plan
from negguide.mining.item import CATEGORIES, Edit
from negguide.mining.settings import Settings
from negguide.mining.verify.margins import PairJudge
from negguide.models import revision
from negguide.toyworld import caption as caption_of
from negguide.toyworld import parse, render, sample_scene
from negguide.toyworld.scene import is_complete

_SET_ID = re.compile(r"call-\w{1,40}")
"""What `Outputs.new` calls its folders; the name comes back from the visitor."""
EXAMPLES = {
    "a brown bear wearing a red hat": "a brown bear in front view wearing a red hat in a meadow",
    "a white cat wearing black glasses": "a white cat in front view wearing black glasses in the snow",
    "a grey rabbit wearing a blue scarf": "a grey rabbit in front view wearing a blue scarf on a beach",
}
ENGLISH = {
    caption: caption
    for caption in (
        "a black cat on a red chair",
        "two brown dogs in a park",
        "a man in a blue shirt riding a horse",
    )
}
"""For models of the real world."""
WAYS = (PerpNeg.key, CLASSIC, PLAIN)
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

    studio: Studio

    def draw_scene(self, seed: int) -> tuple[str, str]:
        """Draw a scene of the toy world, with the caption that is true of it.

        Args:
            seed: another scene for another seed.

        Returns:
            The picture and its caption.
        """
        with said_on_the_page():
            scene = sample_scene(random.Random(whole("seed", seed, 0, MAX_SEED)))
            path = self.studio.outputs.new() / "scene.png"
            render(scene).save(path)
            return str(path), caption_of(scene)

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
            The original, every edit with its scores and verdict, the negative pictures, which to keep, the settings
            as Python code, and the id of the set for download.
        """
        with said_on_the_page():
            planned = self._plan(caption, categories, edits, method, weight, seed, steps, guidance_scale)
            original = self._original(planned.run.prompt, image)
        to_paint = [*([planned.run] if original is None else []), *planned.runs]
        with self.studio.drawing(request, progress, to_paint) as draw:
            if original is None:
                (image_of_it,) = draw(planned.run, "The original").images
                original = Original(planned.run.prompt, image_of_it, True)
            shown = self.studio.shown(original.image)
            yield shown, "", [], *[gr.skip()] * 3
            pairs: list[Pair] = []
            for edit, run in zip(planned.edits, planned.runs, strict=True):
                (drawn,) = draw(run, edit.caption).images
                pairs.append(_judged(planned.judge, original, edit, drawn))
                yield shown, _table(pairs), self._gallery(pairs), *[gr.skip()] * 3
            folder = self.studio.outputs.new()
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
        with said_on_the_page():
            if not set_id:
                raise ValueError("There is no set yet; make hard negatives first.")
            folder = self.studio.outputs.folder / set_id / SET if _SET_ID.fullmatch(set_id) else None
            if folder is None or not folder.is_dir():
                raise ValueError(
                    "This set is not there any more; sets are deleted after an hour. Make it again."
                )
            return str(pack(folder, self.studio.outputs.new(), keep))

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
        studio, backend = self.studio, self.studio.backend
        if backend.judge is None:
            raise ValueError(NO_JUDGE)
        if method not in WAYS:
            raise ValueError(f"method must be one of {', '.join(WAYS)}, got {method!r}")
        if not 0 <= weight <= 10:
            raise ValueError(f"weight must be from 0 to 10, got {weight}")
        run = studio.plain(caption, 1, seed, steps, guidance_scale, studio.size)
        count = whole("edits", edits, 1, studio.limits.max_images)
        planner = make_planner("rules", world=backend.toyworld)
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
        return with_method(painted, method, negatives, None, self.studio.backend.toyworld)

    def _code(self, planned: Plan, original: Original) -> str:
        runs = [("original", planned.run)] if original.painted else []
        runs += [
            (f"{i}-{edit.category}", run)
            for i, (edit, run) in enumerate(zip(planned.edits, planned.runs, strict=True), 1)
        ]
        return code(self.studio.backend, runs)

    def _original(self, caption: str, image: str | None) -> Original | None:
        """The picture that was given, or drawn by the toy world itself; None = the model has to paint it."""
        if image is not None:
            return Original(caption, opened(image), False)
        if self.studio.backend.toyworld and is_complete(scene := parse(caption)):
            return Original(caption, render(scene), False)
        return None

    def _gallery(self, pairs: Sequence[Pair]) -> list[tuple[Any, str]]:
        return [
            (self.studio.shown(pair.image), f"{i} · {pair.edit.category}") for i, pair in enumerate(pairs, 1)
        ]


def _judged(judge: PairJudge, original: Original, edit: Edit, drawn: Image.Image) -> Pair:
    images = [original.image, original.image, drawn, drawn]
    found = judge.score(images, [original.caption, edit.caption] * 2).tolist()
    scores = (found[0], found[1], found[2], found[3])
    return Pair(edit, drawn, scores, tuple(judge.margins.objections(scores)))


def _table(pairs: Sequence[Pair]) -> str:
    """Every edit with the 2x2 scores; I is the picture, T the caption, and ′ marks the negative ones."""
    lines = ["| | edit | negative caption, T′ | verdict | scores of T and T′ |", "|---|---|---|---|---|"]
    for i, pair in enumerate(pairs, 1):
        verdict = "rejected: " + "; ".join(pair.objections) if pair.objections else "**kept**"
        first, second = ("{:.2f} · {:.2f}".format(*row) for row in (pair.scores[:2], pair.scores[2:]))
        scores = f"I: {first}<br>I′: {second}"
        lines.append(f"| {i} | {pair.edit.category} | {marked(pair.edit)} | {verdict} | {scores} |")
    return "\n".join(lines)


def build(studio: Studio) -> parts.Tab:
    """Lay the tab out and wire it."""
    actions = Mining(studio)
    toy = studio.backend.toyworld
    gr.Markdown(
        "A hard negative is a pair that is wrong in exactly one way. The caption is edited, the edited caption "
        "is painted with **Perp-Neg** keeping out what was edited away, and a judge looks at all four combinations. "
        "Keep what is right, and download it to train a CLIP-like model on."
    )
    judged = studio.backend.judge is not None
    if not judged:
        gr.Markdown(NO_JUDGE, elem_id="mining-no-judge")
    captions = EXAMPLES if toy else ENGLISH
    tries = parts.examples(list(captions), "mining") if judged else []
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=320):
            words = gr.Textbox(
                next(iter(captions.values())),
                label="Caption",
                elem_id="mining-caption",
                max_lines=3,
            )
            image = gr.Image(
                type="filepath",
                image_mode=None,
                label="Its picture (without one, it is drawn)",
                sources=["upload", "clipboard"],
                height=230,
                elem_id="mining-image",
            )
            refuse_broken(image)
            with gr.Row(visible=toy, equal_height=True):
                number = gr.Number(1, label="Scene", precision=0, minimum=0, maximum=MAX_SEED, min_width=80)
                scene = gr.Button("Draw me this scene", size="sm", min_width=120, elem_id="mining-scene")
            categories = gr.CheckboxGroup(
                list(CATEGORIES), value=list(CATEGORIES), label="What may be edited"
            )
            edits = parts.up_to(studio.limits.max_images, 4, "Edits")
            button = parts.buttons("Make hard negatives", "mining", interactive=judged)
            with gr.Accordion("How they are painted", open=False):
                method = gr.Radio(
                    [(method_labels()[key], key) for key in WAYS],
                    value=PerpNeg.key,
                    label="What was edited out is kept out by",
                )
                weight = gr.Slider(0, 10, 1.5, step=0.1, label="Weight", buttons=[])
                seed, steps, scale = parts.sampling(studio)
            parts.vocabulary(studio)
        with gr.Column(scale=3, min_width=320):
            gr.Markdown("The original, I, and its caption, T", elem_classes="title")
            with gr.Row():
                original = gr.Image(
                    label="The original",
                    show_label=False,
                    format="png",
                    interactive=False,
                    buttons=[],
                    height=220,
                    min_width=160,
                    elem_id="mining-original",
                )
            said = gr.Markdown(
                label="Edits and verdicts", elem_id="mining-said", elem_classes="said scores", min_height=48
            )
            gallery = parts.gallery("The negatives", "mining-gallery")
            choices = [str(i) for i in range(1, studio.limits.max_images + 1)]
            keep = gr.CheckboxGroup(choices, value=[], label="Keep", visible=False, elem_id="mining-keep")
            set_id = gr.Textbox("", label="Set", visible=False)
            with gr.Row():
                pack = gr.Button("Pack what is kept as a zip", elem_id="mining-pack")
            packed = gr.File(
                label="The set", interactive=False, elem_id="mining-zip", elem_classes="file-out"
            )
            python = parts.python("mining")
    scene.click(actions.draw_scene, number, [image, words], api_name="draw_scene", show_progress="hidden")
    pack.click(actions.download_set, [set_id, keep], packed, api_name="download_set", show_progress="hidden")
    outputs = [original, said, gallery, keep, python, set_id]
    events = parts.wire(
        actions.hard_negatives,
        [words, categories, edits, method, weight, seed, steps, scale, image],
        outputs,
        triggers=[button.draw.click, words.submit],
        api_name="hard_negatives",
        progress_on=said,
        filled={
            example: [(words, value), (image, None)]
            for example, value in zip(tries, captions.values(), strict=False)
        },
    )
    return parts.Tab(events, button.stop, outputs, said)
