"""What families have in common that diffusers has as modular pipelines only, or that are known as such only."""

from collections.abc import Mapping
from typing import Any


def _of_classic_pipelines(*args: Any) -> Any:
    raise NotImplementedError("the family has no classic pipelines")


MODULAR_ONLY: Mapping[str, Any] = {
    "pipelines": (),
    "branches": _of_classic_pipelines,
    "guidance_scale": _of_classic_pipelines,
    "cfg_disabled_reason": _of_classic_pipelines,
    "latent_size": _of_classic_pipelines,
    "encode_text": _of_classic_pipelines,
    # where attention meets the text, and the image itself, is not known: Perp-Neg can act, and methods inside cannot
    "attention": (),
    "negtome_blocks": "",
}
"""Fields of a `Family`: those that only a classic pipeline asks for, and no place in attention."""
