"""Qwen-Image: a transformer with joint attention over text and image, called once a branch."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from negguide.integration.families.base import Arguments, Denoiser, Family, Modular, TokenBudget
from negguide.integration.families.common import (
    counting_tokenizer,
    joint_attention_channels,
    packed_frame_latents,
    packed_size,
    packed_tokens,
    true_cfg_branches,
    true_cfg_disabled,
    true_cfg_scale,
    without_references,
)
from negguide.integration.families.registry import register_family


def _encode_text(pipe: Any, texts: Sequence[str], arguments: Arguments) -> list[dict[str, Any]]:
    rows = []
    # one by one: in a batch the shorter ones would be padded, and need masks
    for text in texts:
        embeddings, mask = pipe.encode_prompt(
            prompt=[text],
            device=pipe._execution_device,
            num_images_per_prompt=1,
            max_sequence_length=arguments["max_sequence_length"],
        )
        rows.append({"encoder_hidden_states": embeddings, "encoder_hidden_states_mask": mask})
    return rows


def _token_budget(pipe: Any, text: str, arguments: Arguments) -> TokenBudget:
    tokenizer = counting_tokenizer(pipe)
    tokens = len(tokenizer(pipe.prompt_template_encode.format(text)).input_ids)
    # what stands before the text is dropped from the encoder's output, and not counted
    limit = min(pipe.tokenizer_max_length, arguments["max_sequence_length"])
    return TokenBudget(tokenizer, tokens, limit + pipe.prompt_template_encode_start_idx)


def size_in_shapes(inputs: Mapping[str, Any]) -> tuple[int, int]:
    """`img_shapes` holds (frames, rows, columns) in tokens of 2x2 latents, reference images' behind."""
    shape = inputs["img_shapes"][0]
    _, rows, columns = shape[0] if isinstance(shape, list) else shape
    return 2 * rows, 2 * columns


def _controlled_size(pipe: Any, arguments: Arguments) -> tuple[int, int]:
    """A control image that is a tensor is not resized, and the generated image has its size; of several, the last."""
    image = arguments["control_image"]
    if hasattr(pipe.controlnet, "nets") and isinstance(image, list) and image:
        image = image[-1]
    if not isinstance(image, Tensor):
        return packed_size(pipe, arguments)
    height, width = image.shape[-2:]
    return packed_size(pipe, {**arguments, "height": height, "width": width})


def _modular_reader(components: Any) -> Any:
    # the module is there already, as that of the pipeline, which does not hold the template itself
    from diffusers.modular_pipelines.qwenimage import prompt_templates

    return SimpleNamespace(
        tokenizer=components.tokenizer,
        prompt_template_encode=prompt_templates.QWENIMAGE_PROMPT_TEMPLATE,
        prompt_template_encode_start_idx=prompt_templates.QWENIMAGE_PROMPT_TEMPLATE_START_IDX,
        tokenizer_max_length=1024,
    )


def before_references(state: Mapping[str, Any]) -> slice:
    """Behind the generated image's tokens stand those of the images that a modular pipeline was given."""
    return slice(0, state["latents"].shape[1])


_MODULAR = Modular(
    "qwenimage",
    fields={
        "encoder_hidden_states": "prompt_embeds",
        "encoder_hidden_states_mask": "prompt_embeds_mask",
    },
    packed=True,
    reader=_modular_reader,
)

QWEN_IMAGE = Family(
    name="Qwen-Image",
    pipelines=(
        "QwenImagePipeline",
        "QwenImageImg2ImgPipeline",
        "QwenImageInpaintPipeline",
        "QwenImageControlNetInpaintPipeline",
    ),
    denoisers=("transformer",),
    text_encoders=("text_encoder",),
    sample="hidden_states",
    timestep="timestep",
    text={"encoder_hidden_states": "tokens", "encoder_hidden_states_mask": "tokens"},
    embeds={
        "encoder_hidden_states": "prompt_embeds",
        "encoder_hidden_states_mask": "prompt_embeds_mask",
    },
    # img_shapes has an entry for each prompt, not for each row, and the model takes the first for all rows
    batched=("timestep", "guidance", "controlnet_block_samples", "additional_t_cond"),
    controls=("controlnet_block_samples",),
    branches=true_cfg_branches,
    sequential=True,
    guidance_scale=true_cfg_scale,
    cfg_disabled_reason=true_cfg_disabled,
    latent_size=packed_size,
    encode_text=_encode_text,
    token_budget=_token_budget,
    encode_image=packed_frame_latents,
    image_tokens=packed_tokens,
    prediction_slice=without_references,
    text_positions="image_rotary_emb",
    attention=((r"^transformer_blocks\.\d+\.attn$", "text first"),),
    negtome_blocks=r"^transformer_blocks\.\d+\.attn$",
    denoiser=Denoiser(
        classes=("QwenImageTransformer2DModel",),
        text_channels=joint_attention_channels,
        noise=lambda config: 1.0,
        latent_size=size_in_shapes,
    ),
    modular=(
        _MODULAR,
        # of several layers, one behind the other, and the image that they are made of behind them
        replace(_MODULAR, model_name="qwenimage-layered", generated=before_references, places=False),
    ),
)

QWEN_IMAGE_CONTROLNET = replace(
    QWEN_IMAGE,
    name="Qwen-Image with ControlNet",
    pipelines=("QwenImageControlNetPipeline",),
    latent_size=_controlled_size,
    denoiser=None,
    modular=None,
)

register_family(QWEN_IMAGE)
register_family(QWEN_IMAGE_CONTROLNET)
