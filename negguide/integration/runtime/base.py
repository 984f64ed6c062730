"""What the integration asks of a method while a run goes on; one runtime for each method of a call.

A denoiser call goes: `begin_step` (once a step), `before_call`, `branches` (further predictions that the method wants),
and for each forward of the model `begin_forward`, `interceptors`, the model, `end_forward`; then `combine` and
`record`. Every door drives the same runtimes: the pipeline's call, the processors, the modular guider.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from negguide.integration.diagnostics.trace import TraceRecorder
from negguide.integration.families.base import Family, TextPlace
from negguide.integration.hooks.interception import Interceptor
from negguide.integration.hooks.step_tracking import Step
from negguide.integration.runtime.batching import Branch
from negguide.integration.runtime.masks import packed_frames

Inputs = Mapping[str, Any]


@dataclass(frozen=True)
class StepState:
    """One step of a run, as its first denoiser call shows it.

    Attributes:
        step: which one.
        latent_size: (height, width) of the latents.
        frames: of a video; 1 otherwise.
        image_tokens: tokens of the generated image in attention, and those with reference images' behind them; (0, 0)
            where attention tells (feature maps).
        like: a tensor of the sample's dtype and device.
    """

    step: Step
    latent_size: tuple[int, int]
    frames: int
    image_tokens: tuple[int, int]
    like: Tensor


def step_state(
    family: Family, step: Step, latent_size: tuple[int, int], sample: Any, model: nn.Module
) -> StepState:
    """The state of a step whose first call, of this denoiser without wrappers, has this sample."""
    tokens = (0, 0) if family.image_tokens is None else family.image_tokens(sample, latent_size)
    if family.filled_tokens is not None:
        tokens = (tokens[0], family.filled_tokens(model.config, latent_size))
    frames = 1
    if isinstance(sample, Tensor) and sample.ndim == 5:
        frames = int(sample.shape[2])
    elif isinstance(sample, Tensor) and sample.ndim == 3:
        # packed; where there are reference images the family says which tokens are the generated image's
        frames = packed_frames(tokens[0] or sample.shape[1], latent_size)
    return StepState(step, latent_size, frames, tokens, sample[0])


@dataclass(frozen=True)
class Forward:
    """One forward of the denoiser: which branches it holds, one after another.

    Attributes:
        model: the denoiser, without wrappers.
        branches: with the rows of the pipeline's call that they are of.
        batch: images of the run, rows of a whole branch.
    """

    model: nn.Module
    branches: Sequence[Branch]
    batch: int

    def rows_of(self, name: str) -> slice | None:
        """Where in this forward's batch a branch lies; None when it is not in it."""
        begin = 0
        for branch in self.branches:
            if branch.name == name:
                return slice(begin, begin + branch.size)
            begin += branch.size
        return None

    @property
    def whole_rows(self) -> list[slice]:
        """Where the branches lie that hold every image."""
        found, begin = [], 0
        for branch in self.branches:
            if branch.size == self.batch:
                found.append(slice(begin, begin + branch.size))
            begin += branch.size
        return found


@dataclass(frozen=True)
class Targets:
    """The attention modules of one denoiser in which a method acts, by name, and where they meet the text."""

    modules: Mapping[str, nn.Module]
    places: Mapping[str, TextPlace]


@dataclass(frozen=True)
class DenoiserCall:
    """One call of the denoiser by the pipeline.

    Attributes:
        model: the denoiser, without wrappers.
        inputs: by name.
        branches: that the pipeline's batch holds.
        step_branches: the names of all branches of the step, which may be calls of their own.
        batch: images of the run.
        guidance_scale: asked for where it matters; it may depend on the step.
        forward: `forward(context, inputs, interceptors)` runs the model; `context` names what a cached model keeps for
            this kind of forward.
    """

    model: nn.Module
    inputs: Inputs
    branches: Sequence[Branch]
    step_branches: Sequence[str]
    batch: int
    guidance_scale: Callable[[], float]
    forward: Callable[[str, Inputs, Mapping[str, Interceptor]], Any]

    def branch(self, name: str) -> Branch | None:
        """The pipeline's branch of this name."""
        return next((branch for branch in self.branches if branch.name == name), None)


class MethodRuntime:
    """One method during one run. Every part of the protocol is optional; what is not defined does nothing.

    Attributes:
        targets: for each denoiser of the run the attention modules in which it may act.
        adds_forwards: whether the model runs for more than the pipeline asks for, or on more text, which a cache that
            cannot tell branches apart mixes up.
    """

    targets: Mapping[nn.Module, Targets]
    adds_forwards: bool = True

    def begin_step(self, state: StepState) -> None:
        """A step begins: choose what acts in it."""

    def before_call(self, call: DenoiserCall) -> None:
        """The pipeline calls the denoiser, and nothing has run yet."""

    def left_out(self, call: DenoiserCall) -> frozenset[str]:
        """The step's branches that need no forward, because `combine` says what they are."""
        return frozenset()

    def branches(self, call: DenoiserCall) -> list[Branch]:
        """Further predictions that the method needs, beside the branches of the call."""
        return []

    def joined_rows(self) -> int:
        """How many branches the method adds inside each forward that it acts in."""
        return 0

    def cache_key(self, forward: Forward) -> str | None:
        """What tells this forward's cache from that of the same forward without the method; None = nothing."""
        return None

    def begin_forward(self, inputs: Inputs, forward: Forward) -> Inputs:
        """The inputs of one forward."""
        return inputs

    def interceptors(self, model: nn.Module) -> Mapping[str, Interceptor]:
        """What is done around the processors of a forward of `model`, by module; empty when the method does not act."""
        return {}

    def end_forward(self, output: Any, forward: Forward) -> Any:
        """The output of one forward, and a look at whether the method was reached.

        Raises:
            ValueError: the method should have acted, and the model went around it.
        """
        return output

    def combines(self, call: DenoiserCall) -> bool:
        """Whether `combine` changes this call's predictions, also where the method needs no further ones."""
        return False

    def combine(self, call: DenoiserCall, predictions: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The call's predictions, from those of its branches and of `branches`."""
        return predictions

    def record(self, recorder: TraceRecorder) -> None:
        """Tell a trace what happened in the call."""


def part(branch: Branch, name: str, begin: int, size: int, text: Mapping[str, Any]) -> Branch:
    """`size` rows of a branch from its row `begin` on, with other text."""
    start = branch.rows.start + begin
    return replace(branch, name=name, rows=slice(start, start + size), text=text)
