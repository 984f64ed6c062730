"""The door to a model by itself: a token- or attention-space method in every call of a denoiser, whoever makes it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from diffusers.utils.torch_utils import unwrap_module
from torch import Tensor, nn

from negguide.guidance.grid import resize_mask
from negguide.integration.families import Denoiser, Family, denoiser_family
from negguide.integration.hooks.compat import warn_if_untested
from negguide.integration.hooks.model_hook import MethodHook, attach, detach
from negguide.integration.hooks.step_tracking import Step, check_windows
from negguide.integration.runtime.attention import AttentionRuntime, text_targets
from negguide.integration.runtime.base import MethodRuntime
from negguide.integration.runtime.embeddings import check_embeds, given_text
from negguide.integration.runtime.masks import check_aspect, mask_tensor, negative_masks
from negguide.integration.runtime.tokens import TokenRuntime, token_targets
from negguide.methods import AttentionMethod, Method, TokenMethod, registered_methods


def apply_to_model(
    model: Any,
    method: Method,
    *,
    negative_embeds: Tensor | Mapping[str, Tensor | None] | None = None,
    num_inference_steps: int | None = None,
    guidance_branches: int | None = None,
    num_images_per_prompt: int | None = None,
) -> None:
    """Let a method act in every call of a denoiser, whichever pipeline or loop makes it, until `remove_from_model`.

    A hook on the model follows the steps of each run by itself, those of several threads and of calls inside one
    another too. The model's attention processors are its own except while it runs, so that adapters, PAG and whatever
    else sets, scales or replaces processors work as without it. Called again, it takes the place of the method that is
    there. The result equals that of `from_pipe` with the same method where num_inference_steps is given or the windows
    are the whole run.

    To compile with fullgraph=True, wrap the model by torch.compile before calling this: the hook is not traced, and
    in a model compiled afterwards it breaks the graph.

    Args:
        model: a UNet2DConditionModel of diffusers, or the transformer of SD3, FLUX.1, FLUX.2, Qwen-Image, PixArt-Sigma,
            Sana or Wan, compiled or not. Z-Image's is not told enough in its calls: use `from_pipe`.
        method: in token space with reference="others" or "first" (NegToMe), or in attention space (NAG).
        negative_embeds: the encoded negatives of an attention-space method, one row each in their order: what
            `pipe.encode_prompt` gives for their prompts. For UNets, SD3 and Wan [K, tokens, channels]; for the others a
            dict by the names of the model's inputs: encoder_hidden_states [K, tokens, channels] and, for PixArt-Sigma
            and Sana, encoder_attention_mask [K, tokens]; for Qwen-Image encoder_hidden_states_mask [K, tokens] or None;
            for FLUX.1 txt_ids [tokens, 3]; for FLUX.2 txt_ids [K, tokens, 4]. Not with negatives that all have `embeds`
            of their own.
        num_inference_steps: steps of a run: a window holds steps int(start * num_inference_steps) up to
            int(stop * num_inference_steps) - 1. They are the steps of the scheduler of the pipeline that calls; a loop
            of one's own is taken to have one step for each of its timesteps. None = the window is placed by the
            timestep, on the 1000 on which the model was trained and whatever the scheduler: it holds timesteps
            1000 (1 - start) down to, and without, 1000 (1 - stop). NegToMe's published t 1000->800 is start 0,
            stop 0.2. For image to image, and for a model that draws a part of the steps only (Wan 2.2 has two), this is
            a window of the noise. It warns when a run leaves a window out. Schedulers that do not count in training
            timesteps (EDM) need num_inference_steps.
        guidance_branches: 2 with the usual classifier-free guidance, 1 without; None = 2. Attention-space methods act
            on the conditional branch: the last one of a batch. FLUX, Qwen-Image and Wan are called once for each
            branch, the conditional first; for attention-space methods there it must be given. Perturbed-attention
            guidance, whose processors tell, adds one behind, which stays as it is.
        num_images_per_prompt: as given to the pipeline; None = all images of a call belong to one prompt.

    Raises:
        TypeError, ValueError: naming the argument, its value and what would be right.

    Source: each method's own `source`.

    Example:
        >>> negguide.apply_to_model(pipe.unet, NegToMe("others"))
        >>> images = pipe("a bear", num_images_per_prompt=4).images
        >>> negguide.remove_from_model(pipe.unet)
    """
    warn_if_untested()
    acting = (*registered_methods("token"), *registered_methods("attention"))
    if not isinstance(method, acting):
        names = ", ".join(kind.__name__ for kind in acting)
        raise TypeError(
            f"method must be one of {names}, got {method!r}; methods with predictions of their own (PerpNeg) work "
            "through from_pipe"
        )
    for name, value, least in (
        ("num_inference_steps", num_inference_steps, 1),
        ("guidance_branches", guidance_branches, 1),
        # NegToMe has nothing to push from with one
        ("num_images_per_prompt", num_images_per_prompt, 2 if method.space == "token" else 1),
    ):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
    inner = unwrap_module(model)
    family, denoiser = denoiser_family(inner)
    method = family.with_defaults(method)
    if num_inference_steps is not None:
        check_windows([method], Step(0, num_inference_steps))
    make = _RUNTIMES[method.space](
        inner, family, denoiser, method, negative_embeds, guidance_branches, num_images_per_prompt
    )
    branches = 2 if guidance_branches is None else guidance_branches
    noise = denoiser.noise(inner.config)
    attach(model, MethodHook(make, method, family, denoiser, noise, num_inference_steps, branches))


def remove_from_model(model: Any) -> None:
    """Take away what `apply_to_model` put on a denoiser; without anything there nothing happens."""
    detach(model)
    detach(unwrap_module(model))


def attention_processors(model: Any, method: Method, **options: Any) -> dict[str, Any]:
    """Deprecated: `apply_to_model`, which this calls; the model's processors, which may be set or not."""
    warnings.warn(
        "attention_processors is deprecated; use negguide.apply_to_model(model, method), which needs no "
        "set_attn_processor",
        DeprecationWarning,
        stacklevel=2,
    )
    apply_to_model(model, method, **options)
    processors: dict[str, Any] = unwrap_module(model).attn_processors
    return processors


def remove_attention_processors(model: Any) -> None:
    """Deprecated: `remove_from_model`."""
    warnings.warn(
        "remove_attention_processors is deprecated; use negguide.remove_from_model(model)",
        DeprecationWarning,
        stacklevel=2,
    )
    remove_from_model(model)


def _token_runtime(
    model: nn.Module,
    family: Family,
    denoiser: Denoiser,
    method: TokenMethod,
    embeds: Any,
    guidance_branches: int | None,
    num_images_per_prompt: int | None,
) -> Any:
    if embeds is not None:
        raise ValueError(
            f"negative_embeds are of {', '.join(kind.__name__ for kind in registered_methods('attention'))}; "
            f"{type(method).__name__} takes no text"
        )
    if method.images:
        raise ValueError(
            "reference holds images, which a denoiser by itself cannot encode (it has no VAE); use from_pipe"
        )
    targets = {model: token_targets(model, family, method)}

    def make(latent_size: tuple[int, int]) -> MethodRuntime:
        name = type(method).__name__
        (reference_mask,) = method.reference_masks or (None,)
        return TokenRuntime(
            method,
            family,
            targets,
            method.group_size or num_images_per_prompt,
            _mask(f"mask of {name}", method.mask, latent_size),
            _mask(f"reference_mask of {name}", reference_mask, latent_size),
        )

    return make


def _attention_runtime(
    model: nn.Module,
    family: Family,
    denoiser: Denoiser,
    method: AttentionMethod,
    embeds: Any,
    guidance_branches: int | None,
    num_images_per_prompt: int | None,
) -> Any:
    if family.sequential and guidance_branches is None:
        raise ValueError(
            f"guidance_branches must be given: {type(model).__name__} is called once for each guidance branch, and "
            f"{type(method).__name__} acts on the first call at a timestep of 2 with classifier-free guidance, and "
            "on each call of 1 without"
        )
    own = [negative for negative in method.negatives if negative.prompt_index is not None]
    if own and num_images_per_prompt is None:
        raise ValueError(
            f"num_images_per_prompt must be given: Negative({own[0].prompt!r}) belongs to prompt "
            f"{own[0].prompt_index} of the call"
        )
    text = _texts(model, family, denoiser, method, embeds)
    targets = {model: text_targets(model, family)}

    def make(latent_size: tuple[int, int]) -> MethodRuntime:
        masks = negative_masks(method.negatives, latent_size, latent_size, "the latents")
        return AttentionRuntime(method, family, text, targets, num_images_per_prompt or 1, masks)

    return make


_RUNTIMES: Mapping[str, Any] = {"token": _token_runtime, "attention": _attention_runtime}


def _texts(
    model: Any, family: Family, denoiser: Denoiser, method: AttentionMethod, embeds: Any
) -> list[dict[str, Any]]:
    """For each negative {text input: [1, tokens, ..], or [tokens, ..] of positions}.

    Raises:
        ValueError: names or shapes that are not those of the model's inputs, or of the pipeline's arguments.
    """
    if method.max_sequence_length is not None:
        raise ValueError(
            f"max_sequence_length of {type(method).__name__} is {method.max_sequence_length}, and here its negatives "
            "are given as embeddings, which have theirs; leave it out"
        )
    kinds = {path: kind for path, kind in family.text.items() if kind != "pooled"}
    own = [negative for negative in method.negatives if negative.embeds is not None]
    if own and embeds is not None:
        raise ValueError(
            f"negative_embeds are given, and Negative({own[0].prompt!r}) has embeds of its own; give one of the two"
        )
    if len(own) == len(method.negatives):
        for negative in own:
            check_embeds(family, negative, [model], pooled=False)
        texts = [given_text(family, negative, model.device, model.dtype) for negative in own]
        return [{path: value for path, value in text.items() if path in kinds} for text in texts]
    first, *others = kinds
    count, channels = len(method.negatives), denoiser.text_channels(model.config)
    given = embeds if isinstance(embeds, Mapping) else {first: embeds}
    shapes = {path: None if value is None else list(value.shape) for path, value in given.items()}
    shape = shapes.get(first) or []
    axes = ["tokens", "layers"] if kinds[first] == "layers" else ["tokens"]
    right = set(given) == set(kinds) and shape == [count, *shape[1 : 1 + len(axes)], channels]
    for path in others if right else ():
        beginning, other = shape[1:2] if kinds[path] == "positions" else shape[:2], shapes[path]
        if kinds[path] == "layers first":
            # of a text encoder of its own, so with tokens of their own
            right = right and other is not None and len(other) == 4 and other[1] == count
            continue
        # without a mask there is no padding
        fits = path.endswith("_mask") if other is None else other[: len(beginning)] == beginning
        right = right and fits
    if not right:
        rows = f"[{count}, {', '.join(axes)}, {channels}]"
        if others:
            before = {"positions": "", "layers first": f"layers, {count}, "}
            more = (f"{path!r}: [{before.get(kinds[path], f'{count}, ')}tokens, ..]" for path in others)
            rows = f"{{{first!r}: {rows}, {', '.join(more)}}}"
        raise ValueError(
            f"negative_embeds must be {rows} for {type(model).__name__}, one row for each negative of "
            f"{type(method).__name__}, got {shapes if isinstance(embeds, Mapping) else shapes[first]}"
        )
    texts = [
        {
            path: value
            if value is None or kinds[path] == "positions"
            else value.narrow(family.batch_axis(path), k, 1)
            for path, value in given.items()
        }
        for k in range(count)
    ]
    return [_unpadded(family, text) for text in texts] if family.one_layout else texts


def _unpadded(family: Family, text: dict[str, Any]) -> dict[str, Any]:
    """One negative without what fills it up behind, by which the model would move the image away from it."""
    first, mask, *_ = family.text
    for path, derive in family.derived.items():
        if text[path] is None:
            text = {**text, path: derive(text[first])}
    if text[mask] is None or not text[mask].any():
        return text
    tokens = int(text[mask][0].nonzero().max()) + 1
    return {path: value[:, :tokens] for path, value in text.items()}


def _mask(name: str, mask: Any, latent_size: tuple[int, int]) -> Tensor | None:
    if mask is None:
        return None
    check_aspect(name, mask, latent_size, "the latents")
    return resize_mask(mask_tensor(mask)[None, None], latent_size)
