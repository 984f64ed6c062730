"""Tiny random pipelines of the families with joint attention, from FLUX on: all parts there, nothing learnt."""

from typing import Any

import PIL.Image
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
    FluxKontextPipeline,
    FluxPipeline,
    FluxTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from diffusers.image_processor import VaeImageProcessor
from tiny_parts import (
    END,
    PAD,
    START,
    T5_TEXT,
    VOCABULARY,
    Tiny,
    apart,
    clip_text,
    clip_tokenizer,
    louder,
    picture,
    ready,
    size,
    t5,
    t5_tokenizer,
)
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from torch import nn
from transformers import (
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
)

# ---- Text -----------------------------------------------------------------------------------------------------------


CHAT_TOKENS = ["<|im_start|>", "<|im_end|>", "<think>", "</think>"]
CHAT_VOCABULARY = {
    token: i for i, token in enumerate([*VOCABULARY, "\n", "user", "assistant", "system", *CHAT_TOKENS])
}
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
CHAT_LENGTH = 40
"""A prompt of n words has n + 8 tokens in the chat of Z-Image, and n + 14 in that of FLUX.2 klein."""


def qwen_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word, a sign or a line's end, as which Qwen-Image's own instruction has its 34 tokens."""
    words = Tokenizer(WordLevel(CHAT_VOCABULARY, unk_token="<unk>"))
    words.pre_tokenizer = Split(Regex(r"\w+|\n|[^\w\s]"), behavior="removed", invert=True)
    words.add_special_tokens(CHAT_TOKENS)
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        eos_token="<|im_end|>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=1000,
        chat_template=CHAT_TEMPLATE,
    )


QWEN: dict[str, Any] = {
    "vocab_size": len(CHAT_VOCABULARY),
    "intermediate_size": 37,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": None,
    "eos_token_id": CHAT_VOCABULARY["<|im_end|>"],
    "pad_token_id": PAD,
}


def qwen3(width: int, causal_lm: bool) -> PreTrainedModel:
    config = Qwen3Config(**QWEN, hidden_size=width, head_dim=8)
    return apart(Qwen3ForCausalLM(config) if causal_lm else Qwen3Model(config))


def qwen_vl(width: int) -> PreTrainedModel:
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]}
    config = Qwen2_5_VLConfig(
        text_config={**QWEN, "hidden_size": width, "rope_parameters": rope},
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": width,
        },
    )
    return apart(Qwen2_5_VLForConditionalGeneration(config))


INSTRUCTION_TOKENS = ["[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[INST]", "[/INST]", "[IMG]"]
INSTRUCTION_VOCABULARY = {token: i for i, token in enumerate([*VOCABULARY, *INSTRUCTION_TOKENS])}
# the content of a message is a list of parts, as where there may be images among them
INSTRUCTION_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '[SYSTEM_PROMPT]' if message.role == 'system' else '[INST]' }}"
    "{% for part in message.content %}{{ part.text }}{% endfor %}"
    "{{ '[/SYSTEM_PROMPT]' if message.role == 'system' else '[/INST]' }}{% endfor %}"
)
INSTRUCTION_LENGTH = 56
"""A prompt of n words has n + 31 tokens in the instruction of FLUX.2 dev."""


class TextProcessor(ProcessorMixin):
    """A tokenizer inside a processor, as PixtralProcessor is for text."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, chat_template: str) -> None:
        super().__init__(tokenizer, chat_template=chat_template)


def mistral_processor() -> TextProcessor:
    """One token a word or a sign, and padded in front."""
    words = Tokenizer(WordLevel(INSTRUCTION_VOCABULARY, unk_token="<unk>"))
    words.pre_tokenizer = Split(Regex(r"\w+|[^\w\s]"), behavior="removed", invert=True)
    words.add_special_tokens(INSTRUCTION_TOKENS)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        padding_side="left",
        model_max_length=1000,
    )
    return TextProcessor(tokenizer, chat_template=INSTRUCTION_TEMPLATE)


def mistral(width: int) -> PreTrainedModel:
    config = Mistral3Config(
        text_config={
            "model_type": "mistral",
            "vocab_size": len(INSTRUCTION_VOCABULARY),
            "hidden_size": width,
            "head_dim": 8,
            "intermediate_size": 37,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "bos_token_id": START,
            "eos_token_id": END,
            "pad_token_id": PAD,
        },
        vision_config={
            "model_type": "pixtral",
            "hidden_size": 16,
            "head_dim": 8,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "patch_size": 4,
            "image_size": 16,
        },
        image_token_index=INSTRUCTION_VOCABULARY["[IMG]"],
    )
    return apart(Mistral3ForConditionalGeneration(config))


# ---- Shared parts ---------------------------------------------------------------------------------------------------


KL: dict[str, Any] = {
    "block_out_channels": (4, 4, 4, 4),
    "norm_num_groups": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "latent_channels": 4,
}
"""An autoencoder that makes a latent of 8 x 8 pixels."""


def flux_vae() -> AutoencoderKL:
    return AutoencoderKL(**KL, force_upcast=False, shift_factor=0.1, scaling_factor=0.4)


def pil_picture() -> PIL.Image.Image:
    """The same as a file would give it."""
    image: PIL.Image.Image = VaeImageProcessor.numpy_to_pil(VaeImageProcessor.pt_to_numpy(picture()))[0]
    return image


HEADS: dict[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 16}
DYNAMIC: dict[str, Any] = {"shift": 3.0, "use_dynamic_shifting": True}


# ---- FLUX.1 ---------------------------------------------------------------------------------------------------------


# A fresh transformer hardly listens to its text, be it the tokens or the pooled vector in the modulation.
FLUX_FACTORS = {"attn.": 2, "norm1": 3, "norm.linear": 3, "time_text_embed": 2, "proj_out": 2}


def flux_parts(guidance_embeds: bool, in_channels: int = 16) -> dict[str, Any]:
    model = FluxTransformer2DModel(
        **HEADS,
        in_channels=in_channels,
        out_channels=16,
        num_layers=2,
        num_single_layers=2,
        joint_attention_dim=32,
        pooled_projection_dim=24,
        guidance_embeds=guidance_embeds,
        axes_dims_rope=(4, 6, 6),
    )
    return {
        "transformer": louder(model, FLUX_FACTORS),
        "vae": flux_vae(),
        "text_encoder": clip_text(24),
        "tokenizer": clip_tokenizer(),
        "text_encoder_2": t5(32),
        "tokenizer_2": t5_tokenizer(),
        "scheduler": FlowMatchEulerDiscreteScheduler(**DYNAMIC),
    }


def flux() -> DiffusionPipeline:
    """Without embedded guidance, as schnell and the models that undo the distillation."""
    torch.manual_seed(21)
    return ready(FluxPipeline(**flux_parts(guidance_embeds=False)))


def flux_dev() -> DiffusionPipeline:
    """With embedded guidance, beside which true classifier-free guidance goes on."""
    torch.manual_seed(22)
    return ready(FluxPipeline(**flux_parts(guidance_embeds=True)))


def flux_kontext() -> DiffusionPipeline:
    torch.manual_seed(23)
    return ready(FluxKontextPipeline(**flux_parts(guidance_embeds=True)))


# ---- FLUX.2 ---------------------------------------------------------------------------------------------------------


def flux2_parts(guidance_embeds: bool) -> dict[str, Any]:
    model = Flux2Transformer2DModel(
        **HEADS,
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        joint_attention_dim=3 * 32,
        timestep_guidance_channels=32,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=guidance_embeds,
    )
    strong = {"modulation": 6, "time_guidance_embed": 4, "context_embedder": 2, "attn.": 2, "proj_out": 2}
    return {
        "transformer": louder(model, strong),
        "vae": AutoencoderKLFlux2(**KL),
        "scheduler": FlowMatchEulerDiscreteScheduler(**DYNAMIC),
    }


def flux2_dev() -> DiffusionPipeline:
    """Distilled: with embedded guidance only."""
    torch.manual_seed(27)
    parts = flux2_parts(guidance_embeds=True)
    return ready(Flux2Pipeline(**parts, text_encoder=mistral(32), tokenizer=mistral_processor()))


def flux2_klein() -> DiffusionPipeline:
    """The undistilled one: the distilled klein runs without classifier-free guidance, as FLUX.2 dev does."""
    torch.manual_seed(24)
    parts = flux2_parts(guidance_embeds=False)
    encoder = {"text_encoder": qwen3(32, causal_lm=True), "tokenizer": qwen_tokenizer()}
    return ready(Flux2KleinPipeline(**parts, **encoder, is_distilled=False))


# ---- Qwen-Image -----------------------------------------------------------------------------------------------------


def qwen_image(**transformer: Any) -> DiffusionPipeline:
    torch.manual_seed(25)
    model = QwenImageTransformer2DModel(
        **HEADS,
        in_channels=16,
        out_channels=4,
        num_layers=3,
        joint_attention_dim=32,
        axes_dims_rope=(4, 6, 6),
        **transformer,
    )
    strong = {"_mod.": 4, "time_text_embed": 2, "attn.": 2, "proj_out": 2}
    vae = AutoencoderKLQwenImage(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[-0.5, 0.0, 0.2, 0.4],
        latents_std=[1.0, 2.0, 0.5, 1.5],
    )
    return ready(
        QwenImagePipeline(
            transformer=louder(model, strong),
            vae=vae,
            text_encoder=qwen_vl(32),
            tokenizer=qwen_tokenizer(),
            scheduler=FlowMatchEulerDiscreteScheduler(**DYNAMIC),
        )
    )


# ---- Z-Image --------------------------------------------------------------------------------------------------------


def z_image() -> DiffusionPipeline:
    torch.manual_seed(26)
    model = ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=32,
        axes_dims=[4, 6, 6],
        axes_lens=[256, 32, 32],
    )
    # zeros where the trained model has a vector; what fills a sequence up is attended to like any other token
    for pad in (model.x_pad_token, model.cap_pad_token):
        nn.init.normal_(pad)
    return ready(
        ZImagePipeline(
            transformer=louder(model, {"attention.to_": 2, "all_final_layer": 2}),
            vae=flux_vae(),
            text_encoder=qwen3(32, causal_lm=False),
            tokenizer=qwen_tokenizer(),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        )
    )


# ---- All of them ----------------------------------------------------------------------------------------------------


CHAT_TEXT: dict[str, Any] = {"max_sequence_length": CHAT_LENGTH}
TRUE_CFG: dict[str, Any] = {"true_cfg_scale": 3.0, "negative_prompt": ""}
# Otherwise the size would be one of those the large model was trained on.
AS_ASKED: dict[str, Any] = {"max_area": 64 * 64, "_auto_resize": False}
LAYERS: dict[str, Any] = {"text_encoder_out_layers": (1, 2, 3), "guidance_scale": 3.0}
KLEIN: dict[str, Any] = {**CHAT_TEXT, **LAYERS}
DEV: dict[str, Any] = {"max_sequence_length": INSTRUCTION_LENGTH, **LAYERS}

FLUX2: dict[str, Any] = {"negative_prompt": False, "chat": True}

TINY: tuple[Tiny, ...] = (
    Tiny("flux", flux, size(**T5_TEXT, **TRUE_CFG)),
    Tiny("flux-dev", flux_dev, size(**T5_TEXT, **TRUE_CFG, guidance_scale=2.5), like="flux"),
    Tiny("flux-kontext", flux_kontext, size(**T5_TEXT, **TRUE_CFG, **AS_ASKED, image=picture), like="flux"),
    Tiny("flux2-dev", flux2_dev, size(**DEV), **FLUX2, guided=False),
    Tiny(
        "flux2-dev-reference",
        flux2_dev,
        size(**DEV, image=pil_picture),
        **FLUX2,
        guided=False,
        like="flux2-dev",
    ),
    Tiny("flux2-klein", flux2_klein, size(**KLEIN), **FLUX2),
    Tiny(
        "flux2-klein-reference",
        flux2_klein,
        size(**KLEIN, image=pil_picture),
        **FLUX2,
        like="flux2-klein",
    ),
    Tiny("qwen-image", qwen_image, size(**TRUE_CFG), chat=True, rescales=True),
    Tiny(
        "z-image",
        z_image,
        size(**CHAT_TEXT, guidance_scale=3.0, negative_prompt=""),
        chat=True,
        scale_offset=1.0,
    ),
)
