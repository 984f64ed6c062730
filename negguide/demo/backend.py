"""A loaded model, and one run of it as data. Whoever draws holds the device for that time."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from PIL import Image

from negguide._utils.text import listed
from negguide.demo.examples import Page, page_of
from negguide.demo.stopping import StoppedError
from negguide.domain import Defaults, Domain, DomainJudge, default_domain, domain_of
from negguide.integration.diagnostics.trace import Trace
from negguide.methods import (
    AUTO,
    NAG,
    Method,
    Negative,
    NegToMe,
    PerpNeg,
    Save,
    ScoreMethod,
    Timestep,
    TokenMethod,
)
from negguide.methods.choices import methods_in_words
from negguide.mining.verify.judge import load_judge
from negguide.mining.verify.margins import PairJudge
from negguide.models import (
    call_arguments,
    check_model,
    defaults,
    guidance_arguments,
    load_pipeline,
    not_from_words,
    own_guidance_scale,
    usual_steps,
)


@dataclass(frozen=True)
class Run:
    """What is drawn, and how: the arguments of one call of the pipeline.

    Attributes:
        prompt, negative_prompt: as diffusers takes them; negative_prompt "" = without.
        steps, guidance_scale: of the sampler.
        seeds: one per image; each image has a generator of its own.
        methods: negative guidance.
        size: pixels along an edge; None = the model's own.
        model: an embedded one that draws it in place of the page's; None = the page's.
    """

    prompt: str
    steps: int
    guidance_scale: float
    seeds: tuple[int, ...]
    negative_prompt: str = ""
    methods: tuple[Method, ...] = ()
    size: int | None = None
    model: str | None = None

    @property
    def evaluations(self) -> int:
        """How often the denoiser is evaluated at most: images x steps x predictions a step."""
        predictions = 1 if self.guidance_scale <= 1 else 2
        for method in self.methods:
            if isinstance(method, ScoreMethod):
                predictions += len(method.negatives)
            elif isinstance(method, TokenMethod):
                predictions += len(method.images)
        return len(self.seeds) * self.steps * predictions

    def to_dict(self, save: Save | None = None) -> dict[str, Any]:
        """As JSON data; `save` stores the methods' images."""
        data = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.model is None:
            del data["model"]
        return {**data, "seeds": list(self.seeds), "methods": [m.to_dict(save) for m in self.methods]}


@dataclass(frozen=True, eq=False)
class Drawn:
    """The images of a run, one per seed, and how the negatives acted (None without any)."""

    images: tuple[Image.Image, ...]
    trace: Trace | None


class Backend:
    """A pipeline with `negative_guidance=`, used by one run at a time.

    Args:
        model: "toyworld", a folder or a hub id; loaded when `pipe` is None. None = "toyworld".
        device, dtype: where and how it computes.
        judge: what checks hard negatives: "toyworld", "clip:MODEL" or "itm:MODEL"; None = that of the model's closed
            world, and none for other models.
        pipe: the pipeline of that model, when it is loaded already.

    Raises:
        TypeError, ValueError: when there is no such model, it cannot be loaded, or it does not draw single pictures
            from words alone.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        judge: str | None = None,
        pipe: Any = None,
    ) -> None:
        self.model = check_model(default_domain().model.name if model is None else model)
        self.domain: Domain | None = domain_of(self.model)
        """The closed world that the model is of, whose words, pictures and truth are known; None for any other."""
        self.reader: DomainJudge | None = None if self.domain is None else self.domain.judge("cpu")
        """What reads its pictures."""
        self.page: Page = page_of(self.model)
        """What the page proposes for it."""
        self.device = device
        self.pipe = load_pipeline(self.model, dtype=dtype, device=device) if pipe is None else pipe
        self.pipe.set_progress_bar_config(disable=True)
        self.accepted = inspect.signature(self.pipe.__call__).parameters
        reason = not_from_words(self.pipe)
        if reason is not None:
            raise ValueError(
                f"model={self.model!r}: {type(self.pipe).__name__} {reason}; the demo needs a text-to-image pipeline"
            )
        name = self.domain.name if judge is None and self.domain is not None else judge
        self.judge: PairJudge | None = None if name is None else load_judge(name, device)
        self.device_lock = threading.Lock()
        self._beside: dict[str, Backend] = {}

    def of(self, run: Run) -> Backend:
        """What draws `run`: this one, or that of the embedded model which the run names, loaded once and beside it."""
        if run.model in (None, self.model):
            return self
        assert run.model is not None
        with self.device_lock:
            if run.model not in self._beside:
                other = Backend(run.model, device=self.device, dtype=self.pipe.dtype)
                other.device_lock = self.device_lock
                self._beside[run.model] = other
        return self._beside[run.model]

    @property
    def guided(self) -> bool:
        """Whether the page begins with classifier-free guidance: not on embedded models that were distilled."""
        return self.domain is None or self.domain.models[self.model].always_guided

    @property
    def solids(self) -> tuple[str, ...]:
        """Prompts of solids, for a model that they are fitted with; () = the page has no such tab."""
        return self.page.solids.get(self.model, ())

    @property
    def way(self) -> str:
        """The key of the method with which the page begins."""
        return PerpNeg.key if self.guided else NAG.key

    @property
    def suited(self) -> Defaults:
        """What suits the model: the embedded one's values, or those of the pipeline and of its family."""
        own = defaults(self.model)
        method = self.pipe.family.with_defaults(NegToMe(**own.negtome))
        return replace(
            own,
            guidance_scale=self._guidance_scale,
            negtome={"threshold": method.threshold, **own.negtome},
        )

    @property
    def _guidance_scale(self) -> float:
        if not self.guided:
            return 1.0
        return (
            own_guidance_scale(self.pipe, guided=True)
            if self.domain is None
            else defaults(self.model).guidance_scale
        )

    def strength(self, way: str | None = None, *, automatic: bool = False) -> tuple[float, float, float]:
        """Weight, start and stop of a negative to begin with, by the way in which it is left out.

        Args:
            way: the key of a method, that with which the page begins unless given; ways without a method are as
                Perp-Neg.
            automatic: whether the negative weighs itself; the weight is then the one to go on with by hand.
        """
        # each method has a constructor of its own
        kind: Any = methods_in_words().get(self.way if way is None else way, PerpNeg)
        usual = Negative("what to leave out")
        if kind is PerpNeg and self.domain is not None:
            usual = replace(usual, **defaults(self.model).negative)
            usual = replace(usual, weight=self.page.weights.get(self.model, usual.weight))
        (window,) = kind(replace(usual, weight=AUTO) if automatic else usual).windows
        assert not isinstance(window.start, Timestep) and not isinstance(window.stop, Timestep)
        return usual.fixed_weight, window.start, window.stop

    @property
    def steps(self) -> int:
        """Denoising steps that suit the model."""
        return usual_steps(self.model, draft=True)

    @property
    def resizable(self) -> bool:
        """Whether the size of the images can be chosen. An embedded model has learned one size."""
        return self.domain is None and {"height", "width"} <= set(self.accepted)

    @property
    def size(self) -> int:
        """Pixels along an edge of what the model draws unless it is asked for another size."""
        if self.domain is not None:
            # which is not what its pipeline would draw
            return self.domain.models[self.model].size
        denoiser = getattr(self.pipe, "unet", None) or self.pipe.transformer
        own = getattr(self.pipe, "default_sample_size", None) or getattr(denoiser.config, "sample_size", None)
        # Z-Image says it nowhere, and draws 1024
        return own * self.pipe.vae_scale_factor if isinstance(own, int) else 1024

    def arguments(self, run: Run) -> dict[str, Any]:
        """The arguments of the pipeline that `run` stands for, without prompt, methods and generators.

        Raises:
            ValueError: for a negative prompt where the pipeline takes none, or where nothing is guided.
        """
        found: dict[str, Any] = {
            "num_images_per_prompt": len(run.seeds),
            "num_inference_steps": run.steps,
        }
        if run.negative_prompt and "negative_prompt" not in self.accepted:
            raise ValueError(
                f"{type(self.pipe).__name__} takes no negative prompt; choose another method than 'negative prompt'"
            )
        if run.negative_prompt and run.guidance_scale <= 1:
            others = [method.label for method in methods_in_words().values() if not method.needs_guidance]
            raise ValueError(
                f"a classic negative prompt acts only with a guidance scale above 1, got {run.guidance_scale:g}; "
                f"{listed(others)} act without"
            )
        found |= call_arguments(self.pipe) | guidance_arguments(
            self.pipe, run.guidance_scale, run.negative_prompt
        )
        if run.size is not None:
            found |= {"height": run.size, "width": run.size}
        return found

    def draw(self, run: Run, on_step: Callable[[], object], stop: threading.Event) -> Drawn:
        """Draw, calling `on_step` after every denoising step; waits while another run has the device.

        Raises:
            StoppedError: soon after `stop` was set.
            TypeError, ValueError: for what the pipeline refuses, or when the device has too little memory.
        """

        def after_step(*_: Any) -> None:
            if stop.is_set():
                raise StoppedError
            on_step()

        def on_step_end(_pipe: Any, _step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            after_step()
            return tensors

        arguments = self.arguments(run)
        if "callback_on_step_end" in self.accepted:
            arguments["callback_on_step_end"] = on_step_end
        else:  # PixArt-Sigma has the older kind
            arguments["callback"] = after_step
        with self.device_lock:
            if stop.is_set():
                raise StoppedError
            try:
                output = self.pipe(
                    prompt=run.prompt,
                    negative_guidance=list(run.methods) or None,
                    trace=bool(run.methods),
                    # on the CPU, so that a seed is the same noise on every device
                    generator=[torch.Generator("cpu").manual_seed(seed) for seed in run.seeds],
                    **arguments,
                )
            except torch.OutOfMemoryError as error:
                raise ValueError(
                    f"{self.device} has too little memory for {len(run.seeds)} images at once; ask for fewer"
                ) from error
        return Drawn(tuple(output.images), output.trace if run.methods else None)


def first_and_rest(run: Run) -> tuple[Run, ...]:
    """The run cut in two, so that there is something to look at early: the first seed, and the others."""
    parts = (run.seeds[:1], run.seeds[1:])
    return tuple(replace(run, seeds=part) for part in parts if part)


def joined(parts: Sequence[Drawn]) -> Drawn:
    """The images of several runs of one prompt and its methods, and their traces side by side."""
    images = tuple(image for part in parts for image in part.images)
    traces = [part.trace for part in parts if part.trace is not None]
    if not traces:
        return Drawn(images, None)

    def together(name: str) -> Any:
        values = [getattr(trace, name) for trace in traces]
        return None if values[0] is None else torch.cat(values, dim=-1)

    curves = {name: together(name) for name in ("cosine", "kept", "pushed", "changed")}
    # what acted in no part has no map
    names = [name for name in traces[0].maps if all(name in trace.maps for trace in traces)]
    maps = {name: torch.cat([trace.maps[name] for trace in traces]) for name in names}
    return Drawn(images, replace(traces[0], **curves, maps=maps))
