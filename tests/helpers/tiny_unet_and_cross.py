"""Tiny random pipelines of the families with a UNet, with cross-attention, and SD3: all parts there, nothing learnt."""

from typing import Any

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderKLWan,
    ControlNetModel,
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
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
    tokenizer,
)
from torch import Tensor, nn
from transformers import (
    Gemma2Config,
    Gemma2Model,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

# ---- Text -----------------------------------------------------------------------------------------------------------


def gemma_tokenizer() -> PreTrainedTokenizerFast:
    # the length is no limit here: Sana puts its own long instruction in front of a prompt
    return tokenizer("<s> $A", 1000)


def gemma(width: int) -> PreTrainedModel:
    config = Gemma2Config(
        vocab_size=len(VOCABULARY),
        hidden_size=width,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        query_pre_attn_scalar=8,
        bos_token_id=START,
        eos_token_id=END,
        pad_token_id=PAD,
    )
    return apart(Gemma2Model(config))


# ---- Shared parts ---------------------------------------------------------------------------------------------------


def kl_vae(channels: int = 4, **config: Any) -> AutoencoderKL:
    """An autoencoder that makes a latent of 8 x 8 pixels."""
    return AutoencoderKL(
        block_out_channels=(4, 4, 4, 4),
        norm_num_groups=2,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=channels,
        force_upcast=False,
        **config,
    )


def left_half() -> Tensor:
    """A mask, float [1, 1, 64, 64]: 1 where there is to be something new."""
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., :32] = 1
    return mask


BETAS: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
# A fresh UNet hardly listens to its text, and its image tokens are all alike.
UNET_FACTORS = {
    "attn1.to_q": 4,
    "attn1.to_k": 4,
    "attn1.to_v": 4,
    "attn2.to_q": 2,
    "attn2.to_k": 2,
    "attn2.to_v": 2,
    "attn2.to_out": 2,
}
UNET: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 4,
    "cross_attention_dim": 32,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
}
POOLED = 24
UNET_XL: dict[str, Any] = {
    **UNET,
    "cross_attention_dim": 32 + 40,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": 2,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + POOLED,
}


def unet(config: dict[str, Any], **changes: Any) -> nn.Module:
    return louder(UNet2DConditionModel(**{**config, **changes}), UNET_FACTORS)


def controlnet(model: nn.Module) -> nn.Module:
    """A ControlNet of the UNet's shape whose zero convolutions are none, so that what it is told counts."""
    net = ControlNetModel.from_unet(model, conditioning_embedding_out_channels=(8, 8, 8, 8))
    zeros = [net.controlnet_cond_embedding.conv_out, *net.controlnet_down_blocks, net.controlnet_mid_block]
    for module in zeros:
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.1)
    return louder(net, {"controlnet_cond_embedding": 3})


# ---- Stable Diffusion -----------------------------------------------------------------------------------------------


def sd_parts() -> dict[str, Any]:
    return {
        "vae": kl_vae(),
        "text_encoder": clip_text(32),
        "tokenizer": clip_tokenizer(),
        "unet": unet(UNET),
        "scheduler": DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }


def sd() -> DiffusionPipeline:
    torch.manual_seed(1)
    return ready(StableDiffusionPipeline(**sd_parts()))


def sd_img2img() -> DiffusionPipeline:
    torch.manual_seed(3)
    return ready(StableDiffusionImg2ImgPipeline(**sd_parts()))


def sd_controlnet() -> DiffusionPipeline:
    torch.manual_seed(2)
    parts = sd_parts()
    return ready(StableDiffusionControlNetPipeline(**parts, controlnet=controlnet(parts["unet"])))


# ---- Stable Diffusion XL --------------------------------------------------------------------------------------------


def sdxl_parts(**changes: Any) -> dict[str, Any]:
    return {
        "vae": kl_vae(),
        "text_encoder": clip_text(32),
        "text_encoder_2": clip_text(40, POOLED),
        "tokenizer": clip_tokenizer(),
        "tokenizer_2": clip_tokenizer(),
        "unet": unet(UNET_XL, **changes),
        "scheduler": EulerDiscreteScheduler(**BETAS, timestep_spacing="trailing"),
        "add_watermarker": False,
    }


def sdxl() -> DiffusionPipeline:
    torch.manual_seed(3)
    return ready(StableDiffusionXLPipeline(**sdxl_parts()))


def sdxl_img2img() -> DiffusionPipeline:
    torch.manual_seed(4)
    return ready(StableDiffusionXLImg2ImgPipeline(**sdxl_parts()))


def sdxl_inpaint() -> DiffusionPipeline:
    """The UNet trained for it: mask and masked image are channels of its input."""
    torch.manual_seed(5)
    return ready(StableDiffusionXLInpaintPipeline(**sdxl_parts(in_channels=9)))


def sdxl_inpaint_plain() -> DiffusionPipeline:
    """An ordinary UNet: what lies outside the mask is put back after each step."""
    torch.manual_seed(6)
    return ready(StableDiffusionXLInpaintPipeline(**sdxl_parts()))


def sdxl_controlnet() -> DiffusionPipeline:
    torch.manual_seed(7)
    parts = sdxl_parts()
    return ready(StableDiffusionXLControlNetPipeline(**parts, controlnet=controlnet(parts["unet"])))


# ---- Stable Diffusion 3 ---------------------------------------------------------------------------------------------


def sd3_pipeline(
    text_encoder_3: nn.Module | None, in_channels: int = 16, **transformer: Any
) -> DiffusionPipeline:
    model = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=in_channels,
        out_channels=16,
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=80,
        caption_projection_dim=32,
        pooled_projection_dim=2 * POOLED,
        pos_embed_max_size=16,
        **transformer,
    )
    strong = {
        "attn.to_": 2,
        "attn2.to_": 2,
        "attn.add_": 2,
        ".norm_q": 2,
        ".norm_k": 2,
        ".norm_added_k": 2,
        "norm1": 2,
    }
    return ready(
        StableDiffusion3Pipeline(
            transformer=louder(model, strong),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=kl_vae(16, shift_factor=0.06, scaling_factor=1.5),
            text_encoder=clip_text(32, POOLED),
            tokenizer=clip_tokenizer(),
            text_encoder_2=clip_text(40, POOLED),
            tokenizer_2=clip_tokenizer(),
            text_encoder_3=text_encoder_3,
            tokenizer_3=None if text_encoder_3 is None else t5_tokenizer(),
        )
    )


def sd3() -> DiffusionPipeline:
    """As 3.5 medium: T5, normalised queries and keys, and a second self-attention in some blocks."""
    torch.manual_seed(8)
    return sd3_pipeline(t5(80), dual_attention_layers=(0, 1), qk_norm="rms_norm")


def sd3_without_t5() -> DiffusionPipeline:
    """As 3.0, with zeros where T5 would speak."""
    torch.manual_seed(9)
    return sd3_pipeline(None)


# ---- PixArt, Sana, Wan ----------------------------------------------------------------------------------------------


def pixart_sigma() -> DiffusionPipeline:
    """It predicts a variance as well: twice as many channels come out as go in."""
    torch.manual_seed(10)
    model = PixArtTransformer2DModel(
        sample_size=8,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_channels=40,
        in_channels=4,
        out_channels=8,
        cross_attention_dim=32,
        use_additional_conditions=False,
    )
    strong = {"attn1.to_": 2, "attn2.to_": 2, "caption_projection": 2}
    return ready(
        PixArtSigmaPipeline(
            tokenizer=t5_tokenizer(),
            text_encoder=t5(40),
            vae=kl_vae(),
            transformer=louder(model, strong),
            scheduler=DPMSolverMultistepScheduler(),
        )
    )


def dc_vae() -> AutoencoderDC:
    """An autoencoder that makes a latent of 4 x 4 pixels."""
    config: dict[str, Any] = {}
    for side in ("encoder", "decoder"):
        config |= {
            f"{side}_block_types": ("ResBlock", "ResBlock", "EfficientViTBlock"),
            f"{side}_block_out_channels": (8, 8, 8),
            f"{side}_qkv_multiscales": ((), (), (5,)),
            f"{side}_layers_per_block": (1, 1, 1),
        }
    return AutoencoderDC(latent_channels=4, attention_head_dim=2, downsample_block_type="conv", **config)


def sana() -> DiffusionPipeline:
    torch.manual_seed(11)
    model = SanaTransformer2DModel(
        sample_size=8,
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        num_attention_heads=4,
        attention_head_dim=8,
        num_cross_attention_heads=4,
        cross_attention_head_dim=8,
        cross_attention_dim=32,
        caption_channels=40,
    )
    strong = {"attn1.to_": 2, "attn2.to_": 2, "attn2.to_q": 2}
    flow = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    return ready(
        SanaPipeline(
            tokenizer=gemma_tokenizer(),
            text_encoder=gemma(40),
            vae=dc_vae(),
            transformer=louder(model, strong),
            scheduler=flow,
        )
    )


def wan() -> DiffusionPipeline:
    torch.manual_seed(12)
    model = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=4,
        attention_head_dim=12,
        in_channels=16,
        out_channels=16,
        text_dim=40,
        freq_dim=64,
        ffn_dim=64,
        num_layers=2,
        rope_max_seq_len=32,
    )
    strong = {"attn1.to_": 2, "attn2.to_": 2, "text_embedder": 2}
    vae = AutoencoderKLWan(
        base_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    )
    flow = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    return ready(
        WanPipeline(
            tokenizer=t5_tokenizer(),
            text_encoder=t5(40, multilingual=True),
            vae=vae,
            scheduler=flow,
            transformer=louder(model, strong),
        )
    )


# ---- All of them ----------------------------------------------------------------------------------------------------


def from_picture() -> dict[str, Any]:
    """Image to image takes its size from the image, and 2 steps of 0.6 are 1, 5 are 3."""
    return {"image": picture(), "strength": 0.6, "output_type": "latent"}


INPAINT = size(image=picture, mask_image=left_half, strength=0.6)
CONTROL = size(image=picture)
AS_ASKED: dict[str, Any] = {"use_resolution_binning": False, "clean_caption": False}
"""Otherwise the size would be one of those the large models were trained on."""


def unheard() -> dict[str, Any]:
    """A ControlNet is given the prompt, also where the UNet has a negative."""
    return {"controlnet_conditioning_scale": 0.0}


def all_new() -> dict[str, Any]:
    """What is outside the mask is put back after the step."""
    return {"mask_image": torch.ones(1, 1, 64, 64)}


def without_instruction() -> dict[str, Any]:
    """Sana's is put before the prompt only."""
    return {"complex_human_instruction": None}


TINY: tuple[Tiny, ...] = (
    Tiny("sd", sd, size()),
    Tiny("sd-img2img", sd_img2img, from_picture, like="sd"),
    Tiny("sd-controlnet", sd_controlnet, CONTROL, like="sd", alike=unheard),
    Tiny("sdxl", sdxl, size()),
    Tiny("sdxl-img2img", sdxl_img2img, from_picture, like="sdxl"),
    Tiny("sdxl-inpaint", sdxl_inpaint, INPAINT, like="sdxl", one_noise=True),
    Tiny("sdxl-inpaint-plain", sdxl_inpaint_plain, INPAINT, like="sdxl", one_noise=True, alike=all_new),
    Tiny("sdxl-controlnet", sdxl_controlnet, CONTROL, like="sdxl", alike=unheard),
    Tiny("sd3", sd3, size(**T5_TEXT)),
    Tiny("sd3-without-t5", sd3_without_t5, size(**T5_TEXT), like="sd3"),
    Tiny("pixart-sigma", pixart_sigma, size(**T5_TEXT, **AS_ASKED)),
    Tiny("sana", sana, size(32, **T5_TEXT, **AS_ASKED), side=32, alike=without_instruction),
    Tiny("wan", wan, size(num_frames=5, **T5_TEXT), video=True, reference_images=False),
)
