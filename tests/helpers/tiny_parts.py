"""What tiny pipelines are built from: words, tokenizers, text encoders, and how a random model is made to listen."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DiffusionPipeline
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)


@dataclass(frozen=True)
class Tiny:
    """A pipeline to build, and the keyword arguments of one small run of it."""

    name: str
    build: Callable[[], DiffusionPipeline]
    call: Callable[[], dict[str, Any]]
    """Without prompt, num_inference_steps, guidance_scale and generator; made fresh, for a pipeline may change them."""
    guided: bool = True
    """Whether it has classifier-free guidance, without which Perp-Neg cannot act."""
    like: str = ""
    """The name of the tiny pipeline whose family and denoiser this one shares; without one its own."""
    side: int = 64
    """Of its pictures, in pixels."""
    video: bool = False
    """Whether it makes videos."""
    reference_images: bool = True
    """Whether NegToMe takes reference images in it."""
    negative_prompt: bool = True
    """Whether its call has one."""
    chat: bool = False
    """Whether its prompt becomes a message in a chat, with something behind the text."""
    scale_offset: float = 0.0
    """What its guidance_scale is less than g of u + g (c - u)."""
    rescales: bool = False
    """Whether it brings each token's guided prediction back to the norm of cond."""
    one_noise: bool = False
    """Whether the noise of a whole batch is drawn from the first generator, so that an image alone is another one."""
    embeds_alone: bool = True
    """Whether it can be called without a prompt: from image to image, Kolors forgets the pooled embeddings."""
    image_of_each_prompt: bool = False
    """Whether it wants as many images as there are prompts, where others take one for all."""
    shares_modules: bool = False
    """Whether its ControlNet has modules of the denoiser's, in which a LoRA acts there whatever its scale is."""
    mask_each: bool = False
    """Whether it wants as many masks as it makes images."""
    one_prompt: bool = False
    """Whether a call takes one prompt only."""
    cuts_text: bool = True
    """Whether text of more than some length is cut off."""
    image_each: bool = False
    """Whether it wants as many images as it makes, where each is to have a generator of its own."""
    forgets_shift: bool = False
    """Whether it decodes without the autoencoder's shift, which it takes away where it encodes (diffusers to 0.42)."""
    image_behind_text: bool = False
    """Whether the image stands behind the longest text of a call, so that a prompt beside a longer one has another."""
    one_each: bool = False
    """Whether it makes one of each prompt only."""
    alike: Callable[[], dict[str, Any]] = dict
    """The arguments with which a prompt and a negative of the same words are encoded and conditioned alike."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "like", self.like or self.name)


SPECIAL = ["<pad>", "<s>", "<unk>", "</s>"]


# CLIPTextModel treats eos_token_id 2 as a legacy marker and pools elsewhere, so the end is 3.
PAD, START, UNKNOWN, END = range(4)


WORDS = [
    "a",
    "the",
    "bear",
    "cat",
    "robot",
    "boy",
    "hat",
    "glasses",
    "frame",
    "black",
    "red",
    "brown",
    "white",
    "in",
    "on",
    "with",
    "wearing",
    "snow",
    "forest",
    "back",
    "view",
]


VOCABULARY = {token: i for i, token in enumerate([*SPECIAL, *WORDS])}


CLIP_LENGTH = 12


T5_LENGTH = 10


def tokenizer(template: str, length: int) -> PreTrainedTokenizerFast:
    """One token a word; `template` says where start and end go: CLIP has both, T5 the end, Gemma the start."""
    words = Tokenizer(WordLevel(VOCABULARY, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    words.post_processor = TemplateProcessing(single=template, special_tokens=[("<s>", START), ("</s>", END)])
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=length,
    )


def clip_tokenizer() -> PreTrainedTokenizerFast:
    return tokenizer("<s> $A </s>", CLIP_LENGTH)


def t5_tokenizer() -> PreTrainedTokenizerFast:
    return tokenizer("$A </s>", T5_LENGTH)


def apart(encoder: PreTrainedModel) -> PreTrainedModel:
    """The encoder with embeddings of size 1, without which all words would come out nearly alike."""
    nn.init.normal_(encoder.get_input_embeddings().weight)
    return encoder


def clip_text(width: int, projection: int | None = None) -> PreTrainedModel:
    """A CLIP text model; with `projection`, the kind that also returns a pooled vector of that size."""
    config = CLIPTextConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=width,
        intermediate_size=37,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=CLIP_LENGTH,
        projection_dim=projection or width,
        bos_token_id=START,
        eos_token_id=END,
        pad_token_id=PAD,
    )
    if projection is None:
        return apart(CLIPTextModel(config))
    model = CLIPTextModelWithProjection(config)
    nn.init.normal_(model.text_projection.weight, std=width**-0.5)
    return apart(model)


def t5(width: int, multilingual: bool = False) -> PreTrainedModel:
    config: dict[str, Any] = {
        "vocab_size": len(VOCABULARY),
        "d_model": width,
        "d_kv": 8,
        "d_ff": 37,
        "num_layers": 2,
        "num_heads": 4,
        "feed_forward_proj": "gated-gelu",
        "pad_token_id": PAD,
        "eos_token_id": END,
        "decoder_start_token_id": PAD,
    }
    return apart(
        UMT5EncoderModel(UMT5Config(**config)) if multilingual else T5EncoderModel(T5Config(**config))
    )


def louder(model: nn.Module, factors: Mapping[str, float]) -> nn.Module:
    """The model with the parameters whose name contains a key scaled by its factor."""
    for name, parameter in model.named_parameters():
        for part, factor in factors.items():
            parameter.data *= factor if part in name else 1
    return model


def ready(pipe: DiffusionPipeline) -> DiffusionPipeline:
    for component in pipe.components.values():
        if isinstance(component, nn.Module):
            component.eval()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def picture() -> Tensor:
    """An image, float [1, 3, 64, 64] within 0 and 1."""
    return torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(7))


def size(pixels: int = 64, **more: Any) -> Callable[[], dict[str, Any]]:
    """Arguments of a square image of that size, and more; what is a function of no arguments is called."""

    def call() -> dict[str, Any]:
        made = {name: value() if callable(value) else value for name, value in more.items()}
        return {"height": pixels, "width": pixels, "output_type": "latent", **made}

    return call


T5_TEXT: dict[str, Any] = {"max_sequence_length": T5_LENGTH}
