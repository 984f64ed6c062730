"""What is particular to Wan from an image, from a video, and VACE."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_pipelines import NEGATIVES, OTHER, PROMPT, SCALE, assert_same, denoiser, differ

from negguide import NAG, VSF, Negative, NegToMe, PerpNeg, apply_to_model, remove_from_model
from negguide.guidance import perp_neg
from negguide.integration.families import supported_pipelines

Run = Callable[..., Any]


def heard(model: Any, name: str) -> tuple[list[torch.Tensor], Any]:
    """What a module gives, and the handle that ends it."""
    seen: list[torch.Tensor] = []
    return seen, model.get_submodule(name).register_forward_hook(
        lambda module, inputs, output: seen.append(output)
    )


@pytest.mark.families("wan-i2v")
def test_the_image_prompt_goes_on_as_without_negatives(base: Any, pipe: Any, run: Run, tiny: Any) -> None:
    """What attention has of the image's tokens are the image's, whatever stands behind the prompt."""
    model = denoiser(base)
    tokens: list[int] = []
    handle = model.blocks[0].attn2.add_k_proj.register_forward_hook(
        lambda module, inputs, output: tokens.append(output.shape[1])
    )
    run(base, steps=1)
    plain = set(tokens)
    tokens.clear()
    run(pipe, steps=1, negative_guidance=NAG(*NEGATIVES, scale=3.0))
    handle.remove()
    # CLIP's 16 patches and its first token
    assert plain == set(tokens) == {17}
    # with another image the negatives act on another video
    other = {"image": torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(3))}
    one, two = (run(pipe, steps=1, negative_guidance=NAG(*NEGATIVES), **more) for more in ({}, other))
    assert differ(one, two) > 1e-3


@pytest.mark.families("wan-i2v")
def test_text_of_a_length_that_its_attention_does_not_take_is_refused(base: Any, pipe: Any, run: Run) -> None:
    says = (
        "takes another number of tokens for the text; give max_sequence_length=512, and embeds of 512 tokens"
    )
    with pytest.raises(ValueError, match=f"NAG: a negative of 10 tokens in blocks.0.attn2, which {says}"):
        run(pipe, negative_guidance=NAG("a hat"), max_sequence_length=10)
    short = Negative(embeds=torch.randn(7, 40, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(ValueError, match=f"VSF: a negative of 7 tokens in blocks.0.attn2, which {says}"):
        run(pipe, negative_guidance=VSF(short))
    assert torch.equal(run(base), run(base))


@pytest.mark.families("wan-i2v-first-frame")
def test_the_given_frame_does_not_count_where_guidance_is_projected(
    base: Any, pipe: Any, run: Run, unguided: Any, monkeypatch: Any
) -> None:
    seen: list[torch.Tensor] = []
    step = base.scheduler.step

    def keeping(prediction: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        seen.append(prediction.double())
        return step(prediction, *args, **kwargs)

    monkeypatch.setattr(base.scheduler, "step", keeping)
    for prompt in ("", PROMPT, NEGATIVES[0]):
        run(base, prompt, steps=1, **unguided)
    run(pipe, steps=1, negative_prompt="", negative_guidance=PerpNeg(Negative(NEGATIVES[0], stop=1.0)))
    uncond, cond, negative, actual = (prediction[:, :, 1:] for prediction in seen)
    assert_same(actual, perp_neg(uncond, cond, negative[None], [1.0], SCALE))


@pytest.mark.families("wan-v2v")
def test_several_videos_of_a_prompt_which_the_pipeline_does_not_make_are_refused(pipe: Any, run: Run) -> None:
    says = "num_videos_per_prompt is 2, and .*WanVideoToVideoPipeline makes one video of each prompt"
    for method in (NAG("a hat"), NegToMe()):
        with pytest.raises(ValueError, match=says):
            run(pipe, negative_guidance=method, num_videos_per_prompt=2)


@pytest.mark.families("wan-v2v", "wan-i2v")
def test_videos_of_several_prompts_push_each_other(base: Any, pipe: Any, run: Run) -> None:
    push = NegToMe("first", group_size=2, alpha=2.0, threshold=0.1, stop=1.0)
    plain, pushed = run(base, [PROMPT, OTHER]), run(pipe, [PROMPT, OTHER], negative_guidance=push)
    assert_same(pushed[:1], plain[:1])
    assert differ(pushed[1:], plain[1:]) > 1e-3


@pytest.mark.families("wan-v2v")
def test_of_a_video_that_is_changed_the_steps_that_are_run_count(base: Any, pipe: Any, run: Run) -> None:
    """5 steps of 0.6 are 3: the window of the first third is the first of them."""
    method = NAG(Negative(NEGATIVES[0], stop=0.34), scale=3.0)
    trace = run(pipe, steps=5, negative_guidance=method, trace=True, whole=True)[-1]
    assert trace.timesteps.tolist() == pipe.scheduler.timesteps.tolist()[2:]
    assert trace.changed[:, 0].isnan().tolist() == [False, True, True]


@pytest.mark.families("wan-vace")
def test_the_blocks_that_read_what_is_given_hear_the_negatives_too(base: Any, pipe: Any, run: Run) -> None:
    model = denoiser(base)
    for name in ("vace_blocks.1.attn2", "blocks.1.attn2"):
        seen, handle = heard(model, name)
        run(base, steps=1)
        run(pipe, steps=1, negative_guidance=NAG(*NEGATIVES, scale=3.0))
        handle.remove()
        # of cond and uncond each
        assert len(seen) == 4
        assert differ(seen[2], seen[0]) > 1e-3


@pytest.mark.families("wan-vace")
def test_by_itself_it_pushes_in_the_blocks_of_the_video(base: Any) -> None:
    model = denoiser(base)
    apply_to_model(model, NegToMe())
    (hook,) = model._diffusers_hook.hooks.values()
    runtime = hook.make_runtime((8, 8))
    remove_from_model(model)
    assert set(runtime.targets[model].modules) == {"blocks.0.attn1", "blocks.1.attn1"}
    assert supported_pipelines()["WanVACEPipeline"].denoiser is not None
