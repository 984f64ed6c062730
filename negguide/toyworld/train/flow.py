"""Train the flow-matching transformer: a T5 encoder that has learned to read, then a `FluxTransformer2DModel`.

The pipeline has FLUX's form: tokens of a T5 encoder are attended beside the image's, the pooled vector of a CLIP text
encoder modulates every block, latents are packed 2x2. The autoencoder and the CLIP text encoder are those of the
UNet's pipeline, and stay as they are.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from tokenizers import Tokenizer, normalizers
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn
from transformers import CLIPTextModel, PreTrainedTokenizerFast, T5Config, T5EncoderModel

from negguide.toyworld.labels import encode, fields
from negguide.toyworld.language import parse, places_of_words, training_caption, vocabulary
from negguide.toyworld.scene import MAX_COUNT
from negguide.toyworld.train.autoencoder import LATENT_CHANNELS
from negguide.toyworld.train.data import PRACTICE, batch_of_scenes, centred, detail_weights, pixels
from negguide.toyworld.train.loop import Batch, train
from negguide.toyworld.train.settings import Settings
from negguide.toyworld.train.text_to_image import NO_CAPTION, TEXT_WIDTH
from negguide.toyworld.words import MAX_TOKENS, new_tokenizer, token_ids

LATENT_SIZE = 16
NO_POOLED = 0.4
"""Share of the captions whose pooled vector is that of the empty caption, so that what a caption says is learned from
its tokens, where attention methods reach it (each text encoder is dropped by itself in arXiv 2403.03206 too)."""
UNIFORM_TIMES = 0.2
"""Share of the times drawn uniformly: logit-normal ones hardly meet pure noise, where every sampling starts."""
TEXT_LENGTHS = {32: 0.75, MAX_TOKENS: 0.19, 128: 0.06}
"""To how many tokens the text of a batch is padded, and how often; longer captions take the next length that holds
them. FLUX attends to padding, so a model that saw one length only would draw worse at another. Few lengths, because
each is compiled by itself."""


def new_t5_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word and an end, as T5 has it; as with `new_tokenizer`, an unknown word is an error."""
    tokens = {"<pad>": 0, "</s>": 1}
    tokens |= {word: len(tokens) + i for i, word in enumerate(vocabulary())}
    tokenizer = Tokenizer(WordLevel(tokens))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Lowercase(), normalizers.Replace(",", " "), normalizers.Replace(".", " ")]
    )
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", tokens["</s>"])])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", model_max_length=MAX_TOKENS
    )


def new_t5_encoder(tokenizer: PreTrainedTokenizerFast) -> T5EncoderModel:
    """Three layers whose relative positions are told apart up to 32 words."""
    return T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=TEXT_WIDTH,
            d_kv=32,
            d_ff=512,
            num_layers=3,
            num_heads=6,
            relative_attention_max_distance=32,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            use_cache=False,
        )
    )


def new_transformer(guidance: bool = False) -> FluxTransformer2DModel:
    """Two double and four single blocks, 9 million parameters, on 64 packed latents of 2x2x8.

    With ``guidance``, the guidance scale is one of its inputs.
    """
    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=4 * LATENT_CHANNELS,
        num_layers=2,
        num_single_layers=4,
        attention_head_dim=32,
        num_attention_heads=8,
        joint_attention_dim=TEXT_WIDTH,
        pooled_projection_dim=TEXT_WIDTH,
        guidance_embeds=guidance,
        axes_dims_rope=(8, 12, 12),
    )


def new_flow_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Even steps from noise to picture, without the shift that larger pictures need."""
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0, use_dynamic_shifting=False)


def packed(latents: Tensor) -> Tensor:
    """Latents [B, C, H, W] as the transformer takes them, [B, H/2 * W/2, 4C]."""
    tokens: Tensor = FluxPipeline._pack_latents(latents, *latents.shape)
    return tokens


def unpacked(tokens: Tensor, size: int = LATENT_SIZE) -> Tensor:
    """The inverse of `packed`: [B, size/2 * size/2, 4C] to [B, C, size, size]."""
    # the pipeline counts in pixels, eight for a latent
    latents: Tensor = FluxPipeline._unpack_latents(tokens, 8 * size, 8 * size, 8)
    return latents


def places(size: int = LATENT_SIZE) -> Tensor:
    """The rotary positions of the packed latents, [size/2 * size/2, 3]: nothing, row, column."""
    half = size // 2
    ids: Tensor = FluxPipeline._prepare_latent_image_ids(1, half, half, "cpu", torch.float32)
    return ids


def flow_times(count: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """Times in (0, 1), 1 being noise: logit-normal (arXiv 2403.03206), a share of ``UNIFORM_TIMES`` uniform."""
    normal = torch.randn(count, generator=generator, device=device).sigmoid()
    uniform = torch.rand(count, generator=generator, device=device)
    return torch.where(torch.rand(count, generator=generator, device=device) < UNIFORM_TIMES, uniform, normal)


class TokenReader(nn.Module):
    """Classifiers on the tokens of a caption: what the T5 encoder learns to read.

    One query gathers every field of the scene from the tokens, and one for each place from the left what stands there,
    as the places of a picture will ask them. And each word tells all about the character that it speaks of, and where
    that stands: which colour goes with which hat is learned far sooner from every word than from one answer a caption.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rows = fields(words=True)
        self.sizes = [len(row.options) for row in self.rows]
        self.of_slot = [
            [i for i, row in enumerate(self.rows) if row.slot == slot] for slot in range(MAX_COUNT)
        ]
        self.queries = nn.Parameter(torch.randn(1 + MAX_COUNT, TEXT_WIDTH))
        self.gather = nn.MultiheadAttention(TEXT_WIDTH, num_heads=6, batch_first=True)
        self.whole = nn.Linear(TEXT_WIDTH, sum(self.sizes))
        self.slot = nn.Linear(TEXT_WIDTH, sum(self.sizes[i] for i in self.of_slot[0]))
        self.word = nn.Linear(TEXT_WIDTH, MAX_COUNT + self.slot.out_features)

    def labels(self, captions: Sequence[str], length: int) -> dict[str, Tensor]:
        """What is to be read from captions: int64 labels [B, fields], and places of words [B, length], -1 for none."""
        of_words = torch.full((len(captions), length), -1)
        for row, caption in zip(of_words, captions, strict=True):
            places = [-1 if place is None else place for place in places_of_words(caption)]
            row[: len(places)] = torch.tensor(places, dtype=row.dtype)
        return {
            "labels": encode([parse(caption) for caption in captions], self.rows),
            "of_words": of_words,
        }

    def forward(self, hidden: Tensor) -> list[tuple[list[int], list[Tensor]]]:
        """Logits by field of hidden states [B, L, TEXT_WIDTH]: of the whole scene, then of each place."""
        queries = self.queries.expand(len(hidden), -1, -1)
        found = self.gather(queries, hidden, hidden, need_weights=False)[0]
        everything = list(range(len(self.rows)))
        logits = [(everything, self.whole(found[:, 0]))]
        logits += [(numbers, self.slot(found[:, 1 + i])) for i, numbers in enumerate(self.of_slot)]
        return [
            (numbers, list(part.split([self.sizes[i] for i in numbers], dim=1))) for numbers, part in logits
        ]

    def loss(self, hidden: Tensor, labels: Tensor, of_words: Tensor) -> dict[str, Tensor]:
        """Mean cross-entropies of hidden states [B, L, TEXT_WIDTH], with what `labels` makes."""
        means = [
            torch.stack(
                [F.cross_entropy(part, labels[:, i]) for i, part in zip(numbers, parts, strict=True)]
            ).mean()
            for numbers, parts in self(hidden)
        ]
        return {
            "whole": means[0],
            "slots": torch.stack(means[1:]).mean(),
            "words": self._words(hidden, labels, of_words),
        }

    def _words(self, hidden: Tensor, labels: Tensor, of_words: Tensor) -> Tensor:
        caption, word = (of_words >= 0).nonzero(as_tuple=True)
        if not len(caption):
            return hidden.new_zeros(())
        slots = of_words[caption, word]
        wanted = labels[caption[:, None], torch.tensor(self.of_slot, device=labels.device)[slots]]
        sizes = [MAX_COUNT, *(self.sizes[i] for i in self.of_slot[0])]
        parts = self.word(hidden[caption, word]).split(sizes, dim=1)
        said = torch.cat([slots[:, None], wanted], dim=1)
        return torch.stack([F.cross_entropy(part, said[:, i]) for i, part in enumerate(parts)]).mean()


def text_tokens(tokenizer: PreTrainedTokenizerFast, captions: list[str], rng: random.Random) -> Tensor:
    """Token numbers for the T5 encoder, int64 [len(captions), L], L drawn from ``TEXT_LENGTHS``."""
    rows: list[list[int]] = tokenizer(captions).input_ids
    longest = max(len(row) for row in rows)
    drawn = rng.choices(list(TEXT_LENGTHS), weights=list(TEXT_LENGTHS.values()))[0]
    length = min(each for each in TEXT_LENGTHS if each >= max(drawn, longest))
    ids: Tensor = tokenizer.pad(
        {"input_ids": rows}, padding="max_length", max_length=length, return_tensors="pt"
    ).input_ids
    return ids


def train_t5_encoder(folder: Path, settings: Settings) -> T5EncoderModel:
    """Teach the T5 encoder to read (`TokenReader`), which text alone does far cheaper than pictures do."""
    torch.manual_seed(settings.seed)
    device = torch.device(settings.device)
    tokenizer = new_t5_tokenizer()
    model = new_t5_encoder(tokenizer).to(device)
    reader = TokenReader().to(device)

    def make_batch(step: int) -> Batch:
        scenes, rng = batch_of_scenes(settings.seed, step, settings.batch_size, practice=PRACTICE)
        captions = [training_caption(scene, rng) for scene in scenes]
        ids = text_tokens(tokenizer, captions, rng)
        return {"ids": ids, **reader.labels(captions, ids.shape[1])}

    def loss(batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        with torch.autocast(device.type, torch.bfloat16, enabled=half_is_fast(device)):
            hidden = model(input_ids=batch["ids"]).last_hidden_state
        return reader.loss(hidden.float(), batch["labels"], batch["of_words"])

    modules = {"text_encoder_2": model, "head": reader}
    train(modules, make_batch, loss, settings, folder, name="flow text encoder")
    return model


def train_flow(
    folder: Path,
    settings: Settings,
    vae: AutoencoderTiny,
    text_encoder: CLIPTextModel,
    text_encoder_2: T5EncoderModel,
    sample: Callable[[int], None] | None = None,
) -> FluxTransformer2DModel:
    """Train a transformer to predict noise - picture (arXiv 2209.03003, 2210.02747); all else stays as it is.

    Places of detail count more (`detail_weights`).
    """
    torch.manual_seed(settings.seed)
    device = torch.device(settings.device)
    clip_tokenizer, t5_tokenizer = new_tokenizer(), new_t5_tokenizer()
    transformer = new_transformer().to(device)
    vae.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)
    text_encoder.to(device).eval().requires_grad_(False)
    text_encoder_2.to(device).eval().requires_grad_(False)
    predict = torch.compile(transformer, dynamic=False) if settings.compile else transformer
    image_ids = places().to(device)

    def make_batch(step: int) -> Batch:
        scenes, rng = batch_of_scenes(settings.seed, step, settings.batch_size, practice=PRACTICE)
        captions = ["" if rng.random() < NO_CAPTION else training_caption(scene, rng) for scene in scenes]
        pooled = ["" if rng.random() < NO_POOLED else caption for caption in captions]
        images = pixels(scenes, rng)
        ids = text_tokens(t5_tokenizer, captions, rng)
        return {"images": images, "ids": ids, "pooled_ids": token_ids(clip_tokenizer, pooled)}

    def loss(batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        x = centred(batch["images"])
        with torch.autocast(device.type, torch.bfloat16, enabled=half_is_fast(device)):
            with torch.no_grad():
                latents = vae.encode(x).latents.float()
                latents = (latents - vae.config.shift_factor) * vae.config.scaling_factor
                pooled = text_encoder(input_ids=batch["pooled_ids"]).pooler_output
                text = text_encoder_2(input_ids=batch["ids"]).last_hidden_state
            noise = torch.randn(latents.shape, generator=generator, device=device)
            t = flow_times(len(latents), generator, device)
            sigma = t.view(-1, 1, 1, 1)
            prediction = predict(
                hidden_states=packed((1 - sigma) * latents + sigma * noise),
                encoder_hidden_states=text,
                pooled_projections=pooled,
                timestep=t,
                img_ids=image_ids,
                txt_ids=torch.zeros(text.shape[1], 3, device=device),
                return_dict=False,
            )[0].float()
        weights = packed(detail_weights(x, 4).expand_as(latents))
        return {"loss": ((prediction - packed(noise - latents)).square() * weights).mean()}

    train({"transformer": transformer}, make_batch, loss, settings, folder, name="flow", sample=sample)
    return transformer


def half_is_fast(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 without being slower for it."""
    # A CPU without instructions for bfloat16 takes many times as long with it as with float32.
    return device.type != "cpu" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def save_flow_pipeline(
    folder: Path,
    vae: AutoencoderTiny,
    text_encoder: CLIPTextModel,
    text_encoder_2: T5EncoderModel,
    transformer: FluxTransformer2DModel,
) -> None:
    """Write a flow-matching model in half precision, loadable by `FluxPipeline.from_pretrained`."""
    pipe = FluxPipeline(
        scheduler=new_flow_scheduler(),
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=new_tokenizer(),
        text_encoder_2=text_encoder_2,
        tokenizer_2=new_t5_tokenizer(),
        transformer=transformer,
    )
    pipe.to(dtype=torch.float16).save_pretrained(folder, safe_serialization=True)
    # Without a dtype diffusers loads float32 and transformers what the configuration says; FLUX does not mix the two.
    for name in ("text_encoder", "text_encoder_2"):
        path = folder / name / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"dtype": "float32"}, indent=2) + "\n")
