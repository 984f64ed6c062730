"""Edits of real captions by the rules of everyday English: made, read one by one, and counted.

    python benchmarks/english.py make CAPTIONS --skip 200 --out edits.json    # then fill in each "verdict"
    python benchmarks/english.py table edits.json
    python benchmarks/english.py fit CAPTIONS                                  # writes words/balance.toml

CAPTIONS has one caption a line; ``index`` is its number, from 0. A verdict is "clean", "ungrammatical", "implausible"
or "no negative" (true of the same picture); a "note" may say why. ``fit`` is run on other captions than those that are
read: it measures which words give negatives away, and writes down how much more seldom their edits are to be made.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from negguide._utils.text import WORD
from negguide.mining import edits as package
from negguide.mining.audit.pairs import Pair
from negguide.mining.audit.probes import accuracy, judge
from negguide.mining.audit.text import text_probes
from negguide.mining.categories import TEXT_CATEGORIES
from negguide.mining.edits import make_planner, plan
from negguide.mining.edits.english import EnglishRules
from negguide.mining.settings import seed_of

VERDICTS = ("clean", "ungrammatical", "implausible", "no negative")
TARGETS = {
    "object": 0.24, "attribute": 0.23, "count": 0.15, "relation": 0.09, "action": 0.10, "swap": 0.10, "add": 0.065,
    "negation": 0.045,
}  # fmt: skip
"""What part of a set each category is to have: the less, the more its words tell of it."""
UNBALANCED = ("add", "negation")
"""Categories that only put words in: no weight can hide that."""
RIDGE = 0.02
LARGEST = 2.0
"""Of a tilt, either way: what is measured on few captions is not trusted further."""
LARGEST_SHARE = 16.0
"""Of the logarithm of a share, either way: what a caption has only in the last resort."""
STEPS = 400
FEWEST = 4
"""A word is only weighed when so many edits change it."""


@dataclass(frozen=True)
class Choice:
    """One edit that a caption has: ``row`` is the caption's number."""

    row: int
    category: str
    caption: str
    weight: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=("make", "table", "fit"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--skip", type=int, default=0, help="so many captions at the beginning of the file")
    parser.add_argument("--limit", type=int, default=None)
    parser.add_argument("--out", type=Path, default=Path("edits.json"))
    parser.add_argument("--english-model", default="en_core_web_sm")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.command == "table":
        print(table(json.loads(options.file.read_text(encoding="utf-8"))))
        return
    lines = options.file.read_text(encoding="utf-8").splitlines()
    captions = [line.strip() for line in lines if line.strip()][options.skip :][: options.limit]
    if options.command == "fit":
        fit(captions, options.english_model)
    else:
        made = make(captions, options.english_model, options.seed)
        for row in made["edits"]:
            row["index"] += options.skip
        options.out.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def make(captions: Sequence[str], english_model: str, seed: int) -> dict[str, Any]:
    """One edit a caption, as `negguide mine` plans them by default, without what an image would have to show.

    Speed is that of parse and edits together, in time of the processor with one thread.
    """
    planner = make_planner("rules", english_model=english_model)
    assert isinstance(planner, EnglishRules)
    planner.read_ahead(["a dog on a sofa"])  # what is loaded once is not counted
    plan("a dog on a sofa", planner, categories=TEXT_CATEGORIES, per_item=1, rng=random.Random(0))
    began = time.process_time()
    planner.read_ahead(captions)
    rows, pairs = [], []
    for index, caption in enumerate(captions):
        rng = random.Random(seed_of(seed, index, "plan"))
        chosen, _ = plan(caption, planner, categories=TEXT_CATEGORIES, per_item=1, rng=rng)
        for edit in chosen:
            rows.append({"index": index, "category": edit.category, "edited": edit.caption, "verdict": ""})
            pairs.append((index, caption, edit.caption, edit.category))
    seconds = time.process_time() - began
    return {
        "captions": len(captions),
        "captions_a_second": round(len(captions) / seconds, 1),
        "tagger": planner.tagger.name,
        "seed": seed,
        "bag_of_words": probe(pairs),
        "edits": rows,
    }


def probe(pairs: Sequence[tuple[int, str, str, str]]) -> dict[str, Any]:
    """How often a bag of words tells the negative, in all and by category."""
    found = [
        Pair(id=str(i), source=str(i), category=category, caption=right, negative_caption=wrong)
        for i, right, wrong, category in pairs
    ]
    words = next(one for one in text_probes(found) if one.name == "bag of words")
    return judge(words, [pair.source for pair in found], [pair.category for pair in found]).to_dict()


def table(made: dict[str, Any]) -> str:
    """The verdicts by category, as Markdown."""
    rows = made["edits"]
    categories = sorted({row["category"] for row in rows}, key=TEXT_CATEGORIES.index)
    lines = [
        "| category | edits | of the set | " + " | ".join(VERDICTS) + " |",
        "|---" * (3 + len(VERDICTS)) + "|",
    ]
    for name in (*categories, "all"):
        mine = [row for row in rows if name in (row["category"], "all")]
        counts = Counter(row["verdict"] for row in mine)
        shares = " | ".join(f"{100 * counts[verdict] / len(mine):.1f}%" for verdict in VERDICTS)
        lines.append(f"| {name} | {len(mine)} | {100 * len(mine) / len(rows):.1f}% | {shares} |")
    clean = accuracy(
        np.asarray([1.0 if r["verdict"] == "clean" else -1.0 for r in rows]), np.arange(len(rows))
    )
    edited = len({row["index"] for row in rows})
    bag = made["bag_of_words"]["all"]
    lines += [
        "",
        f"clean: {clean}; captions without an edit: {100 * (1 - edited / made['captions']):.1f}%; "
        f"bag of words: {100 * bag['value']:.1f}% [{100 * bag['low']:.1f}, {100 * bag['high']:.1f}]; "
        f"{made['captions_a_second']} captions a second on one core, {made['tagger']}",
    ]
    return "\n".join(lines)


def fit(captions: Sequence[str], english_model: str) -> None:
    """Weights of words and shares of categories with which a set is balanced when it is made.

    Let ``d_i`` be the difference in words of edit i, ``w_i`` its weight, ``s_c`` the share of its category, and p_i the
    probability that it is chosen from its caption. Words get tilts t so that the expected difference of each is zero,

        sum_i p_i(t, s) d_i = 0,  with  w_i(t) = w_i exp(-t . d_i),

    which leaves a linear probe nothing to go by, and s so that each category has its part of ``TARGETS``. Both are
    found by gradient steps, t with a small ridge.
    """
    planner = make_planner("rules", english_model=english_model)
    assert isinstance(planner, EnglishRules)
    planner.read_ahead(captions)
    choices = [
        Choice(row, one.edit.category, one.edit.caption, one.weight / planner.tilt(caption, one.edit))
        for row, caption in enumerate(captions)
        for one in planner.weighed(caption, TEXT_CATEGORIES)
        if planner.objection(caption, one.edit) is None
    ]
    names, differences = _differences(captions, choices)
    base = np.log([choice.weight for choice in choices])
    category = np.asarray([list(TARGETS).index(choice.category) for choice in choices])
    row = np.asarray([choice.row for choice in choices])
    target = np.asarray(list(TARGETS.values()))
    tilts, shares = np.zeros(len(names)), np.zeros(len(target))
    hidden = np.isin(category, [list(TARGETS).index(name) for name in UNBALANCED])
    scale = np.sqrt(np.asarray(abs(differences[~hidden]).sum(axis=0)).ravel() + 1.0)
    for step in range(STEPS):
        weight = np.exp(base - np.where(hidden, 0.0, differences @ tilts))
        chosen = _probabilities(weight, shares, category, row)
        surplus = np.asarray(differences.T @ np.where(hidden, 0.0, chosen)).ravel()
        tilts = np.clip(tilts + 0.4 * (surplus / scale - RIDGE * tilts), -LARGEST, LARGEST)
        parts = np.bincount(category, chosen, len(target)) / chosen.sum()
        shares += 0.5 * (np.log(target) - np.log(parts))
        shares = np.clip(shares - shares.mean(), -LARGEST_SHARE, LARGEST_SHARE)
        if step % 100 == 99:
            print(step + 1, np.abs(surplus).sum().round(1), dict(zip(TARGETS, parts.round(3), strict=True)))
    lines = [
        "# Written by benchmarks/english.py fit: what balances a set of edits, measured on captions of their own.",
        "",
        "# How strongly each category is preferred where a caption has it.",
        "[shares]",
        *(f"{name} = {np.exp(value):.4g}" for name, value in zip(TARGETS, shares, strict=True)),
        f"remove = {np.exp(shares[list(TARGETS).index('add')]):.4g}",
        "",
        "# How much more seldom an edit is made that puts a word in (or, below zero, more often): a logarithm.",
        "[tilts]",
        *(
            f'"{name}" = {value:.2f}'
            for name, value in sorted(zip(names, tilts, strict=True))
            if abs(value) > 0.05
        ),
    ]
    file = Path(package.__file__).parent / "words" / "balance.toml"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(file)


def _differences(captions: Sequence[str], choices: Sequence[Choice]) -> tuple[list[str], sparse.csr_matrix]:
    """The words that enough edits change, and [edits, words] how often each was put in."""
    counted = []
    for choice in choices:
        new = Counter(WORD.findall(choice.caption.lower()))
        new.subtract(WORD.findall(captions[choice.row].lower()))
        counted.append({word: count for word, count in new.items() if count})
    rows: set[tuple[str, int]] = set()
    for found, choice in zip(counted, choices, strict=True):
        if choice.category not in UNBALANCED:
            rows.update({(word, choice.row) for word in found})
    captions_of = Counter(word for word, _ in rows)
    names = sorted(word for word, count in captions_of.items() if count >= FEWEST)
    place = {word: index for index, word in enumerate(names)}
    entries = [
        (i, place[word], count)
        for i, found in enumerate(counted)
        for word, count in found.items()
        if word in place
    ]
    at, column, value = zip(*entries, strict=True)
    return names, sparse.csr_matrix((value, (at, column)), (len(choices), len(names)), dtype=np.float64)


def _probabilities(
    weight: np.ndarray, shares: np.ndarray, category: np.ndarray, row: np.ndarray
) -> np.ndarray:
    """How likely each edit is chosen: a category by share times its largest weight, then an edit by its weight."""
    group = row * len(shares) + category
    total, largest = np.zeros(group.max() + 1), np.zeros(group.max() + 1)
    np.add.at(total, group, weight)
    np.maximum.at(largest, group, weight)
    score = np.exp(shares)[category] * largest[group]
    within = weight / total[group]
    of_row = np.zeros(row.max() + 1)
    first = np.unique(group, return_index=True)[1]
    np.add.at(of_row, row[first], score[first])
    likely: np.ndarray = within * score / of_row[row]
    return likely


if __name__ == "__main__":
    main()
