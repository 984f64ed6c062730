"""NegToMe: negatives in token space, taken from images."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import PIL.Image
import torch
from torch import Tensor

from negguide.guidance import (
    Match,
    negtome_and_share,
    negtome_match,
    negtome_match_others,
    negtome_others,
    negtome_push,
    negtome_push_others,
)
from negguide.methods.base import TokenMethod
from negguide.methods.registry import register_method
from negguide.methods.serialise import Load, check_keys, decode, field_names
from negguide.methods.validation import (
    ImageLike,
    MaskLike,
    at_least_one,
    boolean,
    check_mask,
    check_range,
    non_negative,
    number,
)
from negguide.methods.window import Edge, Timestep, Window, check_window, edge_from_json

DEFAULT_STOP = Timestep(900)
"""Where a model family does not say otherwise: as published for FLUX."""


@register_method
@dataclass(frozen=True, eq=False)
class NegToMe(TokenMethod):
    """Negative token merging (arXiv 2412.01339): push image tokens away from their best match in a reference.

    Each token x_i of a self-attention output becomes x_i + alpha (x_i - r_j), r_j being the reference token with the
    highest cosine to x_i, where that cosine is above the threshold.

    Args:
        reference: "others", all other images of the same prompt; "first", images 2..n from image 1 of the same
            prompt; or an image or a sequence of images (see `ImageLike`) to stay away from.
        alpha: strength, >= 0.
        threshold: least cosine of a match, in [-1, 1]; None = the model family's published value.
        start, stop: the window in which it acts: fractions of the steps, 0 <= start < stop <= 1, or places on the noise
            schedule, e.g. `Timestep(900)`; stop=None = the model family's published value. With neither given, at least
            the first step is inside.
        mask: which tokens of the output are pushed (see `MaskLike`), with the aspect ratio of the image.
        reference_mask: which tokens of the reference count; with the aspect ratio of the reference. For several
            reference images one mask for all or a sequence of one mask each.
        blocks: regular expression searched in the names of the self-attention modules; None = the model family's
            default. On Stable Diffusion: the up blocks with a feature map at least 32 wide, or half the latent's
            width where that is less.
        center: subtract the mean token before matching (for small models, whose tokens are nearly parallel).
        group_size: how many consecutive images of a call count as one another's "others", whatever their prompts;
            None = those of one prompt.
        max_push: longest push, relative to the token's own L2 norm, > 0; None = unbounded.
        perpendicular: push without the component along the token itself. A token then changes by what its match has and
            it has not; with a large alpha this keeps more of the picture.
        match_every: how many consecutive modules of one forward share a match, >= 1: the first searches, the others
            push their own tokens by its matches and cosines. Only modules with equally many tokens share. 1, as
            published: each searches. Most of what NegToMe costs is the search.

    Published values: SDXL alpha .9, threshold .7, t 1000->800, up blocks at least 32 wide; FLUX .9, .65, t 1000->900,
    all blocks. At these two timesteps the noise has nearly the same share of the latents, .84 and .9, and so families
    without published values have the one of their kind: 800 with the discrete schedule of Stable Diffusion, and 900 for
    flow models. How many steps that is, the schedule says: on FLUX 7 of 25 at 1024 pixels, 5 at 512.

    Raises:
        TypeError, ValueError: naming the argument, its value and what would be right.
    """

    key: ClassVar[str] = "negtome"
    label: ClassVar[str] = "NegToMe"
    summary: ClassVar[str] = (
        "pushes image tokens away from the other images of the prompt, from its first image, or from reference images"
    )
    source: ClassVar[str] = "arXiv 2412.01339"

    reference: str | ImageLike | Sequence[ImageLike] = "others"
    alpha: float = 0.9
    threshold: float | None = None
    start: Edge = 0.0
    stop: Edge | None = None
    mask: MaskLike | None = None
    reference_mask: MaskLike | Sequence[MaskLike] | None = None
    blocks: str | None = None
    center: bool = False
    max_push: float | None = None
    group_size: int | None = None
    perpendicular: bool = False
    match_every: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "reference", _check_reference(self.reference))
        object.__setattr__(self, "alpha", non_negative("alpha", self.alpha))
        if self.threshold is not None:
            threshold = number("threshold", self.threshold)
            if not -1 <= threshold <= 1:
                raise ValueError(f"threshold is a cosine and must be in [-1, 1], got {threshold}")
            object.__setattr__(self, "threshold", threshold)
        start, stop = check_window(self.start, 1.0 if self.stop is None else self.stop)
        object.__setattr__(self, "start", start)
        object.__setattr__(self, "stop", None if self.stop is None else stop)
        if self.mask is not None:
            check_mask("mask", self.mask)
        _check_reference_mask(self.reference_mask, len(self.images))
        if isinstance(self.reference_mask, list):
            object.__setattr__(self, "reference_mask", tuple(self.reference_mask))
        if self.blocks is not None:
            _check_pattern(self.blocks)
        object.__setattr__(self, "center", boolean("center", self.center))
        if self.max_push is not None:
            max_push = number("max_push", self.max_push)
            if not (math.isfinite(max_push) and max_push > 0):
                raise ValueError(f"max_push must be finite and > 0, or None for no bound, got {max_push}")
            object.__setattr__(self, "max_push", max_push)
        if self.group_size is not None:
            size = at_least_one("group_size", self.group_size)
            if size < 2 or self.images:
                raise ValueError(
                    f"group_size must be at least 2, with reference='others' or 'first'; got {size} and "
                    f"{'reference images' if self.images else repr(self.reference)}"
                )
            object.__setattr__(self, "group_size", size)
        object.__setattr__(self, "perpendicular", boolean("perpendicular", self.perpendicular))
        object.__setattr__(self, "match_every", at_least_one("match_every", self.match_every))

    @property
    def images(self) -> tuple[ImageLike, ...]:
        """The reference images; empty for "others" and "first"."""
        return self.reference if isinstance(self.reference, tuple) else ()

    @property
    def reference_masks(self) -> tuple[MaskLike, ...]:
        """One mask for each reference image, or one for "others" and "first"; empty without a reference_mask."""
        if self.reference_mask is None or isinstance(self.reference_mask, tuple):
            return self.reference_mask or ()
        return (cast(MaskLike, self.reference_mask),) * max(1, len(self.images))

    @property
    def windows(self) -> list[Window]:
        """When it acts."""
        stop = DEFAULT_STOP if self.stop is None else self.stop
        default = self.start == 0 and (self.stop is None or "stop" in self.defaulted)
        return [Window("NegToMe", self.start, stop, default)]

    def push(
        self,
        tokens: Tensor,
        reference: Tensor,
        mask: Tensor | None = None,
        reference_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Tokens [B, N, C] pushed from their matches in a reference, and which were; by `guidance.negtome`."""
        assert self.threshold is not None
        return negtome_and_share(
            tokens,
            reference,
            self.alpha,
            self.threshold,
            source_mask=mask,
            reference_mask=reference_mask,
            center=self.center,
            max_push=self.max_push,
            perpendicular=self.perpendicular,
        )

    def push_others(self, groups: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Images of one prompt [G, K, N, C], each pushed away from all others, and which tokens were."""
        assert self.threshold is not None
        return negtome_others(
            groups,
            self.alpha,
            self.threshold,
            source_mask=mask,
            center=self.center,
            max_push=self.max_push,
            perpendicular=self.perpendicular,
        )

    def match(self, tokens: Tensor, reference: Tensor, reference_mask: Tensor | None = None) -> Match:
        """The token of the reference that each token matches; see `push`."""
        return negtome_match(tokens, reference, reference_mask, self.center)

    def match_others(self, groups: Tensor) -> Match:
        """The token of another image that each token matches; see `push_others`."""
        return negtome_match_others(groups, self.center)

    def push_matched(
        self, tokens: Tensor, reference: Tensor, match: Match, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """`push` with a match that is known."""
        assert self.threshold is not None
        return negtome_push(
            tokens, reference, match, self.alpha, self.threshold, mask, self.max_push, self.perpendicular
        )

    def push_others_matched(
        self, groups: Tensor, match: Match, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """`push_others` with a match that is known."""
        assert self.threshold is not None
        return negtome_push_others(
            groups, match, self.alpha, self.threshold, mask, self.max_push, self.perpendicular
        )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], load: Load | None = None) -> NegToMe:
        """The inverse of `to_dict`."""
        values = check_keys(data, ("method", *field_names(cls)), "NegToMe")
        values.pop("method", None)
        values |= {name: edge_from_json(values[name]) for name in ("start", "stop") if name in values}
        for key in ("mask", "reference_mask"):
            values[key] = decode(key, values.get(key), load)
        if isinstance(values.get("reference"), list):
            values["reference"] = decode("reference", values["reference"], load)
        return cls(**values)


def _check_pattern(blocks: Any) -> None:
    if not isinstance(blocks, str):
        raise TypeError(f"blocks must be a regular expression (a string) or None, got {blocks!r}")
    try:
        re.compile(blocks)
    except re.error as error:
        raise ValueError(f"blocks must be a regular expression, got {blocks!r}: {error}") from error


def _check_reference(reference: Any) -> str | tuple[ImageLike, ...]:
    right = "'others', 'first', a PIL image, a tensor [3, H, W] in [0, 1], or a sequence of such images"
    if isinstance(reference, str):
        if reference not in ("others", "first"):
            raise ValueError(f"reference must be {right}, got {reference!r}; open a file with PIL.Image.open")
        return reference
    images = tuple(reference) if isinstance(reference, list | tuple) else (reference,)
    if not images:
        raise ValueError(f"reference must be {right}, got an empty sequence")
    for image in images:
        if isinstance(image, torch.Tensor):
            if image.ndim != 3 or image.shape[0] != 3:
                raise ValueError(f"reference must be {right}, got a tensor of shape {list(image.shape)}")
            check_range("reference", image, "[3, H, W]")
        elif not isinstance(image, PIL.Image.Image):
            raise ValueError(f"reference must be {right}, got {image!r}")
    return images


def _check_reference_mask(mask: Any, images: int) -> None:
    masks = mask if isinstance(mask, list | tuple) else [mask]
    if masks is mask and (not images or len(mask) != images):
        raise ValueError(
            f"reference_mask has {len(mask)} masks for {images} reference images; give one, or one each"
        )
    for one in masks if mask is not None else ():
        check_mask("reference_mask", one)
