"""What a user passes: small frozen objects that say which negatives act, how strongly, when and where.

Windows are fractions of the denoising steps, [start, stop), with the rounding of diffusers' guiders: step i of n
is inside when int(start * n) <= i < int(stop * n).

Every method goes to JSON and back with `to_dict()`, `from_dict()` and `method_from_dict()`. An image or a mask does
not fit into JSON: `to_dict()` stores what it is, {"sha256": ..., "size": [width, height]}, and `to_dict(save)` stores
what `save(image)` returns instead, e.g. the name of the file that it wrote (anything JSON can hold, but not a list).
`from_dict(d, load)` calls `load(stored)` for each image; without `load` a dict that names an image is refused.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, cast

import PIL.Image
import torch

ImageLike = PIL.Image.Image | torch.Tensor
"""A PIL image, or a float tensor [3, H, W] in [0, 1]."""
MaskLike = PIL.Image.Image | torch.Tensor
"""A PIL image of mode "L" or "1", or a float or bool tensor [H, W] in [0, 1]; 1 = here, 0 = not here."""
Save = Callable[[ImageLike], Any]
Load = Callable[[Any], ImageLike]


class _Method:
    """JSON, equality and hash, shared by the frozen dataclasses below (tensors have no usable `==`)."""

    def to_dict(self, save: Save | None = None) -> dict[str, Any]:
        raise TypeError(f"{type(self).__name__} has no JSON form")

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and isinstance(other, _Method) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash(json.dumps(self.to_dict(), sort_keys=True))


@dataclass(frozen=True, eq=False)
class Negative(_Method):
    """One thing to leave out.

    Args:
        prompt: what to leave out, in words ("black glasses"). Only its part perpendicular to the prompt is
            subtracted, so it may overlap with the prompt.
        weight: strength, >= 0 (1 = as strong as the guidance towards the prompt).
        start, stop: the window in which it acts, fractions of the steps, 0 <= start < stop <= 1. Composition and
            attributes are decided early, so the default is the first half.
        mask: where it acts (see `MaskLike`), with the aspect ratio of the image; None = everywhere.

    Raises:
        TypeError, ValueError: naming the argument, its value and what would be right.
    """

    prompt: str
    weight: float = 1.0
    start: float = 0.0
    stop: float = 0.5
    mask: MaskLike | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.prompt, str):
            raise TypeError(f"prompt must be a string, got {self.prompt!r}")
        if not self.prompt.strip():
            raise ValueError(f"prompt of a Negative must say what to leave out, got {self.prompt!r}")
        object.__setattr__(self, "weight", _non_negative("weight", self.weight))
        _set_window(self)
        if self.mask is not None:
            _check_mask("mask", self.mask)

    def to_dict(self, save: Save | None = None) -> dict[str, Any]:
        """The negative as JSON data; `save` stores the mask (see the module's text)."""
        return {name: _stored(getattr(self, name), save) for name in self.__dataclass_fields__}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], load: Load | None = None) -> Negative:
        """The inverse of `to_dict`."""
        values = _known_keys(data, tuple(cls.__dataclass_fields__), "Negative")
        return cls(**{**values, "mask": _loaded("mask", values.get("mask"), load)})


@dataclass(frozen=True, eq=False, init=False, repr=False)
class PerpNeg(_Method):
    """Perp-Neg (arXiv 2304.04968): subtract only what of each negative is perpendicular to the prompt.

    With p = cond - uncond and n_k = negative_k - uncond the prediction is
    uncond + g (p - sum_k weight_k (n_k - <n_k, p> / |p|^2 p)).

    Args:
        negatives: one or more `Negative` or plain strings.
        joint: also make each negative perpendicular to the ones before it, so that two wordings of one thing do not
            count twice.

    Raises:
        ValueError: without any negative.
        TypeError: for anything that is neither a `Negative` nor a string.
    """

    negatives: tuple[Negative, ...]
    joint: bool

    def __init__(self, *negatives: Negative | str, joint: bool = False) -> None:
        if not negatives:
            raise ValueError("PerpNeg needs at least one negative, e.g. PerpNeg('black glasses')")
        for negative in negatives:
            if not isinstance(negative, Negative | str):
                hint = "; unpack it: PerpNeg(*negatives)" if isinstance(negative, list | tuple) else ""
                raise TypeError(f"negatives must be Negative objects or strings, got {negative!r}{hint}")
        wrapped = tuple(Negative(n) if isinstance(n, str) else n for n in negatives)
        object.__setattr__(self, "negatives", wrapped)
        object.__setattr__(self, "joint", _boolean("joint", joint))

    def __repr__(self) -> str:
        return f"PerpNeg({', '.join(map(repr, self.negatives))}, joint={self.joint})"

    def to_dict(self, save: Save | None = None) -> dict[str, Any]:
        """The method as JSON data; `save` stores the masks (see the module's text)."""
        negatives = [negative.to_dict(save) for negative in self.negatives]
        return {"method": "PerpNeg", "negatives": negatives, "joint": self.joint}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], load: Load | None = None) -> PerpNeg:
        """The inverse of `to_dict`."""
        values = _known_keys(data, ("method", "negatives", "joint"), "PerpNeg")
        negatives = [Negative.from_dict(n, load) for n in values.get("negatives", ())]
        return cls(*negatives, joint=values.get("joint", False))


@dataclass(frozen=True, eq=False)
class NegToMe(_Method):
    """Negative token merging (arXiv 2412.01339): push image tokens away from their best match in a reference.

    Each token x_i of a self-attention output becomes x_i + alpha (x_i - r_j), r_j being the reference token with the
    highest cosine to x_i, where that cosine is above the threshold.

    Args:
        reference: "others", all other images of the same prompt; "first", images 2..n from image 1 of the same
            prompt; or an image or a sequence of images (see `ImageLike`) to stay away from.
        alpha: strength, >= 0.
        threshold: least cosine of a match, in [-1, 1].
        start, stop: the window in which it acts, fractions of the steps, 0 <= start < stop <= 1.
        mask: which tokens of the output are pushed (see `MaskLike`), with the aspect ratio of the image.
        reference_mask: which tokens of the reference count; with the aspect ratio of the reference. For several
            reference images one mask for all or a sequence of one mask each.
        blocks: regular expression searched in the names of the self-attention modules; None = the model family's
            default. On Stable Diffusion: the up blocks with a feature map at least 32 wide, or half the latent's
            width where that is less.
        center: subtract the mean token before matching (for small models, whose tokens are nearly parallel).
        max_push: longest push, relative to the token's own L2 norm, > 0; None = unbounded.

    Published values: SDXL alpha .9, threshold .7, t 1000->800 (start 0, stop .2), up blocks at least 32 wide; FLUX
    .9, .65, t 1000->900 (stop .1), all blocks.

    Raises:
        TypeError, ValueError: naming the argument, its value and what would be right.
    """

    reference: str | ImageLike | Sequence[ImageLike] = "others"
    alpha: float = 0.9
    threshold: float = 0.65
    start: float = 0.0
    stop: float = 0.2
    mask: MaskLike | None = None
    reference_mask: MaskLike | Sequence[MaskLike] | None = None
    blocks: str | None = None
    center: bool = False
    max_push: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "reference", _check_reference(self.reference))
        object.__setattr__(self, "alpha", _non_negative("alpha", self.alpha))
        threshold = _number("threshold", self.threshold)
        if not -1 <= threshold <= 1:
            raise ValueError(f"threshold is a cosine and must be in [-1, 1], got {threshold}")
        object.__setattr__(self, "threshold", threshold)
        _set_window(self)
        if self.mask is not None:
            _check_mask("mask", self.mask)
        _check_reference_mask(self.reference_mask, len(self.images))
        if isinstance(self.reference_mask, list):
            object.__setattr__(self, "reference_mask", tuple(self.reference_mask))
        if self.blocks is not None:
            _check_pattern(self.blocks)
        object.__setattr__(self, "center", _boolean("center", self.center))
        if self.max_push is not None:
            max_push = _number("max_push", self.max_push)
            if not (math.isfinite(max_push) and max_push > 0):
                raise ValueError(f"max_push must be finite and > 0, or None for no bound, got {max_push}")
            object.__setattr__(self, "max_push", max_push)

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

    def to_dict(self, save: Save | None = None) -> dict[str, Any]:
        """The method as JSON data; `save` stores images and masks (see the module's text)."""
        fields = self.__dataclass_fields__
        return {"method": "NegToMe", **{name: _stored(getattr(self, name), save) for name in fields}}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], load: Load | None = None) -> NegToMe:
        """The inverse of `to_dict`."""
        values = _known_keys(data, ("method", *cls.__dataclass_fields__), "NegToMe")
        values.pop("method", None)
        for key in ("mask", "reference_mask"):
            values[key] = _loaded(key, values.get(key), load)
        if isinstance(values.get("reference"), list):
            values["reference"] = _loaded("reference", values["reference"], load)
        return cls(**values)


Method = PerpNeg | NegToMe
_METHODS: dict[str, type[PerpNeg] | type[NegToMe]] = {"PerpNeg": PerpNeg, "NegToMe": NegToMe}


def method_from_dict(data: Mapping[str, Any], load: Load | None = None) -> Method:
    """The method that `method.to_dict()` stored; `load` turns what stands for an image back into one.

    Raises:
        ValueError: for an unknown method or key, or for an image without `load`.
    """
    name = data.get("method")
    if name not in _METHODS:
        raise ValueError(f"method must be one of {', '.join(_METHODS)}, got {name!r}")
    return _METHODS[name].from_dict(data, load)


def collect(negative_guidance: Method | Sequence[Method]) -> tuple[PerpNeg | None, NegToMe | None]:
    """The one PerpNeg and the one NegToMe of `negative_guidance=`.

    Raises:
        TypeError: for anything that is no method.
        ValueError: for an empty list, or for two methods of a kind.
    """
    methods = negative_guidance if isinstance(negative_guidance, list | tuple) else [negative_guidance]
    if not methods:
        raise ValueError("negative_guidance is empty; give at least one method, or None for plain generation")
    found: dict[type, Any] = {}
    for method in methods:
        if not isinstance(method, PerpNeg | NegToMe):
            hint = f"; wrap it: PerpNeg({method!r})" if isinstance(method, Negative | str) else ""
            raise TypeError(f"negative_guidance must hold PerpNeg and NegToMe objects, got {method!r}{hint}")
        if type(method) in found:
            advice = "; put all negatives into one" if isinstance(method, PerpNeg) else ""
            raise ValueError(f"negative_guidance holds two {type(method).__name__} objects, give one{advice}")
        found[type(method)] = method
    return found.get(PerpNeg), found.get(NegToMe)


def digest(image: ImageLike) -> dict[str, Any]:
    """What stands for an image in JSON: {"sha256": of its pixels, "size": [width, height]}."""
    if isinstance(image, torch.Tensor):
        height, width = image.shape[-2:]
        raw = image.detach().cpu().contiguous()
        content = f"{raw.dtype}{tuple(raw.shape)}".encode() + bytes(raw.flatten().view(torch.uint8).numpy())
    else:
        width, height = image.size
        # masks are used as they are, everything else as RGB
        image = image if image.mode in ("L", "1") else image.convert("RGB")
        content = f"{image.mode}{image.size}".encode() + image.tobytes()
    return {"sha256": hashlib.sha256(content).hexdigest(), "size": [width, height]}


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    return float(value)


def _non_negative(name: str, value: Any) -> float:
    number = _number(name, value)
    if not (math.isfinite(number) and number >= 0):
        raise ValueError(f"{name} must be a finite number >= 0, got {number}")
    return number


def _boolean(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return value


def _set_window(method: Negative | NegToMe) -> None:
    start, stop = _number("start", method.start), _number("stop", method.stop)
    if not 0 <= start < stop <= 1:
        raise ValueError(f"start and stop must satisfy 0 <= start < stop <= 1, got {start=}, {stop=}")
    object.__setattr__(method, "start", start)
    object.__setattr__(method, "stop", stop)


def _check_pattern(blocks: Any) -> None:
    if not isinstance(blocks, str):
        raise TypeError(f"blocks must be a regular expression (a string) or None, got {blocks!r}")
    try:
        re.compile(blocks)
    except re.error as error:
        raise ValueError(f"blocks must be a regular expression, got {blocks!r}: {error}") from error


def _check_range(name: str, image: torch.Tensor, shape: str) -> None:
    if not (image.is_floating_point() or image.dtype == torch.bool):
        raise ValueError(f"{name} must be a float tensor {shape} in [0, 1], got dtype {image.dtype}")
    # NaN fails both comparisons
    if image.numel() == 0 or not bool(((image >= 0) & (image <= 1)).all()):
        raise ValueError(f"{name} must hold values in [0, 1], got a tensor {list(image.shape)} that does not")


def _check_mask(name: str, mask: Any) -> None:
    if isinstance(mask, torch.Tensor):
        if mask.ndim != 2:
            raise ValueError(f"{name} must be a tensor [H, W], got one of shape {list(mask.shape)}")
        _check_range(name, mask, "[H, W]")
    elif isinstance(mask, PIL.Image.Image):
        if mask.mode not in ("L", "1"):
            raise ValueError(
                f"{name} must be a PIL image of mode 'L' or '1', got mode {mask.mode!r}; use .convert('L')"
            )
    else:
        raise ValueError(f"{name} must be a PIL image of mode 'L' or '1' or a tensor [H, W], got {mask!r}")


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
            _check_range("reference", image, "[3, H, W]")
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
        _check_mask("reference_mask", one)


def _known_keys(data: Mapping[str, Any], keys: Sequence[str], name: str) -> dict[str, Any]:
    unknown = sorted(set(data) - set(keys))
    if unknown:
        raise ValueError(f"{name} has no {', '.join(unknown)}; its keys are {', '.join(keys)}")
    return dict(data)


def _stored(value: Any, save: Save | None) -> Any:
    if isinstance(value, tuple):
        return [_stored(one, save) for one in value]
    return (save or digest)(value) if isinstance(value, ImageLike) else value


def _loaded(name: str, stored: Any, load: Load | None) -> Any:
    if stored is None:
        return None
    if isinstance(stored, list):
        return [_loaded(name, one, load) for one in stored]
    if load is None:
        raise ValueError(f"{name} is an image, which JSON does not hold ({stored!r}); pass load= to find it")
    return load(stored)
