"""Pipelines that take `negative_guidance=`: the mixin, a class for each diffusers pipeline, and `from_pipe`.

The class for `StableDiffusionXLPipeline` is `NegGuideStableDiffusionXLPipeline` of this module, and so on: made on
first use, so that nobody waits for the import of pipelines that are not used. Its own name is that of the diffusers
pipeline, so that diffusers saves it as one and finds its siblings (`AutoPipelineForImage2Image.from_pipe`).
"""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, make_dataclass
from typing import Any, ClassVar, Protocol, Self, cast

import diffusers
import PIL.Image
import torch
from diffusers.utils.torch_utils import unwrap_module

from negguide.integration.diagnostics.trace import Trace
from negguide.integration.families import Family, family_of, supported_pipelines
from negguide.integration.families.refused import REFUSED
from negguide.integration.hooks.compat import DEPRECATED_ARGUMENTS, call_signature, warn_if_untested
from negguide.integration.hooks.denoiser import GuidedRun
from negguide.integration.hooks.model_hook import has_attached_method
from negguide.integration.hooks.views import original, view_of
from negguide.integration.runtime.deferred import DeferredProxy
from negguide.integration.runtime.prepare import (
    check_call,
    denoisers_of,
    new_recorder,
    pipe_dtype,
    prepare_runtimes,
)
from negguide.methods import Method, Methods, Negative, collect, registered_methods

_EXTRA_PARAMETERS = {"negative_guidance": None, "trace": False, "max_branch_batch": None}
_EXTRA_DOC = """

        Arguments of negguide, beside those of the pipeline:
            negative_guidance: a method, or a list of at most one each in score space (`PerpNeg`), token space
                (`NegToMe`) and attention space (`NAG`); None = the plain pipeline. All of them:
                `negguide.registered_methods()`.
            trace: also return how the negatives acted: `.trace` of the output, or the last element of the tuple with
                return_dict=False.
            max_branch_batch: how many guidance branches (the unconditional, the conditional, each active negative of
                `PerpNeg`) run in one forward of the denoiser, in every step, and how many reference images of
                `NegToMe`; None = all. Less memory, the same result up to rounding. Negatives in attention space are
                inside the conditional branch; on Z-Image each of them is one more, and runs together with it. A
                ControlNet runs as in the plain pipeline; that of Z-Image, which reads the text too, with each forward.

        Raises:
            TypeError, ValueError: wrong arguments, before any model runs, naming the argument, its value and what
                would be right.
"""


class GuidedOutput(Protocol):
    """What a guided pipeline returns: the pipeline's own output, and the trace with trace=True.

    Attributes:
        images: of pipelines for images.
        frames: of pipelines for videos.
        trace: how the negatives acted.
    """

    images: list[PIL.Image.Image]
    frames: Any
    trace: Trace

    def __getitem__(self, index: int) -> Any: ...


class GuidedPipeline(Protocol):
    """A diffusers pipeline with `negative_guidance=`, as editors and type checkers see it.

    Everything else is that of the diffusers pipeline.
    """

    family: ClassVar[Family]

    def __call__(
        self,
        *args: Any,
        negative_guidance: Method | Sequence[Method] | None = None,
        trace: bool = False,
        max_branch_batch: int | None = None,
        **kwargs: Any,
    ) -> GuidedOutput:
        """The pipeline's own call, and the arguments of negguide."""
        ...

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """The pipeline's own `to`."""
        ...

    def __getattr__(self, name: str) -> Any: ...

    def __setattr__(self, name: str, value: Any) -> None: ...


class NegativeGuidanceMixin:
    """Adds `negative_guidance=` to a diffusers pipeline; list it before the pipeline and name the `family`.

    The pipeline's own `__call__` runs, on a view of the pipeline whose denoisers do what the methods ask for.
    """

    family: ClassVar[Family]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if NegativeGuidanceMixin in cls.__bases__:
            cls.__call__ = _guided_call(super().__call__, call_signature(cls))  # type: ignore[method-assign,misc]


def _guided_call(base_call: Callable[..., Any], signature: inspect.Signature) -> Callable[..., Any]:
    """`base_call` with the arguments of negguide, which its signature and documentation show."""

    @functools.wraps(base_call)
    def __call__(
        self: Any,
        *args: Any,
        negative_guidance: Method | Sequence[Method] | None = None,
        trace: bool = False,
        max_branch_batch: int | None = None,
        **kwargs: Any,
    ) -> Any:
        # in a callback, the pipeline may be the view of a guided call that is under way
        self = original(self)
        _check_names(type(self).__name__, signature, kwargs)
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        if isinstance(bound.arguments["prompt"], list) and not bound.arguments["prompt"]:
            raise ValueError("prompt is an empty list; give at least one prompt")
        _check_options(negative_guidance, trace, max_branch_batch)
        if negative_guidance is None:
            return base_call(self, *args, **kwargs)
        run = _start(self, bound.arguments, collect(negative_guidance), trace, max_branch_batch)
        try:
            others = tuple((name, DeferredProxy) for name in self.family.deferred.values())
            output = base_call(view_of(self, run, self.family.denoisers, others), *args, **kwargs)
        finally:
            run.finished = True
        return output if run.recorder is None else _with_trace(output, run.recorder.trace())

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


def _check_names(pipeline: str, signature: inspect.Signature, given: Mapping[str, Any]) -> None:
    """Refuse arguments that the pipeline does not have: several take `**kwargs` and ignore what they do not know.

    Raises:
        TypeError: naming the argument, and what was probably meant.
    """
    known = {name for name, p in signature.parameters.items() if p.kind is not p.VAR_KEYWORD} - {"self"}
    known |= set(_EXTRA_PARAMETERS)
    for name in given:
        if name in known or name in DEPRECATED_ARGUMENTS:
            continue
        close = difflib.get_close_matches(name, sorted(known), n=1)
        kinds: list[type] = [Negative, *registered_methods()]
        owners = [kind.__name__ for kind in kinds if name in _fields(kind)]
        hint = f"; did you mean {close[0]}?" if close else ""
        hint = f"; {name} is an argument of {owners[0]}, in negative_guidance=" if owners else hint
        raise TypeError(f"{pipeline} has no argument {name!r}{hint}")


def _fields(kind: Any) -> set[str]:
    return {field.name for field in fields(kind)} - {"prompt", "negatives"}


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


def _start(
    pipe: Any, arguments: Mapping[str, Any], methods: Methods, trace: bool, max_branch_batch: int | None
) -> GuidedRun:
    """Check a call and encode what it needs.

    Raises:
        ValueError: naming the argument, its value and what would be right.
    """
    family: Family = pipe.family
    models = denoisers_of(pipe, family)
    methods = Methods(
        methods.score and family.with_defaults(methods.score),
        methods.token and family.with_defaults(methods.token),
        methods.attention and family.with_defaults(methods.attention),
    )
    check_call(pipe, family, arguments, methods, max_branch_batch)
    for model in models:
        if has_attached_method(model):
            raise ValueError(
                "negative_guidance= is given while the model has a method of negguide on it already (apply_to_model), "
                "which would act too; use one of the two: negguide.remove_from_model(model) takes it away"
            )
    inner = [unwrap_module(model) for model in models]
    with torch.no_grad():
        runtimes = prepare_runtimes(pipe, family, arguments, methods, inner, trace, max_branch_batch)
    # autocast makes 16-bit predictions of weights in any dtype
    sixteen_bit = torch.finfo(pipe_dtype(pipe, family)).bits == 16 or torch.is_autocast_enabled(
        pipe._execution_device.type
    )
    return GuidedRun(
        pipe,
        family,
        arguments,
        runtimes,
        list(methods),
        family.latent_size(pipe, arguments),
        max_branch_batch,
        new_recorder(methods) if trace else None,
        widens=sixteen_bit and methods.score is not None,
    )


def _with_trace(output: Any, trace: Trace) -> Any:
    """The pipeline's output, and how the negatives acted."""
    if isinstance(output, tuple):
        return (*output, trace)
    values = {field.name: getattr(output, field.name) for field in fields(output)}
    return _traced(type(output), {**values, "trace": trace})


def _traced(output_class: Any, values: Mapping[str, Any]) -> Any:
    return _traced_class(output_class)(**values)


@functools.cache
def _traced_class(output_class: Any) -> Any:
    def __reduce__(self: Any) -> Any:
        # a class made at run time cannot be found by its name
        return _traced, (output_class, {field.name: getattr(self, field.name) for field in fields(self)})

    return make_dataclass(
        f"NegGuide{output_class.__name__}",
        [("trace", Trace, None)],
        bases=(output_class,),
        namespace={"__reduce__": __reduce__},
    )


_PREFIX = "NegGuide"


def not_supported(name: str) -> str:
    """Why there is no guided class of the pipeline class `name`, and which are near to it."""
    if name in REFUSED:
        return f"from_pipe does not take {name}: {REFUSED[name]}"
    known = supported_pipelines()
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"; supported and near to it: {', '.join(near)}" if near else ""
    return (
        f"from_pipe does not know {name}{hint}. `negguide models` lists all {len(known)} supported pipelines, and "
        "negguide.register_family makes others known"
    )


@functools.cache
def guided_class(pipeline: type) -> type:
    """The class that adds `negative_guidance=` to a pipeline class.

    Raises:
        ValueError: no family has it.
    """
    family = family_of(pipeline)
    if family is None:
        raise ValueError(not_supported(pipeline.__name__))
    name = pipeline.__name__
    content = {
        "family": family,
        "__module__": __name__,
        "__qualname__": _PREFIX + name,
        "__doc__": f"`{name}` ({family.name}) with `negative_guidance=`.",
    }
    return type(name, (NegativeGuidanceMixin, pipeline), content)


def __getattr__(name: str) -> Any:
    base = name.removeprefix(_PREFIX)
    pipelines = {} if base == name else supported_pipelines()
    if base not in pipelines:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    own = next((p for p in pipelines[base].pipelines if not isinstance(p, str) and p.__name__ == base), None)
    return guided_class(own or getattr(diffusers, base))


def from_pipe(pipe: Any) -> GuidedPipeline:
    """The pipeline with `negative_guidance=` that shares everything with `pipe`: models, dtypes, devices, offloading.

    Nothing is copied or cast, and `pipe` stays usable, at the same time too. Without negguide `negative_guidance=` is
    unknown to a pipeline, and several pipelines of diffusers ignore what they do not know.

    Args:
        pipe: a supported pipeline (see `negguide.registered_families`), or one of a class derived from one.

    Raises:
        ValueError: for a pipeline of an unsupported class.
    """
    warn_if_untested()
    pipe = original(pipe)
    if isinstance(pipe, NegativeGuidanceMixin):
        return cast(GuidedPipeline, pipe)
    # Not diffusers' own from_pipe: it casts all models to one dtype and forgets offloading and the progress bar.
    kind: Any = type(pipe)
    guided: Any = object.__new__(guided_class(kind))
    guided.__dict__.update(pipe.__dict__)
    return cast(GuidedPipeline, guided)
