"""What the demo is built from, without a server."""

import html
import os
import re
import threading
import time
from pathlib import Path

import gradio as gr
import pytest
import torch
from markdown_it import MarkdownIt

from negguide import NAG, Negative, NegToMe, PerpNeg
from negguide.demo.app import build
from negguide.demo.backend import Backend, Run, first_and_rest, joined
from negguide.demo.examples import ANY, LeaveOut
from negguide.demo.limits import MAX_TEXT, Limits, text, whole
from negguide.demo.measures import agree, still
from negguide.demo.messages import (
    as_markdown,
    as_message,
    complaint,
    validation_messages,
    verdict,
    weighted,
    what_happened,
)
from negguide.demo.methods import CLASSIC, with_method
from negguide.demo.outputs import Outputs
from negguide.demo.state import check_windows
from negguide.demo.stopping import StoppedError, Stops
from negguide.demo.tabs.negatives import explanation
from negguide.demo.tabs.pairs import marked
from negguide.integration.diagnostics.trace import Trace
from negguide.methods import Method
from negguide.mining.item import Edit
from negguide.models import defaults
from negguide.toyworld import language, parse, render
from negguide.toyworld.page import PAGE
from negguide.toyworld.scene_judge import SceneJudge


def test_a_limit_that_is_no_whole_number_or_too_small_is_refused() -> None:
    with pytest.raises(TypeError, match=r"max_steps must be a whole number, got 2\.5"):
        Limits(max_steps=2.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_images must be at least 2, got 1"):
        Limits(max_images=1)
    with pytest.raises(ValueError, match="max_size must be at least 32, got 16"):
        Limits(max_size=16)


def test_numbers_and_texts_are_held_to_their_bounds() -> None:
    assert whole("steps", 3.0, 1, 5) == 3
    for value in (0, 6, 2.5, float("nan")):
        with pytest.raises(ValueError, match="steps must be a whole number from 1 to 5"):
            whole("steps", value, 1, 5)
    assert text("prompt", "  a bear ") == "a bear"
    with pytest.raises(ValueError, match=f"prompt is {MAX_TEXT + 1} characters long"):
        text("prompt", "x" * (MAX_TEXT + 1))


def test_files_are_deleted_when_they_are_old_and_those_of_the_page_stay(tmp_path: Path) -> None:
    outputs = Outputs(60, tmp_path / "out")
    page = outputs.folder / "page.png"
    page.write_text("of the page")
    outputs.start()
    old, new = outputs.new() / "old.png", outputs.new() / "new.png"
    old.write_text("old")
    new.write_text("new")
    hour_ago = time.time() - 61
    for path in (page, old, old.parent):
        os.utime(path, (hour_ago, hour_ago))
    assert outputs.delete_old() == 1
    # a folder is as old as the last change in it
    assert not old.exists() and new.exists() and page.exists()
    outputs.delete_old(time.time() + 3600)
    assert [path.name for path in outputs.folder.iterdir()] == ["page.png"]
    outputs.close()
    assert not outputs.folder.exists()


def test_a_served_folder_is_emptied_while_it_is_served(tmp_path: Path) -> None:
    outputs = Outputs(1, tmp_path / "out")
    outputs.start()
    path = outputs.new() / "picture.png"
    path.write_text("old soon")
    end = time.monotonic() + 20
    while path.parent.exists() and time.monotonic() < end:
        time.sleep(0.1)
    assert not path.parent.exists()
    outputs.close()


def test_stop_reaches_the_runs_of_one_visitor_only() -> None:
    stops = Stops()
    assert not stops.stop("a")
    with stops.running("a") as mine, stops.running("b") as other:
        assert stops.stop("a")
        assert mine.is_set() and not other.is_set()
    assert not stops.stop("a")


def test_a_stopped_run_ends_before_its_next_step_and_leaves_the_device_free(backend: Backend) -> None:
    run = Run("a bear", 3, 5.0, (0,))
    stop, steps = threading.Event(), []

    def on_step() -> None:
        steps.append(1)
        stop.set()

    with pytest.raises(StoppedError):
        backend.draw(run, on_step, stop)
    assert len(steps) == 1
    assert len(backend.draw(run, lambda: None, threading.Event()).images) == 1


def test_a_run_in_two_parts_draws_what_one_run_draws(backend: Backend) -> None:
    run = Run("a bear wearing a hat", 2, 5.0, (3, 4, 5), methods=(PerpNeg(Negative("a red hat", stop=1.0)),))
    free = threading.Event()
    at_once = backend.draw(run, lambda: None, free)
    parts = first_and_rest(run)
    assert [part.seeds for part in parts] == [(3,), (4, 5)]
    together = joined([backend.draw(part, lambda: None, free) for part in parts])
    assert at_once.trace is not None and together.trace is not None
    torch.testing.assert_close(together.trace.cosine, at_once.trace.cosine, atol=1e-4, rtol=0)
    assert [len(maps) for maps in together.trace.maps.values()] == [3]
    for one, other in zip(together.images, at_once.images, strict=True):
        difference = torch.frombuffer(bytearray(one.tobytes()), dtype=torch.uint8).float()
        difference -= torch.frombuffer(bytearray(other.tobytes()), dtype=torch.uint8).float()
        assert difference.abs().max() <= 2


def test_unknown_words_are_named_with_the_closest_known_ones() -> None:
    assert complaint("a bear wearing glasses", language) is None
    said = complaint("a beer wearing sunglasses", language) or ""
    assert "does not know “beer”, “sunglasses”" in said
    assert "Did you mean “bear”, “glasses”?" in said
    assert "glasses" in (complaint("a bear glasses", language) or "")
    assert "as a negative" in (complaint("a bear without a hat", language) or "")


def test_an_error_becomes_a_message_in_which_nothing_is_markup() -> None:
    with pytest.raises(gr.Error) as caught, validation_messages():
        raise ValueError("no <script>alert(1)</script>")
    assert caught.value.message == "no ‹script›alert(1)‹/script›"
    assert not caught.value.print_exception
    with pytest.raises(gr.Error, match="Stopped"), validation_messages():
        raise StoppedError
    # as it was said, also through several of them
    with pytest.raises(gr.Error) as caught, validation_messages(), validation_messages():
        raise ValueError("stop=0.5 of Negative('a hat') and Negative(\"the cat's\") " + "x" * 10_000)
    assert caught.value.message.startswith("stop=0.5 of “a hat” and “the cat's” xxx")
    assert len(caught.value.message) < 600
    with pytest.raises(gr.Error, match="pip install"), validation_messages():
        raise ImportError('edits of English need the package inflect: pip install ".[mining]"')


@pytest.mark.parametrize(
    ("steps", "method", "said"),
    [
        (
            1,
            PerpNeg(Negative("a hat", stop=0.5)),
            "“a hat” would never act: .* 0.5 of 1 step holds none of them",
        ),
        (3, NAG(Negative("a hat", start=0.4, stop=0.6)), "“a hat” would never act: .* 0.4 to 0.6 of 3 steps"),
        (1, NegToMe(stop=0.25), "NegToMe would never act: .* 0.25 of 1 step holds none"),
        (4, PerpNeg(Negative("a hat", stop=0.5)), None),
        (1, NegToMe(), None),
    ],
)
def test_what_would_never_act_is_answered_without_arithmetic(
    steps: int, method: Method, said: str | None
) -> None:
    run = Run("a bear", steps, 5.0, (0, 1), methods=(method,))
    if said is None:
        check_windows(run)
        return
    with pytest.raises(ValueError, match=said) as caught:
        check_windows(run)
    assert "int(" not in str(caught.value) and "Negative(" not in str(caught.value)


def _trace(cosine: float, kept: float, changed: float | None = None) -> Trace:
    # two calls; in the second the negative rests
    values = [torch.tensor([[[value]], [[float("nan")]]]) for value in (cosine, kept)]
    attention = None if changed is None else torch.tensor([[changed], [float("nan")]])
    return Trace(torch.tensor([900.0, 100.0]), ("black glasses",), *values, None, attention)


def test_the_sentence_tells_the_numbers_of_the_trace() -> None:
    method = PerpNeg("black glasses")
    said = what_happened(method, _trace(0.83, 0.56), ["black glasses"])
    assert said.startswith("“black glasses” overlaps the prompt by 0.83.")
    assert "classic negative prompt" in said and "56%" in said
    assert "hardly at all" in what_happened(method, _trace(0.05, 1.0), ["black glasses"])
    nan = float("nan")
    assert "never acted" in what_happened(method, _trace(nan, nan), ["black glasses"])
    assert "by 12%" in what_happened(NAG("black glasses"), _trace(nan, nan, 0.12), ["black glasses"])
    assert "including what it shares" in what_happened(None, None, ["black glasses"])
    assert "Nothing was left out" in what_happened(None, None, [])


def test_the_verdict_says_in_plain_words_which_of_the_two_kept_more() -> None:
    gone = {"black glasses": 3, "brown fur": 4}
    said = verdict("Perp-Neg", "a bear wearing glasses", {"method": 4, "classic": 1}, gone, 4)
    assert said == (
        "**Perp-Neg kept all of “a bear wearing glasses” in 4 of 4 pictures, the classic negative prompt in 1.** "
        "Gone with Perp-Neg: “black glasses” in 3 of 4 and “brown fur” in 4 of 4."
    )
    # also when it is the other one
    said = verdict("NAG", "a bear", {"method": 1, "classic": 3}, {"a hat": 0}, 4)
    assert said.startswith(
        "**The classic negative prompt kept all of “a bear” in 3 of 4 pictures, NAG in 1.**"
    )
    assert "both do the same: all of “a bear” is in 2 of 4" in verdict(
        "NAG", "a bear", {"method": 2, "classic": 2}, {}, 4
    )
    assert verdict("NAG", "![t](//h)", {"method": 1}, {}, 1).startswith("**NAG kept all of “&#33;")


def test_what_was_to_go_is_counted_at_each_of_several_characters() -> None:
    captions = (
        "two brown bears in front view wearing black glasses in a meadow",
        "a brown bear in front view to the left of a white cat in front view in a meadow",
    )
    images = [render(parse(caption), 64, seed=0) for caption in captions]
    reader = SceneJudge()
    counts = {"black glasses": 1, "brown fur": 2, "a brown bear": 2, "a hat": 0}
    assert {text: still(reader, images, text) for text in counts} == counts
    assert agree(reader, images, "two bears wearing glasses") == 1


def test_negatives_that_a_closed_world_cannot_say_together_make_no_negative_prompt() -> None:
    plain = Run("a bear wearing glasses", 2, 5.0, (0,))

    def prompt(*texts: str, model: str = "toyworld") -> str:
        return with_method(plain, CLASSIC, [Negative(text) for text in texts], None, model).negative_prompt

    assert prompt("in a meadow", "black glasses") == "black glasses in a meadow"
    assert prompt("brown fur", "white fur", model="any/model") == "brown fur, white fur"
    with pytest.raises(
        ValueError, match=r"no negative prompt of the toy world together .*the fur is said twice"
    ):
        prompt("brown fur", "white fur")


@pytest.mark.parametrize("words", ["(a bear:1.3)", "((a bear)) wearing a hat", "[hat:0.5]", "a hat++"])
def test_weights_inside_words_are_answered_with_where_the_weight_is(words: str) -> None:
    assert f"“{words}”" in str(weighted(words)) and "slider beside it" in str(weighted(words))
    assert weighted("a bear, wearing a hat (red)") is None


def test_messages_are_words_of_the_page() -> None:
    said = complaint("a cat, hat", language) or ""
    assert said.startswith("This little world cannot read “a cat, hat” at “hat”. Expected here: ")
    assert "Leave out" in (complaint("a bear without a hat", language) or "")
    for message in (said, complaint("a bear without a hat", language) or ""):
        assert "Negative(" not in message and "'" not in message.replace("'wearing ...'", "").replace(
            "'to the left of ...'", ""
        )
    assert as_message("scale must be >= 1, got <b>") == "scale must be at least 1, got ‹b›"


def test_what_everybody_sees_does_not_grow_old(tmp_path: Path) -> None:
    outputs = Outputs(60, tmp_path / "out")
    lasting, other = outputs.new(lasting=True), outputs.new()
    for folder in (lasting, other):
        (folder / "picture.png").write_text("x")
    outputs.delete_old(time.time() + 3600)
    assert (lasting / "picture.png").exists() and not other.exists()
    outputs.close()


@pytest.mark.parametrize(
    ("way", "name", "place"),
    [
        ("perp-neg", "perpendicular to the prompt", "predictions"),
        ("nag", "Normalized attention guidance: ", "where the picture reads the words"),
        ("nasa", "Negative-away steer attention: ", "where the picture reads the words"),
        ("ong", "Orthogonal negative guidance: ", "where the picture reads the words"),
        ("vsf", "Value sign flip: ", "where the picture reads the words"),
    ],
)
def test_each_method_has_its_name_its_line_and_its_paper(way: str, name: str, place: str) -> None:
    said = explanation(way)
    assert name in said and place in said and "https://arxiv.org/abs/" in said


def test_examples_suit_the_model_that_is_loaded() -> None:
    assert len(ANY.leave_out) >= 10
    for one in PAGE.leave_out:
        assert [complaint(words, language) for words in (one.prompt, *one.negatives)] == [None] * (
            1 + len(one.negatives)
        )
    for words in (
        *PAGE.diversity,
        *PAGE.reference.values(),
        *PAGE.captions.values(),
        *(words for prompts in PAGE.solids.values() for words in prompts),
        *(words for example in PAGE.compare for words in example[:2]),
    ):
        assert complaint(words, language) is None


@pytest.mark.parametrize(
    ("first", "seeds", "expected"),
    [
        (PAGE.leave_out[0], 4, {CLASSIC: 1, "perp-neg": 4}),
        (LeaveOut(PAGE.compare[0][0], (PAGE.compare[0][1],)), 3, {CLASSIC: 0, "perp-neg": 3}),
    ],
    ids=["leave-out", "compare"],
)
def test_the_page_opens_with_a_case_where_the_difference_is_plain(
    first: LeaveOut, seeds: int, expected: dict[str, int]
) -> None:
    backend = Backend()
    weight, start, stop = backend.strength()
    plain = Run(first.prompt, backend.steps, backend.suited.guidance_scale, tuple(range(seeds)))
    negatives = [Negative(words, weight, start, stop) for words in first.negatives]
    kept = {
        way: agree(
            SceneJudge(),
            backend.draw(
                with_method(plain, way, negatives, None, backend.model), lambda: None, threading.Event()
            ).images,
            first.prompt,
        )
        for way in (CLASSIC, first.method)
    }
    assert kept == expected


def test_an_embedded_model_without_guidance_begins_with_what_acts_without() -> None:
    backend = Backend("toyworld-flow-turbo")
    assert (backend.way, backend.suited.guidance_scale, backend.steps) == ("nag", 1.0, 4)
    plain = Run("a bear", backend.steps, backend.suited.guidance_scale, (0,))
    # its own values, which are not those of the model that is used unless another is named
    run = with_method(plain, "nag", [Negative("brown fur")], None, backend.model)
    assert run.methods == (NAG("brown fur", **defaults(backend.model).arguments("nag")),)
    assert defaults(backend.model).arguments("nag") != defaults("toyworld").arguments("nag")
    assert backend.draw(run, lambda: None, threading.Event()).images[0].size == (64, 64)
    # solids are fitted with the noise schedule and the guidance of another model, as the command line says
    tabs = {block.label for block in build(backend).blocks.values() if isinstance(block, gr.Tab)}
    assert "Views and 3D" not in tabs and "Compare" in tabs


def test_what_a_pipeline_cannot_take_is_said(backend: Backend) -> None:
    with pytest.raises(ValueError, match="guidance scale above 1, got 1"):
        backend.arguments(Run("a bear", 2, 1.0, (0,), negative_prompt="a hat"))
    with pytest.raises(ValueError, match="guidance_scale"):
        backend.draw(
            Run("a bear", 2, 1.0, (0,), methods=(PerpNeg("a hat"),)), lambda: None, threading.Event()
        )
    with pytest.raises(ValueError, match="at least 2 images"):
        backend.draw(Run("a bear", 2, 5.0, (0,), methods=(NegToMe(),)), lambda: None, threading.Event())


@pytest.mark.parametrize(
    "words",
    [
        "![t](//h/p)",
        "<img src=//h/p>",
        "[a](http://h)",
        "http://h/p",
        "**bold** | cell",
        "`code` ~~gone~~ a_b_c",
    ],
)
def test_what_a_visitor_writes_stays_words_in_markdown(words: str) -> None:
    shown = (
        MarkdownIt("commonmark", {"html": True})
        .enable(["table", "strikethrough"])
        .render(f"a *{as_markdown(words)}* b")
    )
    assert not re.search("<(?!/?(p|em)>)", shown)
    assert html.unescape(re.sub("<[^>]*>", "", shown)).strip() == f"a {words} b"
    assert as_markdown("a bear wearing a red hat, in the snow.") == "a bear wearing a red hat, in the snow."


def test_words_are_escaped_wherever_a_page_shows_them() -> None:
    picture = "![t](//h/p)"
    edit = Edit.replacing(f"{picture} a cat {picture}", 14, 17, "dog", category="object", backend="rules")
    assert picture not in marked(edit)
    assert "**dog**" in marked(edit)
    assert picture not in what_happened(None, None, [picture])
