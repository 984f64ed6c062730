"""One guided call of a pipeline, seen from its denoisers: which branch of which step each of their calls is.

The pipeline keeps its classifier-free guidance. Each call of a denoiser holds uncond, cond or both; the methods add
branches, text or attention to it (see `negguide.integration.runtime.base`), and what goes back to the pipeline has the
form of what it asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from diffusers.utils.torch_utils import unwrap_module
from torch import Tensor, nn

from negguide.integration.diagnostics.trace import TraceRecorder
from negguide.integration.families.base import Arguments, Family
from negguide.integration.hooks.compat import input_names, is_cached
from negguide.integration.hooks.frames import over_frames, per_frame, per_video
from negguide.integration.hooks.interception import Interceptor, Nested, intercepted
from negguide.integration.hooks.step_tracking import StepTracker, check_windows
from negguide.integration.runtime.base import DenoiserCall, Forward, MethodRuntime, step_state
from negguide.integration.runtime.batching import Branch, run_branches
from negguide.integration.runtime.deferred import evaluated
from negguide.integration.runtime.kept_text import KeptTexts
from negguide.methods import Method


class GuidedRun:
    """One guided call of a pipeline.

    A pipeline may have several denoisers that take turns (Wan 2.2); they share one run.

    Args:
        pipe: the pipeline itself, not a view of it.
        arguments: of its call, by name.
        runtimes: of the methods; what acts around a forward is nested in this order, the first outermost.
        methods: whose windows are checked once the scheduler's steps are known.
        latent_size: (height, width) of the latents.
        max_branch_batch: how many branches run in one forward; None = all.
        recorder: for trace=True.
        widens: whether predictions go back to the pipeline in float32, and only the guided one is rounded.
    """

    def __init__(
        self,
        pipe: Any,
        family: Family,
        arguments: Arguments,
        runtimes: Sequence[MethodRuntime],
        methods: Sequence[Method],
        latent_size: tuple[int, int],
        max_branch_batch: int | None = None,
        recorder: TraceRecorder | None = None,
        widens: bool = False,
    ) -> None:
        self.pipe = pipe
        self.family = family
        self.arguments = arguments
        self.runtimes = runtimes
        self.methods = methods
        self.latent_size = latent_size
        self.max_branch_batch = max_branch_batch
        self.recorder = recorder
        self.widens = widens
        self.finished = False
        self.tracker: StepTracker | None = None
        # the branches of the step that are still to be called, where each is a call of its own
        self._pending: list[str] = []
        self._step_branches: tuple[str, ...] = ()
        # what the pipeline says of the present call: name and fields of its cache context
        self._context: tuple[str, dict[str, Any]] | None = None
        self._dtype: torch.dtype | None = None
        # an output of the model, for a call that needs no forward
        self._like: Any = None
        self._cached: dict[nn.Module, bool] = {}
        self._kept = KeptTexts(family)

    def denoise(self, model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """What a denoiser gives for one call of the pipeline."""
        family = self.family
        names = input_names(model, family.sample)
        inputs = {**dict(zip(names, args, strict=False)), **kwargs}
        if family.is_auxiliary(inputs):
            return model(*args, **kwargs)
        if family.frame_rows:
            inputs = per_video(family, inputs)
        inner = unwrap_module(model)
        names_here = self._begin_call(inner, inputs)
        total = len(inputs[family.sample])
        batch = total // len(names_here)
        cached = self._is_cached(inner)
        self._kept.begin_call(inputs)

        def run(context: str, changed: Mapping[str, Any], interceptors: Mapping[str, Interceptor]) -> Any:
            changed = self._kept.inputs(context, evaluated(changed))
            if family.frame_rows:
                interceptors = over_frames(family, changed, interceptors)
                changed = per_frame(family, changed)
            positional = [changed[name] for name in names[: len(args)]]
            named = {name: value for name, value in changed.items() if name not in names[: len(args)]}
            kept = self._cache_context(model, context) if cached else nullcontext()
            with kept, intercepted(self._modules(inner), interceptors):
                return model(*positional, **named)

        call = DenoiserCall(
            model=inner,
            inputs=inputs,
            branches=[Branch(name, slice(i * batch, (i + 1) * batch)) for i, name in enumerate(names_here)],
            step_branches=self._step_branches,
            batch=batch,
            guidance_scale=lambda: float(family.guidance_scale(self.pipe, self.arguments)),
            forward=run,
        )
        for runtime in self.runtimes:
            runtime.before_call(call)
        further = [branch for runtime in self.runtimes for branch in runtime.branches(call)]
        evaluated_here = self._evaluated(call, cached)
        # each negative of a cached model keeps what is its own, and the pipeline's branches what is theirs
        apart = cached or family.one_layout
        parts = [evaluated_here, *([b] for b in further)] if apart else [[*evaluated_here, *further]]
        limit = self._limit
        if further or (limit is not None and len(call.branches) > limit) or self._combines(call):
            output = self._in_groups(call, parts, limit)
        else:
            output = self._forward(call, call.branches, inputs)
        if self.recorder is not None:
            for runtime in self.runtimes:
                runtime.record(self.recorder)
        return output

    def _is_cached(self, model: nn.Module) -> bool:
        # asked once a run: it looks at every module
        if model not in self._cached:
            self._cached[model] = is_cached(model)
        return self._cached[model]

    def _evaluated(self, call: DenoiserCall, cached: bool) -> list[Branch]:
        """The branches of the call that need a forward.

        Raises:
            ValueError: some need none, and the model has a cache, which counts its forwards.
        """
        left_out = frozenset[str]().union(*(runtime.left_out(call) for runtime in self.runtimes))
        if left_out and cached:
            raise ValueError(
                "economy and guidance_stop leave out forwards of the denoiser, and it has a cache, which counts on "
                "them; give one of the two"
            )
        return [branch for branch in call.branches if branch.name not in left_out]

    def _combines(self, call: DenoiserCall) -> bool:
        """Whether a method changes the call's predictions even where it adds none of its own."""
        return any(runtime.combines(call) for runtime in self.runtimes)

    def _begin_call(self, model: nn.Module, inputs: Mapping[str, Any]) -> tuple[str, ...]:
        """The branches that this call holds; the first call of a step moves on to that step."""
        if not self._pending:
            self._step_branches = tuple(self.family.branches(self.pipe, self.arguments))
            self._pending = list(self._step_branches)
            self._begin_step(model, inputs, 1 if self.family.sequential else len(self._pending))
        if self.family.sequential:
            return (self._pending.pop(0),)
        self._pending = []
        return self._step_branches

    def _begin_step(self, model: nn.Module, inputs: Mapping[str, Any], branches: int) -> None:
        if self.tracker is None:
            # made now: the pipeline sets the timesteps only after its own checks; PixArt does not say how many of them
            # it uses: all
            scheduler = self.pipe.scheduler
            count = getattr(self.pipe, "_num_timesteps", None)
            timestep = float(torch.as_tensor(inputs[self.family.timestep]).flatten()[0])
            self.tracker = StepTracker(scheduler, count, timestep, _end(scheduler, self.arguments))
            check_windows(self.methods, self.tracker.at(0))
        step = self.tracker.advance()
        sample = inputs[self.family.sample]
        state = step_state(self.family, step, self.latent_size, sample, model)
        if self.recorder is not None:
            assert step.timestep is not None
            self.recorder.begin_call(step.timestep, len(sample) // branches, sample[0].device)
        for runtime in self.runtimes:
            runtime.begin_step(state)

    def _in_groups(self, call: DenoiserCall, parts: Sequence[Sequence[Branch]], limit: int | None) -> Any:
        """The branches in forwards of as many as may run at once, and what the methods make of their predictions.

        Those of different parts do not share one.
        """
        outputs: list[Any] = []

        def forward(group: Sequence[Branch], joined: dict[str, Any]) -> Tensor:
            outputs.append(self._forward(call, group, joined))
            return _rows_of(outputs[-1])

        total = len(call.inputs[self.family.sample])
        branches = [branch for part in parts for branch in part]
        rows = [
            prediction
            for part in parts
            if part
            for prediction in run_branches(forward, self.family, call.inputs, total, part, limit)
        ]
        predictions: Mapping[str, Tensor] = {
            branch.name: prediction for branch, prediction in zip(branches, rows, strict=True)
        }
        if outputs:
            self._dtype, self._like = rows[0].dtype, outputs[0]
        assert self._dtype is not None
        for runtime in self.runtimes:
            predictions = runtime.combine(call, predictions)
        result = torch.cat([predictions[branch.name] for branch in call.branches])
        return _as_output(result if self.widens else result.to(self._dtype), self._like)

    def _forward(self, call: DenoiserCall, branches: Sequence[Branch], inputs: Mapping[str, Any]) -> Any:
        """One forward of the denoiser, on inputs that hold these branches."""
        forward = Forward(call.model, branches, call.batch)
        keys = [key for runtime in self.runtimes if (key := runtime.cache_key(forward)) is not None]
        for runtime in self.runtimes:
            inputs = runtime.begin_forward(inputs, forward)
        own = [branch.name for branch in branches] == [branch.name for branch in call.branches]
        name = self._context[0] if self._context and own else branches[0].name
        context = " ".join([name, *keys])
        output = call.forward(
            context, inputs, nested([runtime.interceptors(call.model) for runtime in self.runtimes])
        )
        for runtime in self.runtimes:
            output = runtime.end_forward(output, forward)
        return output

    def _modules(self, model: nn.Module) -> dict[str, nn.Module]:
        """The attention modules of a denoiser in which any method may act."""
        return {
            name: module
            for runtime in self.runtimes
            if model in runtime.targets
            for name, module in runtime.targets[model].modules.items()
        }

    @property
    def _limit(self) -> int | None:
        """How many branches may run in one forward: what is left by those that methods add inside it."""
        if self.max_branch_batch is None:
            return None
        return max(1, self.max_branch_batch - sum(runtime.joined_rows() for runtime in self.runtimes))

    def _cache_context(self, model: Any, name: str) -> AbstractContextManager[Any]:
        """Where a cached model keeps what it skips: a name for each kind of forward, with the pipeline's own fields.

        Contexts do not nest, so that the pipeline's own is opened again too.
        """
        open_context = getattr(model, "cache_context", None)
        if open_context is None:
            return nullcontext()
        fields = {} if self._context is None else self._context[1]
        context: AbstractContextManager[Any] = open_context(name, **fields)
        return context

    def noting_context(self, open_context: Callable[..., Any]) -> Callable[..., AbstractContextManager[None]]:
        """A denoiser's `cache_context` that also tells the run what the pipeline says of its call."""

        @contextmanager
        def noted(name: str, **fields: Any) -> Iterator[None]:
            with ExitStack() as stack:
                stack.enter_context(open_context(name, **fields))
                self._context = (name, fields)
                try:
                    yield
                finally:
                    self._context = None

        return noted

    def narrowed(self, prediction: Any) -> Any:
        """A guided prediction in the dtype that the plain pipeline has."""
        if self._dtype is None or not isinstance(prediction, Tensor) or self.family.upcasts:
            return prediction
        return prediction.to(self._dtype)


def nested(interceptors: Sequence[Mapping[str, Interceptor]]) -> dict[str, Interceptor]:
    """One interceptor a module; where several act in one, the first is outermost."""
    found: dict[str, Interceptor] = {}
    for mapping in reversed(interceptors):
        for name, interceptor in mapping.items():
            found[name] = Nested(interceptor, found[name]) if name in found else interceptor
    return found


def _rows_of(output: Any) -> Tensor:
    """A denoiser's prediction [rows, ..], whatever it comes in: a tuple, an output object, a list of one a row."""
    first = output[0]
    rows: Tensor = torch.stack(first) if isinstance(first, list) else first
    return rows


def _as_output(prediction: Tensor, like: Any) -> Any:
    first = list(prediction.unbind()) if isinstance(like[0], list) else prediction
    if isinstance(like, tuple):
        return (first, *like[1:])
    return type(like)(sample=first)


def _end(scheduler: Any, arguments: Arguments) -> float | None:
    """Where SDXL's `denoising_end` cuts a run off, as its pipelines reckon; not all of them say how many are left."""
    end = arguments.get("denoising_end")
    if not isinstance(end, float) or not 0 < end < 1:
        return None
    steps = scheduler.config.num_train_timesteps
    return float(round(steps - end * steps))
