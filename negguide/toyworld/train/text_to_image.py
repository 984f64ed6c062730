"""Train the text-to-image model: a text encoder that has learned to read, then a latent diffusion UNet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

from negguide.toyworld.labels import encode, fields
from negguide.toyworld.language import parse, training_caption
from negguide.toyworld.scene import MAX_COUNT
from negguide.toyworld.train.autoencoder import LATENT_CHANNELS
from negguide.toyworld.train.data import PRACTICE, batch_of_scenes, centred, detail_weights, pixels
from negguide.toyworld.train.loop import Batch, train
from negguide.toyworld.train.settings import Settings
from negguide.toyworld.words import MAX_TOKENS, new_tokenizer, token_ids

TEXT_WIDTH = 192
NO_CAPTION = 0.1
"""Share of pictures trained with the empty caption, for classifier-free guidance."""
MAX_SNR = 5.0
"""Cap on (signal-to-noise ratio + 1) in the weight of the loss, after arXiv 2303.09556."""
READING = 0.1
"""Weight of the loss of reading, which goes on while the UNet learns to draw."""
SLOTS = range(MAX_TOKENS - MAX_COUNT, MAX_TOKENS)
"""Token number MAX_TOKENS - MAX_COUNT + i, always padding, learns to hold the i-th character from the left."""


def new_text_encoder(tokenizer: PreTrainedTokenizerFast) -> CLIPTextModel:
    """A CLIP text encoder of four layers with random weights."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=512,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def new_unet() -> UNet2DConditionModel:
    """A UNet with self-attention at both of its feature maps, 16x16 and 8x8."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        layers_per_block=1,
        block_out_channels=(80, 160),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=2,
        norm_num_groups=16,
    )


def new_scheduler() -> DDIMScheduler:
    """Cosine noise whose last step holds no signal, so that flat colours are not tied to the mean grey."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
        timestep_spacing="trailing",
    )


class Reader(nn.Module):
    """Classifiers on the tokens of a caption: what the text encoder learns to read.

    From the end token, and from the padding behind it, every field of the scene; from each of ``SLOTS``, the character
    that stands there. A text encoder reads from left to right, so "a bear" is read before "to the left of" says where
    it stands. Behind the caption everything is known, and a place of the picture finds its character in one token.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rows = fields(words=True)
        self.sizes = [len(row.options) for row in self.rows]
        self.of_slot = [
            [i for i, row in enumerate(self.rows) if row.slot == slot] for slot in range(MAX_COUNT)
        ]
        self.whole = nn.Linear(TEXT_WIDTH, sum(self.sizes))
        self.slot = nn.Linear(TEXT_WIDTH, sum(self.sizes[i] for i in self.of_slot[0]))

    def loss(self, hidden: Tensor, ids: Tensor, labels: Tensor, end: int) -> dict[str, Tensor]:
        """Mean cross-entropies of hidden states [B, MAX_TOKENS, TEXT_WIDTH] and labels [B, fields]."""
        ends = (ids == end).int().argmax(dim=1)
        index = torch.arange(len(ids), device=ids.device)
        terms = {}
        for name, at in (("end", ends), ("after", torch.clamp(ends + 1, max=MAX_TOKENS - 1))):
            terms[name] = _cross_entropy(self.whole(hidden[index, at]), self.sizes, labels)
        slots = [
            _cross_entropy(self.slot(hidden[:, at]), [self.sizes[i] for i in numbers], labels[:, numbers])
            for at, numbers in zip(SLOTS, self.of_slot, strict=True)
        ]
        return terms | {"slots": torch.stack(slots).mean()}


def _cross_entropy(logits: Tensor, sizes: list[int], labels: Tensor) -> Tensor:
    parts = logits.split(sizes, dim=1)
    return torch.stack([F.cross_entropy(part, labels[:, i]) for i, part in enumerate(parts)]).mean()


def train_text_encoder(folder: Path, settings: Settings) -> CLIPTextModel:
    """Teach the text encoder to read (`Reader`).

    Binding words to the right character is the slow part of learning to draw from text, and text alone teaches it
    thousands of times cheaper than pictures do.
    """
    torch.manual_seed(settings.seed)
    device = torch.device(settings.device)
    tokenizer = new_tokenizer()
    model = new_text_encoder(tokenizer).to(device)
    reader = Reader().to(device)

    def make_batch(step: int) -> Batch:
        scenes, rng = batch_of_scenes(settings.seed, step, settings.batch_size)
        captions = [training_caption(scene, rng) for scene in scenes]
        labels = encode([parse(caption) for caption in captions], reader.rows)
        return {"ids": token_ids(tokenizer, captions), "labels": labels}

    def loss(batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        with torch.autocast(device.type, torch.bfloat16):
            hidden = model(input_ids=batch["ids"]).last_hidden_state.float()
        return reader.loss(hidden, batch["ids"], batch["labels"], tokenizer.eos_token_id)

    train({"text_encoder": model, "head": reader}, make_batch, loss, settings, folder, name="text encoder")
    return model


def train_unet(
    folder: Path,
    settings: Settings,
    vae: AutoencoderTiny,
    text_encoder: CLIPTextModel,
    sample: Callable[[int], None] | None = None,
) -> UNet2DConditionModel:
    """Train UNet and text encoder together on v-prediction with capped weights (arXiv 2202.00512, 2303.09556).

    The text encoder goes on reading meanwhile, with weight ``READING``.
    """
    torch.manual_seed(settings.seed)
    device = torch.device(settings.device)
    tokenizer = new_tokenizer()
    unet = new_unet().to(device, memory_format=torch.channels_last)
    text_encoder.to(device).train()
    reader = Reader().to(device)
    vae.to(device).eval().requires_grad_(False)
    scheduler = new_scheduler()
    alphas = scheduler.alphas_cumprod.to(device)
    predict = torch.compile(unet) if settings.compile else unet

    def make_batch(step: int) -> Batch:
        scenes, rng = batch_of_scenes(settings.seed, step, settings.batch_size, practice=PRACTICE)
        captions = ["" if rng.random() < NO_CAPTION else training_caption(scene, rng) for scene in scenes]
        labels = encode([parse(caption) for caption in captions], reader.rows)
        return {"images": pixels(scenes, rng), "ids": token_ids(tokenizer, captions), "labels": labels}

    def loss(batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        x = centred(batch["images"])
        with torch.autocast(device.type, torch.bfloat16):
            with torch.no_grad():
                latents = vae.encode(x).latents.float() * vae.config.scaling_factor
            text = text_encoder(input_ids=batch["ids"]).last_hidden_state
            noise = torch.randn(latents.shape, generator=generator, device=device)
            t = torch.randint(0, len(alphas), (len(latents),), generator=generator, device=device)
            alpha = alphas[t].view(-1, 1, 1, 1)
            noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
            target = alpha.sqrt() * noise - (1 - alpha).sqrt() * latents
            prediction = predict(noisy.contiguous(memory_format=torch.channels_last), t, text).sample.float()
        snr = alphas[t] / (1 - alphas[t]).clamp(min=1e-8)
        # Down-weights only the nearly clean steps: what is in the picture is decided in the noisy ones.
        weight = (snr + 1).clamp(max=MAX_SNR) / (snr + 1)
        error = ((prediction - target).square() * detail_weights(x, 4)).mean(dim=(1, 2, 3))
        reading = reader.loss(text.float(), batch["ids"], batch["labels"], tokenizer.eos_token_id)
        return {
            "loss": (weight * error).mean(),
            "reading": READING * torch.stack(list(reading.values())).sum(),
        }

    modules = {"unet": unet, "text_encoder": text_encoder, "head": reader}
    train(modules, make_batch, loss, settings, folder, name="text-to-image", sample=sample)
    return unet
