"""Find a model by its name: the embedded toy world, a folder, or an id on the Hugging Face hub."""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

TOYWORLD = "toyworld"
"""The name of the embedded model, accepted wherever a model id goes."""
_RIGHT = f"{TOYWORLD!r}, a folder that save_pretrained wrote, or a hub id (owner/name)"
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


@dataclass(frozen=True)
class Defaults:
    """What suits a model unless the user says otherwise.

    Attributes:
        guidance_scale: of classifier-free guidance, where the pipeline is not asked (`own_guidance_scale`).
        negtome: arguments of `NegToMe` that differ from its own defaults.
    """

    guidance_scale: float = 7.5
    negtome: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


TOYWORLD_DEFAULTS = Defaults(
    guidance_scale=5.0,
    # A small model's tokens are nearly parallel, so it is pushed much harder than SDXL; at its 8x8 feature maps, which
    # decide what is seen and cost next to nothing.
    negtome=MappingProxyType(
        {
            "alpha": 10.0,
            "threshold": 0.65,
            "stop": 0.25,
            "blocks": r"(down_blocks\.1|mid_block|up_blocks\.0).*attn1$",
        }
    ),
)


def defaults(model: str) -> Defaults:
    """What suits `model`; the published values for every model but the embedded one."""
    return TOYWORLD_DEFAULTS if model == TOYWORLD else Defaults()


TRUE_CFG_SCALE = 4.0
"""With negatives, where a pipeline has true CFG and leaves it off unless asked: FLUX.1."""


def own_guidance_scale(pipeline: Any, *, guided: bool) -> float:
    """The guidance scale that suits a diffusers pipeline, or a class of them: the default of its call.

    Where there is `true_cfg_scale` (FLUX.1, Qwen-Image) it is that one, and 1, off, unless `guided`: these pipelines
    run without it when there is no negative prompt.

    Args:
        guided: whether something is asked for that needs classifier-free guidance.
    """
    accepted = inspect.signature(pipeline.__call__).parameters
    if "true_cfg_scale" not in accepted:
        # a pipeline from elsewhere may have no default
        scale = accepted["guidance_scale"].default if "guidance_scale" in accepted else None
        return float(scale) if isinstance(scale, int | float) else Defaults().guidance_scale
    if not guided:
        return 1.0
    own = float(accepted["true_cfg_scale"].default)
    return own if own > 1 else TRUE_CFG_SCALE


def not_from_words(pipeline: Any) -> str | None:
    """Why a diffusers pipeline, or a class of them, draws no pictures from words alone; None when it does."""
    accepted = inspect.signature(pipeline.__call__).parameters
    if "num_videos_per_prompt" in accepted:
        return "makes videos"
    if {"strength", "controlnet_conditioning_scale"} & set(accepted):
        return "starts from a picture"
    return None


def check_model(model: str) -> str:
    """`model` as settings store it: with the full path of a folder. Nothing is imported or downloaded.

    Raises:
        TypeError, ValueError: when it can be no model, with what would be right.
    """
    if not isinstance(model, str):
        raise TypeError(f"model must be {_RIGHT} (a string), got {model!r}")
    if model == TOYWORLD:
        return model
    folder = Path(model).expanduser()
    if model and folder.is_dir():
        if not (folder / "model_index.json").is_file():
            raise ValueError(
                f"model={model!r} is a folder without model_index.json; give one that save_pretrained wrote"
            )
        return str(folder.resolve())
    if not _HUB_ID.fullmatch(model):
        raise ValueError(f"model={model!r} is unknown: no such folder, and no hub id; use {_RIGHT}")
    return model


def load_pipeline(
    model: str = TOYWORLD, *, dtype: torch.dtype | None = None, device: str | torch.device = "cpu"
) -> Any:
    """The pipeline that `model` names, with `negative_guidance=`.

    Args:
        model: "toyworld", a folder in the layout of diffusers, or a hub id like "owner/name". Only safetensors are
            loaded. The pipeline that it names is one of diffusers or one that a registered family brings; a guided
            pipeline that was saved is an ordinary one.
        dtype: of all weights; None = float32.
        device: where they go.

    Raises:
        TypeError, ValueError: when there is no such model, when it cannot be loaded, or when negguide does not
            support its pipeline.
    """
    model = check_model(model)
    # imported here, so that naming a model costs nothing
    import torch

    from negguide.integration.pipelines import from_pipe

    pipe = _load(model, torch.float32 if dtype is None else dtype)
    try:
        guided = from_pipe(pipe)
    except ValueError as error:
        raise ValueError(f"model={model!r} is not supported: {error}") from error
    return guided.to(device)


def revision(model: str) -> str | None:
    """What tells two states of `model` apart: a hub model's commit, or a fingerprint of a folder's files.

    The fingerprint covers every file's name and size and its first and last megabyte. None for a hub model that is
    not in the local cache.
    """
    if model == TOYWORLD:
        from negguide.toyworld.models import TEXT_TO_IMAGE

        return _fingerprint(TEXT_TO_IMAGE)
    if Path(model).is_dir():
        return _fingerprint(Path(model))
    from huggingface_hub import try_to_load_from_cache

    index = try_to_load_from_cache(model, "model_index.json")
    return Path(index).parent.name if isinstance(index, str) else None


def _load(model: str, dtype: torch.dtype) -> Any:
    if model == TOYWORLD:
        from negguide.toyworld.models import load_pipeline as load_toyworld

        return load_toyworld(dtype=dtype)
    try:
        return _pipeline_class(model).from_pretrained(model, dtype=dtype, use_safetensors=True)
    except Exception as error:
        raise ValueError(
            f"model={model!r} cannot be loaded: {first_sentence(error)}; use {_RIGHT}"
        ) from error


def _pipeline_class(model: str) -> Any:
    """What loads `model`: the class that it names where a family brings it, or else diffusers by itself."""
    import diffusers

    from negguide.integration.families import registered_families

    brought = {
        kind.__name__: kind
        for family in registered_families()
        for kind in family.pipelines
        if isinstance(kind, type) and not hasattr(diffusers, kind.__name__)
    }
    if not brought:
        return diffusers.DiffusionPipeline
    name = diffusers.DiffusionPipeline.load_config(model).get("_class_name")
    return (
        brought.get(name, diffusers.DiffusionPipeline)
        if isinstance(name, str)
        else diffusers.DiffusionPipeline
    )


def first_sentence(error: Exception) -> str:
    """The gist of an error while loading a model, which may hold pages of text; its name where there is none.

    A model that is missing, unreachable or broken fails in many ways.
    """
    text = re.sub(r"\s*\([^()]*\)", "", str(error)).strip().partition("\n")[0].partition(". ")[0]
    return text or type(error).__name__


def _fingerprint(folder: Path) -> str:
    edge = 1 << 20
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder).as_posix()}\0{size}\0".encode())
        with path.open("rb") as file:
            digest.update(file.read(edge))
            file.seek(max(edge, size - edge))
            digest.update(file.read(edge))
    return digest.hexdigest()[:16]
