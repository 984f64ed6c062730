"""One call of a pipeline in which every image has negatives of its own.

`negative_guidance=` gives all images of a call the same negatives. A set needs another one for each image, and large
batches all the same: here each row of the batch has its own text and weight, [1, B], so that B different negatives
cost what one costs.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.utils.torch_utils import unwrap_module
from PIL import Image
from torch import Tensor

from negguide.integration.attending import text_attention
from negguide.integration.denoiser import DenoiserHook, EncodedNegatives, Parts, Run
from negguide.integration.family import Family
from negguide.integration.hooks import attached
from negguide.integration.negtome import NegToMeRun, TokenPush, choose_blocks, self_attention
from negguide.integration.processors import wrapped
from negguide.methods import Methods, Negative, NegToMe, PerpNeg

_HOOK = "negguide"


@dataclass(frozen=True)
class RowNegatives:
    """Perp-Neg with one negative an image: ``texts[i]`` with ``weights[i]``, until the fraction ``stop`` of the steps.

    An empty text takes nothing away.
    """

    texts: Sequence[str]
    weights: Sequence[float]
    stop: float


@dataclass(frozen=True)
class GroupPush:
    """NegToMe among each ``size`` consecutive images of the batch, whatever their prompts."""

    method: NegToMe
    size: int


def guided_call(
    pipe: Any,
    family: Family,
    arguments: Mapping[str, Any],
    negatives: RowNegatives | None = None,
    push: GroupPush | None = None,
) -> list[Image.Image]:
    """``pipe(**arguments).images`` with negatives and pushes of their own for the rows of the batch.

    Raises:
        ValueError: the call runs without classifier-free guidance, which Perp-Neg needs.
    """
    if negatives is None and push is None:
        return list(pipe(**arguments).images)
    bound = inspect.signature(type(pipe).__call__).bind(pipe, **arguments)
    bound.apply_defaults()
    with _acting(pipe, family, bound.arguments, negatives, push):
        return list(pipe(**arguments).images)


def same_shape(
    pipe: Any, family: Family, arguments: Mapping[str, Any], texts: Sequence[str]
) -> list[list[int]]:
    """The places of ``texts`` whose embeddings can share a batch."""
    bound = inspect.signature(type(pipe).__call__).bind(pipe, **arguments)
    bound.apply_defaults()
    encoded = _encoded(pipe, family, bound.arguments, texts)
    groups: dict[Any, list[int]] = {}
    for place, text in enumerate(texts):
        shapes = tuple(
            (path, tuple(value.shape))
            if isinstance(value, Tensor)
            else (path, None if value is None else text)
            for path, value in sorted(encoded[text].items())
        )
        groups.setdefault(shapes, []).append(place)
    return list(groups.values())


def _encoded(
    pipe: Any, family: Family, arguments: Mapping[str, Any], texts: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """{text: {text input: [1, ...]}} by the pipeline itself; positions are shared by all texts of a batch."""
    distinct = list(dict.fromkeys(texts))
    with torch.no_grad():
        encoded = family.encode_text(pipe, distinct, arguments)
    return {
        text: {path: value for path, value in inputs.items() if family.text[path] != "positions"}
        for text, inputs in zip(distinct, encoded, strict=True)
    }


def _rows(encoded: Mapping[str, Mapping[str, Any]], texts: Sequence[str]) -> dict[str, Any]:
    """The texts' inputs as rows of one batch; a text that is the same for all rows stays one row."""
    if len(set(texts)) == 1:
        return dict(encoded[texts[0]])
    paths = encoded[texts[0]]
    return {
        path: None if paths[path] is None else torch.cat([encoded[text][path] for text in texts])
        for path in paths
    }


@contextmanager
def _acting(
    pipe: Any,
    family: Family,
    arguments: Mapping[str, Any],
    negatives: RowNegatives | None,
    push: GroupPush | None,
) -> Iterator[None]:
    models = [getattr(pipe, name) for name in family.denoisers if getattr(pipe, name, None) is not None]
    latent_size = family.latent_size(pipe, arguments)
    perp_neg = encoded = None
    if negatives is not None:
        reason = family.guidance_off(pipe, arguments)
        if reason is not None:
            raise ValueError(f"method='perp-neg' needs classifier-free guidance: {reason}")
        # the words are not read from here: this says when the negatives act
        perp_neg = PerpNeg(Negative("each image's own", stop=negatives.stop))
        encoded = EncodedNegatives(
            method=perp_neg,
            text=[_rows(_encoded(pipe, family, arguments, negatives.texts), negatives.texts)],
            weights=torch.tensor(
                [[w if text else 0.0 for text, w in zip(negatives.texts, negatives.weights, strict=True)]],
                device=pipe._execution_device,
            ),
            masks=None,
        )
    pushing = None
    if push is not None:
        # as in a guided call: the family's least size goes with the family's choice of blocks
        least = family.negtome_min_side if push.method.blocks is None else 0
        pushing = NegToMeRun(push.method, images_per_prompt=push.size, min_side=least)
    methods = Methods(perp_neg=perp_neg, negtome=None if push is None else push.method)
    run = Run(pipe, family, arguments, Parts(methods, latent_size, negatives=encoded, negtome=pushing))
    with ExitStack() as stack:
        for model in models:
            stack.enter_context(attached(model, _HOOK, DenoiserHook(run, model)))
            if push is not None and pushing is not None:
                inner = unwrap_module(model)
                places = text_attention(inner, family)
                blocks = family.negtome_blocks if push.method.blocks is None else push.method.blocks
                modules = choose_blocks(self_attention(inner), blocks)
                pushes = {name: TokenPush(pushing, places.get(name)) for name in modules}
                stack.enter_context(wrapped(modules, push.method, pushes))
        yield
