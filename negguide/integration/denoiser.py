"""The hook around a denoiser that adds negatives to each call of a pipeline's own guidance.

The pipeline keeps its classifier-free guidance. The hook sees uncond u and cond c, in one call or in two, adds the
active negatives, computes the Perp-Neg shift S and gives back u' = u + g / (g - 1) S in place of u. What the pipeline
then makes of it is u' + g (c - u') = u + g (c - u - S): Perp-Neg, with whatever it does afterwards (guidance_rescale,
norm rescaling), with callbacks and `negative_prompt=` untouched, since c is as it was and u is the pipeline's own.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.hooks.hooks import ModelHook
from diffusers.utils.torch_utils import unwrap_module
from torch import Tensor, nn

from negguide.guidance import alignment, perp_neg_shift
from negguide.integration.asking import Asking
from negguide.integration.attending import AttentionRun
from negguide.integration.batching import Branch, fold, repeated, run_branches
from negguide.integration.family import Arguments, Family
from negguide.integration.images import mask_over
from negguide.integration.maps import shift_maps
from negguide.integration.negtome import NegToMeRun
from negguide.integration.references import EncodedReferences, noised, with_latents
from negguide.integration.steps import check_windows, step_numbers, timesteps_of_run
from negguide.integration.trace import TraceRecorder
from negguide.methods import Methods, PerpNeg


@dataclass(frozen=True)
class EncodedNegatives:
    """A PerpNeg with its K negatives as the model takes them.

    Attributes:
        text: for each negative {text input: [1, ...]}.
        weights: [K].
        masks: [K, 1, h, w] at the size of the latents, or None when no negative has one.
    """

    method: PerpNeg
    text: Sequence[Mapping[str, Any]]
    weights: Tensor
    masks: Tensor | None


@dataclass(frozen=True)
class Parts:
    """What `negative_guidance=` comes to for one call: only what was asked for is there.

    `max_branch_batch` bounds how many branches, and how many reference images, run in one forward; None = all.
    """

    methods: Methods
    latent_size: tuple[int, int]
    negatives: EncodedNegatives | None = None
    negtome: NegToMeRun | None = None
    references: EncodedReferences | None = None
    attention: AttentionRun | None = None
    max_branch_batch: int | None = None
    recorder: TraceRecorder | None = None


@dataclass
class Seen:
    """What the methods inside the model did in one denoiser call, forward by forward."""

    pushed: list[Tensor] = field(default_factory=list)
    push_maps: list[Tensor] = field(default_factory=list)
    changed: list[Tensor] = field(default_factory=list)
    change_maps: list[Tensor] = field(default_factory=list)

    def record(self, recorder: TraceRecorder) -> None:
        if self.pushed:
            recorder.record_pushed(torch.cat(self.pushed))
            recorder.record_token_maps("NegToMe", torch.cat(self.push_maps))
        if self.changed and recorder.attention is not None:
            recorder.record_changed(self.changed[0])
            recorder.record_token_maps(recorder.attention, torch.cat(self.change_maps))


class Run:
    """One call of a pipeline, seen from its denoisers: which branch of which step each of their calls is.

    A pipeline may have several denoisers that take turns (Wan 2.2); they share one run.
    """

    def __init__(self, pipe: Any, family: Family, arguments: Arguments, parts: Parts) -> None:
        self.pipe = pipe
        self.family = family
        self.arguments = arguments
        self.parts = parts
        self.calls = 0
        self.steps: list[int] = []
        self.timesteps = torch.empty(0)
        self.timestep = torch.empty(0)
        self.step = 0
        self.pending: list[str] = []
        # of a step whose branches are calls of their own: what the conditional call gave, for the unconditional one
        self.cond: Tensor | None = None
        self.others: list[Tensor] = []
        self.acting: list[int] = []
        self.due: list[int] = []
        self.asking = None if parts.negatives is None else Asking(parts.negatives.method)

    def begin_call(self, inputs: Mapping[str, Any]) -> tuple[str, ...]:
        """The branches that this denoiser call holds; the first call of a step moves on to that step."""
        if not self.family.sequential:
            names = self.family.branches(self.pipe, self.arguments)
            self._begin_step(inputs, len(names))
            return names
        if not self.pending:
            self.pending = list(self.family.branches(self.pipe, self.arguments))
            self._begin_step(inputs, 1)
        return (self.pending.pop(0),)

    @property
    def num_steps(self) -> int:
        return self.steps[-1] + 1

    def _begin_step(self, inputs: Mapping[str, Any], branches: int) -> None:
        if self.calls == 0:
            # read now: the pipeline sets the timesteps only after its own checks
            every = self.pipe.scheduler.timesteps
            # PixArt does not say how many of them it uses: all
            count = getattr(self.pipe, "_num_timesteps", len(every))
            first = torch.as_tensor(inputs[self.family.timestep]).flatten()[0]
            self.timesteps = timesteps_of_run(every, count, float(first))
            self.steps = step_numbers(self.timesteps.tolist())
            check_windows(list(self.parts.methods), self.num_steps)
        if self.calls == len(self.steps):
            raise ValueError(
                f"the denoiser was called more often than the {self.calls} timesteps of the run; a callback must not "
                "call it during a guided call"
            )
        self.step, self.timestep = self.steps[self.calls], self.timesteps[self.calls]
        self.calls += 1
        parts = self.parts
        sample = inputs[self.family.sample]
        if parts.recorder is not None:
            parts.recorder.begin_call(self.timestep, len(sample) // branches, sample[0].device)
        if parts.negtome is not None:
            negtome = parts.negtome
            negtome.begin_step(self.step, self.num_steps, parts.latent_size, sample[0])
        if parts.attention is not None:
            parts.attention.begin_step(self.step, self.num_steps, parts.latent_size)
        for part in (parts.negtome, parts.attention):
            if part is not None:
                part.frames = sample.shape[2] if isinstance(sample, Tensor) and sample.ndim == 5 else 1
                if self.family.image_tokens is not None:
                    part.image_tokens = self.family.image_tokens(sample, parts.latent_size)


class DenoiserHook(ModelHook):
    """Runs a denoiser's calls with what `negative_guidance` adds; attached for one call of the pipeline."""

    def __init__(self, run: Run, model: nn.Module) -> None:
        super().__init__()
        self.run = run
        self.model = unwrap_module(model)
        self.signature = inspect.signature(self.model.forward)

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        run, parts, family = self.run, self.run.parts, self.run.family
        inputs = self._by_name(args, kwargs)
        if family.aside(inputs):
            return self._undisturbed(inputs)
        names = run.begin_call(inputs)
        if self._captures(names):
            self._capture(inputs)

        acting: list[int] = []
        if run.asking is not None and len(family.branches(run.pipe, run.arguments)) > 1:
            # between the two calls of a step, what the first began counts
            acting = run.acting if run.cond is not None else run.asking.acting(run.step, run.num_steps)
        seen, limit = Seen(), self._limit
        output = (
            self._grouped(inputs, names, acting, limit, seen)
            if acting or (limit is not None and len(names) > limit)
            else self._forward(names, inputs, seen)
        )
        if parts.recorder is not None:
            seen.record(parts.recorder)
        return output

    def _by_name(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        bound = self.signature.bind(*args, **kwargs)
        inputs = dict(bound.arguments)
        for name, parameter in self.signature.parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                inputs |= inputs.pop(name, {})
        return inputs

    def _grouped(
        self,
        inputs: Mapping[str, Any],
        names: tuple[str, ...],
        acting: list[int],
        limit: int | None,
        seen: Seen,
    ) -> Any:
        """The call's branches and the negatives that are due, in forwards of as many as may run at once."""
        run, negatives = self.run, self.run.parts.negatives
        total = len(inputs[run.family.sample])
        batch = total // len(names)
        rows = {name: slice(i * batch, (i + 1) * batch) for i, name in enumerate(names)}
        branches = [Branch(name, rows[name]) for name in names]
        if acting and "cond" in names:
            assert negatives is not None and run.asking is not None
            run.acting, run.due = acting, run.asking.due(acting, run.step)
            for k in run.due:
                branches.append(Branch(f"negative {k}", rows["cond"], repeated(negatives.text[k], batch)))
        kinds: list[Any] = []

        def forward(group: Sequence[Branch], folded: dict[str, Any]) -> Tensor:
            kinds.append(self._forward([branch.name for branch in group], folded, seen))
            return _rows_of(kinds[-1])

        predictions = run_branches(forward, run.family, inputs, total, branches, limit)
        base = dict(zip(names, predictions, strict=False))
        if acting and "cond" in base:
            run.cond, run.others = base["cond"], predictions[len(names) :]
        if acting and "uncond" in base:
            base["uncond"] = self._shifted(base["uncond"], inputs[run.family.sample])
        return _as_output(torch.cat([base[name] for name in names]), kinds[0])

    def _shifted(self, uncond: Tensor, sample: Tensor) -> Tensor:
        """u' = u + g / (g - 1) S of the step's predictions; the denoiser's input says which part of them counts."""
        run, negatives = self.run, self.run.parts.negatives
        assert negatives is not None and run.asking is not None
        if run.cond is None:
            raise ValueError(f"{run.family.name}: the unconditional call came before the conditional one")
        size, predicted = run.parts.latent_size, run.family.predicted
        u, c = predicted(uncond, sample, size), predicted(run.cond, sample, size)
        others = [predicted(other, sample, size) for other in run.others]
        n = run.asking.complete(u, c, others, run.acting, run.due, run.step)
        masks = None
        if negatives.masks is not None:
            masks = torch.stack([mask_over(negatives.masks[k : k + 1], u, size) for k in run.acting])
        # stacked and not indexed by a list, which would wait for the device
        weights = torch.stack([negatives.weights[k] for k in run.acting])
        weights = run.asking.weights(weights, u, c, n, run.acting)
        shift = perp_neg_shift(u, c, n, weights, joint=negatives.method.joint, masks=masks)
        if run.parts.recorder is not None:
            run.parts.recorder.record_negatives(run.acting, *alignment(u, c, n))
            maps = shift_maps(u, c, n, weights, negatives.method.joint, masks, size)
            run.parts.recorder.record_shift_maps(run.acting, maps)
        g = run.family.scale(run.pipe, run.arguments)
        wide = torch.promote_types(u.dtype, torch.float32)
        result = uncond.clone()
        predicted(result, sample, size).copy_(u.to(wide) + g / (g - 1) * shift.to(wide))
        run.cond, run.others = None, []
        return result

    def _forward(self, names: Sequence[str], inputs: Mapping[str, Any], seen: Seen) -> Any:
        """The denoiser on inputs that hold the branches `names`, with what acts inside it."""
        parts = self.run.parts
        branches = len(names)
        if parts.attention is not None:
            batch = len(inputs[self.run.family.sample]) // branches
            first = names.index("cond") * batch if "cond" in names else None
            inputs = parts.attention.begin_forward(inputs, None if first is None else (first, first + batch))
            # negatives that are rows of their own are further branches, behind those that were asked for
            if parts.attention.on and self.run.family.negative_rows:
                branches += len(parts.attention.acting)
        if parts.negtome is not None:
            parts.negtome.branches = branches
        with self._cache_context(names):
            output = self.fn_ref.original_forward(**inputs)
        if parts.attention is not None:
            output = parts.attention.end_forward(output)
        if parts.negtome is not None and parts.negtome.pushing:
            parts.negtome.check_reached()
            share, maps = parts.negtome.take_shares(), parts.negtome.take_maps()
            if share is not None and maps is not None:
                seen.pushed.append(share.unflatten(0, (branches, -1))[: len(names)])
                seen.push_maps.append(maps.unflatten(0, (branches, -1))[: len(names)])
        if parts.attention is not None and parts.attention.on:
            parts.attention.check_reached()
            if parts.attention.measure:
                seen.changed.append(parts.attention.take_changes())
                seen.change_maps.append(parts.attention.take_maps()[None])
        return output

    @property
    def _limit(self) -> int | None:
        """How many branches may run in one forward."""
        parts = self.run.parts
        if self._cached:
            # each negative keeps what is its own
            return 1
        if parts.max_branch_batch is None or parts.attention is None or not self.run.family.negative_rows:
            return parts.max_branch_batch
        # the rest is for those that come as further rows
        return parts.max_branch_batch - len(parts.attention.acting)

    @property
    def _cached(self) -> bool:
        return bool(getattr(self.model, "is_cache_enabled", False))

    def _cache_context(self, names: Sequence[str]) -> AbstractContextManager[Any]:
        """Where a cached model keeps what it skips: what the pipeline does not run itself goes by a name of its own."""
        attention = self.run.parts.attention
        if not self._cached:
            return nullcontext()
        if attention is not None and attention.on:
            context = self.model.cache_context(f"{names[0]} with negatives {attention.acting}")
        elif names[0].startswith("negative") or self._captures(names):
            # a context does not nest: after the references' the pipeline's must be opened again
            context = self.model.cache_context(names[0])
        else:
            return nullcontext()
        named: AbstractContextManager[Any] = context
        return named

    def _captures(self, names: Sequence[str]) -> bool:
        """Whether the references run before these branches."""
        parts = self.run.parts
        pushing = parts.negtome is not None and parts.negtome.pushing
        return pushing and parts.references is not None and "cond" in names

    def _undisturbed(self, inputs: Mapping[str, Any]) -> Any:
        """The denoiser as it is, whatever acts in this step."""
        negtome, attention = self.run.parts.negtome, self.run.parts.attention
        pushing = negtome is not None and negtome.pushing
        if negtome is not None:
            negtome.pushing = False
        if attention is not None:
            attention.on = False
        output = self.fn_ref.original_forward(**inputs)
        if negtome is not None:
            negtome.pushing = pushing
        return output

    def _capture(self, inputs: Mapping[str, Any]) -> None:
        """Run the references at this step's noise, for each module to keep its tokens."""
        run, references, negtome = self.run, self.run.parts.references, self.run.parts.negtome
        assert references is not None and negtome is not None
        noisy = noised(run.pipe.scheduler, references, run.timestep)
        # other conditions (adapters) are those of the first, unconditional, row
        like_first, total = Branch("reference", slice(0, 1), references.text), len(inputs[run.family.sample])
        at_once = run.parts.max_branch_batch or len(noisy)
        # where a cached model skips a module, what it kept at the last step holds on
        kept = {module: _parts_of(module.reference, at_once) for module in negtome.modules}
        negtome.pushing, negtome.capturing = False, True
        for i, latents in enumerate(noisy.split(at_once)):
            folded = fold(run.family, inputs, total, [like_first] * len(latents))
            folded[run.family.sample] = with_latents(folded[run.family.sample], latents)
            for module, parts in kept.items():
                module.reference = parts.get(i)
            with self.model.cache_context(f"references {i}") if self._cached else nullcontext():
                self.fn_ref.original_forward(**folded)
            for module, parts in kept.items():
                if module.reference is not None:
                    # copied, because a forward that replays CUDA graphs writes its next result into the same memory
                    parts[i] = module.reference.clone()
        negtome.pushing, negtome.capturing = True, False
        for module, parts in kept.items():
            module.reference = torch.cat(list(parts.values())) if parts else None


def _parts_of(reference: Tensor | None, rows: int) -> dict[int, Tensor]:
    return {} if reference is None else dict(enumerate(reference.split(rows)))


def _rows_of(output: Any) -> Tensor:
    """A denoiser's prediction [rows, ..], whatever it comes in: a tuple, an output object, a list of one a row."""
    first = output[0]
    return torch.stack(first) if isinstance(first, list) else first


def _as_output(prediction: Tensor, like: Any) -> Any:
    first = list(prediction.unbind()) if isinstance(like[0], list) else prediction
    if isinstance(like, tuple):
        return (first, *like[1:])
    return type(like)(sample=first)
