"""Every tiny pipeline, and what the tests of all families share."""

import importlib
import inspect
from pathlib import Path
from typing import Any

import diffusers
import torch
from packaging.version import Version
from torch.nn.utils.rnn import pad_sequence

from negguide import NegToMe, PerpNeg, apply_to_model, from_pipe

OLDER = Version(diffusers.__version__) < Version("0.42")
"""Whether this is a version of diffusers that has not all the pipelines."""


def _tiny_ones(module: str) -> tuple[Any, ...]:
    try:
        found: tuple[Any, ...] = getattr(importlib.import_module(module), "TINY", ())
    except ImportError:
        if not OLDER:
            raise
        return ()
    return found


_NEXT_TO_THIS = sorted(path.stem for path in Path(__file__).parent.glob("tiny_*.py"))
TINY: tuple[Any, ...] = tuple(
    tiny
    for name in _NEXT_TO_THIS
    if name not in ("tiny_pipelines", "tiny_adapters")
    for tiny in _tiny_ones(name)
)
"""Those of all files beside this one that have some."""
PROMPT, OTHER = "a bear wearing a hat", "a cat in the snow"
NEGATIVES = ("black glasses", "a red scarf")
SCALE = 4.0


def differ(one: torch.Tensor, other: torch.Tensor) -> float:
    """|one - other| / |other|."""
    return float((one - other).norm() / other.norm())


def assert_same(one: torch.Tensor, other: torch.Tensor) -> None:
    """No value differs by more than 1e-4, in units of the largest one where that is above 1."""
    largest = max(1.0, float(other.abs().max()))
    torch.testing.assert_close(one, other, rtol=0.0, atol=1e-4 * largest)


def assert_same_but_for_ties(one: torch.Tensor, other: torch.Tensor) -> None:
    """The same, but for a few values where NegToMe took the second of two tokens that match equally well.

    In these small random networks many tokens are almost parallel, and how many rows a forward holds decides the last
    digits of their similarities, on each processor otherwise. Such a token changes a few places a little.
    """
    largest = max(1.0, float(other.abs().max()))
    difference = (one - other).abs() / largest
    assert float((difference > 1e-4).float().mean()) <= 0.1, "more than a tenth of the values differ"
    assert float(difference.max()) <= 1e-2


def taken(tiny: Any, *methods: Any) -> list[Any]:
    """Those of the methods that a pipeline takes: Perp-Neg needs classifier-free guidance."""
    return [method for method in methods if tiny.guided or not isinstance(method, PerpNeg)]


def build(tiny: Any) -> Any:
    """A pipeline of one's own, to be changed."""
    pipe: Any = tiny.build()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def denoiser(pipe: Any) -> Any:
    return getattr(pipe, "unet", None) or pipe.transformer


def encoded(base: Any, tiny: Any, method: Any) -> Any:
    """The negatives as the denoiser takes them: by the pipeline's own `encode_prompt`, padded to one length."""
    pipe = from_pipe(base)
    family = pipe.family
    defaults = inspect.signature(type(base).__call__).parameters
    arguments = {name: p.default for name, p in defaults.items()} | tiny.call()
    with torch.no_grad():
        rows = family.encode_text(pipe, [n.prompt for n in method.negatives], arguments)
    for row in rows:
        if row.get("encoder_hidden_states_mask", ...) is None:
            # Qwen-Image leaves it out where nothing is padded, and one by one nothing is
            row["encoder_hidden_states_mask"] = torch.ones(row["encoder_hidden_states"].shape[:2])
    embeds = {
        path: rows[0][path]
        if kind == "positions"
        else torch.cat([row[path] for row in rows], dim=1)
        if kind == "layers first"
        else pad_sequence([row[path][0] for row in rows], batch_first=True)
        for path, kind in family.text.items()
        if kind != "pooled"
    }
    return embeds if len(embeds) > 1 else embeds["encoder_hidden_states"]


def put_on_model(base: Any, tiny: Any, method: Any, **arguments: Any) -> None:
    """`apply_to_model` on the pipeline's denoiser, with the arguments that its calls need."""
    if not isinstance(method, NegToMe):
        own: dict[str, Any] = {"negative_embeds": encoded(base, tiny, method)}
        arguments = {**own, "guidance_branches": 2 if tiny.guided else 1, **arguments}
    elif not tiny.guided:
        arguments = {"guidance_branches": 1, **arguments}
    apply_to_model(denoiser(base), method, **arguments)
