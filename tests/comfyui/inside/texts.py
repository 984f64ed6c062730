"""Texts of other lengths in one call, and what of the prompt's conditioning a negative takes over."""

import ast
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.model_base
import pytest
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import Timestep
from negguide_pack import runs
from negguide_pack.negatives import Negative
from negguide_pack.windows import Window
from tiny import PROMPT, SAME, in_attention, low_memory, negative, perp_neg, rms, run, text, unet

LONG = text(11, tokens=14)
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "NAG": ("NAG", {}),
    "ONG": ("ONG", {}),
    "VSF": ("VSF", {}),
    "VSF with a bias": ("VSF", {"bias": -0.5}),
    "orthogonal VSF": ("VSF", {"orthogonal": True}),
}


@pytest.fixture(scope="module")
def model() -> Any:
    return unet()


def both(model: Any, patched: Any, **options: Any) -> float:
    """How far a run in which the conditionings are in one call is from one in which each is alone."""
    together = run(patched, steps=2, **options)
    with low_memory():
        apart = run(patched, steps=2, **options)
    assert rms(apart, run(model, steps=2, **options)) > 100 * SAME
    return rms(together, apart)


@pytest.mark.parametrize("name", OTHERS)
def test_a_longer_negative_prompt_in_the_same_call_changes_nothing(model: Any, name: str) -> None:
    method, options = OTHERS[name]
    assert both(model, in_attention(method, model, **options), negative=LONG) < SAME


@pytest.mark.parametrize("name", OTHERS)
def test_parts_of_a_prompt_may_have_texts_of_other_lengths(model: Any, name: str) -> None:
    """Two halves of the image, a batch of two, and a mask of the negative for each image."""
    method, options = OTHERS[name]
    half = torch.zeros(1, 16, 16)
    half[:, :, :8] = 1
    prompt = [
        *text(10, tokens=7, mask=half, mask_strength=1.0),
        *text(40, tokens=21, mask=1 - half, mask_strength=1.0),
    ]
    masks = torch.stack([half[0], 1 - half[0]])
    negatives = negative(mask=masks, negatives=negative(text(13, tokens=5)))
    patched = in_attention(method, model, negatives, **options)
    assert both(model, patched, positive=prompt, negative=LONG, batch=2) < SAME


def test_perp_neg_with_texts_of_other_lengths(model: Any) -> None:
    assert both(model, perp_neg(model, negative(text(13, tokens=5))), negative=LONG) < SAME


def test_vsf_is_refused_where_another_node_changes_a_text_that_may_be_repeated(model: Any) -> None:
    changed = model.clone()
    changed.set_model_attn2_patch(lambda n, context, value, extra: (n, context[:, :10], value[:, :10]))
    with pytest.raises(
        ValueError, match="VSF: another node gives the cross-attention 10 tokens in place of the 14"
    ):
        run(in_attention("VSF", changed), steps=1, negative=LONG)


def of_text_encoders() -> set[str]:
    """The names under which ComfyUI's text encoders give anything beside a text and its pooled form."""
    found = set()
    folder = Path(os.environ["COMFYUI_FOLDER"]) / "comfy"
    for file in [*sorted((folder / "text_encoders").glob("*.py")), folder / "sd1_clip.py"]:
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.FunctionDef) or node.name != "encode_token_weights":
                continue
            for part in ast.walk(node):
                if isinstance(part, ast.Dict):
                    found |= {key.value for key in part.keys if isinstance(key, ast.Constant)}
                elif isinstance(part, ast.Assign) and isinstance(part.targets[0], ast.Subscript):
                    key = part.targets[0].slice
                    found |= (
                        {key.value} if isinstance(key, ast.Constant) and isinstance(key.value, str) else set()
                    )
    return found


# what the encoders of a model that finds objects have, and options and results inside of encoders
NOT_GIVEN = {"sam3_multi_cond", "max_detections", "layer", "cond", "pooled_output"}


def test_a_negative_takes_over_nothing_that_a_text_encoder_made() -> None:
    names = of_text_encoders()
    assert {"attention_mask", "conditioning_byt5small", "conditioning_llama3"} <= names
    assert names - NOT_GIVEN <= set(runs._TEXT)


def taken(prompt: dict[str, Any], own: dict[str, Any] | None = None) -> dict[str, Any]:
    """The conditioning of a negative beside a prompt."""
    given = Negative([[PROMPT[0][0], {"pooled_output": None, **(own or {})}]], 1.0, Window(0.0, 1.0))
    (found,) = runs._like_prompt(given, {"positive": [prompt]})
    return found


def test_a_negative_takes_over_what_the_prompt_has_beside_its_text() -> None:
    prompt = {
        "cross_attn": 1,
        "conditioning_byt5small": 2,
        "guidance": 3.0,
        "control": 4,
        "mask": 5,
        "width": 6,
    }
    found = taken(prompt, {"width": 7})
    assert found.keys() == {"cross_attn", "pooled_output", "guidance", "control", "width", "model_conds"} | {
        "prompt_type",
        "uuid",
    }
    assert (found["guidance"], found["control"], found["width"]) == (3.0, 4, 7)


@pytest.mark.parametrize("prompt", [{}, {"aesthetic_score": 6.0}, {"prompt_type": "positive"}])
def test_to_the_refiner_of_sdxl_a_negative_has_the_looks_of_a_negative_prompt(prompt: dict[str, Any]) -> None:
    model = SimpleNamespace(embedder=Timestep(256), noise_augmentor=None)

    def vector(**options: Any) -> torch.Tensor:
        return comfy.model_base.SDXLRefiner.encode_adm(
            model, **{**options, "pooled_output": torch.zeros(1, 1280)}
        )

    found = vector(**taken(prompt))
    assert torch.equal(found, vector(prompt_type="negative"))
    assert not torch.equal(found, vector(prompt_type="positive"))
