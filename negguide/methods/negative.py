"""One thing to leave out, in words or as embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import torch

from negguide.methods.serialise import Load, Serialisable, check_keys, decode, field_names
from negguide.methods.validation import MaskLike, at_least_zero, check_mask, non_negative
from negguide.methods.window import Edge, check_window, edge_from_json

_LABEL = "embeddings"

AUTO: Literal["auto"] = "auto"
"""The weight of a negative that follows from how present it is."""


@dataclass(frozen=True, eq=False)
class Negative(Serialisable):
    """One thing to leave out.

    Args:
        prompt: what to leave out, in words ("black glasses"). It may overlap with the prompt. With `embeds` it is only
            a label, and may be left out.
        weight: strength, >= 0 (1 = as strong as the method itself says, 0 = off); or "auto", with which it follows, at
            each step and for each image, from how present the negative is (`PerpNeg` only). One that is not in the
            picture then changes next to nothing.
        start, stop: the window in which it acts: fractions of the steps, 0 <= start < stop <= 1, or places on the noise
            schedule, e.g. `Timestep(900)`. stop=None is the method's own: in `PerpNeg` the first half of the steps,
            where composition and attributes are decided, or three quarters where the weight is "auto"; all steps in
            attention space, as published.
        mask: where it acts (see `MaskLike`), with the aspect ratio of the image; None = everywhere.
        embeds: the negative already encoded, for weighted prompts (compel and the like) and for pipelines whose text
            encoders were freed: one tensor, which is `prompt_embeds`, or a mapping by the names that the pipeline's own
            call has for the prompt, e.g. {"prompt_embeds": [tokens, channels], "pooled_prompt_embeds": [channels]},
            or for HiDream {"prompt_embeds_t5": [tokens, channels], "prompt_embeds_llama3": [layers, tokens, channels],
            ..}; or all of them with a batch axis of 1, as `encode_prompt` of the pipeline gives them.
        prompt_index: of a call with a list of prompts, the one that this negative belongs to; None = all of them. See
            also `PerpNeg.per_prompt`.

    Raises:
        TypeError, ValueError: naming the argument, its value and what would be right.
    """

    prompt: str = ""
    weight: float | Literal["auto"] = 1.0
    start: Edge = 0.0
    stop: Edge | None = None
    mask: MaskLike | None = None
    embeds: torch.Tensor | Mapping[str, torch.Tensor] | None = None
    prompt_index: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.prompt, str):
            raise TypeError(f"prompt must be a string, got {self.prompt!r}")
        if self.embeds is not None:
            object.__setattr__(self, "embeds", _check_embeds(self.embeds))
            object.__setattr__(self, "prompt", self.prompt.strip() or _LABEL)
        if not self.prompt.strip():
            raise ValueError(f"prompt of a Negative must say what to leave out, got {self.prompt!r}")
        if isinstance(self.weight, str) and self.weight != AUTO:
            raise ValueError(f"weight must be a number >= 0, or 'auto', got {self.weight!r}")
        if self.weight != AUTO:
            object.__setattr__(self, "weight", non_negative("weight", self.weight))
        start, stop = check_window(self.start, 1.0 if self.stop is None else self.stop)
        object.__setattr__(self, "start", start)
        object.__setattr__(self, "stop", None if self.stop is None else stop)
        if self.mask is not None:
            check_mask("mask", self.mask)
        if self.prompt_index is not None:
            object.__setattr__(self, "prompt_index", at_least_zero("prompt_index", self.prompt_index))

    def __reduce__(self) -> Any:
        # a mapping proxy, which keeps `embeds` from being changed, cannot be pickled
        values = {name: getattr(self, name) for name in field_names(self)}
        if self.embeds is not None:
            values["embeds"] = dict(self.encoded)
        return _negative, (values,)

    @property
    def automatic(self) -> bool:
        """Whether its weight is "auto"."""
        return self.weight == AUTO

    @property
    def weight_in_words(self) -> str:
        """The weight as people read it."""
        return self.weight if isinstance(self.weight, str) else f"{self.weight:g}"

    @property
    def fixed_weight(self) -> float:
        """The weight of a negative that says a number.

        Raises:
            ValueError: it is "auto".
        """
        if isinstance(self.weight, str):
            raise ValueError(f"weight of Negative({self.prompt!r}) must be a number here, got 'auto'")
        return self.weight

    @property
    def off(self) -> bool:
        """Whether it weighs nothing, and so is never evaluated."""
        return self.weight == 0

    @property
    def encoded(self) -> Mapping[str, torch.Tensor]:
        """`embeds` by the names of the pipeline's arguments; empty for a negative in words."""
        return self.embeds if isinstance(self.embeds, Mapping) else {}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], load: Load | None = None) -> Negative:
        """The inverse of `to_dict`."""
        values = check_keys(data, field_names(cls), "Negative")
        embeds = values.get("embeds")
        if embeds is not None:
            values["embeds"] = {name: decode(f"embeds[{name!r}]", one, load) for name, one in embeds.items()}
        values |= {name: edge_from_json(values[name]) for name in ("start", "stop") if name in values}
        return cls(**{**values, "mask": decode("mask", values.get("mask"), load)})


def _negative(values: Mapping[str, Any]) -> Negative:
    return Negative(**values)


def _check_embeds(embeds: Any) -> Mapping[str, torch.Tensor]:
    right = (
        "embeds must be a float tensor [tokens, channels], or a mapping from the names of the pipeline's arguments to "
        "such tensors, e.g. {'prompt_embeds': .., 'pooled_prompt_embeds': ..}"
    )
    named = {"prompt_embeds": embeds} if isinstance(embeds, torch.Tensor) else embeds
    if not isinstance(named, Mapping):
        raise TypeError(f"{right}, got {embeds!r}")
    # of several text encoders a pipeline's call has several, of which one has the tokens alone
    tokens = [name for name in named if str(name).startswith("prompt_embeds") and "mask" not in name]
    if not tokens:
        raise ValueError(f"{right}; prompt_embeds is missing, got {', '.join(map(repr, named)) or 'nothing'}")
    checked: dict[str, torch.Tensor] = {}
    for name, value in named.items():
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"{right}; {name} is {value!r}")
        # masks may be of any dtype
        if not (value.is_floating_point() or "mask" in name):
            raise ValueError(f"{right}; {name} has dtype {value.dtype}")
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"{right}; {name} holds values that are not finite")
        checked[name] = value.detach()
    main = min(tokens, key=lambda name: checked[name].ndim)
    axes = checked[main].ndim
    # 4: of several layers of a text encoder, with a batch axis
    if axes not in (2, 3, 4):
        raise ValueError(f"{right}; {main} has shape {list(checked[main].shape)}")
    # layers of a text encoder that are further embeddings stand before the batch
    batch = {name: int(value.ndim > axes) for name, value in checked.items()}
    if axes == 2:
        # one form inside: with a batch axis
        checked = {name: value.unsqueeze(batch[name]) for name, value in checked.items()}
    for name, value in checked.items():
        if value.ndim <= batch[name] or value.shape[batch[name]] != 1:
            raise ValueError(f"{right}; {name} has shape {list(value.shape)}: one Negative is one text")
    return MappingProxyType(checked)
