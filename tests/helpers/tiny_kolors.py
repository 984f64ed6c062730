"""Tiny random pipelines of Kolors: SDXL's UNet with one text encoder, a language model that pads on the left."""

import io
import tempfile
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, EulerDiscreteScheduler, KolorsImg2ImgPipeline, KolorsPipeline
from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig, ChatGLMModel
from diffusers.pipelines.kolors.tokenizer import ChatGLMTokenizer
from diffusers.utils import is_sentencepiece_available
from tiny_parts import WORDS, Tiny, apart, ready, size
from tiny_unet_and_cross import BETAS, UNET_XL, from_picture, kl_vae, unet
from torch import nn
from transformers import PreTrainedModel

LENGTH = 256
"""Of every text: what Kolors' pipelines leave to `encode_prompt`."""
WIDTH = 40


def glm_tokenizer() -> ChatGLMTokenizer:
    """ChatGLM's own, for the words of the other tiny tokenizers."""
    from sentencepiece import SentencePieceTrainer

    words = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(WORDS)]),
        model_writer=words,
        model_type="word",
        vocab_size=len(WORDS) + 3,
        minloglevel=2,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.model"
        path.write_bytes(words.getvalue())
        return ChatGLMTokenizer(str(path))


def glm() -> PreTrainedModel:
    config = ChatGLMConfig(
        num_layers=2,
        # and the special ones
        padded_vocab_size=len(WORDS) + 16,
        hidden_size=WIDTH,
        ffn_hidden_size=37,
        kv_channels=10,
        num_attention_heads=4,
        seq_length=LENGTH,
        original_rope=True,
        add_qkv_bias=True,
        multi_query_attention=True,
        multi_query_group_num=2,
    )
    model = ChatGLMModel(config, empty_init=False)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            # which it leaves to what is loaded
            nn.init.ones_(parameter)
    return apart(model)


def parts() -> dict[str, Any]:
    told = {
        "encoder_hid_dim_type": "text_proj",
        "encoder_hid_dim": WIDTH,
        "projection_class_embeddings_input_dim": 6 * 8 + WIDTH,
    }
    return {
        "vae": kl_vae(),
        "text_encoder": glm(),
        "tokenizer": glm_tokenizer(),
        "unet": unet(UNET_XL, **told),
        "scheduler": EulerDiscreteScheduler(**BETAS, timestep_spacing="leading", steps_offset=1),
    }


def kolors() -> DiffusionPipeline:
    torch.manual_seed(51)
    return ready(KolorsPipeline(**parts()))


def kolors_img2img() -> DiffusionPipeline:
    torch.manual_seed(52)
    return ready(KolorsImg2ImgPipeline(**parts()))


# without sentencepiece diffusers has no Kolors
TINY: tuple[Tiny, ...] = (
    (
        Tiny("kolors", kolors, size()),
        Tiny("kolors-img2img", kolors_img2img, from_picture, like="kolors", embeds_alone=False),
    )
    if is_sentencepiece_available()
    else ()
)
