"""Rebalancing takes the tells away, with as few items as it can; other attackers find none either."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from planted import spaced_stop, write_set
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score

from negguide.mining.audit import audit, read_rebalanced, write_rebalanced
from negguide.mining.audit.pairs import Pair, read_pairs
from negguide.mining.audit.probes import OVERALL, judge
from negguide.mining.audit.rebalance import Balance, _surest, rebalance
from negguide.mining.audit.text import text_probes
from negguide.mining.item import Item


def stops_in_half(number: int, item: Item) -> Item:
    """In every second round through the categories."""
    return spaced_stop(number, item) if number // 4 % 2 else item


def best(pairs: Sequence[Pair]) -> float:
    """The accuracy of the best probe, overall."""
    sources = [pair.source for pair in pairs]
    return max(judge(probe, sources).accuracies[OVERALL].value for probe in text_probes(pairs))


def by_letters(pairs: Sequence[Pair]) -> float:
    """The accuracy of an attacker that rebalancing does not know: any letters in a row, other folds."""
    texts = [text for pair in pairs for text in (pair.caption, pair.negative_caption)]
    counts = CountVectorizer(analyzer="char", ngram_range=(1, 3)).fit_transform(texts).astype(float)
    order = np.where(np.arange(len(pairs)) % 2, 1, -1)
    shown = (counts[1::2] - counts[::2]).multiply(order[:, None]).tocsr()
    model = LogisticRegression(fit_intercept=False, max_iter=500)
    return float(cross_val_score(model, shown, order, cv=7).mean())


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> list[Pair]:
    return read_pairs(write_set(tmp_path_factory.mktemp("half"), 160, change=stops_in_half, images=False))


def test_a_tell_in_half_of_the_items_goes_with_these_items(half: list[Pair]) -> None:
    assert best(half) > 0.7
    balance = rebalance(half, text_probes)
    assert best(balance.kept) <= 0.55
    with_tell = sum(pair.negative_caption.endswith(" .") for pair in balance.kept)
    assert with_tell <= 6
    # nearly all of the 80 items without the tell are kept
    assert len(balance.kept) - with_tell >= 72
    assert not balance.exchanged
    assert set(balance.dropped) == {pair.id for pair in half} - {pair.id for pair in balance.kept}
    assert any("punctuation told" in reason for reason in balance.dropped.values())


def test_an_attacker_that_rebalancing_does_not_know_is_at_chance_too(tmp_path: Path) -> None:
    before, after = [], []
    for seed in range(3):
        folder = write_set(tmp_path / str(seed), 160, change=stops_in_half, images=False, seed=seed)
        pairs = read_pairs(folder)
        before.append(by_letters(pairs))
        after.append(by_letters(rebalance(pairs, text_probes).kept))
    assert min(before) > 0.7
    # 240 pairs in all: a standard error is 3%
    assert np.mean(after) < 0.57


def test_the_choice_is_the_same_each_time(half: list[Pair]) -> None:
    assert rebalance(half, text_probes) == rebalance(list(half), text_probes)


def test_a_set_without_tells_is_kept_nearly_whole(tmp_path: Path) -> None:
    pairs = read_pairs(write_set(tmp_path, 200, images=False))
    assert best(pairs) <= 0.55
    balance = rebalance(pairs, text_probes)
    # of a few dozen probes and families, chance lets one tell
    assert len(balance.kept) >= 185 and not balance.exchanged
    # what no probe tells is left alone
    blind = rebalance(
        pairs, lambda some: [probe for probe in text_probes(some) if probe.name == "punctuation"]
    )
    assert blind == Balance(tuple(pairs), frozenset(), {})


def test_add_is_balanced_against_remove(tmp_path: Path) -> None:
    categories = ("add", "add", "add", "remove")
    pairs = read_pairs(write_set(tmp_path, 120, categories=categories, images=False))
    balance = rebalance(pairs, text_probes)
    kept = Counter(pair.category for pair in balance.kept)
    assert best(balance.kept) <= 0.55
    assert kept["remove"] >= 24
    assert abs(kept["add"] - kept["remove"]) <= 8


def test_where_every_negative_has_the_tell_nothing_is_kept(tmp_path: Path) -> None:
    pairs = read_pairs(write_set(tmp_path, 80, change=spaced_stop, images=False))
    balance = rebalance(pairs, text_probes)
    assert balance.kept == ()
    assert len(balance.dropped) == 80


def test_with_controls_roles_are_exchanged_and_nearly_all_is_kept(tmp_path: Path) -> None:
    pairs = read_pairs(write_set(tmp_path, 120, change=spaced_stop, images=False, controls=True))
    balance = rebalance(pairs, text_probes)
    assert len(balance.kept) >= 100
    assert best(balance.kept) <= 0.55
    assert 0.35 < len(balance.exchanged) / len(balance.kept) < 0.65
    for pair in balance.kept:
        assert (pair.id in balance.exchanged) == pair.caption.endswith(" .")
        assert (pair.image == pair.control) == (pair.id in balance.exchanged)


def test_the_last_resort_drops_what_is_told_most_surely(
    half: list[Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    margins = np.asarray([3.0, -1.0, np.nan, 2.0, 0.0, 1.0, 0.5, -2.0, 4.0, 5.0, 6.0])
    # right in 7.5 of 10; 2.5 of 5 are left
    assert _surest(margins) == [10, 9, 8, 0, 3]
    monkeypatch.setattr("negguide.mining.audit.rebalance.TIGHTNESS", ())
    balance = rebalance(half, text_probes)
    assert best(balance.kept) <= 0.55 and len(balance.kept) >= 45


def test_items_may_be_dropped_beforehand(half: list[Pair]) -> None:
    balance = rebalance(half, lambda some: [], drop={"toy-3": "it is in the evaluation set", "other": "x"})
    assert dict(balance.dropped) == {"toy-3": "it is in the evaluation set"}
    assert len(balance.kept) == len(half) - 1


def test_renders_stand_in_for_originals(rendered_set: Path, tmp_path: Path) -> None:
    found = audit(rendered_set, balance=True, rendered=True)
    assert found.mined.images["original and negative"]["frequency"].accuracies[OVERALL].value > 0.98
    assert found.rebalanced is not None and found.balance is not None
    for verdicts in found.rebalanced.images.values():
        for name, verdict in verdicts.items():
            assert not verdict.accuracies[OVERALL].told, name
    write_rebalanced(found.balance, tmp_path / "rebalanced.json", {})
    assert json.loads((tmp_path / "rebalanced.json").read_text())["rendered"] is True
    (tmp_path / "data").symlink_to(rendered_set / "data")
    items = [item for item, _ in read_rebalanced(tmp_path)]
    assert len(items) == len(found.balance.kept)
    for item in items:
        if not item.extra.get("exchanged"):
            assert item.image_file_name.endswith("-control.png") and item.extra["rendered"] is True


def test_the_rebalanced_set_is_read_in_its_roles(tmp_path: Path) -> None:
    folder = write_set(tmp_path, 8, controls=True, images=False)
    pairs = read_pairs(folder)
    balance = Balance(
        (pairs[0], pairs[2].exchanged()),
        frozenset({"toy-2"}),
        {p.id: "x" for p in pairs if p.id not in ("toy-0", "toy-2")},
    )
    write_rebalanced(balance, folder / "rebalanced.json", {})
    [(first, place), (second, _)] = read_rebalanced(folder)
    assert (first.id, place) == ("toy-0", folder / "data" / "00000")
    assert first.extra == {}
    # an "add" before
    assert second.category == "remove" and second.extra == {"exchanged": True}
    assert second.caption[second.start : second.end] == second.before
    assert (
        second.caption[: second.start] + second.after + second.caption[second.end :]
        == second.negative_caption
    )
    assert (second.image_file_name, second.negative_image_file_name) == ("2-negative.png", "2-control.png")
    assert second.scores == (0.8, 0.2, 0.1, 0.9)
    assert pairs[2].negative_caption == second.caption and second.positive_captions == ()


def test_a_set_that_is_not_rebalanced_or_has_changed_is_refused(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", 8, images=False)
    with pytest.raises(ValueError, match=r"is not rebalanced: run `negguide audit .* --rebalance` first"):
        list(read_rebalanced(folder))
    pairs = read_pairs(folder)
    path = folder / "rebalanced.json"
    write_rebalanced(Balance(tuple(pairs[:7]), frozenset(), {}), path, {})
    with pytest.raises(ValueError, match="does not know item toy-7: the set has grown"):
        list(read_rebalanced(folder))
    gone = replace(pairs[0], id="gone")
    write_rebalanced(Balance((*pairs, gone), frozenset(), {}), path, {})
    with pytest.raises(ValueError, match="keeps item gone, which the set does not hold"):
        list(read_rebalanced(folder))
    path.write_text("{}")
    with pytest.raises(ValueError, match="is not what `negguide audit --rebalance` writes"):
        list(read_rebalanced(folder))
