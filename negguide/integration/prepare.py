"""From what the user asked for to what the hooks need: checks first, then encoding."""

from collections.abc import Mapping
from typing import Any

import torch

from negguide.integration.denoiser import EncodedNegatives, EncodedReferences
from negguide.integration.families import Family
from negguide.integration.images import (
    check_aspect,
    cover,
    image_size,
    image_tensor,
    mask_tensor,
    resize_mask,
)
from negguide.integration.negtome import NegToMeRun
from negguide.methods import MaskLike, NegToMe, PerpNeg

# one fixed draw: the references look the same at every step and in every call
_REFERENCE_NOISE_SEED = 0


def check_call(
    pipe: Any, family: Family, arguments: Mapping[str, Any], perp_neg: PerpNeg | None, negtome: NegToMe | None
) -> None:
    """Refuse what this call cannot honour, before any model runs.

    Raises:
        ValueError: naming the argument, its value and what would be right.
    """
    latent_size = family.latent_size(pipe, arguments)
    size = (latent_size[0] * pipe.vae_scale_factor, latent_size[1] * pipe.vae_scale_factor)
    if perp_neg is not None:
        reason = family.guidance_off(pipe, arguments)
        if reason is not None:
            raise ValueError(f"PerpNeg needs classifier-free guidance: {reason}. NegToMe works without it")
        for negative in perp_neg.negatives:
            if negative.mask is not None:
                check_aspect(f"mask of Negative({negative.prompt!r})", negative.mask, size, "the image")
    if negtome is not None:
        if not negtome.images and arguments["num_images_per_prompt"] < 2:
            raise ValueError(
                f"num_images_per_prompt is {arguments['num_images_per_prompt']}: NegToMe with "
                f"reference={negtome.reference!r} needs at least 2 images of each prompt; generate several, or give "
                "reference images"
            )
        if negtome.mask is not None:
            check_aspect("mask of NegToMe", negtome.mask, size, "the image")
        covered = [(image_size(image), "the reference image") for image in negtome.images] or [
            (size, "the image")
        ]
        for mask, (its_size, what) in zip(negtome.reference_masks, covered, strict=False):
            check_aspect("reference_mask of NegToMe", mask, its_size, what)


def encode_negatives(
    pipe: Any, family: Family, arguments: Mapping[str, Any], perp_neg: PerpNeg
) -> EncodedNegatives:
    """Encode the K prompts once, and bring the masks to the size of the latents."""
    device = pipe._execution_device
    latent_size = family.latent_size(pipe, arguments)
    masks = None
    if any(negative.mask is not None for negative in perp_neg.negatives):
        masks = torch.stack(
            [
                torch.ones(1, 1, *latent_size) if n.mask is None else _latent_mask(n.mask, latent_size)
                for n in perp_neg.negatives
            ]
        ).to(device)
    return EncodedNegatives(
        method=perp_neg,
        text=family.encode_text(pipe, [negative.prompt for negative in perp_neg.negatives], arguments),
        weights=torch.tensor([negative.weight for negative in perp_neg.negatives], device=device),
        masks=masks,
    )


def prepare_negtome(
    pipe: Any, family: Family, arguments: Mapping[str, Any], negtome: NegToMe, measure: bool
) -> NegToMeRun:
    """The state that the pushed modules share during this call."""
    latent_size = family.latent_size(pipe, arguments)
    reference_masks = [cover(mask_tensor(m)[None], *latent_size, "area") for m in negtome.reference_masks]
    return NegToMeRun(
        negtome,
        images_per_prompt=arguments["num_images_per_prompt"],
        min_side=family.negtome_min_side if negtome.blocks is None else 0,
        measure=measure,
        mask=None if negtome.mask is None else _latent_mask(negtome.mask, latent_size),
        reference_mask=torch.cat(reference_masks) if reference_masks else None,
    )


def encode_references(
    pipe: Any, family: Family, arguments: Mapping[str, Any], negtome: NegToMe
) -> EncodedReferences | None:
    """Encode the reference images at the size of the generated one; None without reference images."""
    if not negtome.images:
        return None
    latent_size = family.latent_size(pipe, arguments)
    size = (latent_size[0] * pipe.vae_scale_factor, latent_size[1] * pipe.vae_scale_factor)
    pixels = torch.cat([cover(image_tensor(image), *size, "bilinear") for image in negtome.images])
    text = family.encode_text(pipe, [""], arguments)
    latents = family.encode_image(pipe, pixels * 2 - 1)
    latents = latents.to(pipe._execution_device, next(iter(text.values())).dtype)
    # drawn on the CPU, so that it is the same on every device
    generator = torch.Generator().manual_seed(_REFERENCE_NOISE_SEED)
    noise = torch.randn((1, *latents.shape[1:]), generator=generator)
    return EncodedReferences(latents=latents, noise=noise.to(latents), text=text)


def _latent_mask(mask: MaskLike, latent_size: tuple[int, int]) -> torch.Tensor:
    return resize_mask(mask_tensor(mask)[None, None], latent_size)
