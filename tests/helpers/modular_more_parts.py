"""What the tiny random pipelines of `more` are built from, each up to its latents."""

import importlib
import types
from collections.abc import Callable
from typing import Any

import diffusers
import torch
from diffusers import (
    AnimaTextConditioner,
    ClassifierFreeGuidance,
    ClassifierFreeZeroStarGuidance,
    CosmosTransformer3DModel,
    ErnieImageTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    Flux3Transformer2DModel,
    HeliosTransformer3DModel,
    HunyuanVideo15Transformer3DModel,
    QwenImage21Transformer2DModel,
    WanTransformer3DModel,
    WanVACETransformer3DModel,
)
from diffusers.models.transformers import transformer_cosmos
from diffusers.modular_pipelines.helios import encoders as helios_encoders
from diffusers.modular_pipelines.krea2 import encoders as krea2_encoders
from diffusers.modular_pipelines.qwenimage import encoders as qwen_encoders
from diffusers.schedulers import HeliosScheduler
from tiny_joint import (
    DYNAMIC,
    QWEN,
    TextProcessor,
    mistral,
    mistral_processor,
    qwen3,
    qwen_tokenizer,
)
from tiny_parts import VOCABULARY, apart, louder, t5, t5_tokenizer
from tiny_qwen_siblings import VISION_VOCABULARY, vision_tokenizer
from torch import Tensor, nn
from transformers import PreTrainedModel, Qwen3VLConfig, Qwen3VLForConditionalGeneration

PROMPT, OTHER = "a bear wearing a hat", "a cat in the snow"
SCALE = 4.0


class _Nearest:
    NEAREST = "nearest"


def pipeline(blocks: str, parts: dict[str, Any], *popped: str, guider: Any = None) -> Any:
    made = getattr(diffusers, blocks)()
    for name in ("decode", *popped):
        made.sub_blocks.pop(name)
    pipe = made.init_pipeline()
    for part in parts.values():
        if isinstance(part, nn.Module):
            part.eval()
    pipe.update_components(**{name: part for name, part in parts.items() if name in pipe.component_names})
    names = [name for name in pipe.component_names if name.startswith("guider")]
    pipe.update_components(**{name: guider or ClassifierFreeGuidance(SCALE) for name in names})
    return pipe


def of_classic(module: str, function: str, blocks: str, **more: Any) -> Callable[[], Any]:
    """Of the parts of a tiny classic pipeline."""

    def build() -> Any:
        classic = getattr(importlib.import_module(module), function)()
        parts = {name: part for name, part in classic.components.items() if part is not None}
        return pipeline(blocks, parts, **more)

    return build


# ---- Text -----------------------------------------------------------------------------------------------------------


def qwen3_vl(width: int, words: int = QWEN["vocab_size"]) -> PreTrainedModel:
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 1, 1]}
    config = Qwen3VLConfig(
        text_config={
            **QWEN,
            "vocab_size": words,
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
    )
    return apart(Qwen3VLForConditionalGeneration(config))


def chat_processor() -> TextProcessor:
    tokenizer = qwen_tokenizer()
    return TextProcessor(tokenizer, chat_template=tokenizer.chat_template)


class SystemProcessor(TextProcessor):
    """Qwen-Image 2.1 asks of its chat template how long the system's message is, and writes the rest itself."""

    def apply_chat_template(self, conversation: Any, **kwargs: Any) -> list[list[int]]:
        (message,) = conversation
        text = f"<|im_start|>{message['role']}\n{message['content'][0]['text']}<|im_end|>\n"
        return [self.tokenizer(text).input_ids]


# ---- The pipelines --------------------------------------------------------------------------------------------------


def krea2() -> Any:
    krea2_encoders.KREA2_TEXT_ENCODER_SELECT_LAYERS = (1, 2, 4)
    guider = ClassifierFreeGuidance(SCALE - 1, use_original_formulation=True)
    return of_classic("tiny_krea2", "krea2", "Krea2AutoBlocks", guider=guider)()


def flux3() -> Any:
    torch.manual_seed(61)
    model = Flux3Transformer2DModel(
        in_channels=16,
        cond_in_channels=16,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=96,
        timestep_channels=32,
        axes_dims_rope=(4, 4, 4, 4),
    )
    strong = {"modulations": 4, "timestep_embedder": 3, "context_embedder": 3, "attn.to_": 2, "proj_out": 2}
    parts = {
        "transformer": louder(model, strong),
        "text_encoder": qwen3_vl(32),
        "tokenizer": chat_processor(),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
    }
    return pipeline("Flux3AutoBlocks", parts, "prompt_upsampler")


def anima() -> Any:
    if not hasattr(transformer_cosmos, "transforms"):
        # torchvision's, which is no part of the tests
        resize = types.SimpleNamespace(resize=lambda image, size, **_: nn.functional.interpolate(image, size))
        transformer_cosmos.transforms = types.SimpleNamespace(functional=resize, InterpolationMode=_Nearest)
    torch.manual_seed(62)
    model = CosmosTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=2,
        text_embed_dim=32,
        adaln_lora_dim=8,
        max_size=(4, 16, 16),
        extra_pos_embed_type=None,
    )
    conditioner = AnimaTextConditioner(
        source_dim=32,
        target_dim=32,
        model_dim=32,
        num_layers=1,
        num_attention_heads=2,
        target_vocab_size=len(VOCABULARY),
        min_sequence_length=12,
    )
    parts = {
        "transformer": louder(model, {"attn2.to_": 3, "norm2": 2}),
        "text_conditioner": louder(conditioner, {"embed": 1.0}),
        "text_encoder": qwen3(32, causal_lm=False),
        "tokenizer": qwen_tokenizer(),
        "t5_tokenizer": t5_tokenizer(),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
    }
    return pipeline("AnimaAutoBlocks", parts)


def ernie() -> Any:
    torch.manual_seed(63)
    model = ErnieImageTransformer2DModel(
        hidden_size=48,
        num_attention_heads=2,
        num_layers=2,
        ffn_hidden_size=48,
        in_channels=16,
        out_channels=16,
        text_in_dim=32,
        rope_axes_dim=(8, 8, 8),
    )
    # adaLN and the last layer begin with zeros
    for name, parameter in model.named_parameters():
        if "adaLN" in name or "final" in name:
            nn.init.normal_(parameter, std=0.1)
    parts = {
        "transformer": louder(model, {"text_proj": 3, "to_": 2}),
        "text_encoder": mistral(32).model,
        "tokenizer": mistral_processor().tokenizer,
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
    }
    return pipeline("ErnieImageAutoBlocks", parts)


def helios_parts(**scheduler: Any) -> dict[str, Any]:
    if not hasattr(helios_encoders, "ftfy"):
        helios_encoders.ftfy = types.SimpleNamespace(fix_text=lambda text: text)
    torch.manual_seed(64)
    model = HeliosTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=24,
        in_channels=4,
        out_channels=4,
        text_dim=40,
        freq_dim=32,
        ffn_dim=48,
        num_layers=2,
        rope_dim=(8, 8, 8),
    )
    return {
        "transformer": louder(model, {"attn2.to_": 2, "text_embedder": 3, "patch_embedding": 2}),
        "text_encoder": t5(40, multilingual=True),
        "tokenizer": t5_tokenizer(),
        "scheduler": HeliosScheduler(**scheduler),
    }


def helios() -> Any:
    return pipeline("HeliosAutoBlocks", helios_parts(stages=1, stage_range=[0, 1]))


def helios_pyramid() -> Any:
    guider = ClassifierFreeZeroStarGuidance(SCALE, zero_init_steps=1)
    return pipeline("HeliosPyramidAutoBlocks", helios_parts(gamma=0.3), guider=guider)


def hunyuan() -> Any:
    torch.manual_seed(65)
    model = HunyuanVideo15Transformer3DModel(
        in_channels=9,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=2,
        num_refiner_layers=1,
        text_embed_dim=32,
        text_embed_2_dim=40,
        image_embed_dim=16,
        rope_axes_dim=(4, 6, 6),
        target_size=64,
    )
    qwen = importlib.import_module("tiny_joint").qwen_vl(32)
    parts = {
        "transformer": louder(model, {"context_embedder": 2, "attn.": 2, "norm": 2}),
        "text_encoder": qwen.model.language_model,
        "tokenizer": qwen_tokenizer(),
        "text_encoder_2": t5(40),
        "tokenizer_2": t5_tokenizer(),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
    }
    pipe = pipeline("HunyuanVideo15AutoBlocks", parts)
    kind = type(pipe)
    # of 4 channels, and a system message of few tokens, as the tiny text encoder has
    small = {
        "num_channels_latents": property(lambda self: 4),
        "tokenizer_max_length": property(lambda self: 120),
        "prompt_template_encode_start_idx": property(lambda self: 20),
        "tokenizer_2_max_length": property(lambda self: 10),
        "vision_num_semantic_tokens": property(lambda self: 3),
    }
    pipe.__class__ = type(kind.__name__, (kind,), small)
    return pipe


def qwen_image_21() -> Any:
    torch.manual_seed(66)
    model = QwenImage21Transformer2DModel(
        in_channels=16,
        out_channels=16,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        context_in_dim=32,
        axes_dims_rope=(4, 6, 6),
    )
    parts = {
        "transformer": louder(model, {"txt_in": 3, "attn.": 2, "mod": 3, "proj_out": 2}),
        "text_encoder": qwen3_vl(32, len(VISION_VOCABULARY)),
        "processor": SystemProcessor(vision_tokenizer(), chat_template="none"),
        "scheduler": FlowMatchEulerDiscreteScheduler(**DYNAMIC),
    }
    return pipeline("QwenImage21AutoBlocks", parts)


def wan_parts(function: str) -> dict[str, Any]:
    classic = getattr(importlib.import_module("tiny_wan_siblings"), function)()
    return {name: part for name, part in classic.components.items() if part is not None}


def wan_i2v() -> Any:
    return pipeline("WanImage2VideoAutoBlocks", wan_parts("wan_i2v"))


def wan22_i2v() -> Any:
    parts = wan_parts("wan_i2v_channels")
    second = WanTransformer3DModel.from_config(parts["transformer"].config)
    second.load_state_dict(parts["transformer"].state_dict())
    pipe = pipeline("Wan22Image2VideoBlocks", {**parts, "transformer_2": louder(second, {"attn2": 1.2})})
    pipe.update_components(boundary_ratio=0.9)
    return pipe


def wan_vace() -> Any:
    parts = wan_parts("wan_vace")
    second = WanVACETransformer3DModel.from_config(parts["transformer"].config)
    second.load_state_dict(parts["transformer"].state_dict())
    pipe = pipeline("Wan22VaceBlocks", {**parts, "transformer_2": louder(second, {"attn2": 1.2})})
    pipe.update_components(boundary_ratio=0.9)
    return pipe


def qwen_edit(function: str, blocks: str) -> Callable[[], Any]:
    def build() -> Any:
        siblings = importlib.import_module("tiny_qwen_siblings")
        qwen_encoders.calculate_dimensions = siblings.small_dimensions
        return of_classic("tiny_qwen_siblings", function, blocks)()

    return build


def rescaled(guided: Tensor, cond: Tensor) -> Tensor:
    """Qwen-Image brings each token's guided prediction back to the length of cond."""
    scaled: Tensor = guided * (cond.norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True))
    return scaled


def first_tokens(count: int) -> Callable[[Tensor], Tensor]:
    return lambda prediction: prediction[:, :count]
