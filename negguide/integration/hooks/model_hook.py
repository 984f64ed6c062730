"""A method that stays on a denoiser: the root hook that follows the steps of whoever calls the model."""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from diffusers.hooks.hooks import ModelHook
from diffusers.utils.torch_utils import unwrap_module
from torch import nn

from negguide.integration.families.base import Denoiser, Family
from negguide.integration.hooks.caches import check_cache
from negguide.integration.hooks.compat import (
    add_hook,
    attention_modules,
    caller_is_unguided,
    caller_run,
    input_names,
    is_cached,
    perturbed_branches,
    remove_hook,
)
from negguide.integration.hooks.interception import intercepted
from negguide.integration.hooks.step_tracking import Step, StepTracker
from negguide.integration.runtime.base import Forward, MethodRuntime, step_state
from negguide.integration.runtime.batching import Branch
from negguide.integration.runtime.kept_text import KeptTexts
from negguide.methods import Edge, Method, Timestep, Window

_HOOK = "negguide"
_PARTS = 1000
"""Of the way from noise to image, by which windows are placed: as many as the models were trained on."""
_WAY = tuple(1000 * (1 - part / _PARTS) for part in range(_PARTS))
"""The timestep at which each part begins."""
_KEPT_RUNS = 32
"""How many runs are remembered: those of all threads, and calls inside one another."""


class _Run:
    """One run of whoever calls the model: what acts in it and where it stands."""

    def __init__(
        self,
        runtime: MethodRuntime,
        latent_size: tuple[int, int],
        windows: list[Window],
        timesteps: Any,
        kept: KeptTexts,
    ) -> None:
        self.runtime = runtime
        self.kept = kept
        self.latent_size = latent_size
        # kept, so that no other tensor gets its identity
        self.timesteps = timesteps
        self.tracker: StepTracker | None = None
        self.step = 0
        self.branch = 0
        self.last_timestep: float | None = None
        self.inside = False
        # the windows that had no step so far
        self.unseen = list(windows)


class MethodHook(ModelHook):
    """Lets a method act in every call of a model.

    A run is told from others by the timesteps of the scheduler of the pipeline that calls, so that pipelines in several
    threads, and one inside another, each have their own steps. Where a loop of one's own calls the model, a timestep
    above the last one begins a new run. Where the model is called once for each guidance branch, the first call at a
    timestep is the conditional one, as in diffusers' pipelines.

    Args:
        make_runtime: `make_runtime(latent_size)` -> a runtime of the method for one more run.
        method: whose windows they are.
        family, denoiser: of the model.
        noise: the timestep of pure noise, as the model gets it.
        num_inference_steps: steps of a run, and windows are fractions of their number; None = windows are fractions of
            the way that the timestep goes, from `noise` to 0.
        guidance_branches: of a step.
    """

    def __init__(
        self,
        make_runtime: Callable[[tuple[int, int]], MethodRuntime],
        method: Method,
        family: Family,
        denoiser: Denoiser,
        noise: float,
        num_inference_steps: int | None,
        guidance_branches: int,
    ) -> None:
        super().__init__()
        self.make_runtime = make_runtime
        self.method = method
        self.family = family
        self.denoiser = denoiser
        self.noise = noise
        self.num_inference_steps = num_inference_steps
        # of the run, and of each call
        self.branches = guidance_branches
        self.branches_of_call = 1 if family.sequential else guidance_branches
        self.windows = list(dict.fromkeys(method.windows))
        self.whole_run = all(window.whole for window in self.windows)
        self._runs: OrderedDict[tuple[int, int], _Run] = OrderedDict()
        self._attention: list[nn.Module] = []
        self._removed = False

    def initialize_hook(self, module: nn.Module) -> nn.Module:
        """Find the attention of the model."""
        self._attention = attention_modules(unwrap_module(module))
        return module

    def deinitalize_hook(self, module: nn.Module) -> nn.Module:
        """Let the model's own forward through from now on."""
        # somebody's wrapper may still call this hook
        self._removed = True
        return module

    # not traced, unlike the model inside: a compiled model would be compiled anew at each step
    @torch.compiler.disable(recursive=False)
    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Run the model's forward with what the methods add to it."""
        if self._removed:
            return self.fn_ref.original_forward(*args, **kwargs)
        family, model = self.family, unwrap_module(module)
        names = input_names(module, family.sample)
        inputs = {**dict(zip(names, args, strict=False)), **kwargs}
        if family.is_auxiliary(inputs):
            return self.fn_ref.original_forward(*args, **kwargs)
        sample = inputs[family.sample]
        run = self._run_of_call(inputs)
        self._check_model(model, run.runtime)
        # still inside the last call: an error has ended it
        broken_off, run.inside = run.inside, True
        step = self._follow(run, inputs, broken_off)
        runtime = run.runtime
        runtime.begin_step(step_state(family, step, run.latent_size, sample, model))
        forward = self._forward(model, len(sample), run.branch)
        changed = runtime.begin_forward(inputs, forward)
        run.kept.begin_call(inputs)
        changed = run.kept.inputs(runtime.cache_key(forward) or "", changed)
        positional = [changed[name] for name in names[: len(args)]]
        named = {name: value for name, value in changed.items() if name not in names[: len(args)]}
        modules = runtime.targets[model].modules
        with intercepted(modules, runtime.interceptors(model)):
            output = self.fn_ref.original_forward(*positional, **named)
        output = runtime.end_forward(output, forward)
        run.inside = False
        return output

    def _check_model(self, model: nn.Module, runtime: MethodRuntime) -> None:
        """Refuse what is on the model by now and does not go beside further text.

        Raises:
            ValueError: naming it.
        """
        if not runtime.adds_forwards:
            return
        name = type(self.method).__name__
        check_cache(model, name)
        if perturbed_branches(runtime.targets[model].modules.values()) is not None:
            raise ValueError(
                f"{name} acts in the first attention of a module, and perturbed-attention guidance attends twice where "
                f"image and text attend together; take {name} away (negguide.remove_from_model), or use NegToMe"
            )
        if not self.whole_run and is_cached(model):
            raise ValueError(
                f"{name} has a window, and what the model's cache keeps of one side of it would be used on the other; "
                "use from_pipe, which keeps them apart, or model.disable_cache()"
            )

    def _forward(self, model: nn.Module, rows: int, branch: int) -> Forward:
        """The branches of a call: the conditional one is the last of a batch, the first of several calls.

        Behind it perturbed-attention guidance has one more, which is left alone.
        """
        if self.branches_of_call < self.branches:
            return Forward(model, [Branch("cond" if branch == 0 else "uncond", slice(0, rows))], rows)
        perturbed = perturbed_branches(self._attention)
        count = self.branches_of_call if perturbed is None else perturbed
        if rows % count:
            raise ValueError(
                f"guidance_branches is {count}, but the model was called with {rows} rows; give the number of "
                "guidance branches that share its batch, 1 without guidance"
            )
        if perturbed is None and count > 1 and caller_is_unguided():
            raise ValueError(
                f"guidance_branches is {count}, but the pipeline calls the model without classifier-free guidance, so "
                "that the images would be taken for branches; give guidance_branches=1, or use from_pipe, which "
                "follows guidance that is switched off on the way"
            )
        batch = rows // count
        last = ["cond"] if perturbed is None else ["cond", "perturbed"]
        names = [*(f"other {i}" for i in range(count - len(last))), *last]
        branches = [Branch(name, slice(i * batch, (i + 1) * batch)) for i, name in enumerate(names)]
        return Forward(model, branches, batch)

    def _run_of_call(self, inputs: Mapping[str, Any]) -> _Run:
        found = caller_run()
        timesteps = None if found is None else found[0].timesteps
        key = (threading.get_ident(), id(timesteps))
        size = self.denoiser.latent_size(inputs)
        run = self._runs.get(key)
        if run is None or run.latent_size != size:
            run = self._runs[key] = _Run(
                self.make_runtime(size), size, self.windows, timesteps, KeptTexts(self.family)
            )
            if len(self._runs) > _KEPT_RUNS:
                self._runs.popitem(last=False)
            if found is not None and self.num_inference_steps is not None:
                # FLUX and others hand on timesteps in units of their own, and their schedulers say where they begin
                timestep = float(torch.as_tensor(inputs[self.family.timestep]).max())
                run.tracker = StepTracker(found[0], found[1], timestep)
                if run.tracker.count != self.num_inference_steps:
                    del self._runs[key]
                    raise ValueError(
                        f"num_inference_steps is {self.num_inference_steps}, but this run has {run.tracker.count} "
                        "steps; give the number of steps of the run (with strength, those that are left)"
                    )
        return run

    def _follow(self, run: _Run, inputs: Mapping[str, Any], broken_off: bool) -> Step:
        """The step of this call; notes its branch too."""
        if self.whole_run and self.branches == self.branches_of_call:
            # without waiting for the device
            return Step(0, 1)
        # the most of several: a video's given frames are at 0
        timestep = float(torch.as_tensor(inputs[self.family.timestep]).max())
        last, run.last_timestep = run.last_timestep, timestep
        begins = timestep != last or broken_off
        run.branch = 0 if begins else (run.branch + 1) % self.branches
        if self.whole_run:
            return Step(0, 1)
        if run.tracker is not None:
            if run.branch == 0 or self.branches == self.branches_of_call:
                run.step = run.tracker.advance().index
            return run.tracker.step(run.step)
        if last is None or timestep > last:
            run.step, run.unseen = 0, list(self.windows)
        elif timestep < last:
            run.step += 1
        if self.num_inference_steps is None:
            return self._part_of_the_way(run, timestep)
        if run.step >= self.num_inference_steps:
            raise ValueError(
                f"num_inference_steps is {self.num_inference_steps}, but this run has more distinct timesteps; give "
                "the number of distinct timesteps in scheduler.timesteps"
            )
        return Step(run.step, self.num_inference_steps)

    def _part_of_the_way(self, run: _Run, timestep: float) -> Step:
        """Part int(_PARTS (1 - timestep / noise)), the last one where nothing is left of the way."""
        way = 1 - timestep / self.noise
        # as far outside as rounding does not lead
        if not -0.01 <= way <= 1:
            raise ValueError(
                f"the model was called at timestep {timestep:g}, which is not between {self.noise:g} and 0, so that "
                "the windows cannot be placed by it; give num_inference_steps"
            )
        # 1 - 0.7 is below 0.3
        part = min(max(int(_PARTS * way + 1e-6), 0), _PARTS - 1)
        step = Step(part, _PARTS, schedule=_WAY)
        # a default window holds at least the first step, also of a run that begins behind it
        late = (
            [w for w in self.windows if w.default and part > max(step.steps_of(w))] if run.step == 0 else []
        )
        step = replace(step, also_open=frozenset(late))
        for window in list(run.unseen):
            if step.inside(window):
                run.unseen.remove(window)
            elif part > max(step.steps_of(window), default=-1):
                run.unseen.remove(window)
                warnings.warn(
                    f"no step of this run is in the window start={window.start}, stop={window.stop}, which is timestep "
                    f"{self._timestep(window.start):g} to {self._timestep(window.stop):g}; give num_inference_steps to "
                    "place windows by the steps",
                    stacklevel=2,
                )
        return step

    def _timestep(self, edge: Edge) -> float:
        """Where an end of a window is, as the model gets it."""
        return self.noise * (edge.value / 1000 if isinstance(edge, Timestep) else 1 - edge)


def attach(model: nn.Module, hook: MethodHook) -> None:
    """Put a method on a model in place of the one that is there."""
    remove_hook(model, _HOOK)
    add_hook(model, hook, _HOOK)


def detach(model: nn.Module) -> None:
    """Take the method away from a model; without one nothing happens."""
    remove_hook(model, _HOOK)


def has_attached_method(model: nn.Module) -> bool:
    """Whether a method stays on this model."""
    for owner in {model, unwrap_module(model)}:
        registry = vars(owner).get("_diffusers_hook")
        if registry is not None and registry.get_hook(_HOOK) is not None:
            return True
    return False
