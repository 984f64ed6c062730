"""Where an image may change: the region of the words that were edited."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from diffusers.models.attention_processor import Attention
from PIL import Image, ImageFilter
from torch import Tensor

from negguide.integration.families import Family
from negguide.integration.runtime.masks import image_tensor
from negguide.mining.item import Edit, Source
from negguide.mining.render.job import NoRegionError, Region
from negguide.mining.render.paste import fitted
from negguide.models import loaded_revision

COLUMN, ATTENTION = "column", "attention"


class ColumnRegion:
    """The mask that the input has for the pair."""

    def __call__(self, source: Source, edit: Edit, image: Image.Image) -> Image.Image:
        """The input's own mask."""
        if source.mask is None:
            raise NoRegionError("the input has no mask for this pair")
        try:
            mask = source.mask().convert("L")
        except (OSError, ValueError, SyntaxError) as error:
            raise NoRegionError("the mask is missing or corrupt") from error
        if mask.size != image.size:
            raise NoRegionError("the mask is not of the image's size")
        return mask


class AttentionRegion:
    """Where the words that are replaced are looked at: the cross-attention of one step (after DAAM, arXiv 2210.04885).

    The image's latents are noised to ``noise`` of the schedule, the denoiser runs once on the original caption, and the
    attention that goes to the tokens of the replaced words is averaged over all heads and layers. The mask is where it
    is above ``threshold`` times its range, widened by a latent.

    Args:
        pipe, family: a guided text-to-image or image-to-image pipeline of Stable Diffusion, and its row.
        noise: fraction of the noise schedule, in (0, 1).
        threshold: in (0, 1).

    Raises:
        ValueError: a pipeline without a UNet, or a tokenizer that does not say where its tokens come from.
    """

    def __init__(self, pipe: Any, family: Family, noise: float = 0.4, threshold: float = 0.4) -> None:
        if getattr(pipe, "unet", None) is None or family.encode_image is None:
            raise ValueError(
                f"--region attention is known for Stable Diffusion 1.x/2.x, not for {family.name}; use column or a "
                "detector"
            )
        if hasattr(pipe, "tokenizer_2"):
            raise ValueError(
                "--region attention is known for Stable Diffusion 1.x/2.x, not for SDXL; use column or a detector"
            )
        if not pipe.tokenizer.is_fast:
            raise ValueError("--region attention needs a fast tokenizer; use column or a detector")
        self.pipe, self.family, self.noise, self.threshold = pipe, family, noise, threshold

    @torch.no_grad()
    def __call__(self, source: Source, edit: Edit, image: Image.Image) -> Image.Image:
        """Where the model looks when it reads the words that are replaced."""
        tokens = self._tokens(source.caption, edit)
        side = self.pipe.unet.config.sample_size * self.pipe.vae_scale_factor
        pixels = image_tensor(fitted(image, (side, side)))[None] * 2 - 1
        assert self.family.encode_image is not None
        latents = self.family.encode_image(self.pipe, pixels)
        scheduler = type(self.pipe.scheduler).from_config(self.pipe.scheduler.config)
        timestep = torch.tensor([int(self.noise * scheduler.config.num_train_timesteps)])
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0)).to(latents)
        # by the formula of all schedulers that train on these steps, x_t = sqrt(a) x + sqrt(1 - a) e
        alpha = scheduler.alphas_cumprod[timestep].to(latents)
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        text, _ = self.pipe.encode_prompt([source.caption], self.pipe._execution_device, 1, False)
        maps: list[Tensor] = []
        with _observed(self.pipe.unet, maps.append, tokens, latents.shape[-2:]):
            self.pipe.unet(noisy, timestep.to(latents.device), encoder_hidden_states=text)
        heat = torch.stack(maps).mean(dim=0)
        heat = (heat - heat.min()) / (heat.max() - heat.min()).clamp_min(1e-8)
        mask = Image.fromarray(((heat >= self.threshold) * 255).to(torch.uint8).cpu().numpy())
        return mask.filter(ImageFilter.MaxFilter(3)).resize(image.size, Image.Resampling.NEAREST)

    def _tokens(self, caption: str, edit: Edit) -> list[int]:
        """Places of the tokens of the replaced words."""
        if not edit.before.strip():
            raise NoRegionError("no words are replaced, so there is nothing to look for in the image")
        encoded = self.pipe.tokenizer(
            caption,
            return_offsets_mapping=True,
            truncation=True,
            max_length=self.pipe.tokenizer.model_max_length,
        )
        places = [
            place
            for place, (start, end) in enumerate(encoded["offset_mapping"])
            if start < edit.end and end > edit.start and end > start
        ]
        if not places:
            raise NoRegionError("the model does not read the words that are replaced")
        return places


@contextmanager
def _observed(
    unet: Any, see: Callable[[Tensor], None], tokens: list[int], size: torch.Size
) -> Iterator[None]:
    """Tell ``see`` the share [h, w] of each cross-attention that goes to ``tokens``, at ``size``."""
    modules = [
        module
        for name, module in unet.named_modules()
        if isinstance(module, Attention) and name.endswith("attn2")
    ]
    before = [module.processor for module in modules]
    try:
        for module in modules:
            module.set_processor(_Observer(module.processor, see, tokens, size))
        yield
    finally:
        for module, processor in zip(modules, before, strict=True):
            module.set_processor(processor)


class _Observer:
    """Computes attention as the processor that was there, and reports where it went."""

    def __init__(
        self, processor: Any, see: Callable[[Tensor], None], tokens: list[int], size: torch.Size
    ) -> None:
        self.processor, self.see, self.tokens, self.size = processor, see, tokens, size

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor:
        query = attn.head_to_batch_dim(attn.to_q(hidden_states))
        key = attn.head_to_batch_dim(attn.to_k(encoder_hidden_states))
        shares = attn.get_attention_scores(query, key)[:, :, self.tokens].sum(dim=2).mean(dim=0)
        # a feature map has the latents' shape, some halvings smaller
        rows = round((len(shares) * self.size[0] / self.size[1]) ** 0.5)
        heat = shares.reshape(1, 1, rows, -1).float()
        self.see(torch.nn.functional.interpolate(heat, tuple(self.size), mode="bilinear")[0, 0])
        output: Tensor = self.processor(attn, hidden_states, encoder_hidden_states, *args, **kwargs)
        return output


class DetectorRegion:
    """The boxes in which a transformers zero-shot object detector sees what is to go.

    It looks for ``edit.avoid``, or where that is empty for the words that are replaced. Its ``revision`` tells its
    weights from others of the same name.

    Args:
        model: a folder or hub id (OWL-ViT, OWLv2, Grounding DINO).
        device: where it runs.
        threshold: least score of a box.

    Raises:
        ValueError: when the model cannot be loaded.
    """

    def __init__(self, model: str, device: str = "cpu", threshold: float = 0.1) -> None:
        from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

        from negguide.mining.verify.judge import loaded

        self.device, self.threshold = device, threshold
        self.net, self.processor = loaded(
            model, "--region", AutoModelForZeroShotObjectDetection, AutoProcessor
        )
        self.revision = loaded_revision(model, self.net.config)
        self.net.to(device)

    @torch.no_grad()
    def __call__(self, source: Source, edit: Edit, image: Image.Image) -> Image.Image:
        """The boxes in which the detector sees what is replaced."""
        phrase = edit.avoid or edit.before.strip()
        if not phrase:
            raise NoRegionError("no words are replaced, so there is nothing to look for in the image")
        inputs = self.processor(images=image, text=[[phrase]], return_tensors="pt").to(self.device)
        outputs = self.net(**inputs)
        (found,) = self.processor.post_process_grounded_object_detection(
            outputs=outputs, threshold=self.threshold, target_sizes=[(image.height, image.width)]
        )
        mask = np.zeros((image.height, image.width), dtype=np.uint8)
        for left, top, right, bottom in found["boxes"].round().int().tolist():
            mask[max(0, top) : max(0, bottom), max(0, left) : max(0, right)] = 255
        if not mask.any():
            raise NoRegionError("the detector sees nothing of what is replaced")
        return Image.fromarray(mask)


def make_region(name: str, pipe: Any, family: Family, device: str) -> Region:
    """The region that ``name`` says: "column", "attention", or a detector's folder or hub id.

    Raises:
        ValueError: when it cannot be used.
    """
    if name == COLUMN:
        return ColumnRegion()
    if name == ATTENTION:
        return AttentionRegion(pipe, family)
    return DetectorRegion(name, device)
