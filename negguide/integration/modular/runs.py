"""One run of a modular pipeline as a guider sees it: where it stands, and which runs it is inside of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from negguide.integration.diagnostics.trace import TraceRecorder
from negguide.integration.hooks.step_tracking import Step, step_of_loop
from negguide.integration.runtime.score import GuidanceStep
from negguide.methods import PerpNeg


class GuiderRun:
    """One run of a modular pipeline: the negatives as it encoded them, and where it stands."""

    def __init__(
        self,
        perp_neg: PerpNeg,
        guidance: Any,
        traces: bool,
    ) -> None:
        self.guidance = guidance
        self.scheduler: Any = None
        self.guidance_step = GuidanceStep(perp_neg)
        self.texts: list[dict[str, Any]] | None = None
        self.state: Any = None
        self.latent_size: tuple[int, int] | None = None
        self.branches: list[str] | None = None
        self.guider_branches = 0
        self.acts = False
        self.recorder: TraceRecorder | None = None
        if traces:
            prompts = tuple(negative.prompt for negative in perp_neg.negatives)
            self.recorder = TraceRecorder(prompts, negtome=False, attention=None)
        # as the loop says it: which call of the model, of how many steps
        self.call: int | None = None
        self.num_inference_steps: int | None = None
        self.timestep: Any = None
        self.count_prepared = 0
        self.step: Step | None = None
        self._last_call: int | None = None
        self._left = 0

    def begin_call(self, call: int | None, count: int | None, timestep: Any) -> None:
        """The loop is at call `call` of the model."""
        self.branches, self.acts = None, False
        self.step = None
        if call is not None and count is not None:
            self.step = step_of_loop(self.scheduler, call, count, timestep)
            self._last_call, self._left = call, self.step.count - 1 - self.step.index

    def leave_step(self) -> None:
        """Between two calls."""
        self.call = self.num_inference_steps = self.timestep = None
        self.count_prepared, self.branches, self.acts = 0, None, False
        self.guidance.set_state(None, None, None)

    def is_of(self, states: Sequence[Any]) -> bool:
        """Whether this is the run of one of these states."""
        own = None if self.state is None else self.state()
        return own is not None and any(own is state for state in states)

    def continues(self, call: int) -> bool:
        """Whether this is the run's next call."""
        return self.under_way and self._last_call is not None and call == self._last_call + 1

    @property
    def under_way(self) -> bool:
        """Whether it has begun and not come to its last step."""
        return self._left > 0
