"""One run of a modular pipeline as a guider sees it: where it stands, and which runs it is inside of."""

from __future__ import annotations

import copy
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from diffusers.guiders import BaseGuidance
from torch import Tensor

from negguide.integration.diagnostics.trace import TraceRecorder
from negguide.integration.hooks.compat import calling_states
from negguide.integration.hooks.step_tracking import Step, step_of_loop
from negguide.integration.runtime.batching import repeated
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
        self.perp_neg = perp_neg
        self.guidance = guidance
        self.scheduler: Any = None
        self.guidance_step = GuidanceStep(perp_neg)
        self.texts: list[dict[str, Any]] | None = None
        self.positions: tuple[str, ...] = ()
        self.find_generated: Callable[[Mapping[str, Any]], slice] = lambda state: slice(None)
        self.state: Any = None
        self.latent_size: tuple[int, int] | None = None
        self.branches: list[str] | None = None
        self.guider_branches = 0
        self.acts = False
        self.leaves_out_uncond = False
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
        self._last_call = -1

    def begin_call(self, call: int | None, count: int | None, timestep: Any) -> None:
        """The loop is at call `call` of the model."""
        self.branches, self.acts, self.leaves_out_uncond = None, False, False
        self.step = None
        if call is not None and count is not None:
            if call == 0 and self._last_call > 0:
                # it draws one piece after another, and each has all the steps
                self.guidance_step = GuidanceStep(self.perp_neg, self.guidance_step.images_per_prompt)
            self._last_call = call
            self.step = step_of_loop(self.scheduler, call, count, timestep)

    def leave_step(self) -> None:
        """Between two calls."""
        self.call = self.num_inference_steps = self.timestep = None
        self.count_prepared, self.branches, self.acts, self.leaves_out_uncond = 0, None, False, False
        self.guidance.set_state(None, None, None)

    def is_of(self, states: Sequence[Any]) -> bool:
        """Whether this is the run of one of these states."""
        own = None if self.state is None else self.state()
        return own is not None and any(own is state for state in states)

    def text_for(self, k: int, cond: Mapping[str, Any]) -> dict[str, Any]:
        """Negative k's text for as many images as the conditional batch has, in its dtype and on its device.

        Args:
            cond: the batch's own fields.
        """
        assert self.texts is not None
        found, rows = {}, len(next(value for value in cond.values() if value is not None))
        for field, value in self.texts[k].items():
            own = value(cond) if callable(value) else value
            found[field] = own if field in self.positions else _for_rows(own, cond[field], rows)
        return found

    def generated(self) -> slice:
        """Where in a prediction [B, ..] along its second axis the generated image is."""
        state = None if self.state is None else self.state()
        return slice(None) if state is None else self.find_generated(state.values)


class GuiderOfRuns(BaseGuidance):
    """A guider with a state of each run: in several threads, and of runs inside one another.

    What the base class keeps on the guider belongs to the present run. A subclass sets what is annotated here.
    """

    perp_neg: PerpNeg
    guidance: Any
    _traces: bool
    _runs: dict[int, list[GuiderRun]]

    def _new_run(self, guidance: Any) -> GuiderRun:
        return GuiderRun(self.perp_neg, guidance, self._traces)

    @property
    def _run(self) -> GuiderRun:
        """The run that this thread is in, or the last one that it was in."""
        runs = self._runs.setdefault(threading.get_ident(), [])
        if not runs:
            runs.append(self._new_run(self.guidance))
        if len(runs) == 1:
            return runs[0]
        # one runs inside another, or did: the innermost that calls
        for state in calling_states():
            for run in runs:
                if run.is_of([state]):
                    return run
        return runs[-1]

    @property
    def _count_prepared(self) -> int:
        return self._run.count_prepared

    @_count_prepared.setter
    def _count_prepared(self, value: int) -> None:
        self._run.count_prepared = value

    @property
    def _step(self) -> int | None:
        return self._run.call

    @_step.setter
    def _step(self, value: int | None) -> None:
        self._run.call = value

    @property
    def _num_inference_steps(self) -> int | None:
        return self._run.num_inference_steps

    @_num_inference_steps.setter
    def _num_inference_steps(self, value: int | None) -> None:
        self._run.num_inference_steps = value

    @property
    def _timestep(self) -> Any:
        return self._run.timestep

    @_timestep.setter
    def _timestep(self, value: Any) -> None:
        self._run.timestep = value

    def begin_run(self, state: Any = None) -> None:
        """A run begins: nothing of the last one is left; `EncodeNegatives` calls this first.

        Args:
            state: of the pipeline's run, which tells it from those that it runs inside of.
        """
        # those that this one runs inside of go on after it
        around = [] if state is None else calling_states()
        run = self._new_run(copy.copy(self.guidance))
        run.state = None if state is None else weakref.ref(state)
        runs = self._runs.setdefault(threading.get_ident(), [])
        runs[:] = [*[other for other in runs if other.is_of(around)], run]


def _for_rows(text: Any, cond: Any, rows: int) -> Any:
    """One text for so many rows, in the dtype and on the device of the prompt's, where that has this part."""
    if isinstance(cond, list):
        return [row.to(cond[0]) for row in text] * rows
    if text is None:
        return None
    several: Tensor = repeated(text, rows)
    return several if cond is None else several.to(cond)
