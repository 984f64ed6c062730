"""Find a model by its name: one of a closed world, a folder, or an id on the Hugging Face hub."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from negguide._utils.hub import is_hub_id
from negguide.domain import (
    USUAL_STEPS,
    Defaults,
    DomainModel,
    default_domain,
    domain_models,
    domain_of,
    registered_domains,
)

if TYPE_CHECKING:
    import torch


def defaults(model: str) -> Defaults:
    """What suits `model`; the published values for every model but the embedded ones."""
    found = domain_models().get(model)
    return Defaults() if found is None else found.defaults


def usual_steps(model: str, *, draft: bool = False) -> int:
    """Steps of the sampler that suit `model`: `USUAL_STEPS` but for the embedded ones, which say theirs.

    Args:
        draft: where many pictures are drawn while somebody waits.
    """
    found = domain_models().get(model)
    if found is None:
        return USUAL_STEPS
    return found.draft_steps if draft else found.steps


def call_arguments(pipeline: Any) -> dict[str, Any]:
    """What a diffusers pipeline is to be called with unless the user says otherwise.

    Of an embedded model the size and the length of texts that it has learned, of any other nothing.
    """
    found = embedded_of(pipeline)
    accepted = inspect.signature(pipeline.__call__).parameters
    call = {} if found is None else found.call
    # an embedded model can be loaded as another pipeline of its family
    return {name: value for name, value in call.items() if name in accepted}


def embedded_of(pipeline: Any) -> DomainModel | None:
    """The embedded model that a diffusers pipeline holds, told by where it was loaded from; None for any other."""
    loaded_from = None if isinstance(pipeline, type) else getattr(pipeline, "name_or_path", None)
    for domain in registered_domains().values():
        for name, model in domain.models.items():
            if str(loaded_from) == str(domain.folders(name)[0]):
                return model
    return None


def defaults_of(pipeline: Any) -> Defaults:
    """The same for a diffusers pipeline, or a class of them."""
    found = embedded_of(pipeline)
    return Defaults() if found is None else found.defaults


def own_guidance_scale(pipeline: Any, *, guided: bool) -> float:
    """The guidance scale that suits a diffusers pipeline, or a class of them: the default of its call.

    An embedded model says its own. Where there is `true_cfg_scale` (FLUX.1, Qwen-Image) it is that one, and 1, off,
    unless `guided`: these pipelines run without it when there is no negative prompt.

    Args:
        guided: whether something is asked for that needs classifier-free guidance.
    """
    accepted = inspect.signature(pipeline.__call__).parameters
    embedded = embedded_of(pipeline)
    if embedded is not None:
        return embedded.defaults.guidance_scale if guided or embedded.always_guided else 1.0
    if "true_cfg_scale" not in accepted:
        # a pipeline from elsewhere may have no default
        scale = accepted["guidance_scale"].default if "guidance_scale" in accepted else None
        return float(scale) if isinstance(scale, int | float) else Defaults().guidance_scale
    if not guided:
        return 1.0
    from negguide.integration.defaults import TRUE_CFG_SCALE

    own = float(accepted["true_cfg_scale"].default)
    return own if own > 1 else TRUE_CFG_SCALE


def guidance_arguments(
    pipeline: Any, scale: float, negative_prompt: str = "", prompts: int | None = None
) -> dict[str, Any]:
    """The arguments with which a call of a diffusers pipeline is guided by `scale`.

    FLUX.1 and Qwen-Image have guidance of their own beside true CFG, and need a negative prompt to be guided by that.

    Args:
        prompts: how many the call has, as a list; None = one, as a string. The negative prompt is given likewise.
    """
    accepted = inspect.signature(pipeline.__call__).parameters
    true_cfg = "true_cfg_scale" in accepted
    found: dict[str, Any] = {}
    if true_cfg or "guidance_scale" in accepted:
        found["true_cfg_scale" if true_cfg else "guidance_scale"] = scale
    if negative_prompt or (true_cfg and scale > 1):
        found["negative_prompt"] = negative_prompt if prompts is None else [negative_prompt] * prompts
    return found


PICTURES = ("image", "mask_image", "control_image")
"""What a pipeline may take beside words: the picture that it starts from or changes, where it may change it, and what
a ControlNet or an adapter follows."""


def picture_arguments(pipeline: Any) -> dict[str, str]:
    """{one of `PICTURES`: the argument of the call that takes it}, for a diffusers pipeline or a class of them."""
    accepted = inspect.signature(pipeline.__call__).parameters
    if "control_image" in accepted:
        names = {"control_image": "control_image", "image": "image"}
    elif {"controlnet_conditioning_scale", "adapter_conditioning_scale"} & set(accepted):
        # that of Stable Diffusion's ControlNets and adapters is called image
        names = {"control_image": "image"}
    else:
        names = {"image": "image"}
    names["mask_image"] = "mask_image" if "mask_image" in accepted else "control_mask"
    return {name: names[name] for name in PICTURES if names.get(name) in accepted}


def needed_pictures(pipeline: Any) -> tuple[str, ...]:
    """Those of `PICTURES` without which a diffusers pipeline, or a class of them, draws nothing.

    Its signature does not say so: it has a default for everything.
    """
    accepted = inspect.signature(pipeline.__call__).parameters
    starts = bool({"strength", "mask_image", "image_guidance_scale"} & set(accepted))
    names = [kind.__name__ for kind in (pipeline if isinstance(pipeline, type) else type(pipeline)).__mro__]
    # FLUX.1 Kontext and FLUX.2 draw from words too; what only edits is called so
    edits = any("Edit" in name for name in names)
    optional = () if starts or edits else ("image",)
    return tuple(name for name in picture_arguments(pipeline) if name not in optional)


def not_from_words(pipeline: Any) -> str | None:
    """Why a diffusers pipeline, or a class of them, draws no pictures from words alone; None when it does."""
    if "num_videos_per_prompt" in inspect.signature(pipeline.__call__).parameters:
        return "makes videos"
    return "starts from a picture" if needed_pictures(pipeline) else None


def check_model(model: str) -> str:
    """`model` as settings store it: with the full path of a folder. Nothing is imported or downloaded.

    Raises:
        TypeError, ValueError: when it can be no model, with what would be right.
    """
    if not isinstance(model, str):
        raise TypeError(f"model must be {_right()} (a string), got {model!r}")
    if domain_of(model) is not None:
        return model
    folder = Path(model).expanduser()
    if model and folder.is_dir():
        if not (folder / "model_index.json").is_file():
            raise ValueError(
                f"model={model!r} is a folder without model_index.json; give one that save_pretrained wrote"
            )
        return str(folder.resolve())
    if not is_hub_id(model):
        raise ValueError(f"model={model!r} is unknown: no such folder, and no hub id; use {_right()}")
    return model


def load_pipeline(
    model: str | None = None,
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    pipeline: str | None = None,
) -> Any:
    """The pipeline that `model` names, with `negative_guidance=`.

    Args:
        model: an embedded one ("toyworld", "toyworld-flow", ...), a folder in the layout of diffusers, or a hub id
            like "owner/name". Only safetensors are loaded. The pipeline that it names is one of diffusers or one that a
            registered family brings; a guided pipeline that was saved is an ordinary one. None = "toyworld".
        dtype: of all weights; None = float32.
        device: where they go.
        pipeline: the class to load it as, by name, one of `supported_pipelines()`; None = the one that it names.

    Raises:
        TypeError, ValueError: when there is no such model, when it cannot be loaded, or when negguide does not
            support its pipeline.
    """
    model = check_model(default_domain().model.name if model is None else model)
    # imported here, so that naming a model costs nothing
    import torch

    from negguide.integration.pipelines import from_pipe

    if pipeline is None and domain_of(model) is None:
        # before gigabytes are loaded
        _check_class(model)
    pipe = _load(model, torch.float32 if dtype is None else dtype, pipeline)
    try:
        guided = from_pipe(pipe)
    except ValueError as error:
        raise ValueError(f"model={model!r} is not supported: {error}") from error
    return guided.to(device)


def published_dtype(model: str, pipeline: str | None = None) -> str:
    """What to compute a large model in on a GPU: what its family was published in, "float16" or "bfloat16".

    Models of bfloat16 overflow in float16, and draw black pictures. Nothing but the model's index is downloaded. Of a
    model that cannot be found it is bfloat16.
    """
    from negguide.integration.families import supported_pipelines

    family = supported_pipelines().get(pipeline or pipeline_name(model) or "")
    return "bfloat16" if family is None else str(family.dtype).removeprefix("torch.")


def pipeline_name(model: str) -> str | None:
    """The pipeline class that a model names; None where that cannot be read. Nothing but its index is downloaded."""
    if embedded := domain_models().get(model):
        return embedded.pipeline
    try:
        if Path(model).is_dir():
            index = json.loads(Path(model, "model_index.json").read_text(encoding="utf-8"))
        else:
            import diffusers

            index = diffusers.DiffusionPipeline.load_config(model)
    except (OSError, ValueError):
        # what is wrong is said where the model is loaded
        return None
    name = index.get("_class_name") if isinstance(index, dict) else None
    return name if isinstance(name, str) else None


def pipeline_class(name: str | None) -> Any:
    """The supported pipeline class of this name, of diffusers or brought by a family; None where there is none."""
    import diffusers

    from negguide.integration.families import supported_pipelines

    family = supported_pipelines().get(name or "")
    if name is None or family is None:
        return None
    own = (kind for kind in family.pipelines if isinstance(kind, type) and kind.__name__ == name)
    return next(own, None) or getattr(diffusers, name, None)


def pipeline_file(name: str) -> str:
    """The path of a file for diffusers' `custom_pipeline=`, e.g. of "sdxl".

    Args:
        name: what stands behind "negguide_" in the file's name.

    Raises:
        ValueError: there is none, with the names of all.

    Example:
        >>> DiffusionPipeline.from_pretrained(
        ...     model, custom_pipeline=negguide.pipeline_file("sdxl"), trust_remote_code=True
        ... )
    """
    package = Path(__file__).parent
    # a wheel has them inside; in a clone, which an editable install uses, they lie beside the package
    folders = (package / "_pipelines", package.parent / "pipelines")
    files = {
        path.stem.removeprefix("negguide_"): path
        for folder in folders
        for path in sorted(folder.glob("negguide_*.py"))
    }
    if name not in files:
        raise ValueError(f"name must be one of {', '.join(sorted(files))}, got {name!r}")
    return str(files[name])


def revision(model: str) -> str | None:
    """What tells two states of `model` apart: a hub model's commit, or a fingerprint of a folder's files.

    The fingerprint covers every file's name and size and its first and last megabyte. None for a hub model that is
    not in the local cache.
    """
    domain = domain_of(model)
    if domain is not None:
        return _fingerprint(*domain.folders(model))
    if Path(model).is_dir():
        return _fingerprint(Path(model))
    return _cached_commit(model, "model_index.json")


def transformers_revision(model: str) -> str | None:
    """As `revision`, of a model or a tokenizer of transformers; an embedded one is its world's."""
    if domain_of(model) is not None or Path(model).is_dir():
        return revision(model)
    return _cached_commit(model, "config.json") or _cached_commit(model, "tokenizer_config.json")


def _cached_commit(model: str, file: str) -> str | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model, file)
    return Path(found).parent.name if isinstance(found, str) else None


def loaded_revision(model: str, config: Any) -> str | None:
    """As `revision`, of a model that transformers has loaded: of one on the hub the commit that it was loaded from.

    Args:
        model: the folder or hub id; "" of one that was made in memory, which has no revision.
        config: of the loaded model.
    """
    if model and Path(model).is_dir():
        return revision(model)
    commit = getattr(config, "_commit_hash", None)
    return None if commit is None else str(commit)


def _right() -> str:
    """What a model can be, for messages."""
    return f"{', '.join(map(repr, domain_models()))}, a folder that save_pretrained wrote, or a hub id (owner/name)"


def _load(model: str, dtype: torch.dtype, pipeline: str | None) -> Any:
    import diffusers

    kind = _brought_class(model) if pipeline is None else _supported_class(pipeline)
    domain = domain_of(model)
    if domain is not None:
        return domain.load_pipeline(model, dtype, kind)
    try:
        return (kind or diffusers.DiffusionPipeline).from_pretrained(model, dtype=dtype, use_safetensors=True)
    except Exception as error:
        as_what = "" if pipeline is None else f" as {pipeline}"
        raise ValueError(
            f"model={model!r} cannot be loaded{as_what}: {first_sentence(error)}; use {_right()}"
        ) from error


def _check_class(model: str) -> None:
    """Refuse a model that names a pipeline of diffusers which no family has."""
    import diffusers

    from negguide.integration.pipelines import guided_class

    named = getattr(diffusers, pipeline_name(model) or "", None)
    if isinstance(named, type) and issubclass(named, diffusers.DiffusionPipeline):
        try:
            guided_class(named)
        except ValueError as error:
            raise ValueError(f"model={model!r} is not supported: {error}") from error


def _supported_class(name: str) -> Any:
    found = pipeline_class(name)
    if found is None:
        from negguide.integration.families import supported_pipelines

        raise ValueError(f"pipeline must be one of {', '.join(supported_pipelines())}, got {name!r}")
    return found


def _brought_class(model: str) -> Any:
    """The class that a model names, where a family brings it; diffusers finds its own by itself."""
    import diffusers

    from negguide.integration.families import supported_pipelines

    if all(hasattr(diffusers, name) for name in supported_pipelines()):
        return None
    name = pipeline_name(model)
    return None if name is None or hasattr(diffusers, name) else pipeline_class(name)


def first_sentence(error: Exception) -> str:
    """The gist of an error while loading a model, which may hold pages of text; its name where there is none.

    A model that is missing, unreachable or broken fails in many ways.
    """
    text = re.sub(r"\s*\([^()]*\)", "", str(error)).strip().partition("\n")[0].partition(". ")[0]
    return text or type(error).__name__


def _fingerprint(*folders: Path) -> str:
    edge = 1 << 20
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            size = path.stat().st_size
            digest.update(f"{path.relative_to(folder).as_posix()}\0{size}\0".encode())
            with path.open("rb") as file:
                digest.update(file.read(edge))
                file.seek(max(edge, size - edge))
                digest.update(file.read(edge))
    return digest.hexdigest()[:16]
