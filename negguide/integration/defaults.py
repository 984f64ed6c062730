"""Which methods a pipeline takes, which to begin with, and with which values."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from negguide._utils.text import listed
from negguide.integration.families import Family, family_of
from negguide.integration.pipelines import guided_class
from negguide.methods import Method, NegativesMethod, registered_methods
from negguide.methods.choices import names_in
from negguide.models import defaults_of

EXAMPLE = "what to leave out"
"""The negative of the methods that need one, to be replaced: `method.with_negatives(...)`."""
TRUE_CFG_SCALE = 4.0
"""With negatives, where a pipeline has true CFG and leaves it off unless asked: FLUX.1."""
_IMAGES = 4
_USES = {
    "score": "negatives in words, with classifier-free guidance",
    "attention": "negatives in words without it too: few-step and distilled models",
    "token": "seeds that look alike, or images to stay away from",
}


@dataclass(frozen=True)
class Suggestion:
    """A method with the values to begin with.

    Attributes:
        method: with the values published for the model family, or those of its kind; the embedded model has its own.
        arguments: what the call needs beside `negative_guidance`.
        use: what the method is for.
    """

    method: Method
    arguments: Mapping[str, Any]
    use: str


@dataclass(frozen=True)
class Defaults:
    """What `defaults` says of a pipeline.

    Attributes:
        pipeline, family: their names.
        begin_with: the key of the method to begin with where negatives are given in words.
        suggestions: {key: suggestion} of the methods that it takes.
        refused: {key: reason} of those that it does not.
    """

    pipeline: str
    family: str
    begin_with: str
    suggestions: Mapping[str, Suggestion]
    refused: Mapping[str, str]

    def __getitem__(self, key: str) -> Suggestion:
        """The suggestion for the method with this key, e.g. "nag".

        Raises:
            KeyError: the pipeline does not take it, with the reason; or there is no such method.
        """
        if key in self.suggestions:
            return self.suggestions[key]
        reason = self.refused.get(key, f"there is no method {key!r}; known are {', '.join(self.suggestions)}")
        raise KeyError(reason)

    def __str__(self) -> str:
        lines = [f"{self.pipeline} ({self.family}); begin with {self.begin_with}"]
        for suggestion in self.suggestions.values():
            lines += ["", f"{suggestion.method.label}: {suggestion.use}", f"  {_as_code(suggestion)}"]
            lines += [f"  acts: {listed(sorted({w.in_words() for w in suggestion.method.windows}))}"]
        lines += [f"\n{key}: {reason}" for key, reason in self.refused.items()]
        return "\n".join(lines)


def defaults(pipe: Any) -> Defaults:
    """Which methods a pipeline can take, which to begin with, and with which values.

    Perp-Neg is for models with classifier-free guidance, where it costs a further prediction a negative; the methods in
    attention space (such as NAG) act at guidance 1 as well, on few-step and guidance-distilled models; NegToMe is for
    seeds that look alike, and for images to stay away from. Weights are 1 for all of them, as each method says. The
    embedded model has values of its own for NegToMe and the methods in attention space.

    Args:
        pipe: a diffusers pipeline, or a class of them, which is taken to hold a model with guidance if its family has
            one.

    Returns:
        What to begin with; printed, a page of text.

    Raises:
        ValueError: the pipeline is not supported.

    Example:
        >>> suited = negguide.defaults(pipe)
        >>> print(suited)
        >>> nag = suited["nag"]
        >>> pipe(prompt, negative_guidance=nag.method.with_negatives("black glasses"), **nag.arguments)
    """
    kind = pipe if isinstance(pipe, type) else type(pipe)
    family = family_of(kind)
    if family is None:
        # refuses it by name
        family = guided_class(kind).family  # type: ignore[attr-defined]
    accepted = inspect.signature(kind.__call__).parameters
    reason = _why_unguided(pipe, family, accepted)
    own = defaults_of(pipe)
    suggestions: dict[str, Suggestion] = {}
    refused: dict[str, str] = {}
    for method in registered_methods():
        if method.needs_guidance and reason is not None:
            refused[method.key] = f"{reason}; {names_in('attention')} take negatives without guidance"
            continue
        arguments = _guidance(accepted) if method.needs_guidance else {}
        if method.space == "token":
            name = "num_videos_per_prompt" if "num_videos_per_prompt" in accepted else "num_images_per_prompt"
            arguments = {name: _IMAGES}
        suggestions[method.key] = Suggestion(
            _suited(method, family, own.arguments(method.key)), arguments, _USES[method.space]
        )
    in_words = [key for key, one in suggestions.items() if isinstance(one.method, NegativesMethod)]
    if _guided_unless_told(pipe, family, accepted, reason):
        in_words.sort(key=lambda key: not suggestions[key].method.needs_guidance)
    else:
        in_words.sort(key=lambda key: suggestions[key].method.needs_guidance)
    name = kind.__name__.removeprefix("NegGuide")
    return Defaults(name, family.name, in_words[0], suggestions, refused)


def _suited(method: type[Method], family: Family, own: Mapping[str, Any]) -> Method:
    """The method with the family's values, and above them those of the model itself."""
    made = _example(method)
    values = {
        name: value
        for name, value in family.defaults.get(method.__name__, {}).items()
        if getattr(made, name) is not None
    }
    values |= own
    return family.with_defaults(_example(method, **values, default_values=values))


def _example(method: type[Method], **values: Any) -> Method:
    # each method has a constructor of its own
    make: Any = method
    made: Method = make(EXAMPLE, **values) if issubclass(method, NegativesMethod) else make(**values)
    return made


def _as_code(suggestion: Suggestion) -> str:
    given = "".join(f", {name}={value!r}" for name, value in suggestion.arguments.items())
    return f"pipe(prompt, negative_guidance={_changed(suggestion.method)}{given})"


def _changed(method: Method) -> str:
    """The method as code, with the values that are not its own defaults."""
    plain = _example(type(method))
    options = [repr(EXAMPLE)] if isinstance(method, NegativesMethod) else []
    options += [
        f"{name}={getattr(method, name)!r}"
        for name in plain.to_dict()
        if name not in ("method", "negatives") and getattr(method, name) != getattr(plain, name)
    ]
    return f"{type(method).__name__}({', '.join(options)})"


def _guidance(accepted: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    """What a call needs for classifier-free guidance to be on."""
    if "true_cfg_scale" in accepted:
        own = float(accepted["true_cfg_scale"].default)
        return {"true_cfg_scale": own if own > 1 else TRUE_CFG_SCALE, "negative_prompt": ""}
    return {"guidance_scale": accepted["guidance_scale"].default}


def _call(accepted: Mapping[str, inspect.Parameter], **given: Any) -> dict[str, Any]:
    """The arguments of a call with nothing but these."""
    empty = inspect.Parameter.empty
    unset = {name: None if p.default is empty else p.default for name, p in accepted.items()}
    return {**unset, **given}


def _why_unguided(pipe: Any, family: Family, accepted: Mapping[str, inspect.Parameter]) -> str | None:
    """Why there is no second prediction even where it is asked for; None when there is."""
    if isinstance(pipe, type):
        return (
            None
            if family.guided
            else f"{family.name} is guidance-distilled, so there is no second prediction"
        )
    return family.cfg_disabled_reason(pipe, _call(accepted, **_guidance(accepted)))


def _guided_unless_told(
    pipe: Any, family: Family, accepted: Mapping[str, inspect.Parameter], reason: str | None
) -> bool:
    """Whether the pipeline's own call, with nothing but a prompt, uses classifier-free guidance."""
    if reason is not None or "true_cfg_scale" in accepted:
        return reason is None and float(accepted["true_cfg_scale"].default) > 1
    return isinstance(pipe, type) or family.cfg_disabled_reason(pipe, _call(accepted)) is None
