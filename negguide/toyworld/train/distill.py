"""Distil the flow-matching transformer: guidance into one evaluation, then twenty steps into four.

Both students see the captions alone as users will: the T5 encoder and the CLIP text encoder are those of the base, and
stay as they are. The teacher's own predictions are the targets; drawn pictures only say where guidance is predicted.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderTiny, FluxTransformer2DModel
from torch import Tensor
from transformers import CLIPTextModel, T5EncoderModel

from negguide.toyworld.language import training_caption
from negguide.toyworld.train.autoencoder import LATENT_CHANNELS
from negguide.toyworld.train.data import PRACTICE, batch_of_scenes, centred, detail_weights, pixels
from negguide.toyworld.train.flow import (
    LATENT_SIZE,
    NO_POOLED,
    flow_times,
    half_is_fast,
    new_t5_tokenizer,
    new_transformer,
    packed,
    places,
    text_tokens,
    unpacked,
)
from negguide.toyworld.train.loop import Batch, train
from negguide.toyworld.train.settings import Settings
from negguide.toyworld.words import new_tokenizer, token_ids

GUIDANCE_SCALES = (1.0, 6.0)
"""The guidance scales that the distilled model learns, uniformly."""
NO_CAPTION = 0.05
"""Share of empty captions, which guidance leaves as they are."""
TURBO_GUIDANCE = 4.0
"""The guidance scale of the model that the few-step model imitates."""
TURBO_STEPS = 4
SUBSTEPS = 5
"""The teacher's steps for one of the student's."""


def with_guidance(base: FluxTransformer2DModel) -> FluxTransformer2DModel:
    """A copy of ``base`` with a guidance embedding that does nothing yet, as its last layer is zero."""
    model = new_transformer(guidance=True)
    embedder = model.time_text_embed.guidance_embedder
    for parameter in embedder.linear_2.parameters():
        torch.nn.init.zeros_(parameter)
    own = {f"time_text_embed.guidance_embedder.{key}": value for key, value in embedder.state_dict().items()}
    model.load_state_dict({**base.state_dict(), **own})
    return model


@torch.no_grad()
def at_guidance(distilled: FluxTransformer2DModel, scale: float) -> FluxTransformer2DModel:
    """A copy of ``distilled`` without guidance embedding, which predicts what that does at guidance ``scale``.

    The embeddings of time, guidance and text are added, so one guidance is a constant in the bias of the time's.
    """
    embed = distilled.time_text_embed
    constant = embed.guidance_embedder(embed.time_proj(torch.tensor([1000 * scale], device=distilled.device)))
    state = {
        key: value.clone()
        for key, value in distilled.state_dict().items()
        if ".guidance_embedder." not in key
    }
    state["time_text_embed.timestep_embedder.linear_2.bias"] += constant[0]
    model = new_transformer()
    model.load_state_dict(state)
    return model


class Captions:
    """Captions as both text encoders take them, and what these make of them."""

    def __init__(
        self, text_encoder: CLIPTextModel, text_encoder_2: T5EncoderModel, device: torch.device
    ) -> None:
        self.clip_tokenizer, self.t5_tokenizer = new_tokenizer(), new_t5_tokenizer()
        self.text_encoder = text_encoder.to(device).eval().requires_grad_(False)
        self.text_encoder_2 = text_encoder_2.to(device).eval().requires_grad_(False)

    def batch(self, seed: int, step: int, size: int, *, pictures: bool) -> Batch:
        """Token numbers of ``size`` captions; with ``pictures`` these drawn, and as many empty captions first."""
        scenes, rng = batch_of_scenes(seed, step, size, practice=PRACTICE)
        captions = ["" if rng.random() < NO_CAPTION else training_caption(scene, rng) for scene in scenes]
        # what the base was trained on: now and then the tokens alone
        pooled = ["" if rng.random() < NO_POOLED else caption for caption in captions]
        images = pixels(scenes, rng) if pictures else None
        ids = text_tokens(self.t5_tokenizer, captions, rng)
        if images is None:
            return {"ids": ids, "pooled_ids": token_ids(self.clip_tokenizer, pooled)}
        empty = self.t5_tokenizer(
            [""] * size, padding="max_length", max_length=ids.shape[1], return_tensors="pt"
        ).input_ids
        return {
            "images": images,
            "ids": torch.cat([empty, ids]),
            "pooled_ids": token_ids(self.clip_tokenizer, [""] * size + pooled),
        }

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Hidden states [rows, L, C] and pooled vectors [rows, C] of a batch, in its order."""
        text = self.text_encoder_2(input_ids=batch["ids"]).last_hidden_state
        return text, self.text_encoder(input_ids=batch["pooled_ids"]).pooler_output


def predict(
    model: Callable[..., tuple[Tensor]],
    x: Tensor,
    t: Tensor,
    text: Tensor,
    pooled: Tensor,
    guidance: Tensor | None = None,
) -> Tensor:
    """Noise - picture of packed latents [B, N, C] at times [B]."""
    return model(
        hidden_states=x,
        encoder_hidden_states=text,
        pooled_projections=pooled,
        timestep=t,
        guidance=guidance,
        img_ids=places().to(x.device),
        txt_ids=torch.zeros(text.shape[1], 3, device=x.device),
        return_dict=False,
    )[0].float()


def train_distilled(
    folder: Path,
    settings: Settings,
    vae: AutoencoderTiny,
    text_encoder: CLIPTextModel,
    text_encoder_2: T5EncoderModel,
    base: FluxTransformer2DModel,
    sample: Callable[[int], None] | None = None,
) -> FluxTransformer2DModel:
    """Train a transformer to predict in one evaluation what ``base`` does with classifier-free guidance.

    The guidance scale is an input, drawn from ``GUIDANCE_SCALES`` (first stage of arXiv 2210.03142; FLUX.1 [dev] is
    such a model).
    """
    torch.manual_seed(settings.seed)
    device = torch.device(settings.device)
    captions = Captions(text_encoder, text_encoder_2, device)
    vae.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)
    base.to(device).eval().requires_grad_(False)
    student = with_guidance(base).to(device)
    teach = torch.compile(base, dynamic=False) if settings.compile else base
    learn = torch.compile(student, dynamic=False) if settings.compile else student

    def make_batch(step: int) -> Batch:
        return captions.batch(settings.seed, step, settings.batch_size, pictures=True)

    def loss(batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        image = centred(batch["images"])
        low, high = GUIDANCE_SCALES
        with torch.autocast(device.type, torch.bfloat16, enabled=half_is_fast(device)):
            with torch.no_grad():
                latents = vae.encode(image).latents.float()
                latents = (latents - vae.config.shift_factor) * vae.config.scaling_factor
                noise = torch.randn(latents.shape, generator=generator, device=device)
                t = flow_times(len(latents), generator, device)
                scale = low + (high - low) * torch.rand(len(t), generator=generator, device=device)
                sigma = t.view(-1, 1, 1, 1)
                x = packed((1 - sigma) * latents + sigma * noise)
                text, pooled = captions.encode(batch)
                empty, said = predict(teach, x.repeat(2, 1, 1), t.repeat(2), text, pooled).chunk(2)
                target = empty + scale.view(-1, 1, 1) * (said - empty)
            prediction = predict(learn, x, t, text.chunk(2)[1], pooled.chunk(2)[1], scale)
        weights = packed(detail_weights(image, 4).expand_as(latents))
        return {"loss": ((prediction - target).square() * weights).mean()}

    train({"transformer": student}, make_batch, loss, settings, folder, name="flow, distilled", sample=sample)
    return student


@torch.no_grad()
def trajectory(
    model: Callable[..., tuple[Tensor]],
    x: Tensor,
    text: Tensor,
    pooled: Tensor,
    steps: int,
    guidance: float | None,
) -> list[Tensor]:
    """The packed latents from noise ``x`` to picture, by ``steps`` even Euler steps: steps + 1 of them."""
    scale = None if guidance is None else torch.full((len(x),), guidance, device=x.device)
    points = [x]
    for step in range(steps):
        t = torch.full((len(x),), 1 - step / steps, device=x.device)
        points.append(points[-1] - predict(model, points[-1], t, text, pooled, scale) / steps)
    return points


def train_turbo(
    folder: Path,
    settings: Settings,
    vae: AutoencoderTiny,
    text_encoder: CLIPTextModel,
    text_encoder_2: T5EncoderModel,
    distilled: FluxTransformer2DModel,
    sample: Callable[[int], None] | None = None,
) -> FluxTransformer2DModel:
    """Train a transformer to go in one step where ``distilled`` goes in ``SUBSTEPS`` (arXiv 2202.00512).

    Each noise is followed to its picture, in ``TURBO_STEPS`` x ``SUBSTEPS`` steps at guidance ``TURBO_GUIDANCE``; the
    student's targets are the mean velocities between the points where it will stand. A step's loss is over
    ``TURBO_STEPS`` points for each of ``settings.batch_size`` noises.
    """
    torch.manual_seed(settings.seed)
    device = torch.device(settings.device)
    captions = Captions(text_encoder, text_encoder_2, device)
    vae.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)
    distilled.to(device).eval().requires_grad_(False)
    student = at_guidance(distilled, TURBO_GUIDANCE).to(device)
    teach = torch.compile(distilled, dynamic=False) if settings.compile else distilled
    learn = torch.compile(student, dynamic=False) if settings.compile else student
    shape = packed(torch.zeros(1, LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE)).shape[1:]

    def make_batch(step: int) -> Batch:
        return captions.batch(settings.seed, step, settings.batch_size, pictures=False)

    def loss(batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        with torch.autocast(device.type, torch.bfloat16, enabled=half_is_fast(device)):
            with torch.no_grad():
                text, pooled = captions.encode(batch)
                noise = torch.randn(len(text), *shape, generator=generator, device=device)
                path = trajectory(teach, noise, text, pooled, TURBO_STEPS * SUBSTEPS, TURBO_GUIDANCE)
                stops = torch.stack(path[::SUBSTEPS])
                target = (stops[:-1] - stops[1:]) * TURBO_STEPS
                latents = unpacked(stops[-1]) / vae.config.scaling_factor + vae.config.shift_factor
                weights = packed(detail_weights(vae.decode(latents).sample.float(), 4).expand_as(latents))
            t = 1 - torch.arange(TURBO_STEPS, device=device).repeat_interleave(len(noise)) / TURBO_STEPS
            many = (TURBO_STEPS, 1)
            prediction = predict(
                learn, stops[:-1].flatten(0, 1), t, text.repeat(*many, 1), pooled.repeat(many)
            )
        error = (prediction.unflatten(0, target.shape[:2]) - target).square() * weights
        return {"loss": error.mean()}

    train({"transformer": student}, make_batch, loss, settings, folder, name="flow, turbo", sample=sample)
    return student
