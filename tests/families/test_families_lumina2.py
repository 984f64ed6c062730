"""What is particular to Lumina-Image 2.0: in each row the image stands behind a text of the row's own length."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_pipelines import NEGATIVES, PROMPT, SCALE, assert_same, denoiser, differ
from torch.nn.functional import scaled_dot_product_attention

from negguide import NAG, VSF, Negative, NegToMe, PerpNeg
from negguide.guidance import perp_neg
from negguide.integration.runtime.attention_patch import AttentionPatch

Run = Callable[..., Any]
pytestmark = pytest.mark.families("lumina2")
# of 2 and 5 words
DIFFERENT = ["a robot", "a cat in the snow"]
PUSH: dict[str, Any] = {"alpha": 2.0, "threshold": 0.1, "stop": 1.0}


def test_every_attention_is_that_of_each_text_alone_with_the_image(
    pipe: Any, run: Run, monkeypatch: Any
) -> None:
    calls: list[tuple[Any, ...]] = []
    attention = AttentionPatch.attention

    def keeping(self: Any, q: Any, k: Any, v: Any, mask: Any, options: Any) -> Any:
        output = attention(self, q, k, v, mask, options)
        calls.append((q, k, v, output, options["scale"]))
        return output

    monkeypatch.setattr(AttentionPatch, "attention", keeping)
    run(pipe, steps=1, negative_guidance=NAG(*NEGATIVES, scale=3.0, tau=1e9, alpha=0.7))
    # tokens of the system prompt's 2 words, the prompt's 5, of each negative, and a start
    lengths = [8, 3, 4]
    assert len(calls) == 2
    for q, k, v, output, scale in calls:
        assert q.shape[0] == 3 and q.shape[2] == 8 + 16
        images, alone = [], []
        for i, text in enumerate(lengths):
            row = slice(i, i + 1)
            own = slice(0, text + 16)
            alone.append(
                scaled_dot_product_attention(q[row, :, own], k[row, :, own], v[row, :, own], scale=scale)
            )
            images.append(alone[-1][:, :, text:])
        cond, *negatives = images
        guided = cond + 0.7 * 2.0 * sum(cond - negative for negative in negatives)
        for i, text in enumerate(lengths):
            assert_same(output[i : i + 1, :, :text], alone[i][:, :, :text])
            assert_same(output[i : i + 1, :, text : text + 16], guided)


def test_images_of_prompts_of_different_lengths_are_those_of_calls_of_their_own(
    base: Any, pipe: Any, run: Run, two: Any
) -> None:
    cases = (NAG(*NEGATIVES, scale=3.0), VSF(NEGATIVES[0]), NegToMe("others", **PUSH))
    for method in cases:
        more = two if isinstance(method, NegToMe) else {}
        images = 2 if more else 1
        together = run(pipe, DIFFERENT, negative_guidance=method, **more)
        for i, prompt in enumerate(DIFFERENT):
            rows = slice(i * images, (i + 1) * images)
            alone = run(pipe, prompt, seed=i * images, negative_guidance=method, **more)
            if not more:
                assert_same(together[rows], alone)
            assert differ(alone, run(base, prompt, seed=i * images, **more)) > 1e-3


def test_in_the_joint_blocks_the_images_tokens_of_each_row_are_pushed(base: Any, pipe: Any, run: Run) -> None:
    """Two prompts of different lengths push each other; what is text stays as it is."""
    seen: list[torch.Tensor] = []
    module = denoiser(base).layers[0].attn
    handle = module.register_forward_hook(lambda module, inputs, output: seen.append(output))
    run(base, DIFFERENT, steps=1)
    method = NegToMe("first", group_size=2, blocks=r"^layers.0.attn$", **PUSH)
    run(pipe, DIFFERENT, steps=1, negative_guidance=method)
    handle.remove()
    plain, pushed = seen[0], seen[len(seen) // 2]
    texts = (2 + 2 + 1, 2 + 5 + 1)
    assert plain.shape[1] == texts[1] + 16
    assert torch.equal(pushed[0, : texts[0] + 16], plain[0, : texts[0] + 16])
    assert torch.equal(pushed[1, : texts[1]], plain[1, : texts[1]])
    reference, image = plain[0, texts[0] : texts[0] + 16], plain[1, texts[1] :]
    cosine, match = torch.nn.functional.cosine_similarity(image[:, None], reference[None], dim=2).max(dim=1)
    strength = PUSH["alpha"] * (cosine > PUSH["threshold"])[:, None]
    assert_same(pushed[1, texts[1] :], image + strength * (image - reference[match]))


def test_a_module_over_the_text_alone_is_not_pushed(pipe: Any, run: Run, two: Any) -> None:
    with pytest.raises(ValueError, match="over 10 tokens, which are not the image's 16"):
        run(pipe, negative_guidance=NegToMe(blocks="context_refiner", **PUSH), **two)


def test_embeddings_may_have_another_length_and_no_mask(base: Any, pipe: Any, run: Run) -> None:
    with torch.no_grad():
        embeds, mask, _, _ = base.encode_prompt(
            [NEGATIVES[0]], do_classifier_free_guidance=False, system_prompt="", max_sequence_length=10
        )
    bare = embeds[:, : int(mask.sum())]
    longer = {
        "prompt_embeds": torch.cat([embeds, embeds], dim=1),
        "prompt_attention_mask": torch.cat([mask, 0 * mask], dim=1),
    }
    for make in (NAG, VSF, PerpNeg):
        expected = run(pipe, negative_guidance=make(Negative(NEGATIVES[0], stop=1.0)))
        for given in (bare, longer):
            assert_same(run(pipe, negative_guidance=make(Negative(stop=1.0, embeds=given))), expected)


def test_guidance_that_ends_or_is_normalised_takes_the_negatives_with_it(
    base: Any, pipe: Any, run: Run, unguided: Any, alike: Any, monkeypatch: Any
) -> None:
    method = PerpNeg(Negative(NEGATIVES[0], stop=1.0))
    arguments = {"steps": 4, "negative_guidance": method, "trace": True, "whole": True}
    trace = run(pipe, cfg_trunc_ratio=0.5, **arguments)[-1]
    assert trace.cosine.isnan().flatten().tolist() == [False, False, True, True]
    seen: list[torch.Tensor] = []
    step = base.scheduler.step

    def keeping(prediction: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        seen.append(prediction.double())
        return step(prediction, *args, **kwargs)

    monkeypatch.setattr(base.scheduler, "step", keeping)
    for prompt in ("", PROMPT, NEGATIVES[0]):
        run(base, prompt, steps=1, **alike, **unguided)
    run(pipe, steps=1, negative_guidance=method, cfg_normalization=True, negative_prompt="", **alike)
    uncond, cond, negative, actual = seen
    guided = perp_neg(uncond, cond, negative[None], [1.0], SCALE)
    assert_same(actual, guided * cond.norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True))


def test_guidance_that_never_begins_is_refused_for_perp_neg(pipe: Any, run: Run) -> None:
    with pytest.raises(ValueError, match=r"cfg_trunc_ratio is 0\.0, and guidance is off in all steps"):
        run(pipe, negative_guidance=PerpNeg("a hat"), cfg_trunc_ratio=0.0)
