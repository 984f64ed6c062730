"""Modular pipelines: negatives of each prompt's own, and negatives as embeddings."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.guiders import ClassifierFreeGuidance
from torch import nn

import negguide
from negguide import Negative, PerpNeg, PerpNegGuidance, with_perp_neg

Family = Callable[[str], Any]
PROMPTS = ["a cat in the snow", "a bear wearing a hat", "a robot on the hat"]
LEFT = torch.zeros(32, 32)
LEFT[:, :12] = 1


def always(text: str = "", **changes: Any) -> Negative:
    return Negative(text, **{"start": 0.0, "stop": 1.0, **changes})


OWN: tuple[tuple[Negative, ...], ...] = (
    (always("a red robot", weight=1.5), always("snow", weight=0.5, start=0.5)),
    (always("a black frame on a boy", mask=LEFT),),
    (),
)


def assert_same(one: torch.Tensor, other: torch.Tensor) -> None:
    """No value differs by more than 1e-4, in units of the largest one where that is above 1."""
    largest = max(1.0, float(other.abs().max()))
    torch.testing.assert_close(one, other, rtol=0.0, atol=1e-4 * largest)


def differ(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


def alone(both: Any, seed: int, negatives: tuple[Negative, ...], **options: Any) -> torch.Tensor:
    pipe = with_perp_neg(both.pipe, PerpNeg(*negatives, **options)) if negatives else both.pipe
    return both.run(pipe, PROMPTS[seed], generator=[torch.Generator().manual_seed(seed)])


@pytest.mark.main
@pytest.mark.parametrize("options", [{"joint": True}, {"refresh_every": 2, "adaptive": True}])
def test_each_prompt_gives_the_image_of_its_own_negatives(both: Any, options: Any) -> None:
    pipe = with_perp_neg(both.pipe, PerpNeg.per_prompt(*OWN, **options))
    together = both.run(pipe, PROMPTS)
    assert differ(together[:2], both.run(both.pipe, PROMPTS)[:2]) > 1e-2
    assert_same(together, torch.cat([alone(both, i, own, **options) for i, own in enumerate(OWN)]))


def test_several_images_of_each_are_those_of_the_classic_pipeline(both: Any) -> None:
    if both.family.name == "sdxl":
        # its base gives some of several images of several prompts the pooled embedding of another prompt
        pytest.skip("modular SDXL mixes up pooled embeddings")
    method = PerpNeg.per_prompt("black glasses", ["snow", always("a red robot")])
    guided = both.run(with_perp_neg(both.pipe, method), PROMPTS[:2], images=2)
    classic = both.run_classic(
        negguide.from_pipe(both.classic), PROMPTS[:2], images=2, negative_guidance=method
    )
    assert_same(guided, classic)


def test_a_trace_is_nan_where_a_negative_is_not_an_images_own(both: Any) -> None:
    method = PerpNeg.per_prompt(always("black glasses"), [], always("snow", stop=0.5))
    pipe = with_perp_neg(both.pipe, PerpNegGuidance(method, guidance=both.pipe.guider, trace=True))
    both.run(pipe, PROMPTS)
    finite = torch.isfinite(pipe.guider.trace.cosine)
    expected = torch.zeros_like(finite)
    expected[:, 0, 0] = expected[: len(finite) // 2, 1, 2] = True
    assert torch.equal(finite, expected)


def test_a_prompt_that_is_not_there_is_refused_before_any_model_runs(both: Any, no_model: None) -> None:
    pipe = with_perp_neg(both.pipe, PerpNeg("a hat", Negative("snow", prompt_index=2)))
    for prompts, count in ((PROMPTS[:2], "2 prompts"), (PROMPTS[0], "1 prompt")):
        with pytest.raises(ValueError, match=rf"prompt_index of Negative\('snow'\) is 2, .* {count};"):
            both.run(pipe, prompts)


@pytest.fixture
def no_model(both: Any, monkeypatch: Any) -> None:
    """No model may run."""

    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a model ran")

    for part in both.classic.components.values():
        if isinstance(part, nn.Module):
            monkeypatch.setitem(vars(part), "forward", never)


# ---- Embeddings -----------------------------------------------------------------------------------------------------


@pytest.fixture
def encoded(both: Any) -> dict[str, torch.Tensor]:
    """ "black glasses" by the names of the pipeline's arguments, as the guider is told it in words."""
    guider = PerpNegGuidance(PerpNeg("black glasses"), guidance=ClassifierFreeGuidance(guidance_scale=3.0))
    both.run(with_perp_neg(both.pipe, guider), steps=2)
    _, modular = negguide.integration.families.modular_families()[both.pipe.blocks.model_name]
    texts = guider._run.texts[0]
    found = {name: texts[field] for field, name in modular.fields.items() if texts[field] is not None}
    return {name: value[0][None] if isinstance(value, list) else value for name, value in found.items()}


def test_a_negative_that_was_encoded_before_is_the_negative_in_words(both: Any, encoded: Any) -> None:
    words = PerpNeg(always("black glasses", weight=1.5), "a red robot")
    given = PerpNeg(always(weight=1.5, embeds=encoded), "a red robot")
    expected = both.run(with_perp_neg(both.pipe, words))
    assert_same(both.run(with_perp_neg(both.pipe, given)), expected)
    # and as the classic pipeline does
    classic = both.run_classic(negguide.from_pipe(both.classic), negative_guidance=given)
    assert_same(classic, expected)


def test_a_guider_with_embeddings_comes_back_from_its_config(both: Any, encoded: Any, tmp_path: Any) -> None:
    guider = PerpNegGuidance(PerpNeg(always(embeds=encoded, mask=LEFT)), guidance_scale=3.0)
    guider.save_pretrained(tmp_path)
    back = PerpNegGuidance.from_pretrained(tmp_path)
    assert back.perp_neg == guider.perp_neg
    for name, value in back.perp_neg.negatives[0].encoded.items():
        assert torch.equal(value, encoded[name]) and value.dtype == encoded[name].dtype


def test_wrong_embeddings_are_refused_before_any_model_runs(both: Any, encoded: Any, no_model: None) -> None:
    channels = encoded["prompt_embeds"].shape[-1]
    for embeds, says in (
        ({**encoded, "prompt_embeds": encoded["prompt_embeds"][..., :-1]}, rf"\[tokens, {channels}\]"),
        ({**encoded, "words": encoded["prompt_embeds"]}, "must be prompt_embeds .* got .*words"),
    ):
        pipe = with_perp_neg(both.pipe, PerpNeg("a hat", Negative("snow", embeds=embeds)))
        with pytest.raises(ValueError, match=r"^embeds of Negative\('snow'\).*" + says):
            both.run(pipe)
