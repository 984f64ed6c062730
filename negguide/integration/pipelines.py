"""Pipelines that take `negative_guidance=`: the mixin, one class per family, and `from_pipe`."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from diffusers import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion import StableDiffusionPipelineOutput
from diffusers.utils.torch_utils import unwrap_module
from torch import nn

from negguide.integration.denoiser import DenoiserHook
from negguide.integration.families import STABLE_DIFFUSION, Family
from negguide.integration.hooks import attached
from negguide.integration.negtome import choose_blocks, self_attention
from negguide.integration.prepare import check_call, encode_negatives, encode_references, prepare_negtome
from negguide.integration.processors import NegToMeAttnProcessor, pushed
from negguide.integration.trace import Trace, TraceRecorder
from negguide.methods import Method, NegToMe, PerpNeg, collect

_HOOK = "negguide"
_EXTRA_PARAMETERS = {"negative_guidance": None, "trace": False, "max_branch_batch": None}
_EXTRA_DOC = """

        Arguments of negguide, beside those of the pipeline:
            negative_guidance: a `PerpNeg`, a `NegToMe`, or a list of one each; None = the plain pipeline.
            trace: also return how the negatives acted: `.trace` of the output, or the last element of the tuple with
                return_dict=False.
            max_branch_batch: how many guidance branches (the unconditional, the conditional, each active negative) run
                in one forward; None = all. Less memory, the same result. At least what the pipeline itself runs at
                once where no negative is active.

        Raises:
            TypeError, ValueError: wrong arguments, before any model runs, naming the argument, its value and what
                would be right.
"""


class NegativeGuidanceMixin:
    """Adds `negative_guidance=` to a diffusers pipeline; list it before the pipeline and name the `family`.

    The pipeline's own `__call__` runs, with hooks on the denoiser for as long as the call takes.
    """

    family: ClassVar[Family]
    traced_output: ClassVar[type]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if NegativeGuidanceMixin in cls.__bases__:
            cls.__call__ = _guided_call(super().__call__)  # type: ignore[method-assign,misc]


def _guided_call(base_call: Callable[..., Any]) -> Callable[..., Any]:
    """`base_call` with the arguments of negguide, which its signature and documentation show."""
    signature = inspect.signature(base_call)

    @functools.wraps(base_call)
    def __call__(
        self: Any,
        *args: Any,
        negative_guidance: Method | Sequence[Method] | None = None,
        trace: bool = False,
        max_branch_batch: int | None = None,
        **kwargs: Any,
    ) -> Any:
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        if isinstance(bound.arguments["prompt"], list) and not bound.arguments["prompt"]:
            raise ValueError("prompt is an empty list; give at least one prompt")
        _check_options(negative_guidance, trace, max_branch_batch)
        if negative_guidance is None:
            return base_call(self, *args, **kwargs)
        hook, blocks = _prepare(self, bound.arguments, *collect(negative_guidance), trace, max_branch_batch)
        with ExitStack() as stack:
            stack.enter_context(attached(getattr(self, self.family.denoiser), _HOOK, hook))
            if hook.negtome is not None:
                stack.enter_context(pushed(blocks.values(), hook.negtome))
            output = base_call(self, *args, **kwargs)
        recorder = hook.recorder
        if recorder is None:
            return output
        if isinstance(output, tuple):
            return (*output, recorder.trace())
        values = {field.name: getattr(output, field.name) for field in fields(output)}
        return self.traced_output(**values, trace=recorder.trace())

    parameters = list(signature.parameters.values())
    extra = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
        for name, default in _EXTRA_PARAMETERS.items()
    ]
    position = next((i for i, p in enumerate(parameters) if p.kind is p.VAR_KEYWORD), len(parameters))
    parameters[position:position] = extra
    __call__.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    __call__.__doc__ = (base_call.__doc__ or "") + _EXTRA_DOC
    return __call__


def _check_options(negative_guidance: Any, trace: Any, max_branch_batch: Any) -> None:
    if not isinstance(trace, bool):
        raise TypeError(f"trace must be True or False, got {trace!r}")
    if trace and negative_guidance is None:
        raise ValueError("trace=True needs negative_guidance=; without it there is nothing to trace")
    if max_branch_batch is not None:
        if isinstance(max_branch_batch, bool) or not isinstance(max_branch_batch, int):
            raise TypeError(f"max_branch_batch must be an integer or None, got {max_branch_batch!r}")
        if max_branch_batch < 1:
            raise ValueError(f"max_branch_batch must be at least 1, or None for all, got {max_branch_batch}")


@torch.no_grad()
def _prepare(
    pipe: Any,
    arguments: Mapping[str, Any],
    perp_neg: PerpNeg | None,
    negtome: NegToMe | None,
    trace: bool,
    max_branch_batch: int | None,
) -> tuple[DenoiserHook, dict[str, nn.Module]]:
    """Check the call and encode what it needs: the denoiser's hook, and the self-attention modules to push."""
    family: Family = pipe.family
    model: nn.Module = getattr(pipe, family.denoiser)
    check_call(pipe, family, arguments, perp_neg, negtome)
    blocks = {} if negtome is None else _blocks(family, model, negtome)

    recorder = None
    if trace:
        prompts = () if perp_neg is None else tuple(negative.prompt for negative in perp_neg.negatives)
        recorder = TraceRecorder(prompts, negtome=negtome is not None)
    run = references = None
    if negtome is not None:
        run = prepare_negtome(pipe, family, arguments, negtome, measure=trace)
        references = encode_references(pipe, family, arguments, negtome)
    negatives = None if perp_neg is None else encode_negatives(pipe, family, arguments, perp_neg)
    hook = DenoiserHook(pipe, family, model, negatives, run, references, max_branch_batch, recorder)
    return hook, blocks


def _blocks(family: Family, model: nn.Module, negtome: NegToMe) -> dict[str, nn.Module]:
    modules = self_attention(unwrap_module(model))
    if any(isinstance(module.processor, NegToMeAttnProcessor) for module in modules.values()):
        raise ValueError(
            "negative_guidance holds a NegToMe while the model has NegToMe attention processors already, which would "
            "push twice; use one of the two (model.set_default_attn_processor() removes them)"
        )
    return choose_blocks(modules, family.negtome_blocks if negtome.blocks is None else negtome.blocks)


@dataclass
class NegGuideStableDiffusionPipelineOutput(StableDiffusionPipelineOutput):
    """The pipeline's output, and how the negatives acted."""

    trace: Trace


class NegGuideStableDiffusionPipeline(NegativeGuidanceMixin, StableDiffusionPipeline):
    """`StableDiffusionPipeline` (1.x and 2.x) with `negative_guidance=`."""

    family = STABLE_DIFFUSION
    traced_output = NegGuideStableDiffusionPipelineOutput


# what from_pipe knows: each family's pipeline, and the class that adds negative_guidance= to it
_PIPELINES: dict[type, type] = {StableDiffusionPipeline: NegGuideStableDiffusionPipeline}


def from_pipe(pipe: Any) -> Any:
    """The pipeline with `negative_guidance=` that shares everything with `pipe`: models, dtypes, devices, offloading.

    Nothing is copied or cast, and `pipe` stays usable.

    Raises:
        ValueError: for a pipeline of an unsupported class.
    """
    if type(pipe) in _PIPELINES.values():
        return pipe
    if type(pipe) not in _PIPELINES:
        supported = ", ".join(cls.__name__ for cls in _PIPELINES)
        raise ValueError(f"from_pipe does not know {type(pipe).__name__}; supported pipelines: {supported}")
    # Not diffusers' own from_pipe: it casts all models to one dtype and forgets offloading and the progress bar.
    guided: Any = object.__new__(_PIPELINES[type(pipe)])
    guided.__dict__.update(pipe.__dict__)
    return guided
