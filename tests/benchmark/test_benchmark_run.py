"""Runs on a tiny random model and on the embedded one: complete, stopped in between, and with other settings."""

import hashlib
import json
import os
import signal
from contextlib import contextmanager

import pytest
from PIL import Image

from negguide.benchmark import runner
from negguide.benchmark.columns import columns_of
from negguide.benchmark.generation import Generator, Measured, OutOfMemoryError, Sampling
from negguide.benchmark.runner import Run, generate
from negguide.benchmark.suites import load_suite
from negguide.pictures import read_settings

QUICK = ("--steps", 2)


def content(folder, pattern="images/**/*.png"):
    """{path: digest} of the files of a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.glob(pattern))
    }


def results(folder):
    """The results without the times, which no two runs share."""
    found = json.loads((folder / "results.json").read_text())
    for column in found["columns"]:
        del column["seconds_per_image"]
    return found


@pytest.fixture
def tiny(benchmark, tiny_model, embedded_clip, suite_file, items):
    """`tiny(...)` on the tiny model, its own suite and the embedded CLIP."""
    own = suite_file(items)

    def invoke(*args, suite=own, judge=embedded_clip):
        return benchmark("--model", tiny_model, "--suite", suite, "--judge", judge, *QUICK, *args)

    return invoke


@pytest.fixture
def a_run(tiny_model, suite_file, items, tmp_path):
    """`a_run(folder)` as an object, of two items and three columns."""

    def make(folder, methods="nag,perp-neg", **sampling):
        suite = load_suite(str(suite_file(items)), str(tiny_model))
        settings = Sampling(str(tiny_model), steps=2, **sampling)
        return Run(settings, suite, columns_of(methods, suite.kind), tmp_path / folder, seeds=1, seed=0)

    return make


def test_the_embedded_model_is_measured_with_its_judge(benchmark, tmp_path):
    code, message, files = benchmark(
        "--steps", 5, "--count", 2, "--methods", "negative-prompt,perp-neg:2", "--out", "toy"
    )
    assert code == 0, message
    assert [file.name for file in files] == ["results.md", "results.json", "plot.png", "contact-sheet.png"]
    found = results(tmp_path / "toy")
    assert found["judge"]["name"] == found["similarity"]["name"] == "toyworld"
    assert found["revision"] and found["versions"]["diffusers"] and found["guidance_scale"] == 5
    plain, classic, perp_neg = found["columns"]
    assert [column["label"] for column in found["columns"]] == ["plain", "negative prompt", "Perp-Neg 2"]
    # five steps are enough to draw a bear with glasses, which are black unless something is done
    assert plain["kept"]["value"] == 1 and plain["removed"]["value"] == 0 and plain["both"]["value"] == 0
    assert perp_neg["kept"]["value"] == perp_neg["removed"]["value"] == 1
    assert perp_neg["differences"]["plain"]["both"]["value"] == 1
    assert set(perp_neg["differences"]) == {"plain", "negative-prompt"}
    assert "similarity" not in plain and 0 < classic["similarity"]["value"] < 1
    first = found["images"][0]
    assert first["kept"]["said"] and first["seed"] == 0 and (tmp_path / "toy" / first["file"]).is_file()
    settings = read_settings(tmp_path / "toy/images/perp-neg-2/001-0.png")
    assert settings["methods"][0]["negatives"][0]["weight"] == 2 and settings["guidance_scale"] == 5
    assert "both" in message and "the intervals are rough" in message


def test_a_run_that_is_killed_goes_on_to_the_same_results(tiny, a_run, tmp_path):
    options = ("--methods", "nag,perp-neg")
    assert tiny(*options, "--out", "whole")[0] == 0

    # a process that the system ends without a word, after the fourth of six images
    child = os.fork()
    if child == 0:
        calls = iter(range(100))

        @contextmanager
        def bar(text, total):
            yield lambda: os.kill(os.getpid(), signal.SIGKILL) if next(calls) == 3 else None

        try:
            generate(a_run("killed"), bar)
        finally:
            os._exit(3)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    before = content(tmp_path / "killed")
    assert len(before) == 4
    assert tiny(*options, "--out", "killed")[0] == 0
    assert content(tmp_path / "killed") == content(tmp_path / "whole")
    assert results(tmp_path / "killed") == results(tmp_path / "whole")
    for name in ("contact-sheet.png", "settings.json", "plot.png"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_an_image_without_its_record_is_drawn_again(a_run, tmp_path, monkeypatch):
    whole = generate(a_run("whole"))
    for records in whole.done.values():
        assert [record["first"] for record in records.values()] == [True, False]
        assert all(record["seconds"] > 0 and record["peak_bytes"] is None for record in records.values())
    written = runner.save_json

    def stop(data, path):
        if path.parts[-2:] == ("perp-neg", "001-0.json"):
            raise KeyboardInterrupt
        written(data, path)

    with monkeypatch.context() as patch:
        patch.setattr(runner, "save_json", stop)
        with pytest.raises(KeyboardInterrupt):
            generate(a_run("half"))
    again = generate(a_run("half"))
    assert content(tmp_path / "half") == content(tmp_path / "whole")
    # in the order of the columns and items, whatever was drawn first
    order = [[task.image(task.seeds[0]) for task in tasks] for tasks in again.done.values()]
    assert order == [[task.image(task.seeds[0]) for task in tasks] for tasks in whole.done.values()]


def test_a_finished_run_loads_no_model_and_gives_the_same_bytes(tiny, tmp_path, monkeypatch):
    assert tiny("--methods", "nag", "--out", "out")[0] == 0
    before = content(tmp_path / "out", "**/*.*")
    monkeypatch.setattr(Generator, "__init__", None)
    asked = []
    from negguide.benchmark.judges import PhraseJudge

    monkeypatch.setattr(PhraseJudge, "verdicts", lambda *_: asked.append(_))
    assert tiny("--methods", "nag", "--out", "out")[0] == 0
    assert content(tmp_path / "out", "**/*.*") == before and not asked


def test_what_a_judge_says_of_its_verdicts_is_said_again(tiny, suite_file, items):
    bare = suite_file([{"prompt": items[0]["prompt"], "negative": items[0]["negative"]}], "bare.json")
    said = [tiny("--methods", "nag", "--out", "out", suite=bare)[1] for _ in range(2)]
    assert "do not say what a picture without it shows" in said[0] and said[1] == said[0]


def test_more_columns_prompts_and_another_judge_use_what_is_there(tiny, tiny_blip, tmp_path):
    assert tiny("--count", 1, "--methods", "nag", "--out", "out")[0] == 0
    before = content(tmp_path / "out")
    code, message, _ = tiny(
        "--methods", "nag,vsf", "--out", "out", "--similarity", "toyworld", judge=tiny_blip
    )
    assert code == 0, message
    after = content(tmp_path / "out")
    assert len(before) == 2 and len(after) == 6 and before.items() <= after.items()
    found = results(tmp_path / "out")
    assert found["judge"]["name"] == str(tiny_blip) and found["similarity"]["name"] == "toyworld"
    unclear = sum(column["unclear_answers"] for column in found["columns"])
    assert unclear == sum(
        image[name]["passed"] is None for image in found["images"] for name in ("kept", "removed")
    )
    assert len(list((tmp_path / "out" / "judged").iterdir())) == 2


@pytest.mark.parametrize(
    ("options", "changed"),
    [
        (("--steps", 3), "steps was 2, is 3"),
        (("--guidance-scale", 3), "guidance scale was None, is 3.0"),
        (("--seed", 1), "seed was 0, is 1"),
        (("--height", 32, "--width", 32), "height was None, is 32; width was None, is 32"),
        (("--dtype", "bfloat16"), "dtype was float32, is bfloat16"),
    ],
)
def test_images_of_other_settings_are_never_mixed(tiny, a_run, tmp_path, options, changed):
    generate(a_run("out", "nag"))
    before = content(tmp_path / "out", "**/*.*")
    code, message, _ = tiny("--methods", "nag", "--out", "out", *options)
    assert code == 2 and changed in message and "give another folder" in message
    assert content(tmp_path / "out", "**/*.*") == before


def test_images_of_another_prompt_are_never_mixed(tiny, a_run, suite_file, items):
    generate(a_run("out", "nag"))
    other = suite_file([{**items[0], "negative": "a hat"}, items[1]], "other.json")
    code, message, _ = tiny("--methods", "nag", "--out", "out", suite=other)
    assert (
        code == 2 and "images/nag/001-0.png was drawn from another prompt, negative or reference" in message
    )


def test_an_image_that_was_changed_is_noticed(tiny, a_run, tmp_path):
    generate(a_run("out", "nag"))
    Image.new("RGB", (64, 64)).save(tmp_path / "out/images/nag/002-1000.png")
    code, message, _ = tiny("--methods", "nag", "--out", "out")
    assert code == 2 and "002-1000.png was changed since it was drawn; delete it" in message
    (tmp_path / "out/images/nag/002-1000.png").unlink()
    assert len(generate(a_run("out", "nag")).done["nag"]) == 2


def test_a_folder_of_something_else_is_refused(tiny, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/settings.json").write_text('{"command": "mine"}')
    code, message, _ = tiny("--out", "out")
    assert code == 2 and "it holds the settings of something else" in message


def test_what_the_guidance_cannot_carry_is_shown_as_not_possible(tiny, tmp_path, monkeypatch):
    options = ("--methods", "negative-prompt,perp-neg,nag,negtome", "--guidance-scale", 1, "--out", "out")
    code, message, files = tiny(*options)
    assert code == 0, message
    assert (
        "negative prompt: not possible: a classic negative prompt acts only with a guidance scale" in message
    )
    assert "Perp-Neg: not possible: PerpNeg needs classifier-free guidance" in message
    assert "NegToMe: not possible: NegToMe needs other images" in message
    columns = {column["column"]: column for column in results(tmp_path / "out")["columns"]}
    assert columns["nag"]["not_possible"] is None and columns["nag"]["images"] == 2
    assert columns["perp-neg"]["images"] == 0 and "kept" not in columns["perp-neg"]
    assert "Perp-Neg: not possible" in files[0].read_text()
    # known from the first run
    monkeypatch.setattr(Generator, "__init__", None)
    assert tiny(*options)[:2] == (code, message)


def test_a_single_prompt_that_is_not_possible_is_left_out_of_its_column(a_run, monkeypatch):
    from negguide.benchmark.generation import NotPossibleError

    draw = Generator.draw

    def picky(self, call):
        if call.methods and call.prompt == "a cat":
            raise NotPossibleError("too long")
        return draw(self, call)

    monkeypatch.setattr(Generator, "draw", picky)
    drawn = generate(a_run("out", "nag"))
    assert drawn.left_out == {"nag": {"002": "too long"}} and not drawn.reasons
    assert [len(tasks) for tasks in drawn.done.values()] == [2, 1]
    monkeypatch.setattr(Generator, "__init__", None)
    assert generate(a_run("out", "nag")).left_out == drawn.left_out


def test_a_first_prompt_that_is_not_possible_says_nothing_of_the_others(tiny_model, suite_file, tmp_path):
    items = [{"prompt": "a bear"}, {"prompt": "a cat", "negative": "brown fur"}]
    suite = load_suite(str(suite_file({"kind": "reference", "items": items})), str(tiny_model))
    settings = Sampling(str(tiny_model), steps=2)
    columns = columns_of("perp-neg", suite.kind)
    drawn = generate(Run(settings, suite, columns, tmp_path / "out", seeds=1, seed=0))
    assert not drawn.reasons
    assert drawn.left_out == {"perp-neg": {"001": "the prompts of the suite have no negative in words"}}
    assert [task.item.id for task in drawn.done["perp-neg"]] == ["002"]


def test_a_prompt_that_lacks_an_image_is_left_out_whole(tiny_model, suite_file, items, tmp_path, monkeypatch):
    suite = load_suite(str(suite_file(items)), str(tiny_model))

    def run():
        settings = Sampling(str(tiny_model), steps=2)
        return Run(settings, suite, columns_of("nag", suite.kind), tmp_path / "out", seeds=2, seed=0)

    draw = Generator.draw

    def full(self, call):
        if call.methods and call.seeds == (1,):
            raise OutOfMemoryError("too little memory")
        return draw(self, call)

    with monkeypatch.context() as patch:
        patch.setattr(Generator, "draw", full)
        drawn = generate(run())
    assert drawn.left_out == {"nag": {"001": "too little memory"}} and not drawn.reasons
    assert [(task.item.id, task.seeds) for task in drawn.done["nag"]] == [("002", (1000,)), ("002", (1001,))]
    # what was drawn is there another time
    assert [task.seeds for task in generate(run()).done["nag"]] == [(0,), (1,), (1000,), (1001,)]


def test_too_little_memory_is_tried_again_another_time(a_run, monkeypatch):
    draw = Generator.draw

    def full(self, call):
        if call.methods:
            raise OutOfMemoryError("too little memory")
        return draw(self, call)

    with monkeypatch.context() as patch:
        patch.setattr(Generator, "draw", full)
        assert generate(a_run("out", "nag")).reasons == {"nag": "too little memory"}
        patch.setattr(Generator, "draw", lambda self, call: (_ for _ in ()).throw(OutOfMemoryError("none")))
        with pytest.raises(OutOfMemoryError, match="none"):
            generate(a_run("other", "nag"))
    assert not generate(a_run("out", "nag")).reasons


def test_diversity_compares_the_images_of_one_prompt(tiny, suite_file, tmp_path):
    suite = suite_file([{"prompt": "a bear", "keep": {"absent": "a cat"}}], "open.json")
    code, message, _ = tiny("--seeds", 3, "--methods", "negtome:9,nag", "--out", "out", suite=suite)
    assert code == 0, message
    found = results(tmp_path / "out")
    plain, negtome, nag = found["columns"]
    assert plain["images"] == negtome["images"] == 3 and "removed" not in plain
    # all images of a prompt have the same mean in the long run: the similarity of a column is that of its pairs
    assert len({image["similarity"] for image in found["images"]}) > 1
    assert negtome["similarity"]["value"] != plain["similarity"]["value"]
    assert "no negative in words" in nag["not_possible"]
    code, message, _ = tiny("--seeds", 4, "--methods", "negtome:9", "--out", "out", suite=suite)
    assert code == 2 and "images a call was 3, is 4" in message
    code, message, _ = tiny("--seeds", 1, "--out", "one", suite=suite)
    assert code == 2 and "--seeds must be from 2 to 999 in a suite of kind diversity, got 1" in message


def test_the_reference_is_the_first_plain_image_or_a_file(tiny, suite_file, tmp_path):
    item = {"prompt": "a bear", "keep": {"absent": "a cat"}}
    own = suite_file({"kind": "reference", "items": [item]}, "own.json")
    code, message, _ = tiny("--seeds", 1, "--out", "own", "--methods", "negtome", suite=own)
    assert code == 0, message
    found = results(tmp_path / "own")
    # the first image is what the others stay away from, and is not measured itself
    assert [image["seed"] for image in found["images"]] == [1, 1]
    assert sorted(content(tmp_path / "own")) == [
        "images/negtome/001-1.png",
        "images/plain/001-0.png",
        "images/plain/001-1.png",
    ]
    Image.linear_gradient("L").convert("RGB").resize((64, 64)).save(tmp_path / "away.png")
    given = suite_file([{**item, "reference": ["away.png"]}], "given.json")
    options = ("--seeds", 1, "--out", "given", "--methods", "negtome")
    assert tiny(*options, suite=given)[0] == 0
    assert [image["seed"] for image in results(tmp_path / "given")["images"]] == [0, 0]
    # another picture under the same name
    Image.new("RGB", (64, 64), "red").save(tmp_path / "away.png")
    code, message, _ = tiny(*options, suite=given)
    assert code == 2 and "was drawn from another prompt, negative or reference" in message


def test_methods_of_another_package_are_measured(tiny, negguide_extra, tmp_path):
    code, message, _ = tiny("--count", 1, "--methods", "minus:0.5,whole", "--out", "out")
    assert code == 0, message
    assert [column["label"] for column in results(tmp_path / "out")["columns"]] == [
        "plain",
        "Minus 0.5",
        "Whole",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--suite", "no"), "--suite must be one of overlap, diversity, reference"),
        (("--methods", "perp"), "'perp' is unknown"),
        (("--count", 0), "--count must be from 1 to"),
        (("--seeds", 0), "--seeds must be from 1 to 999"),
        (("--seed", -1), "--seed must be an integer from 0"),
        (("--steps", 0), "--steps must be at least 1, got 0"),
        (("--guidance-scale", -1), "--guidance-scale must be a finite number >= 0, got -1"),
        (("--judge", "no/such"), "--judge 'no/such' cannot be loaded"),
        (("--similarity", "no/such"), "'no/such' cannot be loaded"),
        (("--model", "no-such"), "no such folder, and no hub id"),
        (("--height", 128), "the embedded models draw 64 x 64"),
        (("--dtype", "int8"), "--dtype must be auto or one of"),
        (("--offload", "some"), "--offload must be one of none, model, sequential, group, got 'some'"),
        (("--lora", "no.safetensors"), "there is no file 'no.safetensors'"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_drawn(benchmark, tmp_path, options, message):
    code, said, _ = benchmark(*options, "--out", "out")
    assert code == 2 and message in said
    assert not (tmp_path / "out").exists()


def test_the_folder_is_named_after_model_and_suite_unless_it_is_said(benchmark, tmp_path, monkeypatch):
    image = Image.new("RGB", (64, 64), "navy")
    monkeypatch.setattr(
        Generator, "draw", lambda self, call: Measured([image for _ in call.seeds], 0.5, 2_000_000_000)
    )
    code, message, files = benchmark("--count", 2, "--methods", "nag")
    assert code == 0 and files[0].parts[:2] == ("out", "benchmark-toyworld-overlap")
    assert " 0.50 2.0 " in message and "GB: the most memory of the GPU in a call" in message
