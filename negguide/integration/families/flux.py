"""FLUX.1 with all its pipelines: a transformer with joint attention over text and image, called once a branch."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from negguide.integration.families.base import Arguments, Denoiser, Family, Modular
from negguide.integration.families.common import (
    flux_text_positions,
    image_size,
    joint_attention_channels,
    lora_scale,
    packed_latents,
    packed_size,
    packed_tokens,
    pooled_channels,
    sequence_token_budget,
    size_in_ids,
    split_texts,
    true_cfg_branches,
    true_cfg_disabled,
    true_cfg_scale,
    without_references,
)
from negguide.integration.families.registry import register_family
from negguide.methods import Timestep


def _encode_text(pipe: Any, texts: Sequence[str], arguments: Arguments) -> list[dict[str, Any]]:
    embeddings, pooled, positions = pipe.encode_prompt(
        prompt=list(texts),
        prompt_2=None,
        device=pipe._execution_device,
        num_images_per_prompt=1,
        max_sequence_length=arguments["max_sequence_length"],
        lora_scale=lora_scale(arguments, "joint_attention_kwargs"),
    )
    rows = split_texts({"encoder_hidden_states": embeddings, "pooled_projections": pooled})
    return [{**row, "txt_ids": positions} for row in rows]


def _latent_size(pipe: Any, arguments: Arguments) -> tuple[int, int]:
    """A tensor for a ControlNet is not resized: the picture has its size, of several that of the last."""
    control = arguments.get("control_image")
    if hasattr(getattr(pipe, "controlnet", None), "nets") and isinstance(control, list) and control:
        control = control[-1]
    # FLUX.1 Control takes packed latents too, without a height and a width
    if isinstance(control, Tensor) and control.ndim == 4:
        height, width = image_size(control)
        return packed_size(pipe, {**arguments, "height": height, "width": width})
    return packed_size(pipe, arguments)


FLUX = Family(
    name="FLUX.1",
    pipelines=("FluxPipeline", "FluxImg2ImgPipeline", "FluxInpaintPipeline", "FluxControlNetPipeline"),
    denoisers=("transformer",),
    text_encoders=("text_encoder", "text_encoder_2"),
    sample="hidden_states",
    timestep="timestep",
    text={"encoder_hidden_states": "tokens", "pooled_projections": "pooled", "txt_ids": "positions"},
    embeds={"encoder_hidden_states": "prompt_embeds", "pooled_projections": "pooled_prompt_embeds"},
    derived={"txt_ids": flux_text_positions},
    channels={"pooled_prompt_embeds": pooled_channels},
    # img_ids are for all rows: [tokens, 3]
    batched=(
        "timestep",
        "guidance",
        "controlnet_block_samples",
        "controlnet_single_block_samples",
        # one tensor for each IP-Adapter
        "joint_attention_kwargs.ip_adapter_image_embeds",
    ),
    controls=("controlnet_block_samples", "controlnet_single_block_samples"),
    branches=true_cfg_branches,
    sequential=True,
    guidance_scale=true_cfg_scale,
    cfg_disabled_reason=true_cfg_disabled,
    latent_size=_latent_size,
    encode_text=_encode_text,
    padded_text=True,
    token_budget=partial(sequence_token_budget, name="tokenizer_2"),
    encode_image=packed_latents,
    image_tokens=packed_tokens,
    prediction_slice=without_references,
    attention=((r"^(single_)?transformer_blocks\.\d+\.attn$", "text first"),),
    # all blocks, as published
    negtome_blocks=r"transformer_blocks\.\d+\.attn$",
    defaults={"NegToMe": {"threshold": 0.65, "stop": Timestep(900)}},
    denoiser=Denoiser(
        classes=("FluxTransformer2DModel",),
        text_channels=joint_attention_channels,
        noise=lambda config: 1.0,
        latent_size=size_in_ids,
    ),
    # its loop asks no guider
    modular=Modular("flux", fields={}),
)


def _without_second_prediction(pipe: Any, arguments: Arguments) -> str | None:
    return f"{type(pipe).__name__} runs the model once a step, so there is no second prediction"


# the denoiser is FLUX.1's throughout, which has the row already
FLUX_ONE_PREDICTION = replace(
    FLUX,
    name="FLUX.1 with one prediction",
    pipelines=(
        "FluxControlNetImg2ImgPipeline",
        "FluxControlNetInpaintPipeline",
        # the transformers trained for these have the control image, or the mask and the masked image, as further
        # channels of each token
        "FluxControlPipeline",
        "FluxControlImg2ImgPipeline",
        "FluxControlInpaintPipeline",
        "FluxFillPipeline",
    ),
    branches=lambda pipe, arguments: ("cond",),
    cfg_disabled_reason=_without_second_prediction,
    guided=False,
    denoiser=None,
    modular=None,
)


def _kontext_size(pipe: Any, arguments: Arguments) -> tuple[int, int]:
    """Kontext keeps the requested proportions and generates at the area that it was trained on.

    Inside a mask it keeps the size of the image, or takes the nearest one that it was trained on.
    """
    if "mask_image" in arguments:
        return _kontext_inpaint_size(pipe, arguments)
    default = pipe.default_sample_size * pipe.vae_scale_factor
    height, width = (int(arguments.get(name) or default) for name in ("height", "width"))
    proportion, patch = width / height, 2 * pipe.vae_scale_factor
    width = round((arguments["max_area"] * proportion) ** 0.5)
    height = round((arguments["max_area"] / proportion) ** 0.5)
    return 2 * (height // patch), 2 * (width // patch)


def _kontext_inpaint_size(pipe: Any, arguments: Arguments) -> tuple[int, int]:
    # the module is there already, as that of the pipeline
    from diffusers.pipelines.flux.pipeline_flux_kontext_inpaint import PREFERRED_KONTEXT_RESOLUTIONS

    patch = 2 * pipe.vae_scale_factor
    # the pipeline compares proportions in whole patches
    height, width = (side // patch * patch for side in image_size(arguments["image"]))
    if arguments["_auto_resize"]:
        proportion = width / height
        _, width, height = min((abs(proportion - w / h), w, h) for w, h in PREFERRED_KONTEXT_RESOLUTIONS)
    return 2 * (height // patch), 2 * (width // patch)


FLUX_KONTEXT = replace(
    FLUX,
    name="FLUX.1 Kontext",
    pipelines=("FluxKontextPipeline", "FluxKontextInpaintPipeline"),
    latent_size=_kontext_size,
    denoiser=None,
    modular=Modular("flux-kontext", fields={}, latent_size=size_in_ids),
)

register_family(FLUX)
register_family(FLUX_ONE_PREDICTION)
register_family(FLUX_KONTEXT)
