"""A negative that overlaps the prompt: is the unwanted part gone, and is the rest still there?

    python benchmarks/overlap.py                                   # the suite that settings are chosen on
    python benchmarks/overlap.py --suite heavy                     # others, by which nothing was chosen: suites.py
    python benchmarks/overlap.py --suite several --methods negative-prompt,perp-neg:3
    python benchmarks/overlap.py --model toyworld-flow --methods nag,nasa,ong,vsf
    python benchmarks/overlap.py --model toyworld-flow-turbo --methods nag:5 --max-sequence-length 16 --name short
    python benchmarks/overlap.py --name few-steps --methods perp-neg,nag,nasa,ong,vsf --steps 6 --guidance-scale 1.5

Pairs like "a bear wearing glasses" minus "black glasses". For every method and weight, `kept` is the share of images
that still show everything the prompt asks for, `removed` the share in which the unwanted attribute is gone. Of several
negatives, `removed` is the share of images in which all are gone, and `each` the share of negatives that are gone. Of a
negative that is not in the picture, `unchanged` is the share of images in which the judge sees the very scene that
plain guidance draws from the same seed, `distance` the mean distance of their latents, and `relative` this over
`present_distance`, that of a negative that is in the picture, for the same prompt and seeds. Images in which plain
guidance does show what should be absent, or does not show what should be present, do not count there.

The classic negative prompt is weighted as user interfaces do it: its text embedding is moved that many times as far
from the embedding of the empty prompt; several negatives are one text. Subtraction takes the whole negative away where
Perp-Neg takes its perpendicular part (arXiv 2206.01714); `dng` does so by how likely the sample is to belong to it
(arXiv 2410.14398). `perp-neg-auto` is Perp-Neg with `weight="auto"`,
`perp-neg-economy` the same with `economy=True`. A run that is stopped goes on where it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from dng import DynamicNegativeGuidance, Posterior, reverse_steps
from overlap_report import LABELS, plot, show
from PIL import Image
from report import (
    STEPS,
    Subtraction,
    arguments,
    call_of,
    file_stem,
    models,
    rows_so_far,
    steps_of,
    title_of,
    write_json,
)
from suites import SUITES, Case, Suite, by_count
from torch import Tensor
from tqdm import tqdm

from negguide import NAG, NASA, VSF, Negative, PerpNeg
from negguide._utils.stats import mean, share
from negguide.domain import Defaults
from negguide.methods.choices import methods_in_words, options_of
from negguide.models import defaults_of, own_guidance_scale
from negguide.toyworld import Scene
from negguide.toyworld.domain import TOYWORLD, TOYWORLD_DEFAULTS
from negguide.toyworld.judge import Judge

BATCH = 50
"""Images a call."""
USUAL = (0.5, 1.0, 2.0)
"""The weights of a method that is not in `SWEEPS`."""
SWEEPS: dict[str, tuple[float | str, ...]] = {
    "negative-prompt": (0.5, 1.0, 1.5, 2.0),
    # its lambda: published are 5 (CIFAR-10) and 12 to 27 (Stable Diffusion); from 12 on it takes the subject away here
    "dng": (5.0, 8.0, 12.0),
    "perp-neg-auto": ("auto",),
    "perp-neg-economy": ("auto",),
    PerpNeg.key: (1.0, 2.0, 3.0, 4.0),
    # its scale 1 is off
    NAG.key: (2.0, 3.0, 4.0),
    NASA.key: (0.25, 0.5, 0.75, 1.0),
    VSF.key: (2.0, 3.0, 4.0),
}
METHODS = {
    "subtraction": Subtraction,
    "dng": DynamicNegativeGuidance,
    "perp-neg-auto": PerpNeg,
    "perp-neg-economy": PerpNeg,
    **methods_in_words(),
}
"""Of a name the class; subtraction is Perp-Neg with another rule."""
WEIGHTS = {name: SWEEPS.get(name, USUAL) for name in LABELS}
"""By method: its `scale` where it has one, and otherwise the weights of a negative."""


@dataclass(frozen=True)
class Sampling:
    """How images are drawn.

    Attributes:
        images: how many of a case.
        steps: in how many.
        guidance_scale: None = the model's own.
        options: further ones of the methods in attention space.
    """

    images: int
    steps: int = STEPS
    guidance_scale: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Drawn:
    """Images of some cases, those of one case side by side; latents are [images, channels, height, width]."""

    images: list[Image.Image]
    latents: Tensor


def negative_guidance(
    method: str,
    negatives: Sequence[Sequence[str]],
    weight: float | str,
    suited: Defaults = TOYWORLD_DEFAULTS,
    **options: Any,
) -> Any:
    """The method object of a name of `METHODS` for a list of prompts, with the negatives of each.

    Args:
        suited: what suits the model; of methods with a scale everything but that.
    """
    kind: Any = METHODS[method]
    if "scale" in options_of(kind):
        own = {name: value for name, value in suited.arguments(method).items() if name != "scale"}
        return kind.per_prompt(*map(list, negatives), scale=weight, **{**own, **options})
    if method == "perp-neg-economy":
        options = {"economy": True, **options}
    # an automatic one in its own window
    said: dict[str, Any] = {"weight": weight}
    if weight != "auto":
        said |= {"start": 0.0, "stop": 1.0}
    weighted = [[Negative(text, **said) for text in own] for own in negatives]
    return kind.per_prompt(*weighted, **options)


def draw(
    pipe: Any,
    method: str,
    cases: Sequence[Case],
    weight: float | str,
    seeds: Sequence[int],
    sampling: Sampling,
) -> Drawn:
    """`sampling.images` images of each case in one call, one for each of `seeds`, with the cases in their order."""
    each = sampling.images
    suited = defaults_of(pipe)
    extra = call_of(pipe, sampling.guidance_scale, prompts=len(cases))
    extra |= {"prompt": [case.prompt for case in cases], "num_images_per_prompt": each}
    if method == "negative-prompt":
        extra = classic(pipe, cases, float(weight), each, sampling.guidance_scale)
    elif method == "dng":
        posterior = Posterior(reverse_steps(pipe.scheduler, sampling.steps))
        texts = [case.negatives for case in cases]
        extra["negative_guidance"] = negative_guidance(method, texts, weight, suited, posterior=posterior)
    elif method != "plain":
        extra["negative_guidance"] = negative_guidance(
            method, [case.negatives for case in cases], weight, suited, **sampling.options
        )
    last: list[Tensor] = []

    def keep(_pipe: Any, _step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        last[:] = [tensors["latents"]]
        return tensors

    images = pipe(
        **extra,
        num_inference_steps=sampling.steps,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        callback_on_step_end=keep,
    ).images
    return Drawn(images, last[0])


def classic(
    pipe: Any, cases: Sequence[Case], weight: float, each: int, guidance_scale: float | None
) -> dict[str, Any]:
    """The arguments of a classic negative prompt of some weight, for `each` images a case.

    Raises:
        SystemExit: nothing is guided, so that it would do nothing.
    """
    own = own_guidance_scale(pipe, guided=True) if guidance_scale is None else guidance_scale
    if own <= 1:
        raise SystemExit(f"negative-prompt acts only with --guidance-scale above 1, got {own:g}")
    call = call_of(pipe, own)
    call.pop("negative_prompt", None)
    # what an embedding is called, in the order in which the pipeline encodes them
    names = ["prompt_embeds", "pooled_prompt_embeds"] if "true_cfg_scale" in call else ["prompt_embeds"]

    def encode(texts: list[str]) -> tuple[Tensor, ...]:
        if len(names) == 1:
            found: tuple[Tensor, ...] = pipe.encode_prompt(texts, pipe.device, each, False)
        else:
            found = pipe.encode_prompt(
                texts,
                prompt_2=None,
                num_images_per_prompt=each,
                max_sequence_length=call["max_sequence_length"],
            )
        return found[: len(names)]

    prompts, negatives = encode([case.prompt for case in cases]), encode([case.together for case in cases])
    for name, prompt, negative, empty in zip(
        names, prompts, negatives, encode([""] * len(cases)), strict=True
    ):
        call |= {name: prompt, f"negative_{name}": empty + weight * (negative - empty)}
    return call


def draw_all(
    pipe: Any,
    method: str,
    cases: Sequence[Case],
    weight: float | str,
    seeds: Sequence[Sequence[int]],
    sampling: Sampling,
) -> Drawn:
    """The same in as many calls as it takes, with `seeds` of each case."""
    size = max(1, BATCH // sampling.images)
    parts = []
    for start in range(0, len(cases), size):
        chosen = slice(start, start + size)
        flat = [seed for own in seeds[chosen] for seed in own]
        parts.append(draw(pipe, method, cases[chosen], weight, flat, sampling))
    return Drawn(
        [image for part in parts for image in part.images], torch.cat([part.latents for part in parts])
    )


class Measurement:
    """The figures of a suite, row by row.

    Args:
        pipe, judge: the models.
        suite: whose cases are drawn.
        sampling: how.
    """

    def __init__(self, pipe: Any, judge: Judge, suite: Suite, sampling: Sampling) -> None:
        self.pipe = pipe
        self.judge = judge
        self.suite = suite
        self.sampling = sampling
        self.cases = suite.cases()
        self.plain: tuple[list[Scene], Tensor] | None = None

    def _draw(
        self, method: str, weight: float | str, numbers: Sequence[int], present: bool = False
    ) -> tuple[list[Scene], Tensor]:
        """Scenes and latents of the cases of these numbers; with `present`, without their present thing instead."""
        cases = [self.cases[number] for number in numbers]
        seeds = [self.suite.seeds(number, self.sampling.images) for number in numbers]
        if present:
            cases = [case.with_present for case in cases]
        drawn = draw_all(self.pipe, method, cases, weight, seeds, self.sampling)
        return self.judge.read(drawn.images), drawn.latents

    def row(self, method: str, weight: float | str, negatives: int) -> dict[str, Any]:
        """The figures of the cases with so many negatives."""
        numbers = by_count(self.cases)[negatives]
        judged = self._absent if self.suite.kind == "absent" else self._removed
        return {"method": method, "weight": weight, **judged(method, weight, numbers)}

    def _removed(self, method: str, weight: float | str, numbers: Sequence[int]) -> dict[str, Any]:
        scenes, _ = self._draw(method, weight, numbers)
        cases = [self.cases[number] for number in numbers for _ in range(self.sampling.images)]
        gone = [case.gone(scene) for case, scene in zip(cases, scenes, strict=True)]
        figures = {
            "kept": share([case.kept(scene) for case, scene in zip(cases, scenes, strict=True)]).to_dict(),
            "removed": share([all(one) for one in gone]).to_dict(),
        }
        if self.suite.kind == "several":
            each = share([single for one in gone for single in one]).to_dict()
            return {"negatives": len(gone[0]), **figures, "each": each}
        return figures

    def _absent(self, method: str, weight: float | str, numbers: Sequence[int]) -> dict[str, Any]:
        if self.plain is None:
            self.plain = self._draw("plain", 0.0, numbers)
        plain, start = self.plain
        scenes, latents = self._draw(method, weight, numbers) if method != "plain" else self.plain
        _, others = self._draw(method, weight, numbers, present=True) if method != "plain" else self.plain
        cases = [self.cases[number] for number in numbers for _ in range(self.sampling.images)]
        absent = [case.removed(scene) for case, scene in zip(cases, plain, strict=True)]
        shown = [not case.with_present.removed(scene) for case, scene in zip(cases, plain, strict=True)]
        unchanged = [a == b for a, b, counts in zip(scenes, plain, absent, strict=True) if counts]
        distance, present = (
            mean([one for one, counts in zip(distances(ends, start), which, strict=True) if counts])
            for ends, which in ((latents, absent), (others, shown))
        )
        return {
            "unchanged": share(unchanged).to_dict(),
            "distance": distance.to_dict(),
            "present_distance": present.to_dict(),
            "relative": distance.value / present.value if present.value else 0.0,
        }


def distances(latents: Tensor, others: Tensor) -> list[float]:
    """L2 of each image's latents from the other's."""
    found: list[float] = (latents - others).flatten(1).norm(dim=1).tolist()
    return found


def chosen(methods: str) -> list[tuple[str, float | str]]:
    """(method, weight) of "perp-neg:3,nag": a weight of its own, or all of `WEIGHTS`."""
    found: list[tuple[str, float | str]] = []
    for entry in methods.split(","):
        method, _, weight = entry.partition(":")
        if method not in WEIGHTS:
            raise SystemExit(f"--methods: {method} is none of {', '.join(WEIGHTS)}")
        try:
            found += [(method, float(weight))] if weight else [(method, one) for one in WEIGHTS[method]]
        except ValueError:
            raise SystemExit(f"--methods: {entry}: the weight must be a number, as in {method}:2") from None
    return found


def main() -> None:
    args = arguments(
        "Removed against kept, for negatives that overlap the prompt.",
        suite="first",
        seeds_per_pair=0,
        methods="negative-prompt,subtraction,dng,perp-neg",
        model=TOYWORLD,
        steps=0,
        guidance_scale=0.0,
        max_sequence_length=0,
        name="",
    )
    if args.suite not in SUITES:
        raise SystemExit(f"--suite: {args.suite} is none of {', '.join(SUITES)}")
    rest = chosen(args.methods)
    options = {"max_sequence_length": args.max_sequence_length} if args.max_sequence_length else {}
    others = [
        method for method, _ in rest if not options.keys() <= options_of(METHODS.get(method, PerpNeg)).keys()
    ]
    if others:
        raise SystemExit(f"--max-sequence-length is of methods in attention space, which {others[0]} is not")
    suite = SUITES[args.suite]
    pipe, judge = models(args.model)
    scale = args.guidance_scale or own_guidance_scale(pipe, guided=False)
    images, steps = args.seeds_per_pair or suite.images, args.steps or steps_of(args.model)
    sampling = Sampling(images, steps, scale, options)
    measurement = Measurement(pipe, judge, suite, sampling)
    settings = {
        "pairs": len(measurement.cases),
        "seeds_per_pair": sampling.images,
        "steps": sampling.steps,
        "guidance_scale": sampling.guidance_scale,
        **options,
    }
    name = args.name or ("overlap" if args.suite == "first" else f"overlap-{args.suite}")
    path = args.out / f"{file_stem(name, args.model)}.json"
    rows = rows_so_far(path, settings, args.model)
    cells = [
        (method, weight, negatives)
        for method, weight in [("plain", 0.0), *rest]
        for negatives in by_count(measurement.cases)
    ]
    done = {(row["method"], row["weight"], row.get("negatives", 1)) for row in rows}
    title = title_of(f"{suite.title} ({sampling.steps} steps, guidance {scale:g})", args.model)
    for cell in tqdm([cell for cell in cells if cell not in done], desc=name):
        rows.append(measurement.row(*cell))
        write_json(path, settings, rows, args.model)
    show(rows, title)
    plot(rows, path.with_suffix(".png"), title, suite.kind)


if __name__ == "__main__":
    main()
