"""Video models that have a row of their own for each frame, as methods see them: one row a video, its frames as tokens.

Such a model (AnimateDiff's) takes each frame for an image: its text, the residuals of a ControlNet, and what goes
through its attention to the image and to the text have a row for each frame; layers between, which methods leave alone,
let the frames see one another. In attention to the text each query is on its own, so that the frames of a video may as
well stand one behind the other; in attention inside a frame only what comes out does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from negguide.integration.families.base import Family, nested_input, with_inputs
from negguide.integration.hooks.interception import Interceptor


def per_video(family: Family, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """A denoiser's inputs with one row a video: text [rows, ..], what differs by frame [rows, frames, ..].

    Raises:
        ValueError: a video's frames have different texts.
    """
    rows, frames = len(inputs[family.sample]), _frames(family, inputs)

    def folded(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return type(value)(folded(inner) for inner in value)
        return value.unflatten(0, (rows, frames))

    changes = {}
    for path in family.frame_rows:
        value = nested_input(inputs, path)
        if value is None:
            continue
        changes[path] = folded(value)
        if path in family.text:
            first = changes[path][:, :1]
            if not torch.equal(first.expand_as(changes[path]), changes[path]):
                raise ValueError(
                    f"the frames of a video have different prompts, and a negative of {family.name} is one text for "
                    "all; give one prompt for the whole video"
                )
            changes[path] = first[:, 0]
    return with_inputs(inputs, changes)


def per_frame(family: Family, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `per_video`."""
    frames = _frames(family, inputs)

    def unfolded(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return type(value)(unfolded(inner) for inner in value)
        return value.flatten(0, 1)

    changes = {}
    for path in family.frame_rows:
        value = nested_input(inputs, path)
        if value is not None:
            text = path in family.text
            changes[path] = value.repeat_interleave(frames, dim=0) if text else unfolded(value)
    return with_inputs(inputs, changes)


def over_frames(
    family: Family, inputs: Mapping[str, Any], interceptors: Mapping[str, Interceptor]
) -> dict[str, Interceptor]:
    """The interceptors of a forward with `per_frame` inputs, each of which sees one row a video."""
    videos, frames = len(inputs[family.sample]), _frames(family, inputs)
    return {
        name: _OverFrames(interceptor, name, videos, frames) for name, interceptor in interceptors.items()
    }


def _frames(family: Family, inputs: Mapping[str, Any]) -> int:
    frames: int = inputs[family.sample].shape[2]
    return frames


class _OverFrames:
    """An interceptor of an attention module whose rows are frames [videos * frames, tokens, C].

    What is inside sees [videos, frames * tokens, C].
    """

    def __init__(self, interceptor: Interceptor, name: str, videos: int, frames: int) -> None:
        self.interceptor = interceptor
        self.name = name
        self.videos = videos
        self.frames = frames

    def __call__(
        self,
        processor: Callable[..., Any],
        module: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Any = None,
        **kwargs: Any,
    ) -> Tensor:
        if len(hidden_states) != self.videos * self.frames:
            raise ValueError(
                f"blocks: {self.name} has {len(hidden_states)} rows for {self.videos * self.frames} frames, because it "
                "looks from frame to frame; choose modules that look inside a frame, e.g. blocks='attentions'"
            )
        if encoder_hidden_states is None:

            def inside_frames(*args: Any, **own: Any) -> Tensor:
                output: Tensor = processor(*args, **own)
                return self._joined(output)

            joined = self.interceptor(inside_frames, module, hidden_states, **kwargs)
        else:
            text = self._of_first_frames(encoder_hidden_states)
            joined = self.interceptor(
                processor, module, self._joined(hidden_states), encoder_hidden_states=text, **kwargs
            )
        apart: Tensor = joined.unflatten(1, (self.frames, -1)).flatten(0, 1)
        return apart

    def _joined(self, tokens: Tensor) -> Tensor:
        joined: Tensor = tokens.unflatten(0, (-1, self.frames)).flatten(1, 2)
        return joined

    def _of_first_frames(self, text: Any) -> Any:
        """The text, and with IP-Adapters the images' tokens too, which are the same for each frame."""
        if isinstance(text, list | tuple):
            return type(text)(self._of_first_frames(inner) for inner in text)
        return text[:: self.frames]
