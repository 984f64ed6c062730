"""Judges, margins and questions: what is kept of what was painted."""

import math
import random
import shutil

import pytest
import torch
from PIL import Image

from negguide.mining.build import build
from negguide.mining.item import Edit
from negguide.mining.settings import Settings
from negguide.mining.verify.judge import check_independent, load_judge
from negguide.mining.verify.margins import Margins
from negguide.mining.verify.questions import VqaAsker, objection, questions
from negguide.models import revision
from negguide.toyworld import caption, parse, render, sample_scene
from negguide.toyworld.models import CLIP
from negguide.toyworld.pair_judge import WorldJudge


def test_all_four_comparisons_must_hold():
    plain = Margins()
    assert plain.objections((0.9, 0.1, 0.1, 0.9)) == []
    assert plain.objections((0.1, 0.9, 0.05, 0.95)) == ["the original image shows the negative caption"]
    assert plain.objections((0.9, 0.5, 0.1, 0.4)) == ["the negative image does not show the negative caption"]
    assert plain.objections((0.5, 0.1, 0.6, 0.9)) == [
        "the negative image shows the original caption as well as the original image does"
    ]
    assert plain.objections((0.9, 0.1, 0.6, 0.5)) == ["the negative image shows the original caption"]
    assert len(plain.objections((0.5, 0.5, 0.5, 0.5))) == 4
    assert len(plain.objections((math.nan, 0.1, 0.1, math.nan))) == 4


def test_margins_are_those_of_sentence_transformers():
    assert Margins(absolute_margin=0.5).hold(0.75, 0.25) and not Margins(absolute_margin=0.5).hold(0.7, 0.25)
    assert Margins(relative_margin=0.5).hold(0.8, 0.4) and not Margins(relative_margin=0.5).hold(0.8, 0.41)
    assert Margins(max_score=0.3).hold(0.8, 0.3) and not Margins(max_score=0.3).hold(0.8, 0.31)
    with pytest.raises(ValueError, match=r"max_score=1.5 must be from 0 to 1"):
        Margins(max_score=1.5)


def test_the_worlds_judge_knows_its_drawings():
    rng = random.Random(5)
    scenes = [sample_scene(rng) for _ in range(60)]
    images = [render(scene, 64, seed=i) for i, scene in enumerate(scenes)]
    said = [caption(scene) for scene in scenes]
    right = WorldJudge().score(images, said)
    wrong = WorldJudge().score(images, said[1:] + said[:1])
    assert (right > 0.5).float().mean() > 0.95 and (wrong > 0.5).sum() == 0
    assert right.dtype == torch.float32 and ((right >= 0) & (right <= 1)).all()


def judged(drawn, *captions):
    image = render(parse(drawn), 64, seed=0)
    return [float(score) > 0.5 for score in WorldJudge().score([image] * len(captions), captions)]


def test_what_a_caption_leaves_out_is_not_worn_and_colours_left_out_may_be_any():
    assert judged(
        "a brown bear in front view wearing a red hat and black glasses in a meadow",
        "a bear wearing a red hat and black glasses",
        "a bear wearing a hat and glasses",
        "a bear wearing a red hat",
        "a bear",
        "a bear wearing a red hat and black glasses without a scarf",
        "a bear wearing a red hat without glasses",
        "two bears wearing a red hat and black glasses",
    ) == [True, True, False, False, True, False, False]


def test_an_explorer_wears_a_hat_and_a_scarf_without_its_being_said():
    wearing = "a brown dog in front view wearing a red hat and a blue scarf in a room"
    assert judged(wearing, "an explorer in a room") == [True]
    assert judged("a brown dog in front view in a room", "an explorer in a room") == [False]


def test_captions_of_another_world_have_no_score():
    image = render(parse("a brown bear in front view in a room"), 64)
    assert WorldJudge().score([image], ["a lorry on a motorway"]).isnan().all()


def test_the_embedded_clip_judges_pairs():
    judge = load_judge("clip:toyworld")
    bear, cat = (render(parse(f"a brown {kind} in front view in a room"), 64) for kind in ("bear", "cat"))
    captions = ["a brown bear in a room", "a brown cat in a room"]
    scores = judge.score([bear, bear, cat, cat], captions * 2).reshape(2, 2)
    assert ((scores >= 0) & (scores <= 1)).all()
    assert scores[0, 0] > scores[0, 1] and scores[1, 1] > scores[1, 0]
    assert (judge.name, judge.margins) == ("clip:toyworld", Margins())
    # words that it does not know are no reason to end
    mixed = judge.score([bear] * 3, [captions[0], "a lorry on a motorway", captions[1]])
    assert mixed.isnan().tolist() == [False, True, False]
    assert torch.allclose(mixed[[0, 2]], scores[0], atol=1e-4)
    assert judge.score([bear], ["a lorry"]).isnan().all()
    # a batch of one is the same pair
    judge.batch_size = 1
    assert torch.allclose(judge.score([bear, bear, cat, cat], captions * 2).reshape(2, 2), scores, atol=1e-4)


def tiny_blip(folder, model):
    """A random BLIP with a tokenizer made of a few words."""
    from transformers import (
        BertTokenizerFast,
        BlipConfig,
        BlipImageProcessorPil,
        BlipProcessor,
        BlipTextConfig,
        BlipVisionConfig,
    )

    torch.manual_seed(0)
    words = [f"[{name}]" for name in ("PAD", "UNK", "CLS", "SEP", "MASK", "DEC", "ENC")]
    words += [
        *("a", "bear", "cat", "hat", "red", "is", "there", "in", "the", "picture", "yes", "no", "?", ".")
    ]
    (folder.parent / "vocab.txt").write_text("\n".join(words))
    tokenizer = BertTokenizerFast(
        vocab_file=str(folder.parent / "vocab.txt"), bos_token="[DEC]", additional_special_tokens=["[ENC]"]
    )
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = BlipTextConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=32,
        encoder_hidden_size=16,
        bos_token_id=5,
        sep_token_id=3,
        eos_token_id=3,
        pad_token_id=0,
        **small,
    )
    vision = BlipVisionConfig(image_size=32, patch_size=16, **small)
    config = BlipConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), image_text_hidden_size=16)
    model(config).save_pretrained(folder)
    images = BlipImageProcessorPil(size={"height": 32, "width": 32})
    BlipProcessor(image_processor=images, tokenizer=tokenizer).save_pretrained(folder)
    return str(folder)


def test_blips_matching_head_gives_probabilities(tmp_path):
    from transformers import BlipForImageTextRetrieval

    judge = load_judge(f"itm:{tiny_blip(tmp_path / 'itm', BlipForImageTextRetrieval)}")
    images = [Image.effect_noise((40, 30), sigma).convert("RGB") for sigma in (10, 90)]
    scores = judge.score(images, ["a bear", "a cat in a red hat"])
    assert scores.shape == (2,) and ((scores > 0) & (scores < 1)).all()
    logits = judge.net(
        **judge.processor(images=images[:1], text=["a bear"], return_tensors="pt"), use_itm_head=True
    ).itm_score
    assert scores[0] == pytest.approx(logits.softmax(-1)[0, 1].item(), abs=1e-5)
    assert judge.margins.absolute_margin > 0


def test_a_question_answering_model_is_asked(tmp_path):
    from transformers import BlipForQuestionAnswering

    asker = VqaAsker(tiny_blip(tmp_path / "vqa", BlipForQuestionAnswering))
    images = [Image.effect_noise((40, 30), 50).convert("RGB")] * 3
    answers = asker.answers(images, ["is there a bear ?", "is there a red hat ?", "a cat ?"])
    assert len(answers) == 3 and all(isinstance(answer, str) for answer in answers)
    with pytest.raises(ValueError, match="--vqa 'no/such' cannot be loaded"):
        VqaAsker("no/such")


def built_settings(model, **options):
    parts = {"data": "toyworld:4", "data_options": {}, "backend": "rules", "planner_options": {}, "steps": 2}
    parts |= {"judge": None, "device": "cpu", "dtype": "float32", "guidance_scale": None, "diversify": False}
    return build(model=str(model), absolute_margin=None, **parts, **options).settings


def test_other_weights_of_a_name_that_verify_are_other_settings(tmp_path, tiny_model):
    from transformers import BlipForQuestionAnswering

    vqa = tiny_blip(tmp_path / "vqa", BlipForQuestionAnswering)
    first = built_settings(tiny_model, vqa=vqa)
    assert first.vqa_revision == revision(vqa) and first.region_revision is None
    assert Settings.from_dict(first.to_dict()).difference(built_settings(tiny_model, vqa=vqa)) == []
    weights = tmp_path / "vqa/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0@")
    now = built_settings(tiny_model, vqa=vqa)
    assert now.difference(first) == [f"vqa_revision: {first.vqa_revision!r} there, {now.vqa_revision!r} now"]
    # sets made before do not say: they are read, and gone on with where no such model takes part
    before = {k: v for k, v in first.to_dict().items() if k not in ("vqa_revision", "region_revision")}
    assert now.difference(Settings.from_dict(before)) == [
        f"vqa_revision: None there, {now.vqa_revision!r} now"
    ]
    without = Settings.from_dict({**before, "vqa": None})
    assert built_settings(tiny_model).difference(without) == []


def test_questions_are_about_the_edited_phrases():
    swapped = Edit("object", "a cat in a hat", 2, 6, "bear", "cat", "rules", avoid="a bear")
    (about_bear, no), (about_cat, yes) = questions(swapped)
    assert "a bear" in about_bear and "cat" in about_cat and (no, yes) == (False, True)
    assert objection(swapped, ["No.", "yes"]) is None
    assert objection(swapped, ["Yes", "yes"]) == "the answer is yes to what was edited out"
    assert objection(swapped, ["no", "no"]) == "the answer is no to the edited phrase"
    for unsure in ("maybe", "Not sure.", "Nothing can be said", "Note that", "Yesterday"):
        assert (
            objection(swapped, [unsure, "yes"]) == "the answer about the edited phrase is neither yes nor no"
        )
    assert objection(swapped, [" No, there is not", "YES"]) is None
    counted = Edit("count", "two bears", 0, 6, "a bear", "two bears", "rules")
    assert [wanted for _, wanted in questions(counted)] == [True]


def test_a_judge_is_never_the_model_that_learns(tmp_path):
    check_independent("toyworld judge", "toyworld")
    check_independent("openai/clip", None)
    check_independent("openai/clip-a", "openai/clip-b")
    copied = tmp_path / "copy"
    shutil.copytree(CLIP, copied)
    for judge, model in (
        ("toyworld", "toyworld"),
        ("OpenAI/clip", "openai/clip"),
        ("toyworld", str(copied)),
        (str(copied), f"{copied}/../copy"),
    ):
        with pytest.raises(ValueError, match="cannot check the data that it is to learn from"):
            check_independent(judge, model)


def test_unknown_judges_are_refused_with_what_would_be_right():
    for name in ("blip", "clip:", "vqa:model"):
        with pytest.raises(ValueError, match=f"--judge '{name}' is not known; use toyworld, clip:MODEL"):
            load_judge(name)
    with pytest.raises(ValueError, match="'no/such' cannot be loaded"):
        load_judge("clip:no/such")
