"""Tiny random siblings of Qwen-Image: image to image, inpainting, ControlNets, editing."""

from typing import Any

import torch
from diffusers import (
    AutoencoderKLQwenImage,
    DiffusionPipeline,
    QwenImageControlNetInpaintPipeline,
    QwenImageControlNetModel,
    QwenImageControlNetPipeline,
    QwenImageEditInpaintPipeline,
    QwenImageEditPipeline,
    QwenImageEditPlusPipeline,
    QwenImageImg2ImgPipeline,
    QwenImageInpaintPipeline,
)
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.pipelines.qwenimage import (
    pipeline_qwenimage_edit,
    pipeline_qwenimage_edit_inpaint,
    pipeline_qwenimage_edit_plus,
)
from tiny_joint import (
    CHAT_TEMPLATE,
    CHAT_TOKENS,
    CHAT_VOCABULARY,
    HEADS,
    QWEN,
    TRUE_CFG,
    pil_picture,
    qwen_image,
)
from tiny_parts import Tiny, apart, louder, picture, ready, size
from tiny_unet_and_cross import all_new, left_half, unheard
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from torch import Tensor, nn
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
    Qwen2VLProcessor,
)

# ---- Image to image -------------------------------------------------------------------------------------------------


def qwen_image_img2img() -> DiffusionPipeline:
    return ready(QwenImageImg2ImgPipeline(**qwen_image().components))


def qwen_image_inpaint() -> DiffusionPipeline:
    return ready(QwenImageInpaintPipeline(**qwen_image().components))


# ---- ControlNets ----------------------------------------------------------------------------------------------------


def controlnet(extra_channels: int = 0) -> nn.Module:
    """One that is heard: a fresh one begins with zeros."""
    torch.manual_seed(41)
    net = QwenImageControlNetModel(
        **HEADS,
        in_channels=16,
        out_channels=4,
        num_layers=2,
        joint_attention_dim=32,
        axes_dims_rope=(4, 6, 6),
        extra_condition_channels=extra_channels,
    )
    for linear in (net.controlnet_x_embedder, *net.controlnet_blocks):
        linear.reset_parameters()
    return louder(net, {"controlnet_x_embedder": 2})


def qwen_image_controlnet() -> DiffusionPipeline:
    return ready(QwenImageControlNetPipeline(**qwen_image().components, controlnet=controlnet()))


class WithoutNoise(AutoencoderKLQwenImage):
    """Encodes without noise: the pipeline below draws it from torch's own generator, so that no two calls are alike."""

    def encode(self, x: Tensor, return_dict: bool = True) -> Any:
        (posterior,) = super().encode(x, return_dict=False)
        posterior.std = torch.zeros_like(posterior.std)
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)


def qwen_image_controlnet_inpaint() -> DiffusionPipeline:
    parts = qwen_image().components
    vae = WithoutNoise.from_config(parts["vae"].config)
    vae.load_state_dict(parts["vae"].state_dict())
    # the mask is a fifth channel of the latents
    net = controlnet(extra_channels=4)
    return ready(QwenImageControlNetInpaintPipeline(**{**parts, "vae": vae}, controlnet=net))


# ---- Editing --------------------------------------------------------------------------------------------------------


VISION_TOKENS = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
VISION_VOCABULARY = {token: i for i, token in enumerate([*CHAT_VOCABULARY, *VISION_TOKENS])}


def vision_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word, a sign or a line's end, as which the instruction to edit has its 64 tokens."""
    words = Tokenizer(WordLevel(VISION_VOCABULARY, unk_token="<unk>"))
    words.pre_tokenizer = Split(Regex(r"'s|\),|\w+|\n|[^\w\s]"), behavior="removed", invert=True)
    words.add_special_tokens([*CHAT_TOKENS, *VISION_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        eos_token="<|im_end|>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=1000,
        chat_template=CHAT_TEMPLATE,
    )


class PictureProcessor(Qwen2VLProcessor):
    """Without what it has for videos, which needs torchvision."""

    def check_argument_for_proper_class(self, name: str, argument: Any) -> Any:
        return None if name == "video_processor" else super().check_argument_for_proper_class(name, argument)


def vision_processor() -> PictureProcessor:
    """A picture of 64 pixels is 4 tokens, one of 32 is one."""
    pixels = Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=1000 * 1000)
    return PictureProcessor(image_processor=pixels, tokenizer=vision_tokenizer())


def seeing_qwen_vl(width: int) -> PreTrainedModel:
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]}
    config = Qwen2_5_VLConfig(
        text_config={
            **QWEN,
            "vocab_size": len(VISION_VOCABULARY),
            "hidden_size": width,
            "rope_parameters": rope,
        },
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": width,
        },
        image_token_id=VISION_VOCABULARY["<|image_pad|>"],
        video_token_id=VISION_VOCABULARY["<|video_pad|>"],
        vision_start_token_id=VISION_VOCABULARY["<|vision_start|>"],
        vision_end_token_id=VISION_VOCABULARY["<|vision_end|>"],
    )
    return apart(Qwen2_5_VLForConditionalGeneration(config))


_dimensions = pipeline_qwenimage_edit.calculate_dimensions


def small_dimensions(area: int, ratio: float) -> tuple[int, int, None]:
    """The pipelines' own, for images of 64 pixels where they have 1024, in whole 16s where they have 32s."""
    width, height, _ = _dimensions(area // 64, ratio)
    return width // 2, height // 2, None


def edit_parts(**transformer: Any) -> dict[str, Any]:
    for module in (pipeline_qwenimage_edit, pipeline_qwenimage_edit_inpaint):
        module.calculate_dimensions = small_dimensions
    pipeline_qwenimage_edit_plus.calculate_dimensions = lambda *args: small_dimensions(*args)[:2]
    parts = qwen_image(**transformer).components
    torch.manual_seed(42)
    return {
        **parts,
        "text_encoder": seeing_qwen_vl(32),
        "tokenizer": vision_tokenizer(),
        "processor": vision_processor(),
    }


def qwen_image_edit() -> DiffusionPipeline:
    return ready(QwenImageEditPipeline(**edit_parts()))


def qwen_image_edit_inpaint() -> DiffusionPipeline:
    return ready(QwenImageEditInpaintPipeline(**edit_parts()))


def qwen_image_edit_plus() -> DiffusionPipeline:
    """As that of November 2025, whose images to edit are modulated as finished ones."""
    return ready(QwenImageEditPlusPipeline(**edit_parts(zero_cond_t=True)))


def inpainted() -> dict[str, Any]:
    """Inpainting ignores height and width."""
    return {
        **TRUE_CFG,
        "image": pil_picture(),
        "mask_image": left_half(),
        "strength": 0.6,
        "output_type": "latent",
    }


def two_pictures() -> list[Any]:
    return [pil_picture().rotate(90), pil_picture()]


# ---- All of them ----------------------------------------------------------------------------------------------------


LIKE: dict[str, Any] = {"like": "qwen-image", "chat": True, "rescales": True}
FROM_PICTURE: dict[str, Any] = {**TRUE_CFG, "image": picture, "strength": 0.6}

TINY: tuple[Tiny, ...] = (
    Tiny("qwen-image-img2img", qwen_image_img2img, size(**FROM_PICTURE), **LIKE, one_noise=True),
    Tiny(
        "qwen-image-inpaint",
        qwen_image_inpaint,
        size(**FROM_PICTURE, mask_image=left_half),
        **LIKE,
        one_noise=True,
        alike=all_new,
    ),
    Tiny(
        "qwen-image-controlnet",
        qwen_image_controlnet,
        size(**TRUE_CFG, control_image=picture),
        **LIKE,
        alike=unheard,
    ),
    Tiny(
        "qwen-image-controlnet-inpaint",
        qwen_image_controlnet_inpaint,
        size(**TRUE_CFG, control_image=picture, control_mask=left_half),
        **LIKE,
        alike=unheard,
    ),
    Tiny(
        "qwen-image-edit",
        qwen_image_edit,
        size(**TRUE_CFG, image=pil_picture),
        **LIKE,
        cuts_text=False,
        image_of_each_prompt=True,
    ),
    Tiny(
        "qwen-image-edit-inpaint",
        qwen_image_edit_inpaint,
        inpainted,
        **LIKE,
        cuts_text=False,
        image_of_each_prompt=True,
        one_noise=True,
        alike=all_new,
    ),
    Tiny(
        "qwen-image-edit-plus",
        qwen_image_edit_plus,
        size(**TRUE_CFG, image=two_pictures),
        **LIKE,
        cuts_text=False,
        one_prompt=True,
    ),
)
