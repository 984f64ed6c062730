"""Negatives as embeddings, on every family: as good as words, without text encoders too, and refused where wrong."""

import inspect
import json
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from tiny_pipelines import NEGATIVES, PROMPT, TINY, assert_same, build, denoiser, differ, taken
from torch import Tensor, nn

from negguide import (
    NAG,
    ONG,
    VSF,
    Negative,
    PerpNeg,
    apply_to_model,
    from_pipe,
    negative_guidance_from_dict,
    remove_from_model,
)

Run = Callable[..., Any]
Embeds = dict[str, Tensor]
# what `encode_prompt` gives besides prompt_embeds: under which name the call takes it, and where it stands
FURTHER: dict[str, tuple[str, int]] = {
    "sdxl": ("pooled_prompt_embeds", 2),
    "sd3": ("pooled_prompt_embeds", 2),
    "flux-": ("pooled_prompt_embeds", 1),
    "pixart": ("prompt_attention_mask", 1),
    "sana": ("prompt_attention_mask", 1),
    "qwen": ("prompt_embeds_mask", 1),
}
SETTINGS = ("max_sequence_length", "clean_caption", "complex_human_instruction", "text_encoder_out_layers")


def encode(pipe: Any, tiny: Any, text: str) -> Embeds:
    """A text by the pipeline's own `encode_prompt`, by the names of its call."""
    takes = inspect.signature(pipe.encode_prompt).parameters
    defaults = inspect.signature(type(pipe).__call__).parameters
    call = tiny.call()
    options = {name: call.get(name, defaults[name].default) for name in SETTINGS if name in takes}
    options |= {
        name: value
        for name, value in {
            "device": "cpu",
            "num_images_per_prompt": 1,
            "do_classifier_free_guidance": False,
            "prompt_2": None,
            "prompt_3": None,
        }.items()
        if name in takes
    }
    with torch.no_grad():
        output = pipe.encode_prompt(prompt=[text], **options)
    embeds = {"prompt_embeds": output[0][0][None] if tiny.name == "z-image" else output[0]}
    for start, (name, place) in FURTHER.items():
        if f"{tiny.name}-".startswith(start) and output[place] is not None:
            embeds[name] = output[place]
    return embeds


@pytest.fixture
def encoded(base: Any, tiny: Any) -> Callable[[str], Embeds]:
    return lambda text: encode(base, tiny, text)


def methods(tiny: Any, *negatives: Negative) -> list[Any]:
    return taken(
        tiny,
        PerpNeg(*negatives),
        NAG(*negatives, scale=3.0, alpha=0.7),
        VSF(*negatives, scale=1.0),
    )


def test_a_negative_that_was_encoded_before_is_the_negative_in_words(
    pipe: Any, run: Run, tiny: Any, encoded: Any
) -> None:
    """Beside one in words, and without the batch axis too."""
    words = [Negative(text, weight=w, stop=1.0) for text, w in zip(NEGATIVES, (1.5, 0.5), strict=True)]
    first = encoded(NEGATIVES[0])
    whole = Negative(NEGATIVES[0], weight=1.5, stop=1.0, embeds=first)
    bare = Negative(weight=1.5, stop=1.0, embeds={name: value[0] for name, value in first.items()})
    for in_words, one, other in zip(
        methods(tiny, *words), methods(tiny, whole, words[1]), methods(tiny, bare, words[1]), strict=True
    ):
        expected = run(pipe, negative_guidance=in_words)
        assert_same(run(pipe, negative_guidance=one), expected)
        assert_same(run(pipe, negative_guidance=other), expected)


def test_weighted_embeddings_act_otherwise(pipe: Any, run: Run, tiny: Any, encoded: Any) -> None:
    plain = encoded(NEGATIVES[0])
    weighted = {**plain, "prompt_embeds": 1.5 * plain["prompt_embeds"]}
    for one, other in zip(
        methods(tiny, Negative(embeds=plain)), methods(tiny, Negative(embeds=weighted)), strict=True
    ):
        assert differ(run(pipe, negative_guidance=one), run(pipe, negative_guidance=other)) > 1e-4


def test_all_works_with_the_text_encoders_freed(
    base: Any, run: Run, tiny: Any, encoded: Any, guided: dict[str, Any]
) -> None:
    """As people free memory: encode everything, throw the encoders away, and call with embeddings alone."""
    freed: Any = from_pipe(base)
    texts = {"prompt": encoded(PROMPT), "negative": encoded(NEGATIVES[0])}
    names = [name for name in base.components if name.startswith(("text_encoder", "tokenizer"))]
    if tiny.guided and "image" not in names:
        texts["uncond"] = encoded("")
    negative = Negative(NEGATIVES[0], stop=1.0)
    expected = [run(from_pipe(base), negative_guidance=m) for m in methods(tiny, negative)]
    for name in names:
        setattr(freed, name, None)
    call = {name: as_list(tiny, value) for name, value in texts["prompt"].items()}
    if "uncond" in texts:
        call |= {f"negative_{name}": as_list(tiny, value) for name, value in texts["uncond"].items()}
    if "negative_prompt" in inspect.signature(type(base).__call__).parameters:
        call["negative_prompt"] = None
    given = Negative(stop=1.0, embeds=texts["negative"])
    for method, picture in zip(methods(tiny, given), expected, strict=True):
        assert_same(run(freed, None, negative_guidance=method, **call), picture)
    for method in methods(tiny, negative):
        says = r"needs the pipeline's text_encoder\w* to encode its negatives.*Negative\(embeds=\.\.\.\)"
        with pytest.raises(ValueError, match=says):
            run(freed, None, negative_guidance=method, **call)


def as_list(tiny: Any, value: Tensor) -> Any:
    return list(value) if tiny.name == "z-image" else value
