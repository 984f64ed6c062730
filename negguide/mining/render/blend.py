"""Painting inside a mask with a model that was not made for it: blended latents (arXiv 2206.02779)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch.nn.functional import interpolate

from negguide.integration.families import Family
from negguide.integration.runtime.masks import image_tensor, mask_tensor


class Blend:
    """A ``callback_on_step_end`` that keeps what is outside the masks at the images' own latents, at each noise level.

    Formula: x_t <- m x_t + (1 - m) (the image's latents, noised to t); at the end, noised to nothing.

    Args:
        pipe, family: the image-to-image pipeline, and its row.
        images, masks: one each for the rows of the batch, of one size.
        seeds: of the noise outside the masks.

    Raises:
        ValueError: the family cannot encode images.
    """

    def __init__(
        self,
        pipe: Any,
        family: Family,
        images: Sequence[Image.Image],
        masks: Sequence[Image.Image],
        seeds: Sequence[int],
    ) -> None:
        if family.encode_image is None:
            raise ValueError(f"mode='inpaint' needs an image encoder, and {family.name} has none here")
        pixels = torch.stack([image_tensor(image) for image in images]) * 2 - 1
        with torch.no_grad():
            self.source = family.encode_image(pipe, pixels)
        noise = [
            torch.randn(self.source.shape[1:], generator=torch.Generator().manual_seed(seed))
            for seed in seeds
        ]
        self.noise = torch.stack(noise).to(self.source)
        # a latent that lies partly inside may change: what it changes outside is not pasted
        shares = interpolate(
            torch.stack([mask_tensor(mask) for mask in masks])[:, None], self.source.shape[-2:], mode="area"
        )
        self.mask = (shares > 0).to(self.source)

    def __call__(self, pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        """diffusers' callback at the end of a step: the latents outside the mask become those of the image."""
        # image to image runs the end of the schedule alone
        timesteps = pipe.scheduler.timesteps[-pipe._num_timesteps :]
        outside = self.source
        if step + 1 < len(timesteps):
            later = timesteps[step + 1].expand(len(self.source))
            outside = pipe.scheduler.add_noise(self.source, self.noise, later)
        latents = tensors["latents"]
        mask = self.mask.to(latents)
        return {**tensors, "latents": mask * latents + (1 - mask) * outside.to(latents)}
