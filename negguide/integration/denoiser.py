"""The hook around a denoiser that adds negatives to each call of a pipeline's own guidance.

The pipeline keeps its classifier-free guidance. Its call holds uncond u and cond c; the hook adds the active
negatives, computes the Perp-Neg shift S and gives back u' = u + g / (g - 1) S in place of u. What the pipeline then
makes of it is u' + g (c - u') = u + g (c - u - S): Perp-Neg, with guidance_rescale, callbacks and `negative_prompt=`
untouched, since c is as it was and u is the pipeline's own.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.hooks.hooks import ModelHook
from diffusers.utils.torch_utils import unwrap_module
from torch import nn

from negguide.guidance import active, alignment, perp_neg_shift
from negguide.integration.batching import Branch, fold, run_branches
from negguide.integration.families import Family
from negguide.integration.negtome import NegToMeRun
from negguide.integration.steps import check_windows, step_numbers
from negguide.integration.trace import TraceRecorder
from negguide.methods import PerpNeg


@dataclass(frozen=True)
class EncodedNegatives:
    """A PerpNeg with its K negatives as the model takes them.

    Attributes:
        text: {text input: [K, ...]}.
        weights: [K].
        masks: [K, 1, 1, h, w] at the size of the latents, or None when no negative has one.
    """

    method: PerpNeg
    text: Mapping[str, torch.Tensor]
    weights: torch.Tensor
    masks: torch.Tensor | None

    def active(self, step: int, num_steps: int) -> list[int]:
        """Which negatives act at this step."""
        return [k for k, n in enumerate(self.method.negatives) if active(n.start, n.stop, step, num_steps)]


@dataclass(frozen=True)
class EncodedReferences:
    """NegToMe's R reference images as the model takes them.

    Attributes:
        latents: [R, C, h, w], noise: [1, C, h, w] (the same at every step and for every reference).
        text: {text input: [1, ...]} of the empty prompt.
    """

    latents: torch.Tensor
    noise: torch.Tensor
    text: Mapping[str, torch.Tensor]


class DenoiserHook(ModelHook):
    """Runs a pipeline's denoiser calls with what `negative_guidance` adds; attached for one call of the pipeline."""

    def __init__(
        self,
        pipe: Any,
        family: Family,
        model: nn.Module,
        negatives: EncodedNegatives | None,
        negtome: NegToMeRun | None,
        references: EncodedReferences | None,
        max_branch_batch: int | None,
        recorder: TraceRecorder | None,
    ) -> None:
        super().__init__()
        self.pipe = pipe
        self.family = family
        self.signature = inspect.signature(unwrap_module(model).forward)
        self.negatives = negatives
        self.negtome = negtome
        self.references = references
        self.max_branch_batch = max_branch_batch
        self.recorder = recorder
        self.calls = 0
        self.steps: list[int] = []

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        inputs = self.signature.bind(*args, **kwargs).arguments
        sample = inputs[self.family.sample]
        names = self.family.branches(self.pipe)
        step, num_steps = self._next_step()
        if self.recorder is not None:
            self.recorder.begin_call(
                inputs[self.family.timestep], sample.shape[0] // len(names), sample.device
            )

        if self.negtome is not None:
            self.negtome.begin_step(step, num_steps, sample)
            if self.negtome.pushing and self.references is not None:
                self._capture(self.negtome, self.references, inputs)

        acting = self.negatives.active(step, num_steps) if self.negatives and "uncond" in names else []
        shares: list[torch.Tensor] = []
        if acting:
            output = self._with_negatives(inputs, names, acting, shares)
        else:
            self._before_forward(len(names))
            output = self.fn_ref.original_forward(*args, **kwargs)
            self._after_forward(len(names), shares)
        if shares and self.recorder is not None:
            self.recorder.record_pushed(torch.cat(shares))
        return output

    def _next_step(self) -> tuple[int, int]:
        if self.calls == 0:
            # read now: the pipeline sets the timesteps only after its own checks
            timesteps = self.pipe.scheduler.timesteps[-self.pipe.num_timesteps :]
            self.steps = step_numbers(timesteps.tolist())
            methods = [part.method for part in (self.negatives, self.negtome) if part is not None]
            check_windows(methods, self.steps[-1] + 1)
        if self.calls == len(self.steps):
            raise ValueError(
                f"the denoiser was called more often than the {self.calls} timesteps of the run; a callback must not "
                "call it during a guided call"
            )
        step = self.steps[self.calls]
        self.calls += 1
        return step, self.steps[-1] + 1

    def _with_negatives(
        self, inputs: Mapping[str, Any], names: tuple[str, ...], acting: list[int], shares: list[torch.Tensor]
    ) -> tuple[torch.Tensor, ...]:
        negatives = self.negatives
        assert negatives is not None
        total = inputs[self.family.sample].shape[0]
        batch = total // len(names)
        rows = {name: slice(i * batch, (i + 1) * batch) for i, name in enumerate(names)}
        branches = [Branch(rows[name]) for name in names]
        for k in acting:
            text = {name: value[k].expand(batch, *value.shape[1:]) for name, value in negatives.text.items()}
            branches.append(Branch(rows["cond"], text))

        def forward(count: int, folded: dict[str, Any]) -> torch.Tensor:
            self._before_forward(count)
            output = self.fn_ref.original_forward(**folded)[0]
            self._after_forward(count, shares)
            return output

        predictions = run_branches(forward, inputs, total, branches, self.max_branch_batch)
        base = dict(zip(names, predictions, strict=False))
        uncond, cond, others = base["uncond"], base["cond"], torch.stack(predictions[len(names) :])
        shift = perp_neg_shift(
            uncond,
            cond,
            others,
            # stacked and not indexed by a list, which would wait for the device
            torch.stack([negatives.weights[k] for k in acting]),
            joint=negatives.method.joint,
            masks=None if negatives.masks is None else torch.stack([negatives.masks[k] for k in acting]),
        )
        if self.recorder is not None:
            self.recorder.record_negatives(acting, *alignment(uncond, cond, others))
        g = self.pipe.guidance_scale
        wide = torch.promote_types(uncond.dtype, torch.float32)
        base["uncond"] = (uncond.to(wide) + g / (g - 1) * shift.to(wide)).to(uncond.dtype)
        return (torch.cat([base[name] for name in names]),)

    def _capture(self, negtome: NegToMeRun, references: EncodedReferences, inputs: Mapping[str, Any]) -> None:
        """Run the references at this step's noise, for each module to keep its tokens."""
        timestep, scheduler = inputs[self.family.timestep], self.pipe.scheduler
        latents, count = references.latents, references.latents.shape[0]
        noise = references.noise.expand_as(latents)
        noisy = scheduler.add_noise(latents, noise, timestep.reshape(-1)[:1].expand(count))
        # other conditions (adapters) are those of the first, unconditional, row
        like_first = [Branch(slice(0, 1), references.text)] * count
        folded = fold(inputs, inputs[self.family.sample].shape[0], like_first)
        folded[self.family.sample] = scheduler.scale_model_input(noisy, timestep)
        negtome.pushing, negtome.capturing = False, True
        self.fn_ref.original_forward(**folded)
        negtome.pushing, negtome.capturing = True, False
        for module in negtome.modules:
            # copied, because a forward that replays CUDA graphs writes its next result into the same memory
            module.reference = None if module.reference is None else module.reference.clone()

    def _before_forward(self, count: int) -> None:
        if self.negtome is not None:
            self.negtome.branches = count

    def _after_forward(self, count: int, shares: list[torch.Tensor]) -> None:
        if self.negtome is not None and self.negtome.pushing:
            self.negtome.check_reached()
            if self.negtome.measure:
                shares.append(self.negtome.take_shares().unflatten(0, (count, -1)))
