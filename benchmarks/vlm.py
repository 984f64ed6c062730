"""What generated negatives teach a CLIP: the embedded model, fine-tuned with and without them.

    python benchmarks/vlm.py                 # negatives made by `negguide mine`
    python benchmarks/vlm.py --renders 1     # negatives drawn by the world itself: what perfect ones would give

Every row starts from the embedded CLIP and takes the same number of steps over the same pairs of the training split; it
is asked the `toyworld` suite (held-out scenes, true renders). A figure is the mean over the seeds of training; its
interval is Wilson's over the questions, widened to the worst and the best seed. The sets and every trained model stay
in --work, and a run that was stopped goes on.

All rows have the captions' paraphrases, the same curriculum (relations first: they are not learned beside all the rest
in so few steps) and the same number of steps. Both kinds of negatives are trained on as siblings
in a batch (loss "grouped"), each picture once; the other rows have the losses that are published for their kind.

Against forgetting, half of every batch is pairs such as the start model was trained on, short captions among them, and
the result is interpolated with the start model.

The last row takes the captions, edits and original images of "both", and negative images painted by plain prompting
without any check: the comparison of the negatives alone. Its edits are those that Perp-Neg could paint, so it is not
made worse by hard ones.
"""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from report import STEPS, arguments, models, plt, print_table, rows_so_far, write_json
from tqdm import tqdm

from negguide.models import TOYWORLD, TOYWORLD_DEFAULTS, revision
from negguide.toyworld.measure import Rate, draw
from negguide.toyworld.models import CLIP
from negguide.vlm.evaluate import evaluate, make_suite
from negguide.vlm.metrics import Z95
from negguide.vlm.models import load_model
from negguide.vlm.reading import read_triplets
from negguide.vlm.results import Results
from negguide.vlm.suites.base import Suite

START = "start model"
PAIRS_ALONE = "no negatives"
TEXT = "text negatives"
IMAGE = "image negatives"
BOTH = "both"
KEEPING = "both, anti-forgetting"
PLAIN = "both, by plain prompting, unchecked"
GROUPED = {"loss": "grouped", "group_size": 6, "group_share": 1.0}
METHODS: Mapping[str, Mapping[str, Any]] = {
    PAIRS_ALONE: {"loss": "clip"},
    TEXT: {"loss": "negclip"},
    IMAGE: {"loss": "negimage"},
    BOTH: GROUPED,
    KEEPING: {**GROUPED, "group_share": 0.5, "wise_ft": 0.9},
    PLAIN: GROUPED,
}
"""What each row tells `negguide.vlm.train`."""
EVERY = {
    "paraphrases": True,
    "curriculum": "relation",
    "warmup": 50,
    "precision": "amp_bf16",
    "val_share": 0.0,
}
"""What all of them are told. Nothing is held out to choose by: every row takes its last state."""

FIGURES = {
    "text": ("toyworld", "text"),
    "image": ("toyworld", "image"),
    "group": ("toyworld", "group"),
    "hard positives": ("toyworld", "hard positives"),
    "retrieval R@1": ("toyworld/retrieval", "text to image R@1"),
    "zero-shot": ("toyworld/zero-shot", "accuracy"),
}
CATEGORIES = ("object", "attribute", "count", "relation", "swap", "add", "remove", "negation")
GAIN, KEPT = 0.30, 0.01
"""The bars: points of group over the start model, and points that may be lost elsewhere."""


POSITIVES = 2
"""Paraphrases of every caption."""


@dataclass(frozen=True)
class Part:
    """A part of the set: at most ``per_item`` edits of some categories for each of the first ``pairs`` scenes."""

    pairs: int
    per_item: int
    categories: tuple[str, ...]
    views: bool = False


def parts(order_pairs: int, detail_pairs: int, presence_pairs: int) -> dict[str, Part]:
    """What the set is made of: edits that keep the words of a caption, or nearly; that exchange one; that make it
    longer or shorter.

    Who stands where, and who has what, is what the start model fails at (relation, swap), and only a quarter of the
    world's scenes has two characters who could be taken for each other: a set with the world's own shares would hold
    few of these edits. So they are asked for apart, of more scenes.
    """
    return {
        "order": Part(order_pairs, 4, ("relation", "swap")),
        "details": Part(detail_pairs, 4, ("object", "attribute", "count"), views=True),
        "presence": Part(presence_pairs, 2, ("add", "remove", "negation")),
    }


def mined_set(folder: Path, asked: Mapping[str, Part]) -> Path:
    """A set of `negguide mine` for every part, or what is missing of it; the folder of all is a set as well."""
    for name, part in asked.items():
        command = [sys.executable, "-m", "negguide", "mine", "--out", str(folder / name)]
        command += ["--data", f"toyworld:{part.pairs}", "--per-item", str(part.per_item)]
        command += ["--categories", ",".join(part.categories), *(["--views"] if part.views else [])]
        command += ["--positives", str(POSITIVES), "--controls", "0"]
        subprocess.run(command, check=True)
    return folder


def rendered_set(folder: Path, asked: Mapping[str, Part]) -> Path:
    """The same edits of the same scenes, drawn by the world itself."""
    for name, part in asked.items():
        _render(folder / name, part)
    return folder


def _render(folder: Path, part: Part) -> None:
    from negguide.mining.edits import make_planner, plan, plan_positives
    from negguide.mining.sources.toyworld import ToyworldScenes
    from negguide.toyworld import parse, render

    done = folder / "metadata.jsonl"
    if done.is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    planner = make_planner("rules", world=True, views=part.views)
    rows = []
    for source in tqdm(ToyworldScenes(part.pairs).rows(), total=part.pairs, desc="rendering"):
        rng = random.Random(f"vlm-{source.id}")
        pose = rng.getrandbits(32)
        edits, _ = plan(source.caption, planner, categories=part.categories, per_item=part.per_item, rng=rng)
        if not edits:
            continue
        positives, _ = plan_positives(source.caption, planner, count=POSITIVES, rng=rng)
        render(parse(source.caption), 64, pose).save(folder / f"{source.id}.png")
        for number, edit in enumerate(edits):
            name = f"{source.id}-{number}"
            render(parse(edit.prompt), 64, pose).save(folder / f"{name}.png")
            rows.append(
                {
                    "id": name,
                    "source_id": source.id,
                    "file_name": f"{source.id}.png",
                    "negative_file_name": f"{name}.png",
                    "caption": source.caption,
                    "negative_caption": edit.caption,
                    "positive_captions": [positive.caption for positive in positives],
                    "category": edit.category,
                    "prompt": edit.prompt,
                }
            )
    _write_lines(done, rows)


def plain_set(folder: Path, mined: Path, batch_size: int = 50) -> Path:
    """The items of ``mined`` with negative images by plain prompting, as they come; what is painted is kept."""
    from negguide.mining.shards import read_set

    done = folder / "metadata.jsonl"
    if done.is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    # the parts number their items alike
    items = [
        (item, place, _file(f"{part.parent.name}/{item.id}"))
        for part in sorted(mined.glob("*/set.json"))
        for item, place in read_set(part.parent)
    ]
    pipe, _ = models()
    left = [(item, file) for item, _, file in items if not (folder / file).is_file()]
    for start in tqdm(range(0, len(left), batch_size), desc="plain prompting"):
        chosen = left[start : start + batch_size]
        images = draw(
            pipe,
            [item.prompt for item, _ in chosen],
            [item.seed for item, _ in chosen],
            steps=STEPS,
            guidance_scale=TOYWORLD_DEFAULTS.guidance_scale,
        )
        for (_, file), image in zip(chosen, images, strict=True):
            partial = folder / f".{file}"
            image.save(partial, format="PNG")
            partial.replace(folder / file)
    rows = [
        {
            "id": item.id,
            "source_id": item.source_id,
            "file_name": _original(item, place, folder, f"original-{file}"),
            "negative_file_name": file,
            "caption": item.caption,
            "negative_caption": item.negative_caption,
            "positive_captions": list(item.positive_captions),
            "category": item.category,
            "prompt": item.prompt,
        }
        for item, place, file in items
    ]
    _write_lines(done, rows)
    return folder


def _original(item: Any, place: Any, folder: Path, name: str) -> str:
    """The name of a pair's original in ``folder``, where it is copied to: in the set it may be packed."""
    (folder / name).write_bytes((place / item.image_file_name).read_bytes())
    return name


def keeping_set(folder: Path, negatives: Path, pairs: int) -> Path:
    """The rows of ``negatives``, and ``pairs`` scenes of the training split, captioned as for the start model."""
    from negguide.toyworld import render
    from negguide.toyworld.language import training_caption
    from negguide.toyworld.scene import held_out, sample_scene

    done = folder / "metadata.jsonl"
    if done.is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = [
        {
            "id": triplet.id,
            "source_id": triplet.source,
            "file_name": str(Path(triplet.image.name).resolve()),
            "negative_file_name": triplet.negative_image and str(Path(triplet.negative_image.name).resolve()),
            "caption": triplet.caption,
            "negative_caption": triplet.negative_caption,
            "positive_captions": list(triplet.positive_captions),
            "category": triplet.category,
            "prompt": triplet.prompt,
        }
        for triplet in read_triplets(str(negatives))
    ]
    rng = random.Random("vlm pairs to keep")
    for number in tqdm(range(pairs), desc="pairs to keep"):
        scene = sample_scene(rng)
        while held_out(scene):
            scene = sample_scene(rng)
        file = f"kept-{number}.png"
        render(scene, 64, rng.getrandbits(32)).save(folder / file)
        rows.append({"id": f"kept-{number}", "file_name": file, "caption": training_caption(scene, rng)})
    _write_lines(done, rows)
    return folder


def _file(name: str) -> str:
    return f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.png"


def _write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(row) + "\n" for row in rows))
    partial.replace(path)


def tuned(
    work: Path,
    train_data: Path,
    method: str,
    seed: int,
    suite: Suite,
    *,
    epochs: int,
    batch_size: int,
    lr: float,
    steps: int | None = None,
    pairs: int | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Train one row and measure it.

    With ``steps`` in an epoch, a batch of siblings is what goes through all ``pairs`` in them.
    """
    from negguide.vlm.settings import Settings
    from negguide.vlm.train import finetune

    told = {**EVERY, **METHODS[method], **more}
    if steps is not None:
        if told["loss"] == "grouped":
            assert pairs is not None
            batch_size = int(pairs / steps / told["group_share"])
        told["train_num_samples"] = steps * batch_size
    settings = Settings(
        train_data=str(train_data), seed=seed, epochs=epochs, batch_size=batch_size, lr=lr, **told
    )
    key = hashlib.sha256(json.dumps(asdict(settings), sort_keys=True).encode()).hexdigest()[:12]
    outcome = finetune(settings, work / "runs" / key, resume="latest", remark=lambda text: None)
    found = evaluate(load_model(str(outcome.folder)), [suite])
    return {
        "method": method,
        "seed": seed,
        "steps": outcome.steps,
        "batch_size": batch_size,
        "results": found.to_dict(),
    }


def distinct(train_data: Path) -> int:
    """How many pairs the loss "grouped" makes of a set."""

    triplets = read_triplets(str(train_data))
    negatives = sum(triplet.negative_image is not None for triplet in triplets)
    return len({(triplet.source, triplet.caption) for triplet in triplets}) + negatives


def pooled(rows: Sequence[Mapping[str, Any]], suite: str, metric: str, category: str = "all") -> Rate:
    """Mean over the seeds; Wilson's interval over the questions, widened to the worst and the best seed."""
    found = [Results.from_dict(row["results"]).row(suite, metric, category) for row in rows]
    values = [row.value for row in found]
    p, n = sum(values) / len(values), found[0].n
    centre = (p + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * (p * (1 - p) / n + Z95**2 / (4 * n * n)) ** 0.5
    return Rate(p, min(max(0.0, centre - half), *values), max(min(1.0, centre + half), *values), n)


def verdicts(rates: Mapping[str, Mapping[str, Rate]]) -> list[tuple[str, str, str]]:
    """Every bar: what was asked for, what was found, and whether it is met."""

    def apart(better: str, worse: str) -> tuple[str, str, str]:
        high, low = rates[better]["group"], rates[worse]["group"]
        met = (
            "yes" if high.low > low.high else "better, intervals overlap" if high.value > low.value else "no"
        )
        return f"group: {better} above {worse}", f"{100 * (high.value - low.value):+.1f} points", met

    start, best = rates[START], rates[KEEPING]
    lines = [apart(BOTH, TEXT), apart(BOTH, IMAGE)]
    if PLAIN in rates:
        lines.append(apart(BOTH, PLAIN))
    for name in (BOTH, KEEPING):
        gain = rates[name]["group"].value - start["group"].value
        lines.append(
            (
                f"group: {name} 30 points over the start",
                f"{100 * gain:+.1f} points",
                "yes" if round(gain - GAIN, 9) >= 0 else "no",
            )
        )
    for figure, most in (("retrieval R@1", KEPT), ("zero-shot", KEPT), ("hard positives", 0.0)):
        change = best[figure].value - start[figure].value
        lines.append(
            (
                f"{figure}: {KEEPING} loses at most {100 * most:.0f} points",
                f"{100 * change:+.1f} points",
                "yes" if round(change + most, 9) >= 0 else "no",
            )
        )
    return lines


def plot(path: Path, title: str, bars: Mapping[str, Mapping[str, Rate]], columns: int) -> None:
    """Bars with their intervals, in percent: one panel a figure, one bar a method; the start model in grey."""
    figures = list(next(iter(bars.values())))
    lines = -(-len(figures) // columns)
    size = (3.0 * columns + 2.4, lines * (0.3 * len(bars) + 0.75) + 0.5)
    canvas, grid = plt.subplots(
        lines, columns, sharey=True, squeeze=False, figsize=size, layout="constrained"
    )
    places = range(len(bars))
    for panel, figure in zip(grid.flat, figures, strict=False):
        rates = [row[figure] for row in bars.values()]
        errors = [
            [100 * max(0.0, r.value - r.low) for r in rates],
            [100 * max(0.0, r.high - r.value) for r in rates],
        ]
        colors = ["#a8b1bb" if name == START else "#1f6feb" for name in bars]
        panel.barh(
            places, [100 * r.value for r in rates], xerr=errors, color=colors, ecolor="#24292f", capsize=2
        )
        panel.set_title(figure, fontsize=10)
        panel.set_xlim(0, 104)
        panel.set_xticks(range(0, 101, 25))
        panel.grid(axis="x", alpha=0.3)
        panel.set_axisbelow(True)
    for panel in grid.flat[len(figures) :]:
        panel.set_axis_off()
    grid[0][0].set_yticks(places, list(bars))
    grid[0][0].invert_yaxis()
    canvas.suptitle(title)
    canvas.savefig(path, dpi=120)
    plt.close(canvas)
    print(f"wrote {path}")


def main() -> None:
    args = arguments(
        "What generated negatives teach a CLIP.",
        seeds=3,
        order_pairs=3200,
        detail_pairs=1200,
        presence_pairs=600,
        kept_pairs=40000,
        epochs=5,
        batch_size=32,
        lr=7e-4,
        limit=0,
        renders=0,
        work="out/vlm-benchmark",
    )
    work = Path(args.work)
    training = {name: getattr(args, name) for name in ("epochs", "batch_size", "lr")}
    amounts = {name: getattr(args, name) for name in ("order_pairs", "detail_pairs", "presence_pairs")}
    settings = {
        **{name: getattr(args, name) for name in ("seeds", "limit", "renders", "kept_pairs")},
        **amounts,
        **training,
        "every": EVERY,
        "methods": {name: dict(values) for name, values in METHODS.items()},
        "clip": revision(str(CLIP)),
    }
    asked = parts(**amounts)
    size = "-".join(map(str, amounts.values()))
    if args.renders:
        negatives = rendered_set(work / f"renders-{size}", asked)
        sets = dict.fromkeys(METHODS, negatives)
        del sets[PLAIN]  # nothing is painted
    else:
        negatives = mined_set(work / f"mined-{size}", asked)
        sets = dict.fromkeys(METHODS, negatives)
        sets[PLAIN] = plain_set(work / f"plain-{size}", negatives)
    sets[KEEPING] = keeping_set(
        work / f"keeping-{negatives.name}-{args.kept_pairs}", negatives, args.kept_pairs
    )
    steps = len(read_triplets(str(negatives))) // args.batch_size
    pairs = distinct(negatives)

    path = args.out / ("vlm-renders.json" if args.renders else "vlm.json")
    suite = make_suite("toyworld", limit=args.limit or None)
    settings["suite"] = suite.version
    rows = rows_so_far(path, settings)
    known = {(row["method"], row["seed"]) for row in rows}
    if (START, 0) not in known:
        found = evaluate(load_model(TOYWORLD), [suite])
        rows.append({"method": START, "seed": 0, "steps": 0, "batch_size": 0, "results": found.to_dict()})
        write_json(path, settings, rows)
    for method, train_data in sets.items():
        for seed in range(args.seeds):
            if (method, seed) not in known:
                print(f"{method}, seed {seed}")
                rows.append(
                    tuned(work, train_data, method, seed, suite, steps=steps, pairs=pairs, **training)
                )
                write_json(path, settings, rows)
                torch.manual_seed(0)

    by_method = {name: [row for row in rows if row["method"] == name] for name in (START, *sets)}
    rates = {n: {f: pooled(own, *where) for f, where in FIGURES.items()} for n, own in by_method.items()}
    groups = {n: {c: pooled(own, "toyworld", "group", c) for c in CATEGORIES} for n, own in by_method.items()}
    what = "true renders" if args.renders else "generated negatives"
    title = f"The embedded CLIP, fine-tuned with {what}: percent of held-out questions, {args.seeds} seeds"
    table = [(n, by_method[n][0]["steps"], *map(_percent, found.values())) for n, found in rates.items()]
    print_table(title, ("method", "steps", *FIGURES), table)
    lines = [(n, *(f"{100 * rate.value:.1f}" for rate in found.values())) for n, found in groups.items()]
    print_table("Group score by category, percent", ("method", *CATEGORIES), lines)
    print_table("The bars", ("asked for", "found", "met"), verdicts(rates))
    plot(path.with_suffix(".png"), title, rates, columns=3)
    plot(
        path.with_name(f"{path.stem}-categories.png"),
        f"Group score by category, with {what}",
        groups,
        columns=4,
    )


def _percent(rate: Rate) -> str:
    return f"{100 * rate.value:.1f} [{100 * rate.low:.0f}, {100 * rate.high:.0f}]"


if __name__ == "__main__":
    main()
