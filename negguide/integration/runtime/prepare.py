"""From what the user asked for to what a run needs: checks first, then encoding."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from negguide.guidance.grid import resize_mask
from negguide.integration.diagnostics.trace import TraceRecorder
from negguide.integration.families.base import Arguments, Family
from negguide.integration.hooks.caches import check_cache
from negguide.integration.hooks.step_tracking import Step, check_windows
from negguide.integration.runtime.attention import AttentionRuntime, text_targets
from negguide.integration.runtime.base import MethodRuntime
from negguide.integration.runtime.embeddings import check_embeds, given_text
from negguide.integration.runtime.masks import (
    check_aspect,
    cover,
    image_size,
    image_tensor,
    mask_tensor,
    negative_masks,
)
from negguide.integration.runtime.prompt_rows import check_prompt_index
from negguide.integration.runtime.references import EncodedReferences
from negguide.integration.runtime.score import GuidanceStep, ScoreRuntime
from negguide.integration.runtime.slots import slots_of
from negguide.integration.runtime.token_budget import arguments_of_negatives, check_negative, check_prompts
from negguide.integration.runtime.tokens import TokenRuntime, token_targets
from negguide.methods import (
    AttentionMethod,
    Method,
    Methods,
    Negative,
    TokenMethod,
    negatives_of,
    registered_methods,
)
from negguide.methods.choices import names_in

# one fixed draw: the references look the same at every step and in every call
_REFERENCE_NOISE_SEED = 0


def check_call(
    pipe: Any, family: Family, arguments: Arguments, methods: Methods, max_branch_batch: int | None
) -> None:
    """Refuse what this call cannot honour, before any model runs.

    Raises:
        ValueError: naming the argument, its value and what would be right.
    """
    latent_size = family.latent_size(pipe, arguments)
    size = pixel_size(pipe, latent_size)
    reason = family.cfg_disabled_reason(pipe, arguments)
    for method in methods:
        if method.needs_guidance and reason is not None:
            raise ValueError(_needs_guidance(methods, reason))
    steps = _steps_of_call(arguments)
    if steps is not None:
        check_windows(methods, Step(0, steps))
    negatives = list(negatives_of(list(methods)))
    if any(negative.embeds is None for negative in negatives):
        who = next(type(m).__name__ for m in methods if any(n.embeds is None for n in negatives_of([m])))
        _check_present(pipe, family.text_encoders, f"{who} needs", "negatives")
    models = denoisers_of(pipe, family)
    for method in methods:
        for negative in negatives_of([method]):
            check_embeds(family, negative, models, pooled=method is methods.score)
    for method in methods:
        told = _told(family, method, arguments)
        for negative in negatives_of([method]):
            check_negative(pipe, family, told, negative)
    for negative in negatives:
        family.check_negative(arguments, negative)
        check_prompt_index(negative, prompts_of(arguments))
        if negative.mask is not None:
            check_aspect(f"mask of Negative({negative.prompt!r})", negative.mask, size, "the image")
    _check_crop(arguments, methods)
    if methods.token is not None:
        _check_token(family, arguments, methods.token, size)
        if methods.token.images:
            name = type(methods.token).__name__
            _check_present(pipe, ("vae", *family.text_encoders), f"{name} needs", "reference images")
    if methods.attention is not None and max_branch_batch is not None:
        # at least; texts of other lengths take more
        own = methods.attention.negatives
        rows = len(slots_of(own, range(len(own))))
        _check_limit(family, methods.attention, rows, max_branch_batch)
    _check_caches(pipe, family, methods, max_branch_batch)
    check_prompts(pipe, family, arguments, guided=reason is None)


def _told(family: Family, method: Method, arguments: Arguments) -> Arguments:
    """The arguments that a method's negatives are encoded with."""
    return (
        arguments_of_negatives(family, method, arguments)
        if isinstance(method, AttentionMethod)
        else arguments
    )


def _steps_of_call(arguments: Arguments) -> int | None:
    """How many steps the call has; None where it leaves some out, or says at which places they are."""
    places = ("strength", "denoising_start", "denoising_end", "timesteps", "sigmas")
    if any(arguments.get(name) is not None for name in places):
        return None
    steps = arguments.get("num_inference_steps")
    # what is no number of steps the pipeline refuses
    return steps if isinstance(steps, int) and steps > 0 else None


def _check_crop(arguments: Arguments, methods: Methods) -> None:
    """Refuse masks where the pipeline draws a part of the image that it chooses itself."""
    if arguments.get("padding_mask_crop") is None:
        return
    masked = [f"Negative({n.prompt!r})" for n in negatives_of(list(methods)) if n.mask is not None]
    if methods.token is not None and methods.token.mask is not None:
        masked.append(type(methods.token).__name__)
    if masked:
        raise ValueError(
            f"padding_mask_crop is {arguments['padding_mask_crop']}, with which only a part of the image around its "
            f"mask is drawn, and mask of {masked[0]} is for the whole image; leave one of the two out"
        )


def _needs_guidance(methods: Methods, reason: str) -> str:
    method = next(method for method in methods if method.needs_guidance)
    first = registered_methods("attention")[0].__name__
    negatives = list(negatives_of([method]))
    example = f", e.g. {first}({negatives[0].prompt!r})," if negatives else ","
    return (
        f"{type(method).__name__} needs classifier-free guidance: {reason}. {names_in('attention')} take negatives "
        f"without it{example} and NegToMe works too"
    )


def _check_present(pipe: Any, parts: Sequence[str], who: str, what: str) -> None:
    missing = [name for name in parts if getattr(pipe, name, None) is None]
    if missing:
        raise ValueError(
            f"{who} the pipeline's {missing[0]} to encode its {what}, and it is None; put it back, or give "
            "Negative(embeds=...)"
            if what == "negatives"
            else f"{who} the pipeline's {missing[0]} to encode its {what}, and it is None"
        )


def _check_limit(family: Family, method: AttentionMethod, rows: int, max_branch_batch: int) -> None:
    if family.negative_rows and max_branch_batch < 1 + rows:
        raise ValueError(
            f"max_branch_batch is {max_branch_batch}, and {family.name} runs the prompt and each negative of "
            f"{type(method).__name__} together, as branches that attend to one another; give at least {1 + rows}"
        )


def _check_caches(pipe: Any, family: Family, methods: Methods, max_branch_batch: int | None) -> None:
    """Refuse caches that keep one state a module: they would mix up what is added with what is the pipeline's."""
    causes = [type(m).__name__ for m in methods if m is not methods.token]
    if methods.token is not None and methods.token.images:
        causes.append(type(methods.token).__name__)
    if max_branch_batch == 1 and not family.sequential:
        causes.append("max_branch_batch=1")
    for model in denoisers_of(pipe, family) if causes else ():
        check_cache(model, causes[0])


def _check_token(family: Family, arguments: Arguments, method: TokenMethod, size: tuple[int, int]) -> None:
    if method.images and family.encode_image is None:
        raise ValueError(
            f"reference holds images, which cannot be encoded for {family.name}; use reference='others' or 'first'"
        )
    name, images = images_per_prompt(arguments)
    if method.group_size is not None:
        total = images * prompts_of(arguments)
        if total % method.group_size:
            raise ValueError(
                f"group_size of {type(method).__name__} is {method.group_size}, and the call has {total} images, which "
                "is no multiple of it"
            )
    elif not method.images and images < 2:
        raise ValueError(
            f"{name} is {images}: {type(method).__name__} with reference={method.reference!r} needs at least 2 images "
            "of each prompt; generate several, or give reference images"
        )
    if method.mask is not None:
        check_aspect(f"mask of {type(method).__name__}", method.mask, size, "the image")
    covered = [(image_size(image), "the reference image") for image in method.images] or [(size, "the image")]
    for mask, (its_size, what) in zip(method.reference_masks, covered, strict=False):
        check_aspect(f"reference_mask of {type(method).__name__}", mask, its_size, what)


def images_per_prompt(arguments: Arguments) -> tuple[str, int]:
    """The argument that says how many images of a prompt there are, and its value."""
    name = "num_videos_per_prompt" if "num_videos_per_prompt" in arguments else "num_images_per_prompt"
    return name, int(arguments.get(name) or 1)


def prompts_of(arguments: Arguments) -> int:
    """How many prompts a call has."""
    names = ("prompt", "prompt_embeds", "pooled_prompt_embeds")
    prompt = next((given for name in names if (given := arguments.get(name)) is not None), None)
    return 1 if isinstance(prompt, str) or prompt is None else len(prompt)


def denoisers_of(pipe: Any, family: Family) -> list[nn.Module]:
    """The pipeline's denoisers that are there."""
    return [getattr(pipe, name) for name in family.denoisers if getattr(pipe, name, None) is not None]


def prepare_runtimes(
    pipe: Any,
    family: Family,
    arguments: Arguments,
    methods: Methods,
    models: Sequence[nn.Module],
    trace: bool,
    max_branch_batch: int | None,
) -> list[MethodRuntime]:
    """Encode what a checked call needs; what acts in attention goes around what acts on its tokens.

    Args:
        models: the denoisers, without wrappers.

    Raises:
        ValueError: a method finds no module to act in, or `max_branch_batch` is below what it needs at once.
    """
    latent_size = family.latent_size(pipe, arguments)
    _, images = images_per_prompt(arguments)
    runtimes: list[MethodRuntime] = []
    if methods.score is not None:
        step = GuidanceStep(methods.score, images, _masks(pipe, methods.score.negatives, latent_size))
        text = [
            {path: v for path, v in one.items() if family.text[path] != "positions"}
            for one in encode_negatives(pipe, family, methods.score.negatives, arguments)
        ]
        # across prompts, the others of an image must be in each of its branches
        size = 1 if methods.token is None else methods.token.group_size or 1
        runtimes.append(ScoreRuntime(step, family, text, measure=trace, group_size=size))
    if methods.attention is not None:
        attention = AttentionRuntime(
            methods.attention,
            family,
            encode_negatives(
                pipe, family, methods.attention.negatives, _told(family, methods.attention, arguments)
            ),
            {model: text_targets(model, family) for model in models},
            images,
            _masks(pipe, methods.attention.negatives, latent_size),
            measure=trace,
        )
        if max_branch_batch is not None:
            _check_limit(family, methods.attention, attention.most_joined_rows(), max_branch_batch)
        runtimes.append(attention)
    if methods.token is not None:
        method = methods.token
        reference_masks = [cover(mask_tensor(m)[None], *latent_size, "area") for m in method.reference_masks]
        mask = method.mask
        runtimes.append(
            TokenRuntime(
                method,
                family,
                {model: token_targets(model, family, method) for model in models},
                method.group_size or images,
                None if mask is None else resize_mask(mask_tensor(mask)[None, None], latent_size),
                torch.cat(reference_masks) if reference_masks else None,
                _references(pipe, family, arguments, method, latent_size),
                pipe.scheduler,
                max_branch_batch,
                measure=trace,
            )
        )
    return runtimes


def new_recorder(methods: Methods) -> TraceRecorder:
    """What keeps the trace of a call."""
    prompts = tuple(negative.prompt for negative in negatives_of([methods.score] if methods.score else []))
    attends = None if methods.attention is None else type(methods.attention).__name__
    return TraceRecorder(prompts, negtome=methods.token is not None, attention=attends)


def encode_negatives(
    pipe: Any, family: Family, negatives: Sequence[Negative], arguments: Arguments
) -> list[dict[str, Any]]:
    """For each negative {text input: [1, ...], or [tokens, ..] of positions}: by the pipeline, or as it was given."""
    words = list(dict.fromkeys(negative.prompt for negative in negatives if negative.embeds is None))
    encoded = dict(zip(words, family.encode_text(pipe, words, arguments), strict=True)) if words else {}
    device, dtype = pipe._execution_device, pipe_dtype(pipe, family)
    return [
        encoded[negative.prompt] if negative.embeds is None else given_text(family, negative, device, dtype)
        for negative in negatives
    ]


def _masks(pipe: Any, negatives: Sequence[Negative], latent_size: tuple[int, int]) -> torch.Tensor | None:
    masks = negative_masks(negatives, pixel_size(pipe, latent_size), latent_size, "the image")
    return None if masks is None else masks.to(pipe._execution_device)


def _references(
    pipe: Any, family: Family, arguments: Arguments, method: TokenMethod, latent_size: tuple[int, int]
) -> EncodedReferences | None:
    """Encode the reference images at the size of the generated one; None without reference images."""
    if not method.images or family.encode_image is None:
        return None
    size = pixel_size(pipe, latent_size)
    pixels = torch.cat([cover(image_tensor(image), *size, "bilinear") for image in method.images])
    (text,) = family.encode_text(pipe, [""], arguments)
    text = {path: value for path, value in text.items() if family.text[path] != "positions"}
    latents = family.encode_image(pipe, pixels * 2 - 1)
    latents = latents.to(pipe._execution_device, pipe_dtype(pipe, family))
    # drawn on the CPU, so that it is the same on every device
    generator = torch.Generator().manual_seed(_REFERENCE_NOISE_SEED)
    noise = torch.randn((1, *latents.shape[1:]), generator=generator)
    return EncodedReferences(latents=latents, noise=noise.to(latents), text=text)


def pipe_dtype(pipe: Any, family: Family) -> torch.dtype:
    """The dtype of the denoiser."""
    dtype: torch.dtype = denoisers_of(pipe, family)[0].dtype  # type: ignore[assignment]
    return dtype


def pixel_size(pipe: Any, latent_size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) in pixels."""
    # videos have a factor of their own along time
    names = ("vae_scale_factor_spatial", "vae_spatial_compression_ratio", "vae_scale_factor")
    factor = next(value for name in names if (value := getattr(pipe, name, None)))
    return latent_size[0] * factor, latent_size[1] * factor
