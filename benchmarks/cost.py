"""Time and peak memory over plain classifier-free guidance, and what the cheaper settings still remove and keep.

    python benchmarks/cost.py
    python benchmarks/cost.py --model toyworld-flow --part times

Each method runs in alternation with plain guidance in one process; the ratio is the median over the pairs. `operations`
are the floating point operations of a run over those of a plain one, which no noise of the machine touches; of a method
at rest also how many operators PyTorch is asked for, without the first and the last step. Memory is the largest sum of
live tensor bytes that PyTorch's allocator reports (CPU: through the profiler), over the plain run's. Beside the
settings of Perp-Neg stands what the judge sees in 200 images: `kept` is the share that shows everything the prompt asks
for, `removed` the share in which none of what was unwanted is left (one negative: the suite `first`; four: `FOUR`).
`--part judged` and `--part times` do one half each: only the times need a quiet machine. A run that is stopped goes on
where it was.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from overlap import WEIGHTS, negative_guidance
from overlap_report import LABELS
from report import (
    arguments,
    call_of,
    file_stem,
    models,
    own_steps,
    plot_rates,
    print_table,
    rows_so_far,
    steps_of,
    title_of,
    write_json,
)
from suites import first
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from negguide import NAG, Negative, NegToMe, PerpNeg
from negguide._utils.stats import Rate, share
from negguide.methods import AUTO, registered_methods
from negguide.models import embedded_of
from negguide.toyworld import KINDS, Scene, parse
from negguide.toyworld.domain import EMBEDDED, TOYWORLD, ToyworldModel
from negguide.toyworld.judge import Judge
from negguide.toyworld.measure import agreement

PROMPT = "a bear wearing glasses"
FOUR = {"black glasses": 3.0, "brown fur": 2.0, "in the snow": 0.3, "a scarf": 0.3}
"""Four things to leave out of "a bear wearing glasses" and of the other kinds, and their weights: more for what the
world mostly shows than for what it seldom does."""
ALONE = 3.0
"""Weight of a single negative: where overlap.py finds most removed with at least 95% kept."""
LAST: dict[str, Any] = {"start": 0.96, "stop": 1.0}
"""The window of the last step alone."""
FEW_TOKENS = 16
"""Of a negative of few words; the prompt has 64."""
IMAGES = 4
STEPS = 20
"""Of a timed run, on models that take more than a few."""


@dataclass(frozen=True)
class Case:
    """A row: the method for a list of negatives, with how many it is run, and whether its images are judged.

    With 0 negatives it takes none in words.
    """

    name: str
    method: Callable[[tuple[str, ...]], Any]
    negatives: int = 1
    judged: bool = True

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(FOUR)[: self.negatives]


def perp_neg(stop: float | None = None, **options: Any) -> Callable[[tuple[str, ...]], PerpNeg]:
    def method(texts: tuple[str, ...]) -> PerpNeg:
        weights = [ALONE] if len(texts) == 1 else [FOUR[text] for text in texts]
        negatives = [Negative(text, weight, stop=stop) for text, weight in zip(texts, weights, strict=True)]
        return PerpNeg(*negatives, **options)

    return method


def automatic(**options: Any) -> Callable[[tuple[str, ...]], PerpNeg]:
    return lambda texts: PerpNeg(*(Negative(text, AUTO) for text in texts), **options)


def attention(key: str, model: ToyworldModel, **options: Any) -> Case:
    """A method inside attention; its strength makes no difference to its time."""
    weight = WEIGHTS[key][0]
    return Case(
        ", ".join(
            [f"{LABELS[key]}, scale {weight:g}", *(f"{name}={value}" for name, value in options.items())]
        ),
        lambda texts: negative_guidance(key, [texts[:1]], weight, model.defaults, **options),
        judged=False,
    )


def cases(model: ToyworldModel) -> list[Case]:
    """The rows of a model: of one without classifier-free guidance, what acts without it."""
    if not model.always_guided:
        return unguided(model)
    rows: list[Case] = []
    for count in (1, 4):
        rows += [
            Case(f"Perp-Neg K={count}, whole run", perp_neg(1.0), count),
            Case(f"Perp-Neg K={count}, default window", perp_neg(), count),
            Case(f"Perp-Neg K={count}, refresh_every=2", perp_neg(refresh_every=2), count),
            Case(f"Perp-Neg K={count}, adaptive, whole run", perp_neg(1.0, adaptive=True), count),
            Case(f"Perp-Neg K={count}, automatic", automatic(), count),
            Case(f"Perp-Neg K={count}, automatic, economy", automatic(economy=True), count),
        ]
    return [
        *rows,
        Case("Perp-Neg K=4, first quarter", perp_neg(0.25), 4),
        Case("Perp-Neg K=2, whole run", perp_neg(1.0), 2, judged=False),
        Case("Perp-Neg K=2, default window", perp_neg(), 2, judged=False),
        *unguided(model),
        # attached for the whole run, acting in its last step only, which is not counted
        Case("off: Perp-Neg that rests", lambda _: PerpNeg(Negative("black glasses", **LAST)), 0),
        Case("off: NegToMe that rests", lambda _: NegToMe("others", blocks="attn1$", **LAST), 0),
        Case("off: NAG that rests", lambda _: NAG(Negative("black glasses", **LAST)), 0),
    ]


def unguided(model: ToyworldModel) -> list[Case]:
    """The methods that act without classifier-free guidance too.

    Where a text is filled up to the length that the call says, each also with negatives of few tokens.
    """
    lengths: list[dict[str, Any]] = [{}]
    if "max_sequence_length" in model.call:
        lengths.append({"max_sequence_length": FEW_TOKENS})
    return [
        *(
            attention(method.key, model, **options)
            for options in lengths
            for method in registered_methods("attention")
        ),
        Case("NegToMe, embedded model's values", lambda _: NegToMe("others", **model.defaults.negtome), 0),
        Case("NegToMe, published values", lambda _: NegToMe("others"), 0),
    ]


def timed_steps(pipe: Any) -> int:
    """Sampling steps of a timed run."""
    model = embedded_of(pipe)
    assert model is not None
    return min(STEPS, model.steps)


def run(pipe: Any, guidance: Any, after_step: Callable[[int], None] | None = None) -> tuple[float, float]:
    """Seconds of a whole call, and of its steps but the first and the last."""
    generators = [torch.Generator().manual_seed(i) for i in range(IMAGES)]
    ends: list[float] = []

    def on_step_end(_pipe: Any, step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        ends.append(time.perf_counter())
        if after_step is not None:
            after_step(step)
        return tensors

    start = time.perf_counter()
    pipe(
        PROMPT,
        num_images_per_prompt=IMAGES,
        num_inference_steps=timed_steps(pipe),
        **call_of(pipe),
        generator=generators,
        negative_guidance=guidance,
        callback_on_step_end=on_step_end,
    )
    return time.perf_counter() - start, ends[-2] - ends[0]


def operations(pipe: Any, guidance: Any, inner: bool = False) -> int:
    """Floating point operations of a run; with ``inner``, without the first and the last step."""
    so_far: list[int] = []
    with FlopCounterMode(display=False) as counter:
        run(pipe, guidance, lambda _: so_far.append(int(counter.get_total_flops())))
    return so_far[-2] - so_far[0] if inner else int(counter.get_total_flops())


class Operators(TorchDispatchMode):
    """Counts the operators that PyTorch is asked for, by step: what a method costs beside arithmetic."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.step = 0
        self.calls: Counter[int] = Counter()

    def after_step(self, step: int) -> None:
        self.step = step + 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls[self.step] += 1
        return func(*args, **(kwargs or {}))


def operators(pipe: Any, guidance: Any) -> int:
    """Operators of the steps of a run but the first and the last."""
    with Operators() as counter:
        run(pipe, guidance, counter.after_step)
    return sum(counter.calls[step] for step in range(1, timed_steps(pipe) - 1))


def ratios(pipe: Any, guidance: Any, count: int, inner: bool = False) -> list[float]:
    """Time over plain guidance, one number a pair of runs; with ``inner``, without the first and the last step."""
    run(pipe, guidance)
    found = []
    for i in range(count):
        # The order alternates, so that a drift of the machine's speed falls on both.
        first, second = (None, guidance) if i % 2 else (guidance, None)
        a, b = run(pipe, first)[inner], run(pipe, second)[inner]
        found.append(a / b if first is guidance else b / a)
    return found


def peak_bytes(pipe: Any, guidance: Any) -> int:
    """Largest sum of bytes allocated and not yet freed during one run."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run(pipe, guidance)
    live = peak = 0
    for event in recorded.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak


def judged(pipe: Any, judge: Judge, case: Case, per_cell: int) -> tuple[Rate, Rate]:
    """(kept, removed): ``per_cell`` images for each pair of overlap.py.

    Of each kind with four negatives there are four times as many.
    """
    kept: list[bool] = []
    removed: list[bool] = []
    if case.negatives == 1:
        for number, pair in enumerate(first()):
            seen = _read(pipe, judge, pair.prompt, case.method(pair.negatives), 1000 * number, per_cell)
            kept += [pair.kept(scene) for scene in seen]
            removed += [pair.removed(scene) for scene in seen]
    else:
        for number, kind in enumerate(KINDS):
            prompt = f"a {kind} wearing glasses"
            seen = _read(pipe, judge, prompt, case.method(case.texts), 1000 * number, 4 * per_cell)
            kept += [all(agreement(parse(prompt), scene).values()) for scene in seen]
            removed += [none_left(scene, case.negatives) for scene in seen]
    return share(kept), share(removed)


def none_left(scene: Scene, count: int) -> bool:
    """Whether none of the first ``count`` things of ``FOUR`` is in the scene."""
    gone = (
        all(c.glasses != "black" for c in scene.characters),
        all(c.fur != "brown" for c in scene.characters),
        scene.background != "snow",
        all(c.scarf is None for c in scene.characters),
    )
    return all(gone[:count])


def _read(pipe: Any, judge: Judge, prompt: str, guidance: Any, seed: int, count: int) -> list[Scene]:
    images = pipe(
        [prompt] * count,
        num_inference_steps=own_steps(pipe),
        **call_of(pipe, prompts=count),
        generator=[torch.Generator().manual_seed(seed + i) for i in range(count)],
        negative_guidance=guidance,
    ).images
    return judge.read(images)


def main() -> None:
    args = arguments(
        "Cost of negatives over plain guidance.",
        pairs=9,
        idle_pairs=30,
        images_per_pair=10,
        part="all",
        model=TOYWORLD,
    )
    if min(args.pairs, args.idle_pairs) < 2:
        raise SystemExit(
            f"--pairs and --idle-pairs must be at least 2, got {args.pairs} and {args.idle_pairs}: quartiles need two"
        )
    if args.part not in ("all", "judged", "times"):
        raise SystemExit(f"--part must be all, judged or times, got {args.part!r}")
    pipe, judge = models(args.model)
    rows_of = cases(EMBEDDED[args.model])
    settings = {
        "images": IMAGES,
        "steps": timed_steps(pipe),
        "threads": args.threads,
        "judged": 20 * args.images_per_pair,
        "judged_steps": steps_of(args.model),
        "weights": {"alone": ALONE, **FOUR},
    }
    path = args.out / f"{file_stem('cost', args.model)}.json"
    found = {row["name"]: row for row in rows_so_far(path, settings, args.model)}
    rows = [found.get(case.name, {"name": case.name}) for case in rows_of]
    if args.part != "times":
        for case, row in tqdm(list(zip(rows_of, rows, strict=True)), desc="judged"):
            if case.judged and case.negatives and "kept" not in row:
                kept, removed = judged(pipe, judge, case, args.images_per_pair)
                row |= {"kept": kept.to_dict(), "removed": removed.to_dict()}
                write_json(path, settings, rows, args.model)
    if args.part != "judged":
        run(pipe, None)
        base_peak, base_operators = peak_bytes(pipe, None), operators(pipe, None)
        base_operations = {inner: operations(pipe, None, inner) for inner in (False, True)}
        for case, row in tqdm(list(zip(rows_of, rows, strict=True)), desc="times"):
            guidance, rests = case.method(case.texts), case.name.startswith("off")
            if "ratios" not in row:
                times = ratios(pipe, guidance, args.idle_pairs if rests else args.pairs, inner=rests)
                row |= {"ratio": statistics.median(times), "ratios": times}
                row["memory"] = peak_bytes(pipe, guidance) / base_peak
                write_json(path, settings, rows, args.model)
            if "operations" not in row:
                row["operations"] = operations(pipe, guidance, rests) / base_operations[rests]
                if rests:
                    row["operators"] = operators(pipe, guidance) / base_operators
                write_json(path, settings, rows, args.model)
    rows = [row for row in rows if "operations" in row]
    if not rows:
        return
    lines = []
    bars: dict[str, dict[str, Rate]] = {}
    for row in rows:
        low, median, high = statistics.quantiles(row["ratios"], n=4)
        bars[row["name"]] = {"ratio": Rate(median, low, high, len(row["ratios"]))}
        seen = [Rate(**row[figure]) if figure in row else "" for figure in ("kept", "removed")]
        counted = f"{row['operations']:.4f}"
        if "operators" in row:
            counted += f" (operators {row['operators']:.4f})"
        lines.append(
            (row["name"], f"{median:.3f} [{low:.3f}, {high:.3f}]", counted, f"{row['memory']:.2f}", *seen)
        )
    columns = ("method", "time over CFG (median, quartiles)", "operations", "peak memory", "kept", "removed")
    title = f"{IMAGES} images, {timed_steps(pipe)} steps, {args.threads} threads"
    print_table(title_of(title, args.model), columns, lines)
    title = title_of("Time over a plain call (median, quartiles)", args.model)
    plot_rates(path.with_suffix(".png"), title, bars)


if __name__ == "__main__":
    main()
