"""Tiny random siblings of those with cross-attention: PixArt-alpha, Sana with a ControlNet and Sana Sprint."""

from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    PixArtAlphaPipeline,
    PixArtTransformer2DModel,
    SanaControlNetModel,
    SanaControlNetPipeline,
    SanaSprintImg2ImgPipeline,
    SanaSprintPipeline,
    SanaTransformer2DModel,
    SCMScheduler,
)
from tiny_parts import T5_TEXT, Tiny, louder, ready, size, t5, t5_tokenizer
from tiny_unet_and_cross import AS_ASKED, dc_vae, gemma, gemma_tokenizer, kl_vae, without_instruction
from torch import Tensor, nn

# ---- PixArt-alpha ---------------------------------------------------------------------------------------------------


def pixart_alpha() -> DiffusionPipeline:
    """As the one for 1024 pixels, which is told the image's size and proportions."""
    torch.manual_seed(20)
    model = PixArtTransformer2DModel(
        # by this number the pipeline knows whether there are further conditions
        sample_size=128,
        num_layers=2,
        patch_size=2,
        # of the embedded size: two thirds are its sides, one third the proportions
        attention_head_dim=12,
        num_attention_heads=4,
        caption_channels=40,
        in_channels=4,
        out_channels=8,
        cross_attention_dim=48,
    )
    strong = {"attn1.to_": 2, "attn2.to_": 2, "caption_projection": 2}
    return ready(
        PixArtAlphaPipeline(
            tokenizer=t5_tokenizer(),
            text_encoder=t5(40),
            vae=kl_vae(),
            transformer=louder(model, strong),
            # of one step the pipeline takes the finished image, which the DPM solver does not give
            scheduler=DDIMScheduler(clip_sample=False),
        )
    )


# ---- Sana -----------------------------------------------------------------------------------------------------------

SANA: dict[str, Any] = {
    "sample_size": 8,
    "patch_size": 1,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 3,
    "num_attention_heads": 4,
    "attention_head_dim": 8,
    "num_cross_attention_heads": 4,
    "cross_attention_head_dim": 8,
    "cross_attention_dim": 32,
    "caption_channels": 40,
}
STRONG = {"attn1.to_": 2, "attn2.to_": 2, "attn2.to_q": 2}


def sana_parts(**transformer: Any) -> dict[str, Any]:
    return {
        "tokenizer": gemma_tokenizer(),
        "text_encoder": gemma(40),
        "vae": dc_vae(),
        "transformer": louder(SanaTransformer2DModel(**SANA, **transformer), STRONG),
    }


def sana_controlnet() -> DiffusionPipeline:
    """A ControlNet of two of the three blocks, whose zero layers are none, so that what it is told counts."""
    torch.manual_seed(24)
    net = SanaControlNetModel(**{**SANA, "num_layers": 2})
    for module in (net.input_block, *net.controlnet_blocks):
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.1)
    flow = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    return ready(
        SanaControlNetPipeline(**sana_parts(), controlnet=louder(net, {"input_block": 3}), scheduler=flow)
    )


def sana_sprint_parts() -> dict[str, Any]:
    """Distilled: guidance is an input, and queries and keys are normalised."""
    parts = sana_parts(guidance_embeds=True, qk_norm="rms_norm_across_heads")
    return {**parts, "scheduler": SCMScheduler()}


def sana_sprint() -> DiffusionPipeline:
    torch.manual_seed(22)
    return ready(SanaSprintPipeline(**sana_sprint_parts()))


def sana_sprint_img2img() -> DiffusionPipeline:
    torch.manual_seed(23)
    return ready(SanaSprintImg2ImgPipeline(**sana_sprint_parts()))


def small_picture() -> Tensor:
    """An image, float [1, 3, 32, 32] within 0 and 1."""
    return torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(7))


def unheard_without_instruction() -> dict[str, Any]:
    """The ControlNet is given the prompt, also where the transformer has a negative."""
    return {"controlnet_conditioning_scale": 0.0, **without_instruction()}


# Sprint's own default is for two steps alone
ANY_STEPS: dict[str, Any] = {"intermediate_timesteps": None}

# ---- All of them ----------------------------------------------------------------------------------------------------

TINY: tuple[Tiny, ...] = (
    Tiny("pixart-alpha", pixart_alpha, size(**T5_TEXT, **AS_ASKED), like="pixart-sigma"),
    Tiny(
        "sana-controlnet",
        sana_controlnet,
        size(32, control_image=small_picture, **T5_TEXT, **AS_ASKED),
        like="sana",
        side=32,
        alike=unheard_without_instruction,
    ),
    Tiny(
        "sana-sprint",
        sana_sprint,
        size(32, **ANY_STEPS, **T5_TEXT, **AS_ASKED),
        like="sana",
        guided=False,
        side=32,
        reference_images=False,
        negative_prompt=False,
        alike=without_instruction,
    ),
    Tiny(
        "sana-sprint-img2img",
        sana_sprint_img2img,
        size(32, image=small_picture, strength=0.6, **ANY_STEPS, **T5_TEXT, **AS_ASKED),
        like="sana",
        guided=False,
        side=32,
        reference_images=False,
        negative_prompt=False,
        alike=without_instruction,
    ),
)
