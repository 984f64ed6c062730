"""What is particular to Qwen-Image 2.1: its image stands behind the text, which never sees it and which it keeps."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_pipelines import NEGATIVES, PROMPT, assert_same, denoiser, differ, put_on_model
from tiny_qwen_image_21 import qwen_image_21

from negguide import NAG, VSF, Negative, NegToMe, PerpNeg, from_pipe, remove_from_model

Run = Callable[..., Any]
pytestmark = pytest.mark.families("qwen-image-21", "qwen-image-21-edit")
# shorter than the prompt and longer
TEXTS = ("a robot", "a brown cat in the white snow with black glasses")
PUSH: dict[str, Any] = {"alpha": 2.0, "threshold": 0.1, "stop": 1.0}


def only_negative(monkeypatch: Any, index: int) -> None:
    """Instead of what NAG makes of them all, the attention to one negative alone."""
    monkeypatch.setattr(NAG, "attend", lambda self, texts: texts.negatives()[index])


@pytest.mark.parametrize("keeps", [True, False], ids=["kept", "anew"])
@pytest.mark.parametrize("prompt", [PROMPT, TEXTS[1] + " on a hat"], ids=["short", "long"])
@pytest.mark.parametrize("index", [0, 1])
def test_an_image_that_sees_only_a_negative_is_the_image_of_that_text(
    base: Any,
    pipe: Any,
    run: Run,
    unguided: dict[str, Any],
    monkeypatch: Any,
    index: int,
    prompt: str,
    keeps: bool,
) -> None:
    """Wherever the negative stands in the call, all is where it would be if the text were alone."""
    wanted = run(base, TEXTS[index], use_kv_cache=keeps, **unguided)
    only_negative(monkeypatch, index)
    result = run(pipe, prompt, negative_guidance=NAG(*TEXTS), use_kv_cache=keeps, **unguided)
    assert differ(run(base, prompt, **unguided), wanted) > 1e-2
    assert_same(result, wanted)


def test_and_so_is_it_on_the_model_alone(
    base: Any, tiny: Any, run: Run, unguided: dict[str, Any], monkeypatch: Any
) -> None:
    """There negatives come filled up to one length."""
    wanted = run(base, TEXTS[0], **unguided)
    only_negative(monkeypatch, 0)
    put_on_model(base, tiny, NAG(*TEXTS), guidance_branches=1)
    try:
        assert_same(run(base, **unguided), wanted)
        # what was kept of the first run is not used in the second
        assert_same(run(base, "a cat", **unguided), wanted)
    finally:
        remove_from_model(denoiser(base))


METHODS: dict[str, Any] = {
    "PerpNeg": PerpNeg(Negative(TEXTS[0], stop=0.5), Negative(TEXTS[1], start=0.25, stop=1.0)),
    "a negative asked for once": PerpNeg(Negative(TEXTS[0], stop=1.0), refresh_every=2),
    "economy": PerpNeg(Negative(TEXTS[0], stop=1.0), economy=True),
    "NAG": NAG(Negative(TEXTS[0], stop=0.5), Negative(TEXTS[1], start=0.25)),
    "VSF": VSF(Negative(TEXTS[0], start=0.5)),
    "reference images": NegToMe(torch.rand(3, 64, 64), **PUSH),
}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_what_is_kept_of_the_texts_is_what_they_would_be_anew(
    base: Any, pipe: Any, run: Run, method: Any
) -> None:
    kept = run(pipe, steps=4, negative_guidance=method)
    assert differ(kept, run(base, steps=4)) > 1e-3
    assert_same(kept, run(pipe, steps=4, negative_guidance=method, use_kv_cache=False))


def test_each_text_goes_through_the_model_once(base: Any, pipe: Any, run: Run, monkeypatch: Any) -> None:
    modes: list[str] = []
    forward = denoiser(base).forward

    def noting(*args: Any, **kwargs: Any) -> Any:
        modes.append(kwargs["kv_cache_mode"])
        return forward(*args, **kwargs)

    monkeypatch.setattr(denoiser(base), "forward", noting)
    run(pipe, steps=3, negative_guidance=PerpNeg(Negative(NEGATIVES[0], stop=1.0)))
    assert modes == ["extract"] * 3 + ["cached"] * 6


@pytest.mark.families("qwen-image-21")
def test_a_model_that_modulates_its_text_by_the_step_is_carried_too(run: Run, monkeypatch: Any) -> None:
    base: Any = qwen_image_21(causal_condition=False)
    wanted = run(base, TEXTS[1], true_cfg_scale=1.0)
    only_negative(monkeypatch, 0)
    assert_same(run(from_pipe(base), negative_guidance=NAG(TEXTS[1]), true_cfg_scale=1.0), wanted)


@pytest.mark.families("qwen-image-21")
def test_processors_that_attend_by_other_means_are_refused(base: Any, pipe: Any, run: Run) -> None:
    from diffusers.models.transformers.transformer_qwenimage21 import QwenImage21FlexAttnProcessor

    own = dict(denoiser(base).attn_processors)
    denoiser(base).set_attn_processor(QwenImage21FlexAttnProcessor())
    try:
        with pytest.raises(ValueError, match="computes attention by other means"):
            run(pipe, negative_guidance=NAG(NEGATIVES[0]))
    finally:
        denoiser(base).set_attn_processor(own)


@pytest.mark.families("qwen-image-21-edit")
def test_embeddings_without_the_places_of_the_images_are_refused(pipe: Any, run: Run) -> None:
    embeds = {"prompt_embeds": torch.randn(9, 32)}
    for method in (NAG(Negative(embeds=embeds)), PerpNeg(Negative(embeds=embeds))):
        with pytest.raises(ValueError, match="must have image_pad_mask too for a call with image="):
            run(pipe, negative_guidance=method)
    wrong = {**embeds, "image_pad_mask": torch.zeros(9, dtype=torch.bool)}
    with pytest.raises(ValueError, match=r"give the image_pad_mask that pipe\.encode_prompt gives"):
        run(pipe, negative_guidance=NAG(Negative(embeds=wrong)))


@pytest.mark.families("qwen-image-21-edit")
def test_the_size_is_that_of_the_last_image(base: Any, pipe: Any, run: Run, tiny: Any) -> None:
    (image,) = (tiny.call()["image"],)
    # of several, the last
    arguments = {"image": [image, image.resize((192, 64))], "height": None, "width": None}
    plain = run(base, **arguments)
    rows, columns = pipe.family.latent_size(pipe, {"output_resolution": 64, **arguments})
    assert plain.shape[1] == rows * columns and columns > rows
    mask = torch.zeros(16 * rows, 16 * columns)
    mask[:, : 8 * columns] = 1
    method = PerpNeg(Negative(NEGATIVES[0], stop=1.0, mask=mask))
    moved = (
        run(pipe, steps=1, negative_guidance=method, **arguments) - run(base, steps=1, **arguments)
    ).norm(dim=2)
    moved = moved.reshape(rows, columns)
    assert moved[:, : columns // 2].min() > 1e-4 and moved[:, columns // 2 + columns % 2 :].max() == 0
