"""Lumina-Image 2.0: a transformer over one sequence of Gemma's text and the image, called once a branch."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from negguide.integration.families.base import Arguments, Family, ImageBehindText
from negguide.integration.families.common import (
    cond_first,
    disabled_up_to_one,
    patch_tokens,
    pipe_guidance_scale,
    requested_size,
    sequence_token_budget,
    split_texts,
    vae_latents,
)
from negguide.integration.families.registry import register_family


def _branches(pipe: Any, arguments: Arguments) -> tuple[str, ...]:
    # guidance ends behind so large a part of the steps
    step = (pipe.scheduler.step_index or 0) + 1
    if step / len(pipe.scheduler.timesteps) > arguments["cfg_trunc_ratio"]:
        return ("cond",)
    return cond_first(pipe, arguments)


def _cfg_disabled(pipe: Any, arguments: Arguments) -> str | None:
    ratio = arguments["cfg_trunc_ratio"]
    if ratio <= 0:
        return f"cfg_trunc_ratio is {ratio}, and guidance is off in all steps; use e.g. 1.0"
    return disabled_up_to_one(pipe, arguments)


def _encode_text(pipe: Any, texts: Sequence[str], arguments: Arguments) -> list[dict[str, Any]]:
    # as negative prompts: the system prompt stands before a prompt alone
    given = torch.zeros(len(texts), 1, 1)
    _, _, embeddings, mask = pipe.encode_prompt(
        None,
        do_classifier_free_guidance=True,
        negative_prompt=list(texts),
        num_images_per_prompt=1,
        device=pipe._execution_device,
        prompt_embeds=given,
        prompt_attention_mask=given[..., 0],
        max_sequence_length=arguments["max_sequence_length"],
    )
    return split_texts({"encoder_hidden_states": embeddings, "encoder_attention_mask": mask})


def _image_tokens(sample: Tensor, latent_size: tuple[int, int]) -> tuple[int, int]:
    tokens = patch_tokens(latent_size)
    return tokens, tokens


def _whole(prompt_embeds: Tensor) -> Tensor:
    """The mask of a text without filling; the transformer needs one."""
    return prompt_embeds.new_ones(prompt_embeds.shape[:2], dtype=torch.int64)


def _text_lengths(inputs: Mapping[str, Any]) -> list[int]:
    lengths: list[int] = inputs["encoder_attention_mask"].sum(dim=1).tolist()
    return lengths


def _rotation(model: Any) -> tuple[float, int]:
    return float(model.rope_embedder.theta), int(model.rope_embedder.axes_dim[0])


LUMINA_2 = Family(
    name="Lumina-Image 2.0",
    pipelines=("Lumina2Pipeline",),
    denoisers=("transformer",),
    text_encoders=("text_encoder",),
    sample="hidden_states",
    timestep="timestep",
    text={"encoder_hidden_states": "tokens", "encoder_attention_mask": "tokens"},
    embeds={"encoder_hidden_states": "prompt_embeds", "encoder_attention_mask": "prompt_attention_mask"},
    derived={"encoder_attention_mask": _whole},
    channels={"prompt_embeds": lambda config: (int(config.cap_feat_dim),)},
    batched=("timestep",),
    branches=_branches,
    sequential=True,
    guidance_scale=pipe_guidance_scale,
    cfg_disabled_reason=_cfg_disabled,
    latent_size=requested_size(lambda pipe: pipe.default_sample_size * pipe.vae_scale_factor),
    encode_text=_encode_text,
    token_budget=sequence_token_budget,
    encode_image=vae_latents,
    image_tokens=_image_tokens,
    negative_rows=True,
    text_lengths=_text_lengths,
    image_behind_text=ImageBehindText(_text_lengths, _rotation),
    attention=((r"^layers\.\d+\.attn$", "text first"),),
    negtome_blocks=r"^layers\.\d+\.attn$",
    # its timestep counts from 0, noise, to 1, the image
    denoiser=None,
)

register_family(LUMINA_2)
