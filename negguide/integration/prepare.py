"""From what the user asked for to what the hooks need: checks first, then encoding."""

from collections.abc import Sequence
from typing import Any

import torch

from negguide.integration.attending import AttentionRun
from negguide.integration.denoiser import EncodedNegatives, Parts
from negguide.integration.family import Arguments, Family
from negguide.integration.images import (
    check_aspect,
    cover,
    image_size,
    image_tensor,
    mask_tensor,
    negative_masks,
    resize_mask,
)
from negguide.integration.lengths import check_negative, check_prompts
from negguide.integration.negtome import NegToMeRun
from negguide.integration.references import EncodedReferences
from negguide.integration.trace import TraceRecorder
from negguide.methods import AttentionMethod, Methods, Negative, NegToMe, PerpNeg

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
    size = _pixels(pipe, latent_size)
    reason = family.guidance_off(pipe, arguments)
    if methods.perp_neg is not None and reason is not None:
        raise ValueError(
            f"PerpNeg needs classifier-free guidance: {reason}. NAG, ONG and VSF take negatives without it, e.g. "
            f"NAG({methods.perp_neg.negatives[0].prompt!r}), and NegToMe works too"
        )
    for method in (methods.perp_neg, methods.attention):
        if method is None:
            continue
        _check_present(pipe, family.text_encoders, f"{type(method).__name__} needs", "negatives")
        for negative in method.negatives:
            check_negative(pipe, family, arguments, negative)
            if negative.mask is not None:
                check_aspect(f"mask of Negative({negative.prompt!r})", negative.mask, size, "the image")
    if methods.negtome is not None:
        _check_negtome(family, arguments, methods.negtome, size)
        if methods.negtome.images:
            _check_present(pipe, ("vae", *family.text_encoders), "NegToMe needs", "reference images")
    if methods.attention is not None and max_branch_batch is not None:
        _check_limit(family, methods.attention, max_branch_batch)
    check_prompts(pipe, family, arguments, guided=reason is None)


def _check_present(pipe: Any, parts: Sequence[str], who: str, what: str) -> None:
    missing = [name for name in parts if getattr(pipe, name, None) is None]
    if missing:
        raise ValueError(f"{who} the pipeline's {missing[0]} to encode its {what}, and it is None")


def _check_limit(family: Family, method: AttentionMethod, max_branch_batch: int) -> None:
    least = 1 + len(method.negatives)
    if family.negative_rows and max_branch_batch < least:
        raise ValueError(
            f"max_branch_batch is {max_branch_batch}, and {family.name} runs the prompt and each negative of "
            f"{type(method).__name__} together, as branches that attend to one another; give at least {least}"
        )


def _check_negtome(family: Family, arguments: Arguments, negtome: NegToMe, size: tuple[int, int]) -> None:
    if negtome.images and family.encode_image is None:
        raise ValueError(
            f"reference holds images, which cannot be encoded for {family.name}; use reference='others' or 'first'"
        )
    name, images = images_per_prompt(arguments)
    if not negtome.images and images < 2:
        raise ValueError(
            f"{name} is {images}: NegToMe with reference={negtome.reference!r} needs at least 2 images of each prompt; "
            "generate several, or give reference images"
        )
    if negtome.mask is not None:
        check_aspect("mask of NegToMe", negtome.mask, size, "the image")
    covered = [(image_size(image), "the reference image") for image in negtome.images] or [
        (size, "the image")
    ]
    for mask, (its_size, what) in zip(negtome.reference_masks, covered, strict=False):
        check_aspect("reference_mask of NegToMe", mask, its_size, what)


def images_per_prompt(arguments: Arguments) -> tuple[str, int]:
    """The argument that says how many images of a prompt there are, and its value."""
    name = "num_videos_per_prompt" if "num_videos_per_prompt" in arguments else "num_images_per_prompt"
    return name, int(arguments[name] or 1)


def prepare(
    pipe: Any,
    family: Family,
    arguments: Arguments,
    methods: Methods,
    trace: bool,
    max_branch_batch: int | None,
) -> Parts:
    """Encode what a checked call needs."""
    latent_size = family.latent_size(pipe, arguments)
    negatives = None if methods.perp_neg is None else _negatives(pipe, family, arguments, methods.perp_neg)
    attention = None
    if methods.attention is not None:
        attention = AttentionRun(
            methods.attention,
            family,
            family.encode_text(pipe, _prompts(methods.attention.negatives), arguments),
            _masks(pipe, methods.attention.negatives, latent_size),
            measure=trace,
        )
    negtome = references = None
    if methods.negtome is not None:
        negtome = _negtome_run(family, arguments, methods.negtome, latent_size, measure=trace)
        references = _references(pipe, family, arguments, methods.negtome, latent_size)
    recorder = None
    if trace:
        prompts = () if methods.perp_neg is None else tuple(n.prompt for n in methods.perp_neg.negatives)
        attends = None if methods.attention is None else type(methods.attention).__name__
        recorder = TraceRecorder(prompts, negtome=negtome is not None, attention=attends)
    return Parts(methods, latent_size, negatives, negtome, references, attention, max_branch_batch, recorder)


def _prompts(negatives: Sequence[Negative]) -> list[str]:
    return [negative.prompt for negative in negatives]


def _batched(family: Family, texts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The text inputs that have rows; positions are shared by all texts of a batch."""
    return [{path: v for path, v in text.items() if family.text[path] != "positions"} for text in texts]


def _masks(pipe: Any, negatives: Sequence[Negative], latent_size: tuple[int, int]) -> torch.Tensor | None:
    masks = negative_masks(negatives, _pixels(pipe, latent_size), latent_size, "the image")
    return None if masks is None else masks.to(pipe._execution_device)


def _negatives(pipe: Any, family: Family, arguments: Arguments, perp_neg: PerpNeg) -> EncodedNegatives:
    return EncodedNegatives(
        method=perp_neg,
        text=_batched(family, family.encode_text(pipe, _prompts(perp_neg.negatives), arguments)),
        weights=torch.tensor([n.weight for n in perp_neg.negatives], device=pipe._execution_device),
        masks=_masks(pipe, perp_neg.negatives, family.latent_size(pipe, arguments)),
    )


def _negtome_run(
    family: Family, arguments: Arguments, negtome: NegToMe, latent_size: tuple[int, int], measure: bool
) -> NegToMeRun:
    reference_masks = [cover(mask_tensor(m)[None], *latent_size, "area") for m in negtome.reference_masks]
    return NegToMeRun(
        negtome,
        images_per_prompt=images_per_prompt(arguments)[1],
        min_side=family.negtome_min_side if negtome.blocks is None else 0,
        measure=measure,
        mask=None
        if negtome.mask is None
        else resize_mask(mask_tensor(negtome.mask)[None, None], latent_size),
        reference_mask=torch.cat(reference_masks) if reference_masks else None,
    )


def _references(
    pipe: Any, family: Family, arguments: Arguments, negtome: NegToMe, latent_size: tuple[int, int]
) -> EncodedReferences | None:
    """Encode the reference images at the size of the generated one; None without reference images."""
    if not negtome.images or family.encode_image is None:
        return None
    size = _pixels(pipe, latent_size)
    pixels = torch.cat([cover(image_tensor(image), *size, "bilinear") for image in negtome.images])
    text = _batched(family, family.encode_text(pipe, [""], arguments))[0]
    latents = family.encode_image(pipe, pixels * 2 - 1)
    latents = latents.to(pipe._execution_device, pipe_dtype(pipe, family))
    # drawn on the CPU, so that it is the same on every device
    generator = torch.Generator().manual_seed(_REFERENCE_NOISE_SEED)
    noise = torch.randn((1, *latents.shape[1:]), generator=generator)
    return EncodedReferences(latents=latents, noise=noise.to(latents), text=text)


def pipe_dtype(pipe: Any, family: Family) -> torch.dtype:
    """The dtype of the denoiser."""
    models = (getattr(pipe, name) for name in family.denoisers)
    dtype: torch.dtype = next(model.dtype for model in models if model is not None)
    return dtype


def _pixels(pipe: Any, latent_size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) in pixels."""
    factor = getattr(pipe, "vae_scale_factor_spatial", None) or pipe.vae_scale_factor
    return latent_size[0] * factor, latent_size[1] * factor
