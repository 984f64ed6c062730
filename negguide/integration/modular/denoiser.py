"""One run of a modular pipeline whose denoiser methods in attention and token space act in.

The blocks of a modular pipeline are handed the pipeline itself, to take models and guiders from. Those that stand
behind `GuideDenoiser` are handed a view of it (`negguide.integration.hooks.views`), in which a denoiser's call goes
through the run and a guider says of which of its predictions that call is. Nothing is attached to a model.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from diffusers.guiders import BaseGuidance
from diffusers.modular_pipelines import PipelineState
from diffusers.utils.torch_utils import unwrap_module
from torch import Tensor, nn

from negguide.guidance.grid import resize_mask
from negguide.integration.families import Family
from negguide.integration.hooks.caches import check_cache
from negguide.integration.hooks.compat import input_names, is_cached
from negguide.integration.hooks.denoiser import nested
from negguide.integration.hooks.interception import intercepted
from negguide.integration.hooks.model_hook import has_attached_method
from negguide.integration.hooks.step_tracking import StepTracker, check_windows
from negguide.integration.hooks.views import Proxy, view_of
from negguide.integration.runtime.attention import AttentionRuntime, text_targets
from negguide.integration.runtime.base import Forward, MethodRuntime, step_state
from negguide.integration.runtime.batching import Branch
from negguide.integration.runtime.masks import check_aspect, mask_tensor, negative_masks
from negguide.integration.runtime.tokens import TokenRuntime, token_targets
from negguide.methods import Method, Methods

COND = "pred_cond"
"""What guiders call the prediction of the prompt; it is the first of a step."""


class ModularRun:
    """One run of a modular pipeline, as its denoisers and guiders are called in it.

    Args:
        components: the pipeline itself.
        state: of the run.
        family: of its denoisers.
        latent_size: `latent_size(inputs)` -> (height, width) of the latents by a denoiser call's inputs.
        make: `make(latent_size)` -> the methods' runtimes; what acts around a forward is nested in this order.
        methods: whose windows are checked once the scheduler's steps are known.
    """

    # what views ask of a run: predictions go on as they are, and nobody keeps a view past its run
    widens = False
    finished = False

    def __init__(
        self,
        components: Any,
        state: PipelineState,
        family: Family,
        latent_size: Callable[[Mapping[str, Any]], tuple[int, int]],
        make: Callable[[tuple[int, int]], Sequence[MethodRuntime]],
        methods: Sequence[Method],
    ) -> None:
        self.pipe = components
        self.family = family
        self.latent_size = latent_size
        self.make = make
        self.methods = methods
        self.runtimes: Sequence[MethodRuntime] | None = None
        self.tracker: StepTracker | None = None
        self._state = weakref.ref(state)
        self._guided = bool(guiders_of(components))
        # of a guider's step: its predictions in the order of their calls, and the one that is called now
        self._predictions: list[str] = []
        self._present: str | None = None

    def view(self) -> Any:
        """The pipeline as the blocks see it that act in this run."""
        guiders = tuple((name, GuiderProxy) for name in guiders_of(self.pipe))
        return view_of(self.pipe, self, self.family.denoisers, guiders)

    # ---- What a guider says ----

    def begin_predictions(self, names: Sequence[str]) -> None:
        """A guider has prepared a step: its predictions by name, in the order in which they will be called."""
        self._predictions = list(names)
        self._present = None

    def begin_prediction(self) -> None:
        """The denoiser will be called for the next of them."""
        self._present = self._predictions.pop(0) if self._predictions else None

    def end_prediction(self) -> None:
        """It has been called."""
        self._present = None

    # ---- What a denoiser is called for ----

    def denoise(self, model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """What a denoiser gives for one call of the pipeline."""
        family = self.family
        names = input_names(model, family.sample)
        inputs: Mapping[str, Any] = {**dict(zip(names, args, strict=False)), **kwargs}
        if family.is_auxiliary(inputs):
            return model(*args, **kwargs)
        branch, inner = self._branch(), unwrap_module(model)
        # the conditional one is the first of a step
        if branch == "cond" or self.runtimes is None:
            self._begin_step(inner, inputs)
        assert self.runtimes is not None
        rows = len(inputs[family.sample])
        forward = Forward(inner, [Branch(branch, slice(0, rows))], rows)
        for runtime in self.runtimes:
            inputs = runtime.begin_forward(inputs, forward)
        positional = [inputs[name] for name in names[: len(args)]]
        named = {name: value for name, value in inputs.items() if name not in names[: len(args)]}
        modules = {
            name: module
            for runtime in self.runtimes
            for name, module in runtime.targets[inner].modules.items()
        }
        with intercepted(modules, nested([runtime.interceptors(inner) for runtime in self.runtimes])):
            output = model(*positional, **named)
        for runtime in self.runtimes:
            output = runtime.end_forward(output, forward)
        return output

    def _branch(self) -> str:
        if not self._guided:
            return "cond"
        if self._present is None:
            raise ValueError(
                "the denoiser is called outside of what the pipeline's guider prepared, so that nothing says whether "
                "it is the prompt's prediction; a loop must call guider.prepare_inputs (or "
                "prepare_inputs_from_block_state), and guider.prepare_models before each call"
            )
        return "cond" if self._present == COND else self._present

    def _begin_step(self, model: nn.Module, inputs: Mapping[str, Any]) -> None:
        size = self.latent_size(inputs)
        if self.runtimes is None:
            self.runtimes = self.make(size)
        if self.tracker is None:
            state = self._state()
            timesteps = None if state is None else state.get("timesteps")
            first = float(torch.as_tensor(inputs[self.family.timestep]).flatten()[0])
            calls = None if timesteps is None else len(timesteps)
            self.tracker = StepTracker(self.pipe.scheduler, calls, first)
            check_windows(self.methods, self.tracker.at(0))
        step = step_state(self.family, self.tracker.advance(), size, inputs[self.family.sample], model)
        for runtime in self.runtimes:
            runtime.begin_step(step)

    def noting_context(self, open_context: Callable[..., Any]) -> Callable[..., Any]:
        """A denoiser's `cache_context` as it is; a model with a cache was refused."""
        return open_context


class GuiderProxy(Proxy):
    """A guider that tells a run which of its predictions the denoiser is called for."""

    __slots__ = ()

    def prepare_inputs(self, *args: Any, **kwargs: Any) -> Any:
        """The guider's own batches, which are noted."""
        return self._noted(self._target.prepare_inputs(*args, **kwargs))

    def prepare_inputs_from_block_state(self, *args: Any, **kwargs: Any) -> Any:
        """The guider's own batches, which are noted."""
        return self._noted(self._target.prepare_inputs_from_block_state(*args, **kwargs))

    def _noted(self, batches: Sequence[Any]) -> Any:
        self._run.begin_predictions([getattr(batch, BaseGuidance._identifier_key) for batch in batches])
        return batches

    def prepare_models(self, denoiser: Any) -> None:
        """Let the guider prepare the denoiser; a prediction begins."""
        self._run.begin_prediction()
        # hooks are put on the model itself
        self._target.prepare_models(_itself(denoiser))

    def cleanup_models(self, denoiser: Any) -> None:
        """Let the guider undo what it did to the denoiser; a prediction ends."""
        self._run.end_prediction()
        self._target.cleanup_models(_itself(denoiser))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Combine predictions as the guider does."""
        return self._target(*args, **kwargs)


def _itself(denoiser: Any) -> Any:
    return denoiser._target if issubclass(type(denoiser), Proxy) else denoiser


def guiders_of(components: Any) -> dict[str, Any]:
    """The guiders of a modular pipeline by name."""
    return {name: part for name, part in components.components.items() if isinstance(part, BaseGuidance)}


def runtimes_of(
    methods: Methods,
    family: Family,
    models: Sequence[nn.Module],
    texts: Sequence[dict[str, Any]],
    images: int,
    size: tuple[int, int],
) -> list[MethodRuntime]:
    """What acts in attention goes around what acts on its tokens."""
    runtimes: list[MethodRuntime] = []
    if methods.attention is not None:
        targets = {model: text_targets(model, family) for model in models}
        masks = negative_masks(methods.attention.negatives, size, size, "the latents")
        runtimes.append(AttentionRuntime(methods.attention, family, texts, targets, images, masks))
    token = methods.token
    if token is not None:
        (reference_mask,) = token.reference_masks or (None,)
        pushed = {model: token_targets(model, family, token) for model in models}
        runtimes.append(
            TokenRuntime(
                token,
                family,
                pushed,
                token.group_size or images,
                _mask(f"mask of {type(token).__name__}", token.mask, size),
                _mask(f"reference_mask of {type(token).__name__}", reference_mask, size),
            )
        )
    return runtimes


def _mask(name: str, mask: Any, size: tuple[int, int]) -> Tensor | None:
    if mask is None:
        return None
    check_aspect(name, mask, size, "the latents")
    return resize_mask(mask_tensor(mask)[None, None], size)


def check_denoisers(methods: Methods, family: Family, models: Sequence[nn.Module]) -> None:
    """Refuse what a denoiser, or what is on it, does not allow.

    Raises:
        ValueError: naming it.
    """
    if methods.attention is not None and not family.attention:
        raise ValueError(
            f"{type(methods.attention).__name__} cannot act in {family.name}: it is not known where its attention "
            "meets the text; PerpNeg can"
        )
    for model in models:
        if has_attached_method(model):
            raise ValueError(
                "the pipeline has GuideDenoiser while the model has a method of negguide on it already "
                "(apply_to_model), which would act too; use one of the two: negguide.remove_from_model(model) takes it "
                "away"
            )
        if methods.attention is None:
            continue
        name = type(methods.attention).__name__
        check_cache(model, name)
        whole = all((window.start, window.stop) == (0, 1) for window in methods.attention.windows)
        if not whole and is_cached(model):
            raise ValueError(
                f"{name} has a window, and what the model's cache keeps of one side of it would be used on the other; "
                "give start=0, stop=1, or use the classic pipeline (negguide.from_pipe), which keeps them apart, or "
                "model.disable_cache()"
            )
