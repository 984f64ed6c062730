"""Perp-Neg as a guider of modular diffusers: by itself, or around one of the guiders that diffusers has."""

import json
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from diffusers.guiders import BaseGuidance, ClassifierFreeGuidance
from diffusers.guiders.guider_utils import GuiderOutput
from diffusers.modular_pipelines.modular_pipeline import BlockState
from torch import Tensor

from negguide.guidance import uncond_for
from negguide.integration.diagnostics.trace import Trace
from negguide.integration.hooks.step_tracking import check_windows
from negguide.integration.modular.combinations import (
    LINEAR,
    check_guider,
    check_left_out,
    check_overlap,
    guider_of_config,
)
from negguide.integration.modular.runs import GuiderOfRuns, GuiderRun
from negguide.integration.runtime.masks import negative_masks, packed, unpacked
from negguide.integration.runtime.score import LEAST_GUIDANCE
from negguide.methods import PerpNeg

_OWN = ("guidance_scale", "guidance_rescale", "use_original_formulation", "start", "stop", "enabled")


class PerpNegGuidance(GuiderOfRuns):
    """Guidance with negatives that only take away what of them is perpendicular to the prompt.

    With u, c and n_k the predictions of the empty (or classic negative) prompt, the prompt and negative k:

        u + g (p - S),  S = sum_k weight_k mask_k (n_k - u - <n_k - u, p> / |p|^2 p),  p = c - u.

    Around another guider (`guidance=`), which must be one of these:

    | guider | what it is given | what comes out |
    |---|---|---|
    | `ClassifierFreeGuidance` (the default), `PerturbedAttentionGuidance`, `SkipLayerGuidance`, \
`SmoothedEnergyGuidance` | u' = u + G / (G - 1) S in place of u | exactly the formula, with the guider's own terms \
added and `guidance_rescale` applied to it. G is g, or g + 1 with `use_original_formulation` |
    | `AdaptiveProjectedGuidance`, `AdaptiveProjectedMixGuidance`, `MagnitudeAwareGuidance`, \
`TangentialClassifierFreeGuidance`, `FrequencyDecoupledGuidance`, `ClassifierFreeZeroStarGuidance` | c - S in place \
of c | what the guider makes of the direction p - S: it clips, projects, scales or splits that as it does p. Exactly \
the formula where it leaves a direction alone; `guidance_rescale` goes by the spread of c - S |

    `AutoGuidance` (its u is no empty prompt), `LTX2Guidance` and guiders from elsewhere are refused.

    Runs do not disturb one another: in several threads, and one inside another, each has its own state.

    Negatives act in steps in which the guider makes an unconditional prediction and their window is open; in all others
    they cost nothing. Windows are fractions of the steps, as `start` and `stop` of every guider. The pipeline needs the
    block `EncodeNegatives` in front of its text encoder; `negguide.with_perp_neg` puts both in.

    Args:
        perp_neg: the negatives.
        guidance_scale, guidance_rescale, use_original_formulation, start, stop, enabled: of the
            `ClassifierFreeGuidance` that is used without `guidance`, with its defaults; not to be combined with it.
        guidance: the guider to go around. It is kept, not copied.
        trace: keep how the negatives act, for the property `trace`. It is not saved.

    Raises:
        TypeError: `perp_neg` is no `PerpNeg`, `guidance` is no guider, or `trace` is no bool.
        ValueError: a guider for which Perp-Neg is not defined or whose guidance is off; settings beside `guidance`; a
            negative whose window lies outside the guider's; `economy` or `guidance_stop` around another guider than
            `ClassifierFreeGuidance`.

    Source: Perp-Neg, arXiv 2304.04968.

    Example:
        >>> guider = PerpNegGuidance(PerpNeg("black glasses"), guidance_scale=7.5)
        >>> guider = PerpNegGuidance(PerpNeg("black glasses"), guidance=AdaptiveProjectedGuidance(guidance_scale=10))
    """

    _input_predictions = ["pred_cond", "pred_uncond"]  # noqa: RUF012  (the base class asks for a list)

    def __init__(
        self,
        perp_neg: PerpNeg | Mapping[str, Any],
        guidance_scale: float | None = None,
        guidance_rescale: float | None = None,
        use_original_formulation: bool | None = None,
        start: float | None = None,
        stop: float | None = None,
        enabled: bool | None = None,
        guidance: BaseGuidance | Mapping[str, Any] | None = None,
        trace: bool = False,
    ) -> None:
        given = (guidance_scale, guidance_rescale, use_original_formulation, start, stop, enabled)
        own = {name: value for name, value in zip(_OWN, given, strict=True) if value is not None}
        # mappings are what the config holds
        if isinstance(perp_neg, Mapping):
            perp_neg = PerpNeg.from_dict(perp_neg, unpacked)
        if isinstance(guidance, Mapping):
            guidance = guider_of_config(guidance)
        if not isinstance(perp_neg, PerpNeg):
            raise TypeError(f"perp_neg must be a PerpNeg, e.g. PerpNeg('black glasses'), got {perp_neg!r}")
        if not isinstance(trace, bool):
            raise TypeError(f"trace must be True or False, got {trace!r}")
        if guidance is not None and own:
            raise ValueError(
                f"{', '.join(own)} cannot be given beside guidance={type(guidance).__name__}; set it there"
            )
        inner: Any = ClassifierFreeGuidance(**own) if guidance is None else guidance
        check_guider(inner)
        check_overlap(perp_neg, inner)
        check_left_out(perp_neg, inner)

        self.perp_neg = perp_neg
        self.guidance = inner
        self._traces = trace
        self._warned = False
        self._runs: dict[int, list[GuiderRun]] = {}
        super().__init__(inner._start, inner._stop, inner._enabled)
        if guidance is None:
            config = {name: inner.config[name] for name in _OWN}
        else:
            config = {"guidance": json.loads(inner.to_json_string())}
        self.register_to_config(perp_neg=perp_neg.to_dict(packed), **config)

    # The guider inside decides; one switch for both, whichever is turned.

    @property
    def _enabled(self) -> bool:
        return bool(self.guidance._enabled)

    @_enabled.setter
    def _enabled(self, value: bool) -> None:
        self.guidance._enabled = value

    @property
    def zero_init_steps(self) -> int:
        """That of the guider inside, where it has one: Helios sets it for its stages."""
        return int(self._run.guidance.zero_init_steps)

    @zero_init_steps.setter
    def zero_init_steps(self, value: int) -> None:
        self._run.guidance.zero_init_steps = value

    @property
    def guidance_scale(self) -> float:
        """The guider's own; some pipelines read it."""
        return float(self.guidance.guidance_scale)

    @property
    def trace(self) -> Trace:
        """How the negatives acted in the last run, as `trace=True` of the classic pipelines tells it.

        Where predictions are packed, [B, tokens, C], it has maps only if a negative has a mask.

        Raises:
            ValueError: the guider was made without trace=True, or there was no run.
        """
        recorder = self._run.recorder
        if recorder is None:
            raise ValueError("trace is kept with PerpNegGuidance(..., trace=True) only")
        if not recorder.timesteps:
            raise ValueError("trace is that of the last run, and there was none")
        return recorder.trace()

    def set_negatives(
        self,
        texts: Sequence[Mapping[str, Any]],
        latent_size: tuple[int, int] | None = None,
        images_per_prompt: int = 1,
        scheduler: Any = None,
        positions: Sequence[str] = (),
        generated: Callable[[Mapping[str, Any]], slice] = lambda state: slice(None),
    ) -> None:
        """Take the encoded negatives of the run that has begun; `EncodeNegatives` calls it.

        Args:
            texts: for each negative {field of the denoiser's guider inputs: tensor [1, ...], or list of one tensor, or
                a function that makes it of the prompt's own fields}.
            latent_size: (height, width) of the latents where predictions are packed, [B, tokens, C], and a negative
                has a mask; other predictions show their size.
            images_per_prompt: consecutive images of one prompt, for negatives of a prompt's own.
            scheduler: of the run, whose steps windows count; None = each call of the model is one.
            positions: fields without a batch axis.
            generated: `generated(state)` -> where in a prediction along its second axis the generated image is, by what
                the run has so far.

        Raises:
            ValueError: not one text for each negative.
        """
        count = len(self.perp_neg.negatives)
        if len(texts) != count:
            raise ValueError(f"texts must be one for each of the {count} negatives, got {len(texts)}")
        run = self._run
        run.texts = [dict(text) for text in texts]
        run.latent_size = latent_size
        run.guidance_step.images_per_prompt = images_per_prompt
        run.scheduler = scheduler
        run.positions = tuple(positions)
        run.find_generated = generated

    def end_step(self) -> None:
        """Forget where in a run this is, so that `num_conditions` is its maximum.

        Text encoders ask for it before the next run, to see whether guidance will want an unconditional embedding: a
        guider that stood where its window had closed would say no.
        """
        self._run.leave_step()

    def set_state(self, step: int | None, num_inference_steps: int | None, timestep: Any) -> None:
        """Begin a step: tell the run of this thread, and the guider inside, where the sampler is."""
        run, runs = self._run, self._runs[threading.get_ident()]
        # the last one that goes on is the one that a trace is of
        runs.sort(key=lambda other: other is run)
        run.guidance._enabled = self.guidance._enabled
        super().set_state(step, num_inference_steps, timestep)
        run.guidance.set_state(step, num_inference_steps, timestep)
        run.begin_call(step, num_inference_steps, timestep)

    def prepare_models(self, denoiser: torch.nn.Module) -> None:
        """Let the guider inside prepare the denoiser for its own predictions, not for those of negatives."""
        self._count_prepared += 1
        # what the guider does to the model (skipped layers) is for its own predictions
        if self._count_prepared <= self._run.guider_branches:
            self._run.guidance.prepare_models(denoiser)

    def cleanup_models(self, denoiser: torch.nn.Module) -> None:
        """Let the guider inside undo that."""
        if self._count_prepared <= self._run.guider_branches:
            self._run.guidance.cleanup_models(denoiser)

    def prepare_inputs(self, data: Mapping[str, Any]) -> list[BlockState]:
        """The batches of the guider inside, and one for each negative that is evaluated."""
        return self._with_negatives(self._run.guidance.prepare_inputs(data), data)

    def prepare_inputs_from_block_state(
        self, data: BlockState, input_fields: Mapping[str, str | tuple[str, ...]]
    ) -> list[BlockState]:
        """The same, of fields of the state of a block."""
        values = {
            field: tuple(getattr(data, name, None) for name in source)
            if isinstance(source, tuple)
            else getattr(data, source, None)
            for field, source in input_fields.items()
        }
        batches = self._run.guidance.prepare_inputs_from_block_state(data, input_fields)
        return self._with_negatives(batches, values)

    def _with_negatives(self, batches: list[BlockState], values: Mapping[str, Any]) -> list[BlockState]:
        """The guider's batches, and one for each negative that acts: the conditional batch with other text."""
        for batch in batches:
            for field, value in values.items():
                # diffusers drops what is neither a tensor nor a tuple
                if value is not None and not isinstance(value, tuple) and not hasattr(batch, field):
                    setattr(batch, field, value)
        run = self._run
        names = [getattr(batch, self._identifier_key) for batch in batches]
        guided = "pred_uncond" in names and self._begin_guided_step(values)
        run.acts = guided and bool(run.guidance_step.active)
        run.leaves_out_uncond = guided and run.guidance_step.leaves_out_uncond
        if run.leaves_out_uncond:
            place = names.index("pred_uncond")
            del names[place], batches[place]
        run.guider_branches = len(batches)
        for k in run.guidance_step.stale if run.acts else []:
            assert run.texts is not None
            text = run.text_for(k, {field: values[field][0] for field in run.texts[k]})
            names.append(f"pred_negative_{k}")
            batches.append(BlockState(**{**batches[0].as_dict(), **text, self._identifier_key: names[-1]}))
        run.branches = names
        return batches

    def _begin_guided_step(self, values: Mapping[str, Any]) -> bool:
        """Whether guidance is on at this step of a run that can have negatives; it begins here."""
        run = self._run
        if run.texts is None:
            raise ValueError(
                "PerpNegGuidance has no encoded negatives: put the block EncodeNegatives in front of the text encoder "
                "(negguide.with_perp_neg(pipe) returns the pipeline with it), and where two pipelines share the work, "
                "give both the same guider"
            )
        for field in run.texts[0]:
            if field not in values:
                raise ValueError(
                    f"the negatives are encoded as {', '.join(run.texts[0])}, and this denoiser takes "
                    f"{', '.join(values)}; encode them with the text encoder of the pipeline that draws"
                )
            # a mask that is left out lets everything through
            pair = isinstance(values[field], tuple) and (values[field][1] is not None or "mask" in field)
            if not pair:
                raise ValueError(
                    f"PerpNegGuidance needs an unconditional prediction, and the pipeline has only one {field}; give "
                    "negative_prompt='' (Stable Diffusion 3 makes no unconditional embedding without it)"
                )
        assert run.step is not None
        check_windows([self.perp_neg], run.step)
        run.guidance_step.begin_step(run.step)
        return self._guided()

    def _guided(self) -> bool:
        """Whether guidance is far enough from off for the unconditional prediction to count."""
        if type(self.guidance).__name__ not in LINEAR:
            return True
        scale = self._scale
        if abs(scale - 1) > LEAST_GUIDANCE:
            return True
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"guidance_scale is {scale}, so close to 1 that the unconditional prediction hardly counts; the "
                f"negatives are off, give more than {1 + LEAST_GUIDANCE}",
                stacklevel=2,
            )
        return False

    @property
    def _scale(self) -> float:
        """g of u + g (c - u), as the guider inside combines its predictions."""
        guidance: Any = self.guidance
        return float(guidance.guidance_scale) + (1.0 if guidance.use_original_formulation else 0.0)

    def __call__(self, data: list[BlockState]) -> Any:
        """Combine the predictions of a step, which ends it."""
        output = super().__call__(data)
        self.end_step()
        return output

    def forward(self, pred_cond: Tensor, pred_uncond: Tensor | None = None, **others: Tensor) -> GuiderOutput:
        """The guided prediction, [B, ...]; `others` are those of negatives (`pred_negative_0`, ..) and of the guider.

        `pred_cond` and `pred_uncond` of the output are as they were given.
        """
        run = self._run
        if run.recorder is not None:
            run.recorder.begin_call(run.timestep, len(pred_cond), pred_cond.device)
        step = run.guidance_step
        evaluated = {k: others.pop(f"pred_negative_{k}") for k in step.stale} if run.acts else {}
        if run.leaves_out_uncond or (pred_uncond is not None and run.step is not None):
            pred_uncond = step.unconditional(pred_uncond, pred_cond)
        if pred_uncond is None or not run.acts:
            return run.guidance.forward(pred_cond=pred_cond, pred_uncond=pred_uncond, **others)
        # float32 for 16-bit predictions: near g = 1 the unconditional one becomes large
        wide = torch.promote_types(pred_cond.dtype, torch.float32)
        cond, uncond = pred_cond.to(wide, copy=True), pred_uncond.to(wide, copy=True)
        own = run.generated()
        linear = type(self.guidance).__name__ in LINEAR
        scale = self._scale if linear else 1.0
        guided = self._guided_prediction(uncond[:, own], cond[:, own], evaluated, scale, own)
        if linear:
            uncond[:, own] = uncond_for(guided, uncond[:, own], cond[:, own], scale)
        else:
            cond[:, own] = guided
        if run.recorder is not None:
            step.record(run.recorder)
        output = run.guidance.forward(
            pred_cond=cond, pred_uncond=uncond, **{name: other.to(wide) for name, other in others.items()}
        )
        return GuiderOutput(
            pred=output.pred.to(pred_cond.dtype), pred_cond=pred_cond, pred_uncond=pred_uncond
        )

    def _guided_prediction(
        self, uncond: Tensor, cond: Tensor, evaluated: Mapping[int, Tensor], scale: float, own: slice
    ) -> Tensor:
        """u + g (p - S) of the generated image; `evaluated` are whole predictions of negatives."""
        step = self._run.guidance_step
        size = self._size(cond)
        step.masks = self._masks(cond, size)
        negatives = {k: prediction[step.rows(k, len(cond)), own] for k, prediction in evaluated.items()}
        return step.guided(uncond, cond, negatives, scale, size, measure=self._run.recorder is not None)

    def _masks(self, prediction: Tensor, size: tuple[int, int] | None) -> Tensor | None:
        """The masks of all negatives at the size of the latents, [K, 1, h, w]; None without any."""
        negatives = self.perp_neg.negatives
        if all(negative.mask is None for negative in negatives):
            return None
        if size is None:
            raise ValueError(
                "latent_size must be given to set_negatives: predictions are packed, and a mask is not"
            )
        masks = negative_masks(negatives, size, size, "the grid of latents")
        return None if masks is None else masks.to(prediction.device)

    def _size(self, prediction: Tensor) -> tuple[int, int] | None:
        """(height, width) of the latents; None where a packed prediction does not show it."""
        height, width = prediction.shape[-2:]
        return self._run.latent_size if prediction.ndim == 3 else (height, width)

    @property
    def is_conditional(self) -> bool:
        """Whether the prediction that is being made is one with a text other than the unconditional one."""
        branches = self._run.branches
        if branches is None or not 0 < self._count_prepared <= len(branches):
            return False
        return branches[self._count_prepared - 1] != "pred_uncond"

    @property
    def num_conditions(self) -> int:
        """How many predictions this step needs."""
        if self._run.branches is not None:
            return len(self._run.branches)
        own = int(self.guidance.num_conditions)
        return own + len(self.perp_neg.negatives) if own > 1 else own
