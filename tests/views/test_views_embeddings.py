"""Interpolated positives: mixed prompt embeddings, and which families have none to mix."""

from pathlib import Path
from typing import Any

import pytest
import torch

from negguide import from_pipe, registered_families
from negguide.views import check_mixes, mixed_embeds, view_perp_neg, view_prompts


@pytest.fixture(scope="module")
def pipe(tiny_model: Path) -> Any:
    from diffusers import StableDiffusionPipeline

    pipe = from_pipe(StableDiffusionPipeline.from_pretrained(tiny_model))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def encode(pipe: Any, text: str) -> torch.Tensor:
    with torch.no_grad():
        embeds: torch.Tensor = pipe.encode_prompt([text], "cpu", 1, False)[0]
    return embeds


def test_two_views_are_mixed_by_their_fractions(pipe: Any) -> None:
    views = view_prompts([0, 60, 135])
    (name, embeds), *others = mixed_embeds(pipe, "a bear", views, model="toyworld").items()
    front, side, back = (encode(pipe, f"a bear in {view} view") for view in ("front", "side", "back"))
    assert (name, others) == ("prompt_embeds", [])
    wanted = torch.cat([front, front / 3 + side * 2 / 3, (side + back) / 2])
    torch.testing.assert_close(embeds, wanted)
    assert not torch.allclose(front, back, atol=1e-2)


def test_mixed_positives_and_negatives_of_each_camera_go_into_one_call(pipe: Any) -> None:
    def draw(*azimuths: float) -> torch.Tensor:
        views = view_prompts(list(azimuths))
        output = pipe(
            **mixed_embeds(pipe, "a bear", views, model="toyworld"),
            negative_guidance=view_perp_neg("a bear", views, model="toyworld"),
            generator=[torch.Generator().manual_seed(0) for _ in views],
            num_inference_steps=2,
            output_type="latent",
        )
        latents: torch.Tensor = output.images
        return latents

    together, alone = draw(0, 150), torch.cat([draw(0), draw(150)])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(together[0], together[1], atol=1e-2)


def test_families_whose_embeddings_cannot_be_mixed_are_refused_by_name() -> None:
    refused = {}
    for family in registered_families():
        try:
            check_mixes(family)
        except ValueError as error:
            refused[family.name] = str(error)
    assert not {"Stable Diffusion 1.x/2.x", "Stable Diffusion XL", "Stable Diffusion 3", "FLUX.1"} & set(
        refused
    )
    assert "PixArt-Sigma has prompt_attention_mask beside them" in refused["PixArt-Sigma"]
    assert "Z-Image has as many of them as the text has tokens" in refused["Z-Image"]
    assert all("use positive='nearest'" in message for message in refused.values())
