"""A planted tell is found, by the probe that it is meant for; where there is none, all probes are at chance."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from planted import Change, longer, spaced_stop, unchanged, write_set

from negguide.mining.audit.language_model import load_tokenizer, plausibilities
from negguide.mining.audit.pairs import Pair, read_pairs
from negguide.mining.audit.probes import OVERALL, Accuracy, Probe, accuracy, judge
from negguide.mining.audit.text import text_probes
from negguide.mining.item import Item

EVEN = ("object", "attribute")
"""Categories whose negatives are neither longer nor shorter as a rule."""


def pairs_of(folder: Path, count: int = 120, change: Change = unchanged, **more: Any) -> list[Pair]:
    return read_pairs(write_set(folder, count, change=change, images=False, **more))


def overall(pairs: list[Pair], **more: Any) -> dict[str, Accuracy]:
    sources = [pair.source for pair in pairs]
    probes = text_probes(pairs, **more)
    return {probe.name: judge(probe, sources).accuracies[OVERALL] for probe in probes}


def test_a_spaced_full_stop_is_told_by_punctuation(tmp_path: Path) -> None:
    found = overall(pairs_of(tmp_path, change=spaced_stop, categories=EVEN))
    assert found["punctuation"].value == 1.0
    assert found["words"].value < 0.6 and found["bag of words"].value < 0.6


def test_longer_negatives_are_told_by_their_length(tmp_path: Path) -> None:
    found = overall(pairs_of(tmp_path, change=longer, categories=EVEN))
    for probe in ("characters", "words", "bag of words"):
        assert found[probe].value > 0.98, probe
    assert found["punctuation"].value < 0.6


def test_a_new_word_for_each_negative_is_told_only_by_its_rarity(tmp_path: Path) -> None:
    def nonce(number: int, item: Item) -> Item:
        letters = "".join("bdfgklmnprst"[int(digit)] + "a" for digit in f"{number:03d}")
        caption, length = item.caption, len(item.caption.split()[1])
        return replace(
            item,
            negative_caption=caption.replace(item.caption.split()[1], letters[:length].ljust(length, "o"), 1),
        )

    found = overall(pairs_of(tmp_path, change=nonce, categories=EVEN))
    assert found["rare words"].value > 0.95
    assert found["characters"].value == found["words"].value == 0.5


def test_without_tells_every_probe_is_at_chance(tmp_path: Path) -> None:
    pairs = pairs_of(tmp_path, 240)
    found = overall(pairs, tokenize=load_tokenizer("toyworld"))
    assert list(found) == ["characters", "words", "tokens", "punctuation", "rare words", "bag of words"]
    for name, rate in found.items():
        assert rate.low <= 0.5 <= rate.high, (name, rate)
        assert rate.n == 240


def test_add_alone_is_told_by_its_length_but_not_beside_remove(tmp_path: Path) -> None:
    alone = overall(pairs_of(tmp_path / "alone", categories=("add",)))
    assert alone["characters"].value == 1.0
    both = pairs_of(tmp_path / "both", categories=("add", "remove"))
    assert {pair.family for pair in both} == {"add/remove"}
    assert not overall(both)["characters"].told


def test_tokens_are_those_of_the_tokenizer(tmp_path: Path) -> None:
    pairs = pairs_of(tmp_path, categories=("object",))

    def more_for_rabbits(text: str) -> list[str]:
        return text.split() + ["##it"] * text.count("rabbit")

    tokens = next(p for p in text_probes(pairs, tokenize=more_for_rabbits) if p.name == "tokens")
    expected = [("rabbit" in p.negative_caption) - ("rabbit" in p.caption) for p in pairs]
    assert tokens.differences[:, 0].tolist() == expected
    assert len(load_tokenizer("toyworld")("a red hat")) == 3


def test_a_tokenizer_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"tokenizer=.*nowhere' cannot be loaded"):
        load_tokenizer(str(tmp_path / "nowhere"))


@pytest.fixture(scope="module")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import GPT2Config, GPT2LMHeadModel

    from negguide.toyworld.words import new_tokenizer

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("language-model")
    tokenizer = new_tokenizer()
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=16,
        n_layer=1,
        n_head=2,
        n_positions=64,
        bos_token_id=tokenizer.bos_token_id,
    )
    model = GPT2LMHeadModel(config)
    model.transformer.wte.weight.data *= 20
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_plausibility_is_the_log_likelihood_whatever_else_is_in_the_batch(language_model: Path) -> None:
    from transformers import AutoTokenizer, GPT2LMHeadModel

    texts = ["a bear", "a brown bear wearing a red hat in a meadow", "two cats at night"]
    found = plausibilities(texts, str(language_model))
    model, tokenizer = (
        GPT2LMHeadModel.from_pretrained(language_model),
        AutoTokenizer.from_pretrained(language_model),
    )
    for text in texts:
        ids = [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]
        with torch.no_grad():
            logs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        total = sum(logs[place, token].item() for place, token in enumerate(ids[1:]))
        assert found[text] == pytest.approx((total, total / (len(ids) - 1)), rel=1e-4)


def test_less_plausible_negatives_are_told(tmp_path: Path) -> None:
    pairs = pairs_of(tmp_path, categories=EVEN)
    plausibility = {pair.caption: (-10.0, -1.0) for pair in pairs}
    even = {pair.negative_caption: (-10.0, -1.0) for pair in pairs}
    assert overall(pairs, plausibility=plausibility | even)["plausibility"].value == 0.5
    # every caption is somebody's negative in this world, so the negatives say another word
    marked = [replace(pair, negative_caption=pair.negative_caption + "x") for pair in pairs]
    odd = {pair.negative_caption: (-11.0 - i % 3, -1.2) for i, pair in enumerate(marked)}
    assert overall(marked, plausibility=plausibility | odd)["plausibility"].value == 1.0


def test_pairs_of_one_source_are_never_on_both_sides() -> None:
    # what a source shares tells everything about its pairs, and nothing about those of other sources
    sources = [f"s{i // 4}" for i in range(80)]
    shared = np.eye(20)[[i // 4 for i in range(80)]] * np.where(np.arange(80) // 4 % 2, 1.0, -1.0)[:, None]
    verdict = judge(Probe("shared", shared, "linear"), sources)
    assert verdict.accuracies[OVERALL].value == 0.5
    alone = judge(Probe("shared", shared, "linear"), [str(i) for i in range(80)])
    assert alone.accuracies[OVERALL].value == 1.0


def test_accuracy_has_wilsons_interval_and_ties_count_half() -> None:
    margins = np.asarray([1.0] * 70 + [-1.0] * 20 + [0.0] * 10)
    found = accuracy(margins, np.arange(100))
    assert (found.value, found.n) == (0.75, 100)
    # Wilson's interval of 75 in 100
    assert (found.low, found.high) == pytest.approx((0.6570, 0.8245), abs=1e-4)


def test_pairs_of_one_source_that_go_alike_widen_the_interval() -> None:
    margins = np.repeat(np.where(np.arange(20) < 13, 1.0, -1.0), 5)
    apart = accuracy(margins, np.arange(100))
    together = accuracy(margins, np.repeat(np.arange(20), 5))
    twenty = accuracy(np.where(np.arange(20) < 13, 1.0, -1.0), np.arange(20))
    assert apart.value == together.value == 0.65
    assert (together.low, together.high) == pytest.approx((twenty.low, twenty.high))
    assert together.low < apart.low


@pytest.mark.parametrize("margin", [1.0, -1.0])
def test_where_all_outcomes_are_alike_the_pairs_of_a_source_are_one_outcome(margin: float) -> None:
    # 5 sources of 20 pairs: Wilson's interval of 5 in 5, 1 / (1 + z² / 5) to 1; of 0 in 5 its mirror image
    found = accuracy(np.full(100, margin), np.repeat(np.arange(5), 20))
    expected = (1 / (1 + 1.959964**2 / 5), 1.0) if margin > 0 else (0.0, 1 - 1 / (1 + 1.959964**2 / 5))
    assert (found.low, found.high) == pytest.approx(expected)
    assert found.n == 100 and found.low <= found.value <= found.high
    # sources of different sizes, 10 pairs and 1 ten times: 20² / (10² + 10) outcomes
    uneven = accuracy(np.full(20, margin), np.asarray([0] * 10 + list(range(1, 11))))
    assert uneven.high - uneven.low == pytest.approx(1 - 1 / (1 + 1.959964**2 * 110 / 400))
    # a pair a source: so many outcomes as pairs
    alone = accuracy(np.full(100, margin), np.arange(100))
    assert alone.high - alone.low == pytest.approx(1 - 1 / (1 + 1.959964**2 / 100))


def test_an_accuracy_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one pair"):
        accuracy(np.asarray([]), np.asarray([]))


def test_small_families_are_not_judged_on_their_own() -> None:
    differences = np.ones((60, 1))
    families = ["many"] * 45 + ["few"] * 15
    verdict = judge(Probe("x", differences, "sign"), [str(i) for i in range(60)], families)
    assert set(verdict.accuracies) == {OVERALL, "many"}
    assert verdict.accuracies["many"].n == 45
