"""NegToMe as attention processors, on the pipeline and on a bare UNet."""

import inspect
import re
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, HeunDiscreteScheduler, PNDMScheduler
from diffusers.models.attention_processor import AttnProcessor2_0

from negguide import NegToMe, Timestep, apply_to_model, from_pipe, remove_from_model

STRONG: dict[str, Any] = {"alpha": 3.0, "threshold": 0.2, "start": 0.0, "stop": 1.0}


@pytest.fixture
def own(make_pipeline: Any) -> Any:
    """A plain pipeline that the test may change."""
    return make_pipeline()


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-9 * expected.abs().max().item())


@pytest.mark.parametrize(
    ("scheduler", "method", "guidance_scale"),
    [
        (DDIMScheduler(), NegToMe(**STRONG), 3.0),
        (DDIMScheduler(), NegToMe(perpendicular=True, match_every=3, blocks="attn1", **STRONG), 3.0),
        (DDIMScheduler(), NegToMe("first", **{**STRONG, "start": 0.2, "stop": 0.6}), 1.0),
        (HeunDiscreteScheduler(), NegToMe(**{**STRONG, "stop": 0.5}), 3.0),
        (PNDMScheduler(skip_prk_steps=True), NegToMe(**{**STRONG, "start": 0.2, "stop": 0.4}), 3.0),
    ],
    ids=["whole run", "shared matches", "first, no guidance", "Heun", "PNDM"],
)
def test_they_equal_from_pipe(
    own: Any, pipe: Any, generate: Any, scheduler: Any, method: Any, guidance_scale: Any
) -> None:
    own.scheduler = pipe.scheduler = scheduler
    arguments = {"num_images_per_prompt": 2, "guidance_scale": guidance_scale}
    prompts = ["a bear", "a cat in snow"]
    expected = generate(pipe, prompts, negative_guidance=method, **arguments).images
    apply_to_model(
        own.unet,
        method,
        num_inference_steps=5,
        guidance_branches=2 if guidance_scale > 1 else 1,
        num_images_per_prompt=2,
    )
    close(generate(own, prompts, **arguments).images, expected)
    close(generate(own, prompts, **arguments).images, expected)


def test_masks_equal_from_pipe_at_any_mask_resolution(own: Any, pipe: Any, generate: Any) -> None:
    mask, reference_mask = torch.rand((2, 41, 41), generator=torch.Generator().manual_seed(0))
    method = NegToMe(mask=mask, reference_mask=reference_mask, **STRONG)
    expected = generate(pipe, num_images_per_prompt=3, negative_guidance=method).images
    apply_to_model(own.unet, method)
    close(generate(own, num_images_per_prompt=3).images, expected)
    with pytest.raises(ValueError, match=r"mask of NegToMe is 41x41 .* the latents is 12x8"):
        generate(own, num_images_per_prompt=3, height=64, width=96)


def test_an_interrupted_run_leaves_no_wrong_phase(own: Any, pipe: Any, generate: Any) -> None:
    method = NegToMe(**{**STRONG, "stop": 0.4})
    expected = generate(pipe, num_images_per_prompt=2, negative_guidance=method).images
    apply_to_model(own.unet, method, num_inference_steps=5)
    for last in (0, 1, 3):

        def interrupt(pipeline: Any, step: int, t: Any, values: Any, last: int = last) -> Any:
            if step == last:
                raise KeyboardInterrupt
            return values

        with pytest.raises(KeyboardInterrupt):
            generate(own, num_images_per_prompt=2, callback_on_step_end=interrupt)
        close(generate(own, num_images_per_prompt=2).images, expected)


def test_called_again_they_replace_and_once_removed_the_unet_is_plain(
    own: Any, base: Any, generate: Any
) -> None:
    method = NegToMe(**STRONG)
    before = own.unet.attn_processors
    inside = []
    module = own.unet.up_blocks[1].attentions[0].transformer_blocks[0].attn1
    handle = module.register_forward_pre_hook(lambda module, inputs: inside.append(module.processor))
    for _ in range(2):
        apply_to_model(own.unet, method)
        generate(own, num_images_per_prompt=2)
        assert own.unet.attn_processors == before
        assert {type(p.processor) for p in inside} == {AttnProcessor2_0}
    handle.remove()
    remove_from_model(own.unet)
    assert torch.equal(generate(own).images, generate(base).images)


def test_keyword_arguments_and_attributes_of_the_intercepted_processor_stay(own: Any, generate: Any) -> None:
    seen, inside = [], []

    class Special(AttnProcessor2_0):
        scale = 1.0

        def __call__(
            self, attn: Any, hidden_states: Any, *args: Any, mood: str = "none", **kwargs: Any
        ) -> Any:
            seen.append(mood)
            inside.append(attn.processor)
            return super().__call__(attn, hidden_states, *args, **kwargs)

    own.unet.set_attn_processor(Special())
    apply_to_model(own.unet, NegToMe(**STRONG))
    generate(own, num_images_per_prompt=2, cross_attention_kwargs={"mood": "calm"})
    assert set(seen) == {"calm"}
    intercepted = [p for p in inside if type(p) is not Special]
    assert intercepted and len(intercepted) < len(inside)
    for processor in intercepted:
        assert inspect.signature(processor.__call__) == inspect.signature(Special().__call__)
        assert processor.scale == 1.0 and not hasattr(processor, "_attention_backend")


def test_weights_of_a_wrapped_processor_stay_in_the_model(own: Any) -> None:
    class WithWeights(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = torch.nn.Parameter(torch.ones(1))

        def __call__(self, attn: Any, hidden_states: Any, *args: Any, **kwargs: Any) -> Any:
            return AttnProcessor2_0()(attn, hidden_states * self.gain, *args, **kwargs)

    attention = own.unet.up_blocks[1].attentions[0].transformer_blocks[0].attn1
    attention.set_processor(WithWeights())
    apply_to_model(own.unet, NegToMe(**STRONG))
    own.unet.to(torch.float32)
    assert attention.processor.gain.dtype == torch.float32


def test_a_bare_unet_takes_them_and_groups_the_whole_batch(make_unet: Any) -> None:
    unet = make_unet()
    sample, text = torch.randn(3, 4, 8, 8), torch.randn(1, 5, 32).expand(3, -1, -1)
    plain = unet(sample, 500, text).sample
    apply_to_model(unet, NegToMe("first", **STRONG), guidance_branches=1)
    pushed = unet(sample, 500, encoder_hidden_states=text).sample
    torch.testing.assert_close(pushed[0], plain[0], rtol=1e-5, atol=1e-5)
    assert all((pushed[i] - plain[i]).abs().max() > 1e-2 for i in (1, 2))
    with pytest.raises(ValueError, match="num_images_per_prompt is 1 for 1 rows in 1 guidance branches"):
        unet(sample[:1], 500, text[:1])


def test_without_a_number_of_steps_the_published_window_is_that_of_the_timesteps(make_unet: Any) -> None:
    unet = make_unet()
    sample, text = torch.randn(2, 4, 8, 8), torch.randn(1, 5, 32).expand(2, -1, -1)
    timesteps = (999, 801, 800, 500, 0)
    plain = [unet(sample, t, text).sample for t in timesteps]
    for method, acts in (
        (NegToMe("first", alpha=3.0, threshold=0.2), [True, True, True, False, False]),
        (NegToMe("first", alpha=3.0, threshold=0.2, start=0.5, stop=1.0), [False, False, False, True, True]),
    ):
        apply_to_model(unet, method, guidance_branches=1)
        # and in the next run as well
        for _ in range(2):
            results = [unet(sample, t, text).sample for t in timesteps]
            assert [not torch.equal(a, b) for a, b in zip(results, plain, strict=True)] == acts


def test_a_window_that_a_run_leaves_out_is_told(make_unet: Any) -> None:
    unet = make_unet()
    sample, text = torch.randn(2, 4, 8, 8), torch.randn(1, 5, 32).expand(2, -1, -1)
    for stop in (0.2, Timestep(800)):
        apply_to_model(unet, NegToMe("first", stop=stop), guidance_branches=1)
        for _ in range(2):
            says = f"window start=0.0, stop={stop}, which is timestep 1000 to 800; give"
            with pytest.warns(UserWarning, match=re.escape(says)):
                unet(sample, 750, text)
            # once a run
            unet(sample, 500, text)


def test_a_window_that_was_left_open_holds_the_first_step_of_a_run_that_begins_behind_it(
    make_unet: Any,
) -> None:
    unet = make_unet()
    sample, text = torch.randn(2, 4, 8, 8), torch.randn(1, 5, 32).expand(2, -1, -1)
    plain = [unet(sample, t, text).sample for t in (600, 400)]
    apply_to_model(unet, NegToMe("first", alpha=3.0, threshold=0.2), guidance_branches=1)
    for _ in range(2):
        results = [unet(sample, t, text).sample for t in (600, 400)]
        assert [not torch.equal(a, b) for a, b in zip(results, plain, strict=True)] == [True, False]


def test_timesteps_of_another_kind_need_the_number_of_steps(make_unet: Any) -> None:
    unet = make_unet()
    sample, text = torch.randn(2, 4, 8, 8), torch.randn(1, 5, 32).expand(2, -1, -1)
    apply_to_model(unet, NegToMe("first"), guidance_branches=1)
    with pytest.raises(
        ValueError, match=r"timestep -0\.7, which is not between 1000 and 0.*num_inference_steps"
    ):
        unet(sample, -0.7, text)


def test_both_doors_at_once_are_refused(own: Any, generate: Any) -> None:
    apply_to_model(own.unet, NegToMe(**STRONG))
    with pytest.raises(ValueError, match="which would act too"):
        generate(from_pipe(own), num_images_per_prompt=2, negative_guidance=NegToMe())


def test_more_steps_than_announced_are_an_error(own: Any, generate: Any) -> None:
    apply_to_model(own.unet, NegToMe(stop=0.5), num_inference_steps=4)
    with pytest.raises(ValueError, match="num_inference_steps is 4, but this run has 5 steps"):
        generate(own, num_images_per_prompt=2)
    # in a loop of one's own
    text = torch.zeros(4, 5, 32, dtype=torch.float64)
    latents = torch.zeros(4, 4, 8, 8, dtype=torch.float64)
    for t in (900, 700, 500, 300):
        own.unet(latents, t, text)
    with pytest.raises(ValueError, match="num_inference_steps is 4, but this run has more"):
        own.unet(latents, 100, text)


@pytest.mark.parametrize(
    ("method", "arguments", "error", "says"),
    [
        (NegToMe(torch.rand(3, 8, 8)), {}, ValueError, "reference holds images.*no VAE.*from_pipe"),
        (
            NegToMe(stop=0.2),
            {"num_inference_steps": 4},
            ValueError,
            "stop=0.2 of NegToMe holds none of the 4 steps",
        ),
        (NegToMe(), {"num_inference_steps": 2.5}, ValueError, "num_inference_steps .*got 2.5"),
        (NegToMe(stop=1.0), {"guidance_branches": 0}, ValueError, "guidance_branches .*at least 1, got 0"),
        (
            NegToMe(stop=1.0),
            {"num_images_per_prompt": 1},
            ValueError,
            "num_images_per_prompt .*least 2, got 1",
        ),
        (NegToMe(stop=1.0, blocks="attn9"), {}, ValueError, r"blocks='attn9'.*down_blocks\.0\."),
        ("glasses", {}, TypeError, "method must be one of NegToMe"),
    ],
)
def test_bad_input_is_refused(base: Any, method: Any, arguments: Any, error: Any, says: Any) -> None:
    with pytest.raises(error, match=says):
        apply_to_model(base.unet, method, **arguments)


def test_a_model_that_is_no_denoiser_is_refused(base: Any) -> None:
    with pytest.raises(TypeError, match=r"model must be one of .*UNet2DConditionModel.*, got CLIPTextModel"):
        apply_to_model(base.text_encoder, NegToMe(stop=1.0))


def test_groups_reach_across_prompts_and_stay_inside_a_branch(own: Any, pipe: Any, generate: Any) -> None:
    method = NegToMe(group_size=2, **STRONG)
    prompts = ["a bear", "a cat in snow"]
    apply_to_model(own.unet, method)
    close(generate(own, prompts).images, generate(pipe, prompts, negative_guidance=method).images)
    with pytest.raises(ValueError, match="group_size is 2 for 6 rows in 2 guidance branches"):
        generate(own, [*prompts, "a hat"])
