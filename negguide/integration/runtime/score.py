"""Score-space methods during a run: the negatives' predictions, and the one step that makes guidance of them.

The pipeline keeps its classifier-free guidance. From the predictions of uncond u, cond c and the negatives the method
gives the guided prediction, and u is replaced by the u' with which the pipeline's own u' + g (c - u') is just that.
Whatever the pipeline does afterwards (guidance_rescale, norm rescaling) is left alone, since c is as it was.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from negguide.guidance import alignment, uncond_for
from negguide.integration.diagnostics.trace import TraceRecorder
from negguide.integration.families.base import Family
from negguide.integration.hooks.step_tracking import Step
from negguide.integration.runtime.base import DenoiserCall, MethodRuntime, StepState, part
from negguide.integration.runtime.batching import Branch, expand_text
from negguide.integration.runtime.economy import Unconditional
from negguide.integration.runtime.maps import shift_maps
from negguide.integration.runtime.masks import mask_over
from negguide.integration.runtime.prompt_rows import prompt_rows
from negguide.integration.runtime.refresh import RefreshSchedule
from negguide.integration.runtime.slots import slots_of
from negguide.methods import ScoreMethod

LEAST_GUIDANCE = 1e-4
"""How far g must be from 1: u' moves by 1 / (g - 1), and closer than this float32 no longer carries it."""


@dataclass
class _Predictions:
    """One step's predictions until all are there: branches may be calls of their own."""

    cond: Tensor | None = None
    negatives: dict[int, Tensor] | None = None


class GuidanceStep:
    """The score-space step that every door takes: from the predictions of one step to the guided one.

    Args:
        method: with its K negatives.
        images_per_prompt: consecutive images of one prompt, for negatives of a prompt's own.
        masks: [K, 1, h, w] at the size of the latents, or None when no negative has one.
    """

    def __init__(self, method: ScoreMethod, images_per_prompt: int = 1, masks: Tensor | None = None) -> None:
        self.method = method
        self.images_per_prompt = images_per_prompt
        self.masks = masks
        self.schedule = RefreshSchedule(method)
        self._uncond = Unconditional(method.economy, lambda step: step.inside(self.schedule.guidance))
        self.step: Step | None = None
        self.active: list[int] = []
        self.stale: list[int] = []
        self.statistics: dict[str, Any] | None = None

    def begin_step(self, step: Step) -> None:
        """Choose the negatives that act and those that are evaluated."""
        self.step = step
        self.active = self.schedule.active(step)
        self.stale = self.schedule.stale(self.active, step)
        self.statistics = None

    @property
    def leaves_out_uncond(self) -> bool:
        """Whether this step needs no evaluation of the unconditional prediction."""
        return self.step is not None and self._uncond.left_out(self.step)

    def unconditional(self, uncond: Tensor | None, cond: Tensor) -> Tensor:
        """The step's unconditional prediction, evaluated or not (None)."""
        assert self.step is not None
        if uncond is None:
            return self._uncond.instead(cond, self.step)
        self._uncond.keep(uncond, cond)
        return uncond

    def rows(self, k: int, batch: int) -> slice:
        """The images, of `batch`, that negative k belongs to."""
        return prompt_rows(self.method.negatives[k], self.images_per_prompt, batch)

    def guided(
        self,
        uncond: Tensor,
        cond: Tensor,
        negatives: Mapping[int, Tensor],
        guidance_scale: float,
        latent_size: tuple[int, int] | None,
        measure: bool = False,
    ) -> Tensor:
        """The guided prediction [B, ...], in float32 for 16-bit predictions.

        Args:
            uncond, cond: [B, ...].
            negatives: {k: [rows of negative k, ...]} of those that were evaluated at this step.
            guidance_scale: g; at 1 the conditional prediction with the negatives taken away.
            latent_size: (height, width) where masks or maps need it; None where it is not known.
            measure: also keep what a trace tells.
        """
        assert self.step is not None
        wide = torch.promote_types(uncond.dtype, torch.float32)
        u, c = uncond.to(wide), cond.to(wide)
        stacked, weights, masks = [], [], []
        for members in slots_of(self.method.negatives, self.active):
            # images that no negative of this slot belongs to: n = u takes nothing away
            prediction, weight = u.clone(), u.new_zeros(len(u))
            mask = None if self.masks is None else u.new_ones(len(u), *self.masks.shape[1:])
            for k in members:
                rows = self.rows(k, len(u))
                own = None if k not in negatives else negatives[k].to(wide)
                whole = self.schedule.complete(k, u[rows], c[rows], own, self.step)
                evaluated = own is not None
                weight[rows] = self.schedule.weight(k, u[rows], c[rows], whole, evaluated, self.step)
                prediction[rows] = whole
                if mask is not None and self.masks is not None:
                    mask[rows] = self.masks[k].to(mask)
            stacked.append(prediction)
            weights.append(weight)
            if mask is not None:
                assert latent_size is not None
                masks.append(torch.cat([mask_over(one[None], u, latent_size) for one in mask]))
        n, w = torch.stack(stacked), torch.stack(weights)
        m = torch.stack(masks) if masks else None
        if measure:
            self._measure(u, c, n, w, m, latent_size)
        return self.method.guide(u, c, n, w, guidance_scale, m)

    def _measure(
        self,
        u: Tensor,
        c: Tensor,
        n: Tensor,
        w: Tensor,
        masks: Tensor | None,
        latent_size: tuple[int, int] | None,
    ) -> None:
        cosine, kept = alignment(u, c, n)
        maps = None
        if latent_size is not None:
            maps = shift_maps(self.method, u, c, n, w, masks, latent_size)
        # from slots back to negatives, with nothing for the images that are not theirs
        self.statistics = {"indices": [], "cosine": [], "kept": [], "maps": None if maps is None else []}
        for slot, members in enumerate(slots_of(self.method.negatives, self.active)):
            for k in members:
                rows = self.rows(k, len(u))
                others = torch.ones(len(u), dtype=torch.bool, device=u.device)
                others[rows] = False
                self.statistics["indices"].append(k)
                self.statistics["cosine"].append(cosine[slot].masked_fill(others, torch.nan))
                self.statistics["kept"].append(kept[slot].masked_fill(others, torch.nan))
                if maps is not None:
                    self.statistics["maps"].append(maps[slot] * ~others[:, None, None])

    def record(self, recorder: TraceRecorder) -> None:
        """Tell a trace what this step did."""
        if self.statistics is None:
            return
        indices = self.statistics["indices"]
        recorder.record_negatives(
            indices, torch.stack(self.statistics["cosine"]), torch.stack(self.statistics["kept"])
        )
        if self.statistics["maps"] is not None:
            recorder.record_shift_maps(indices, self.statistics["maps"])
        self.statistics = None


class ScoreRuntime(MethodRuntime):
    """A score-space method during one pipeline call.

    Args:
        step: the step itself.
        family: of the denoiser.
        text: for each negative {text input: [1, ...]}.
        measure: also keep what a trace tells.
        group_size: consecutive images that look at one another in attention whatever their prompts, so that a
            negative is evaluated for all of its image's group; 1 = none do.
    """

    def __init__(
        self,
        step: GuidanceStep,
        family: Family,
        text: Sequence[Mapping[str, Any]],
        measure: bool,
        group_size: int = 1,
    ) -> None:
        self.guidance = step
        self.family = family
        self.text = text
        self.measure = measure
        self.group_size = group_size
        self.targets = {}
        self.latent_size = (0, 0)
        self._seen = _Predictions()
        self._warned = False

    def begin_step(self, state: StepState) -> None:
        """Find which negatives act in this step, and which of them are evaluated."""
        self.guidance.begin_step(state.step)
        self.latent_size = state.latent_size
        self._seen = _Predictions()

    def left_out(self, call: DenoiserCall) -> frozenset[str]:
        """The branches of the pipeline that this call need not evaluate."""
        unneeded = self._guided(call) and self.guidance.leaves_out_uncond
        return frozenset(["uncond"] if unneeded else [])

    def _acts(self, call: DenoiserCall) -> bool:
        return bool(self.guidance.active) and self._guided(call)

    def _guided(self, call: DenoiserCall) -> bool:
        # a callback may have switched guidance off
        if "uncond" not in call.step_branches:
            return False
        scale = call.guidance_scale()
        if abs(scale - 1) > LEAST_GUIDANCE:
            return True
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"guidance_scale is {scale}, so close to 1 that the unconditional prediction hardly counts; "
                f"{type(self.guidance.method).__name__} is off, give more than {1 + LEAST_GUIDANCE}",
                stacklevel=2,
            )
        return False

    def branches(self, call: DenoiserCall) -> list[Branch]:
        """One for each negative that is evaluated, with the text in place of the prompt."""
        cond = call.branch("cond")
        if cond is None or not self._acts(call):
            return []
        found = []
        for k in self.guidance.stale:
            rows = self._evaluated(k, call.batch)
            size = rows.stop - rows.start
            text = expand_text(self.family, self.text[k], size)
            found.append(part(cond, f"negative {k}", rows.start, size, text))
        return found

    def _evaluated(self, k: int, batch: int) -> slice:
        """The images that negative k is evaluated for: its own, and those of their groups."""
        rows, size = self.guidance.rows(k, batch), self.group_size
        return slice(rows.start // size * size, -(-rows.stop // size) * size)

    def _own_rows(self, k: int, batch: int) -> slice:
        """Of a prediction of negative k, the rows of its own images."""
        rows, first = self.guidance.rows(k, batch), self._evaluated(k, batch).start
        return slice(rows.start - first, rows.stop - first)

    def combines(self, call: DenoiserCall) -> bool:
        """Whether predictions of this call are changed."""
        method = self.guidance.method
        return self._guided(call) and (
            bool(self.guidance.active) or method.economy or self.guidance.leaves_out_uncond
        )

    def combine(self, call: DenoiserCall, predictions: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The predictions that the pipeline is to see, such that its own guidance gives what Perp-Neg does."""
        if not self.combines(call):
            return predictions
        if "cond" in predictions:
            negatives = {k: predictions[f"negative {k}"] for k in self.guidance.stale}
            own = {k: n[self._own_rows(k, call.batch)] for k, n in negatives.items()}
            self._seen = _Predictions(predictions["cond"], own)
        if call.branch("uncond") is None:
            return predictions
        if self._seen.cond is None:
            raise ValueError(f"{self.family.name}: the unconditional call came before the conditional one")
        uncond = self._unconditional(predictions.get("uncond"), call)
        return {**predictions, "uncond": self._shifted(uncond, call) if self.guidance.active else uncond}

    def _own(self, prediction: Tensor, call: DenoiserCall) -> Tensor:
        """The part of a prediction that is the generated image's, as the denoiser's input says."""
        return self.family.prediction_slice(prediction, call.inputs[self.family.sample], self.latent_size)

    def _unconditional(self, uncond: Tensor | None, call: DenoiserCall) -> Tensor:
        """The step's unconditional prediction, evaluated or not (None)."""
        assert self._seen.cond is not None
        # of the generated image alone: how much is beside it may differ from branch to branch (Qwen-Image 2.1's text)
        cond = self._own(self._seen.cond, call)
        if uncond is not None:
            self.guidance.unconditional(self._own(uncond, call), cond)
            return uncond
        instead = self.guidance.unconditional(None, cond)
        whole = self._seen.cond.to(instead.dtype, copy=True)
        self._own(whole, call).copy_(instead)
        return whole

    def _shifted(self, uncond: Tensor, call: DenoiserCall) -> Tensor:
        """u' of the step."""
        seen = self._seen
        assert seen.cond is not None and seen.negatives is not None
        scale = call.guidance_scale()
        u, c = self._own(uncond, call), self._own(seen.cond, call)
        negatives = {k: self._own(prediction, call) for k, prediction in seen.negatives.items()}
        guided = self.guidance.guided(u, c, negatives, scale, self.latent_size, self.measure)
        # float32 for 16-bit predictions: u' may be large, and what the pipeline makes of it is a small difference
        shifted = uncond.to(guided.dtype, copy=True)
        self._own(shifted, call).copy_(uncond_for(guided, u.to(guided.dtype), c.to(guided.dtype), scale))
        return shifted

    def record(self, recorder: TraceRecorder) -> None:
        """Give a trace the statistics of this step."""
        self.guidance.record(recorder)
