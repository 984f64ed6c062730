"""HiDream: images that are not square are filled up, texts of several encoders go together, and a Llama's layers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import HiDreamImageTransformer2DModel
from tiny_pipelines import (
    NEGATIVES,
    OTHER,
    PROMPT,
    assert_same,
    build,
    denoiser,
    differ,
    put_on_model,
)
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from negguide import NAG, ONG, VSF, Negative, NegToMe, PerpNeg, from_pipe, remove_from_model
from negguide.integration.runtime.attention_patch import AttentionPatch

Run = Callable[..., Tensor]
pytestmark = pytest.mark.families("hidream")
WIDE: dict[str, Any] = {"height": 48, "width": 80}
"""15 tokens, filled up to 24."""
HALF = torch.zeros(48, 80)
HALF[:, :40] = 1


@pytest.mark.parametrize(
    "method",
    [
        NAG(Negative(NEGATIVES[0], stop=0.6), Negative(NEGATIVES[1], start=0.2, mask=HALF), scale=3.0),
        VSF(Negative(NEGATIVES[0], start=0.4), Negative(NEGATIVES[1], stop=0.8, mask=HALF)),
        NegToMe("first", alpha=2.0, threshold=0.1, stop=0.4, mask=HALF),
    ],
    ids=["NAG", "VSF", "NegToMe"],
)
def test_both_doors_do_the_same_to_an_image_that_is_not_square(
    base: Any, pipe: Any, run: Run, tiny: Any, two: Any, method: Any
) -> None:
    arguments = {"steps": 5, **two, **WIDE}
    expected, plain = run(pipe, negative_guidance=method, **arguments), run(base, **arguments)
    put_on_model(base, tiny, method, num_inference_steps=5)
    try:
        assert_same(run(base, **arguments), expected)
    finally:
        remove_from_model(denoiser(base))
    assert expected.shape[2:] == (6, 10) and differ(expected, plain) > 1e-3


@pytest.mark.parametrize("make", [NAG, ONG, VSF])
def test_what_fills_an_image_up_is_a_copy_and_is_not_guided(
    pipe: Any, run: Run, monkeypatch: Any, make: Any
) -> None:
    """Of 54 tokens the first 15 are the image's, and 9 more fill it up, in the prompt's row and in the negative's."""
    seen: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    attention = AttentionPatch.attention

    def keeping(self: AttentionPatch, q: Tensor, k: Tensor, v: Tensor, mask: Any, options: Any) -> Tensor:
        assert mask is None
        output = attention(self, q, k, v, mask, options)
        seen.append((q, k, v, output))
        return output

    monkeypatch.setattr(AttentionPatch, "attention", keeping)
    run(pipe, steps=1, negative_guidance=make(NEGATIVES[0]), **WIDE)
    assert len(seen) == 4
    for q, k, v, output in seen:
        assert q.shape[0] == 3 and q.shape[2] == 54
        plain = scaled_dot_product_attention(q, k, v)
        torch.testing.assert_close(output[0], plain[0])
        torch.testing.assert_close(output[:, :, 24:], plain[:, :, 24:])
        torch.testing.assert_close(output[1, :, 15:24], plain[1, :, 15:24])
        assert differ(output[1, :, :15], plain[1, :, :15]) > 1e-3
        assert torch.equal(output[2, :, :24], output[1, :, :24])
        # what comes in is a copy too, so that the two stay alike through the experts
        torch.testing.assert_close(q[2, :, :24], q[1, :, :24])


def test_prompts_with_negatives_of_their_own_are_those_of_calls_of_their_own(pipe: Any, run: Run) -> None:
    own = [Negative(text, stop=1.0, prompt_index=i) for i, text in enumerate(NEGATIVES)]
    for make in (PerpNeg, NAG):
        both = run(pipe, [PROMPT, OTHER], negative_guidance=make(*own), **WIDE)
        for i, prompt in enumerate((PROMPT, OTHER)):
            one = make(Negative(NEGATIVES[i], stop=1.0))
            assert_same(both[i : i + 1], run(pipe, prompt, seed=i, negative_guidance=one, **WIDE))


@pytest.fixture
def shorter(pipe: Any, tiny: Any) -> dict[str, Tensor]:
    with torch.no_grad():
        t5, _, llama, _, pooled, _ = pipe.encode_prompt(
            [NEGATIVES[0]], device="cpu", do_classifier_free_guidance=False, max_sequence_length=8
        )
    return {"prompt_embeds_t5": t5, "prompt_embeds_llama3": llama, "pooled_prompt_embeds": pooled}


def test_texts_of_another_length_run_apart_and_are_refused_in_attention(
    pipe: Any, run: Run, shorter: dict[str, Tensor]
) -> None:
    other = Negative("snow", stop=1.0, embeds=shorter)
    assert differ(run(pipe, negative_guidance=PerpNeg(other)), run(pipe)) > 1e-3
    says = (
        r"Negative\('snow'\) has encoder_hidden_states_t5 of shape \[8, 32\], and the prompt's is \[10, 32\]"
    )
    for make in (NAG, ONG, VSF):
        with pytest.raises(ValueError, match=says):
            run(pipe, negative_guidance=make(other))


def test_negatives_in_words_are_as_long_as_a_prompt_that_was_encoded_before(
    pipe: Any, run: Run, shorter: dict[str, Tensor]
) -> None:
    """And are counted by its length, whatever max_sequence_length is."""
    call: dict[str, Any] = {**shorter, "negative_prompt": None}
    call |= {f"negative_{name}": value for name, value in shorter.items()}
    plain = run(pipe, None, **call)
    for negative in (NEGATIVES[0], Negative(embeds=shorter)):
        # the prompt itself, which is also what is not wanted
        assert_same(run(pipe, None, negative_guidance=NAG(negative, scale=3.0), **call), plain)
    assert differ(run(pipe, None, negative_guidance=NAG(NEGATIVES[1]), **call), plain) > 1e-3
    with pytest.raises(ValueError, match="reads 8: 'snow hat' would be cut off"):
        run(pipe, None, negative_guidance=NAG("a red hat on the bear in snow hat"), **call)


def test_a_prompt_of_its_own_for_each_encoder_is_kept(base: Any, pipe: Any, run: Run) -> None:
    prompts = {"prompt_2": OTHER, "prompt_3": OTHER, "prompt_4": OTHER}
    plain = run(base, **prompts)
    for method in (NAG(NEGATIVES[0], scale=1), PerpNeg(Negative(NEGATIVES[0], weight=0))):
        assert_same(run(pipe, negative_guidance=method, **prompts), plain)
    assert differ(plain, run(base)) > 1e-3


def test_patches_made_by_the_caller_are_refused(base: Any, tiny: Any) -> None:
    model = denoiser(base)
    put_on_model(base, tiny, NAG(NEGATIVES[0]))
    try:
        with pytest.raises(ValueError, match=r"hidden_states must be latents \[B, C, h, w\].*\[2, 16, 16\]"):
            model(torch.zeros(2, 16, 16), timesteps=torch.ones(2))
    finally:
        remove_from_model(model)


def test_wrong_tensors_for_a_model_by_itself_are_refused(base: Any, tiny: Any) -> None:
    embeds = {
        "encoder_hidden_states_t5": torch.ones(1, 10, 32),
        "encoder_hidden_states_llama3": torch.ones(4, 2, 10, 24),
    }
    says = r"'encoder_hidden_states_t5': \[1, tokens, 32\], 'encoder_hidden_states_llama3': \[layers, 1, tokens, ..\]"
    with pytest.raises(ValueError, match=says):
        put_on_model(base, tiny, NAG(NEGATIVES[0]), negative_embeds=embeds)


def test_a_transformer_without_experts_takes_negatives(tiny: Any, run: Run) -> None:
    base = build(tiny)
    config = {**denoiser(base).config, "num_routed_experts": 0}
    torch.manual_seed(0)
    base.transformer = HiDreamImageTransformer2DModel.from_config(config).eval()
    plain, pipe = run(base), from_pipe(base)
    for same in (NAG(PROMPT, scale=3.0), PerpNeg(Negative(PROMPT, stop=1.0))):
        assert_same(run(pipe, negative_guidance=same), plain)
