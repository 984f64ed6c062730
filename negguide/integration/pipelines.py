"""Pipelines that take `negative_guidance=`: the mixin, a class for each diffusers pipeline, and `from_pipe`.

The class for `StableDiffusionXLPipeline` is `NegGuideStableDiffusionXLPipeline`, and so on: imported from here by name,
it is made on first use, so that nobody waits for the import of pipelines that are not used.
"""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields, make_dataclass, replace
from typing import Any, ClassVar

import diffusers
import torch
from diffusers.utils.torch_utils import unwrap_module
from torch import nn

from negguide.integration.attending import Attending, text_attention
from negguide.integration.denoiser import DenoiserHook, Parts, Run
from negguide.integration.families import PIPELINES
from negguide.integration.family import Family, TextPlace
from negguide.integration.hooks import attached
from negguide.integration.negtome import TokenPush, choose_blocks, self_attention, suited
from negguide.integration.prepare import check_call, prepare
from negguide.integration.processors import WrappedAttnProcessor, counts_steps, wrapped
from negguide.integration.trace import Trace
from negguide.methods import AttentionMethod, Method, Methods, NegToMe, collect

_HOOK = "negguide"
_EXTRA_PARAMETERS = {"negative_guidance": None, "trace": False, "max_branch_batch": None}
_EXTRA_DOC = """

        Arguments of negguide, beside those of the pipeline:
            negative_guidance: a method, or a list of at most one `PerpNeg`, one `NegToMe`, and one of `NAG`, `ONG` and
                `VSF`; None = the plain pipeline.
            trace: also return how the negatives acted: `.trace` of the output, or the last element of the tuple with
                return_dict=False.
            max_branch_batch: how many guidance branches (the unconditional, the conditional, each active negative of
                `PerpNeg`) run in one forward of the denoiser, in every step, and how many reference images of
                `NegToMe`; None = all. Less memory, the same result up to rounding. Negatives of `NAG`, `ONG` and `VSF`
                are inside the conditional branch; on Z-Image each of them is one more, and runs together with it. A
                ControlNet runs as in the plain pipeline.

        Raises:
            TypeError, ValueError: wrong arguments, before any model runs, naming the argument, its value and what
                would be right.
"""


class NegativeGuidanceMixin:
    """Adds `negative_guidance=` to a diffusers pipeline; list it before the pipeline and name the `family`.

    The pipeline's own `__call__` runs, with hooks on the denoiser for as long as the call takes.
    """

    family: ClassVar[Family]

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
        with _guidance(self, bound.arguments, collect(negative_guidance), trace, max_branch_batch) as parts:
            output = base_call(self, *args, **kwargs)
        if parts.recorder is None:
            return output
        return _with_trace(output, parts.recorder.trace())

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
        if negative_guidance is None:
            raise ValueError(
                f"max_branch_batch={max_branch_batch!r} needs negative_guidance=; the plain pipeline runs its own "
                "branches together"
            )
        if isinstance(max_branch_batch, bool) or not isinstance(max_branch_batch, int):
            raise TypeError(f"max_branch_batch must be an integer or None, got {max_branch_batch!r}")
        if max_branch_batch < 1:
            raise ValueError(f"max_branch_batch must be at least 1, or None for all, got {max_branch_batch}")


@contextmanager
def _guidance(
    pipe: Any,
    arguments: Mapping[str, Any],
    methods: Methods,
    trace: bool,
    max_branch_batch: int | None,
) -> Iterator[Parts]:
    """Check the call, encode what it needs, and let it act while the block runs."""
    family: Family = pipe.family
    models: list[nn.Module] = [
        getattr(pipe, name) for name in family.denoisers if getattr(pipe, name, None) is not None
    ]
    if methods.negtome is not None:
        methods = replace(methods, negtome=suited(methods.negtome, family))
    check_call(pipe, family, arguments, methods, max_branch_batch)
    pushed = [_pushed(family, model, methods.negtome) for model in models]
    attending = [_attending(family, model, methods.attention) for model in models]
    for model in models:
        if counts_steps(model):
            raise ValueError(
                "negative_guidance= is given while the model has attention processors of negguide already, which count "
                "the branches of each call themselves; use one of the two (negguide.remove_attention_processors(model) "
                "removes them)"
            )
    with torch.no_grad():
        parts = prepare(pipe, family, arguments, methods, trace, max_branch_batch)
    run = Run(pipe, family, arguments, parts)
    with ExitStack() as stack:
        for model in models:
            stack.enter_context(attached(model, _HOOK, DenoiserHook(run, model)))
        if parts.negtome is not None:
            for pushes in pushed:
                modules = {at: module for at, (module, _) in pushes.items()}
                arounds = {at: TokenPush(parts.negtome, place) for at, (_, place) in pushes.items()}
                stack.enter_context(wrapped(modules, parts.negtome.method, arounds))
        if parts.attention is not None:
            for places in attending:
                modules = {at: module for at, (module, _) in places.items()}
                takes = {at: Attending(parts.attention, at, place) for at, (_, place) in places.items()}
                stack.enter_context(wrapped(modules, parts.attention.method, takes))
        yield parts


def _pushed(
    family: Family, model: nn.Module, negtome: NegToMe | None
) -> dict[str, tuple[nn.Module, TextPlace | None]]:
    """The attention modules that NegToMe pushes, and where they meet the text (None: nowhere)."""
    if negtome is None:
        return {}
    inner = unwrap_module(model)
    modules = self_attention(inner)
    _refuse_wrapped(modules, "NegToMe")
    places = text_attention(inner, family)
    chosen = choose_blocks(modules, family.negtome_blocks if negtome.blocks is None else negtome.blocks)
    return {name: (module, places.get(name)) for name, module in chosen.items()}


def _attending(
    family: Family, model: nn.Module, method: AttentionMethod | None
) -> dict[str, tuple[nn.Module, TextPlace]]:
    """The attention modules in which NAG, ONG or VSF acts, and where they meet the text."""
    if method is None:
        return {}
    inner = unwrap_module(model)
    places = text_attention(inner, family)
    modules = {name: inner.get_submodule(name) for name in places}
    _refuse_wrapped(modules, type(method).__name__)
    return {name: (modules[name], place) for name, place in places.items()}


def _refuse_wrapped(modules: Mapping[str, Any], name: str) -> None:
    if any(isinstance(module.processor, WrappedAttnProcessor) for module in modules.values()):
        raise ValueError(
            f"negative_guidance holds {name} while the model has attention processors of negguide already, which would "
            "act twice; use one of the two (negguide.remove_attention_processors(model) removes them)"
        )


def _with_trace(output: Any, trace: Trace) -> Any:
    """The pipeline's output, and how the negatives acted."""
    if isinstance(output, tuple):
        return (*output, trace)
    values = {field.name: getattr(output, field.name) for field in fields(output)}
    return _traced_class(type(output))(**values, trace=trace)  # type: ignore[arg-type]


@functools.cache
def _traced_class(output_class: Any) -> Any:
    return make_dataclass(f"NegGuide{output_class.__name__}", [("trace", Trace, None)], bases=(output_class,))


_PREFIX = "NegGuide"


@functools.cache
def guided_class(pipeline: Any) -> Any:
    """The class that adds `negative_guidance=` to a pipeline class of `PIPELINES`."""
    name = pipeline.__name__
    family = PIPELINES[name]
    content = {
        "family": family,
        "__module__": __name__,
        "__qualname__": _PREFIX + name,
        "__doc__": f"`{name}` ({family.name}) with `negative_guidance=`.",
    }
    return type(_PREFIX + name, (NegativeGuidanceMixin, pipeline), content)


def __getattr__(name: str) -> Any:
    base = name.removeprefix(_PREFIX)
    if base == name or base not in PIPELINES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return guided_class(getattr(diffusers, base))


def from_pipe(pipe: Any) -> Any:
    """The pipeline with `negative_guidance=` that shares everything with `pipe`: models, dtypes, devices, offloading.

    Nothing is copied or cast, and `pipe` stays usable.

    Raises:
        ValueError: for a pipeline of an unsupported class.
    """
    if isinstance(pipe, NegativeGuidanceMixin):
        return pipe
    name = type(pipe).__name__
    if name not in PIPELINES or type(pipe) is not getattr(diffusers, name, None):
        raise ValueError(f"from_pipe does not know {name}; supported pipelines: {', '.join(PIPELINES)}")
    # Not diffusers' own from_pipe: it casts all models to one dtype and forgets offloading and the progress bar.
    guided: Any = object.__new__(guided_class(type(pipe)))  # type: ignore[arg-type]
    guided.__dict__.update(pipe.__dict__)
    return guided
