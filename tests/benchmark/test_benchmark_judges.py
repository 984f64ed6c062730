"""What looks at the pictures, and what compares them."""

import sys
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from negguide.benchmark.judges import PhraseJudge, QuestionJudge, check_judge, load_judge
from negguide.benchmark.similarity import choose_similarity, load_similarity
from negguide.benchmark.suites import Check
from negguide.mining.verify.judge import ClipJudge
from negguide.toyworld import parse, render

BEAR = "a brown bear in front view wearing black glasses in a meadow"
CAT = "a white cat in front view wearing red glasses in a room"


def keep(present, absent="", question=""):
    return Check(present, absent, question, yes=True, shown=True)


def remove(present, absent="", question="", yes=False):
    return Check(present, absent, question, yes=yes, shown=False)


def drawn(*captions):
    return [render(parse(caption), 64, seed=0) for caption in captions]


def passed(judge, images, *checks):
    return [verdict.passed for verdict in judge.verdicts(images, checks)]


def test_the_judge_of_the_embedded_world_reads_the_scene():
    judge = load_judge("toyworld")
    (bear,) = drawn(BEAR)
    checks = [
        keep("a bear wearing glasses"),
        keep("a cat wearing glasses"),
        remove("black glasses"),
        remove("red glasses"),
        remove("brown fur"),
        remove("a brown cat"),
    ]
    assert passed(judge, [bear] * 6, *checks) == [True, False, False, True, False, True]
    assert "brown bear" in judge.verdicts([bear], checks[:1])[0].said
    assert judge.revision is not None
    with pytest.raises(ValueError, match="the toy world does not know 'boy'"):
        judge.verdicts([bear], [keep("a boy")])


def test_the_judge_of_the_embedded_world_looks_for_what_is_said_among_several_characters():
    judge = load_judge("toyworld")
    two = "two brown bears in front view wearing black glasses in a meadow"
    beside = "a brown bear in front view wearing black glasses to the left of a white cat in front view in a meadow"
    images = drawn(two, beside)
    # parts of a picture: one of its characters is enough
    for part in ("black glasses", "brown fur", "a brown bear in a meadow"):
        assert passed(judge, images, *[remove(part)] * 2) == [False, False]
    assert (
        judge.shows(images, "black glasses")
        == passed(judge, images, *[keep("black glasses")] * 2)
        == [True] * 2
    )
    assert judge.shows(images, "white fur") == [False, True]
    # a caption is all of a picture
    assert judge.shows(images, "a brown bear wearing black glasses") == [False, False]
    # and several characters are there together, or not
    assert passed(judge, images, *[remove("two bears")] * 2) == [False, True]
    assert passed(judge, images, *[remove("a cat to the left of a bear")] * 2) == [True, True]
    assert passed(judge, images, *[remove("a bear to the left of a cat")] * 2) == [True, False]


def test_a_clip_chooses_between_a_phrase_and_that_of_its_absence(embedded_clip):
    judge = load_judge(str(embedded_clip))
    assert isinstance(judge, PhraseJudge) and judge.revision
    bear, cat = drawn(BEAR, CAT)
    kept, gone = keep("a brown bear", "a white cat"), remove("a brown bear", "a white cat")
    assert passed(judge, [bear, cat, bear, cat], kept, kept, gone, gone) == [True, False, False, True]
    assert " against " in judge.verdicts([bear], [kept])[0].said
    assert judge.remark == ""


def test_a_clip_says_that_it_hardly_reads_an_absence_that_is_not_put_into_words(tiny_siglip):
    judge = load_judge(str(tiny_siglip))
    assert passed(judge, drawn(BEAR), remove("a hat"))[0] in (True, False)
    assert "do not say what a picture without it shows" in judge.remark


def test_a_question_answering_model_is_asked_and_may_say_neither(tiny_blip):
    judge = load_judge(str(tiny_blip))
    assert isinstance(judge, QuestionJudge) and judge.revision
    asked = []

    def answers(images, questions):
        asked.extend(questions)
        return ["yes", "No.", "Yes, they are", "blue"]

    said = judge.verdicts(drawn(BEAR), [keep("a bear", question="is there a bear?")])
    assert isinstance(said[0].said, str)
    judge.asker = SimpleNamespace(answers=answers, chats=False)
    checks = [
        keep("a", question="is it a?"),
        remove("b", question="is it b?"),
        remove("sails", question="are they missing?", yes=True),
        keep("c", question="is it c?"),
    ]
    assert passed(judge, drawn(BEAR) * 4, *checks) == [True, True, True, None]
    assert asked[0] == "is it a?"
    judge.asker.chats = True
    judge.verdicts(drawn(BEAR) * 4, checks)
    assert asked[4] == "is it a? Answer yes or no."


def test_a_judge_that_is_none_is_refused_before_anything_is_drawn(tmp_path):
    for name in ("no/such", str(tmp_path)):
        with pytest.raises(
            ValueError, match=r"--judge '.*' cannot be loaded: .*; give toyworld, or a question"
        ):
            check_judge(name)
    check_judge("toyworld")


def test_what_compares_images_follows_from_the_judge(monkeypatch, embedded_clip, tiny_blip):
    monkeypatch.setattr("negguide.benchmark.similarity.find_spec", lambda name: None)
    clip, blip = str(embedded_clip), str(tiny_blip)
    assert choose_similarity("auto", "toyworld") == "toyworld"
    assert choose_similarity("auto", clip) == clip
    assert choose_similarity("auto", blip) == "openai/clip-vit-base-patch32"
    assert choose_similarity(clip, blip) == clip
    with pytest.raises(ValueError, match=r"--similarity must be auto, dreamsim, .* got '.*blip'"):
        choose_similarity(blip, blip)
    with pytest.raises(ValueError, match="dreamsim: the package is not installed; pip install dreamsim"):
        choose_similarity("dreamsim", clip)
    monkeypatch.setattr("negguide.benchmark.similarity.find_spec", lambda name: object())
    assert choose_similarity("auto", clip) == "dreamsim"


def check_features(similarity):
    bear, cat = drawn(BEAR, CAT)
    features = similarity.features([bear, bear, cat])
    assert features.dtype == torch.float32 and torch.allclose(features.norm(dim=1), torch.ones(3), atol=1e-5)
    same, other = float(features[0] @ features[1]), float(features[0] @ features[2])
    assert same == pytest.approx(1, abs=1e-5) and other < same - 0.01


def test_features_say_how_alike_images_are(embedded_clip):
    check_features(load_similarity("toyworld"))
    check_features(load_similarity(str(embedded_clip)))


def test_dreamsim_is_used_where_it_is_installed(tmp_path, monkeypatch):
    package = tmp_path / "dreamsim"
    package.mkdir()
    # its interface: a model with embed(), which squeezes, and a function that prepares one image
    (package / "__init__.py").write_text(
        "import numpy as np, torch\n"
        "class Model:\n"
        "    def embed(self, pixels):\n"
        "        return pixels.mean(dim=(-1, -2)).squeeze() - 0.5\n"
        "def dreamsim(pretrained=True, device='cuda', cache_dir='./models'):\n"
        "    assert pretrained and device == 'cpu' and cache_dir.endswith('dreamsim')\n"
        "    return Model(), lambda image: torch.from_numpy(np.asarray(image) / 255).permute(2, 0, 1)[None]\n"
    )
    (tmp_path / "dreamsim-0.2.1.dist-info").mkdir()
    (tmp_path / "dreamsim-0.2.1.dist-info" / "METADATA").write_text("Name: dreamsim\nVersion: 0.2.1\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    try:
        assert choose_similarity("auto", "no/judge") == "dreamsim"
        similarity = load_similarity("dreamsim")
        assert (similarity.name, similarity.revision) == ("dreamsim", "0.2.1")
        check_features(similarity)
        assert similarity.features([Image.new("RGB", (8, 8), "red")]).shape == (1, 3)
    finally:
        sys.modules.pop("dreamsim", None)


def test_a_siglip_judges_pairs_by_its_own_probability(tiny_siglip):
    judge = ClipJudge(str(tiny_siglip))
    images = [render(parse(f"a brown {kind} in front view in a room"), 64) for kind in ("bear", "cat", "dog")]
    captions = ["a brown bear in a room", "a lorry", "a cat"]
    scores = judge.score(images, captions)
    assert scores.isnan().tolist() == [False, True, False]
    known = [0, 2]
    pixels = judge.towers.image_inputs([images[i] for i in known])
    words = judge.towers.text_inputs([captions[i] for i in known])
    with torch.no_grad():
        logits = judge.towers.model(**pixels, **words).logits_per_image
    assert torch.allclose(scores[known], logits.diagonal().sigmoid(), atol=1e-6)
