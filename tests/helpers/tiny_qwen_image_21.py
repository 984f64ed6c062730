"""A tiny random Qwen-Image 2.1: from text, and with an image to edit."""

from typing import Any

import torch
from diffusers import (
    AutoencoderKLQwenImage21,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    QwenImage21Pipeline,
    QwenImage21Transformer2DModel,
)
from tiny_joint import DYNAMIC, HEADS, QWEN, TRUE_CFG, pil_picture
from tiny_parts import Tiny, apart, louder, ready, size
from tiny_qwen_siblings import VISION_VOCABULARY, vision_tokenizer
from transformers import (
    PreTrainedModel,
    Qwen2VLImageProcessorPil,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
)

CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% for part in message.content %}{{ part.text }}{% endfor %}<|im_end|>\n{% endfor %}"
)


class PictureProcessor(Qwen3VLProcessor):
    """Without what it has for videos, which needs torchvision."""

    def check_argument_for_proper_class(self, name: str, argument: Any) -> Any:
        return None if name == "video_processor" else super().check_argument_for_proper_class(name, argument)


def vision_processor() -> PictureProcessor:
    """A picture of 64 pixels is 4 tokens, each of which 4 of its latents take the place of."""
    pixels = Qwen2VLImageProcessorPil(patch_size=16, min_pixels=32 * 32, max_pixels=1000 * 1000)
    return PictureProcessor(image_processor=pixels, tokenizer=vision_tokenizer(), chat_template=CHAT)


def seeing_qwen3_vl(width: int) -> PreTrainedModel:
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 1, 1]}
    config = Qwen3VLConfig(
        text_config={
            **QWEN,
            "vocab_size": len(VISION_VOCABULARY),
            "hidden_size": width,
            "head_dim": 8,
            "rope_parameters": rope,
        },
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": width,
            "deepstack_visual_indexes": [0],
        },
        image_token_id=VISION_VOCABULARY["<|image_pad|>"],
        video_token_id=VISION_VOCABULARY["<|video_pad|>"],
        vision_start_token_id=VISION_VOCABULARY["<|vision_start|>"],
        vision_end_token_id=VISION_VOCABULARY["<|vision_end|>"],
    )
    return apart(Qwen3VLForConditionalGeneration(config))


def qwen_image_21(**transformer: Any) -> DiffusionPipeline:
    torch.manual_seed(66)
    model = QwenImage21Transformer2DModel(
        **HEADS,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        context_in_dim=32,
        axes_dims_rope=(4, 6, 6),
        **transformer,
    )
    vae = AutoencoderKLQwenImage21(
        base_dim=4,
        decoder_base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=[-0.5, 0.0, 0.2, 0.4],
        latents_std=[1.0, 2.0, 0.5, 1.5],
    )
    return ready(
        QwenImage21Pipeline(
            transformer=louder(model, {"txt_in": 3, "attn.": 2, "mod": 3, "proj_out": 2}),
            vae=vae,
            text_encoder=seeing_qwen3_vl(32),
            processor=vision_processor(),
            scheduler=FlowMatchEulerDiscreteScheduler(**DYNAMIC),
        )
    )


CALL: dict[str, Any] = {**TRUE_CFG, "output_resolution": 64}
OWN: dict[str, Any] = {"chat": True, "cuts_text": False, "image_behind_text": True}
TINY: tuple[Tiny, ...] = (
    Tiny("qwen-image-21", qwen_image_21, size(**CALL), **OWN),
    Tiny(
        "qwen-image-21-edit",
        qwen_image_21,
        size(**CALL, image=pil_picture),
        like="qwen-image-21",
        **OWN,
        embeds_alone=False,
    ),
)
