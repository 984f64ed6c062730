"""NAG, ONG and VSF as attention processors, on a UNet by itself."""

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, HeunDiscreteScheduler, PNDMScheduler
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

import negguide
from negguide import (
    NAG,
    ONG,
    VSF,
    Negative,
    NegToMe,
    PerpNeg,
    apply_to_model,
    from_pipe,
    remove_from_model,
)

TEXTS = ("black glasses", "a red hat")


@pytest.fixture
def own(make_pipeline: Any) -> Any:
    """A plain pipeline that the test may change."""
    return make_pipeline()


@pytest.fixture
def embeds(base: Any) -> torch.Tensor:
    with torch.no_grad():
        return base.encode_prompt(list(TEXTS), "cpu", 1, False)[0]


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-9 * expected.abs().max().item())


def state(unet: Any) -> dict[str, Any]:
    return {
        name: (sorted(vars(module)), list(module._modules), type(getattr(module, "processor", None)))
        for name, module in unet.named_modules()
    }


HALF = torch.zeros(64, 64)
HALF[:, :24] = 1
WINDOWS = (Negative(TEXTS[0], weight=1.5, stop=0.6), Negative(TEXTS[1], start=0.2, mask=HALF))


@pytest.mark.parametrize(
    ("method", "scheduler", "guidance_scale"),
    [
        (NAG(*TEXTS, scale=3.0), DDIMScheduler(), 3.0),
        (NAG(*WINDOWS, scale=3.0), DDIMScheduler(), 1.0),
        (ONG(*WINDOWS), HeunDiscreteScheduler(), 3.0),
        (VSF(*WINDOWS, bias=-0.5), PNDMScheduler(skip_prk_steps=True), 3.0),
    ],
    ids=["NAG", "NAG, windows, no guidance", "ONG, windows, Heun", "VSF, windows, PNDM"],
)
def test_they_equal_from_pipe(
    own: Any,
    pipe: Any,
    generate: Any,
    embeds: Any,
    method: Any,
    scheduler: Any,
    guidance_scale: Any,
) -> None:
    own.scheduler = pipe.scheduler = scheduler
    arguments = {"num_images_per_prompt": 2, "guidance_scale": guidance_scale}
    prompts = ["a bear", "a cat in snow"]
    plain = generate(own, prompts, **arguments).images
    expected = generate(pipe, prompts, negative_guidance=method, **arguments).images
    assert (expected - plain).abs().max() > 1e-2 * plain.abs().max()
    before = own.unet.attn_processors
    apply_to_model(
        own.unet,
        method,
        negative_embeds=embeds,
        num_inference_steps=5,
        guidance_branches=2 if guidance_scale > 1 else 1,
    )
    assert own.unet.attn_processors == before
    for _ in range(2):
        close(generate(own, prompts, **arguments).images, expected)


def test_a_run_that_breaks_off_does_not_shift_the_windows_of_the_next(
    own: Any, pipe: Any, generate: Any, embeds: Any
) -> None:
    method = NAG(*WINDOWS, scale=3.0)
    expected = generate(pipe, negative_guidance=method).images
    apply_to_model(own.unet, method, negative_embeds=embeds, num_inference_steps=5)

    def interrupt(pipeline: Any, step: int, t: Any, values: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(own, callback_on_step_end=interrupt)
    close(generate(own).images, expected)


def test_another_method_takes_the_place_and_removing_restores_the_unet(
    own: Any, pipe: Any, base: Any, generate: Any, embeds: Any
) -> None:
    before = state(own.unet)
    for method in (NegToMe(stop=1.0), NAG(*TEXTS), ONG(*TEXTS)):
        arguments = {} if isinstance(method, NegToMe) else {"negative_embeds": embeds}
        apply_to_model(own.unet, method, **arguments)
        result = generate(own, num_images_per_prompt=2).images
        close(result, generate(pipe, num_images_per_prompt=2, negative_guidance=method).images)
    remove_from_model(own.unet)
    assert state(own.unet) == before
    assert all(type(p) is AttnProcessor2_0 for p in own.unet.attn_processors.values())
    assert torch.equal(generate(own).images, generate(base).images)
    # and there is nothing to remove twice
    remove_from_model(own.unet)
    assert state(own.unet) == before


def test_on_a_compiled_unet_they_replace_and_go_away_as_well(own: Any, embeds: Any) -> None:
    compiled: Any = torch.compile(own.unet, backend="eager")
    before = sorted(vars(compiled)), state(own.unet), compiled.forward
    for _ in range(2):
        apply_to_model(compiled, NAG(*TEXTS), negative_embeds=embeds)
        assert len(vars(compiled)["_diffusers_hook"].hooks) == 1
    remove_from_model(compiled)
    assert (sorted(vars(compiled)), state(own.unet), compiled.forward) == before


def test_a_batch_that_does_not_hold_the_guidance_branches_is_refused(
    own: Any, generate: Any, embeds: Any
) -> None:
    apply_to_model(own.unet, NAG(*TEXTS), negative_embeds=embeds)
    with pytest.raises(
        ValueError, match="guidance_branches is 2, but the model was called with 1 rows; give"
    ):
        generate(own, guidance_scale=1.0)


def test_processors_that_are_set_or_replaced_afterwards_are_guided_as_well(
    own: Any, pipe: Any, generate: Any, embeds: Any
) -> None:
    """Adapters are loaded and unloaded by setting processors: the method is neither lost nor in their way."""

    class Gain(AttnProcessor2_0):
        def __call__(self, attn: Any, hidden_states: Any, *args: Any, **kwargs: Any) -> Any:
            return super().__call__(attn, hidden_states * 1.1, *args, **kwargs)

    plain = own.unet.attn_processors
    expected = generate(pipe, negative_guidance=NAG(*TEXTS)).images
    apply_to_model(own.unet, NAG(*TEXTS), negative_embeds=embeds)
    close(generate(own).images, expected)
    own.unet.set_attn_processor(Gain())
    gained = generate(own).images
    assert (gained - expected).abs().max() > 1e-2 * expected.abs().max()
    remove_from_model(own.unet)
    close(generate(from_pipe(own), negative_guidance=NAG(*TEXTS)).images, gained)
    apply_to_model(own.unet, NAG(*TEXTS), negative_embeds=embeds)
    own.unet.set_attn_processor(plain)
    close(generate(own).images, expected)


def test_the_old_names_still_work_and_say_what_is_new(
    own: Any, pipe: Any, generate: Any, embeds: Any
) -> None:
    expected = generate(pipe, negative_guidance=NAG(*TEXTS)).images
    with pytest.warns(DeprecationWarning, match="use negguide.apply_to_model"):
        processors = negguide.attention_processors(own.unet, NAG(*TEXTS), negative_embeds=embeds)
    own.unet.set_attn_processor(processors)
    close(generate(own).images, expected)
    with pytest.warns(DeprecationWarning, match="use negguide.remove_from_model"):
        negguide.remove_attention_processors(own.unet)
    assert (generate(own).images - expected).abs().max() > 1e-2 * expected.abs().max()
    with pytest.warns(DeprecationWarning, match="stay where they are"):
        assert callable(negguide.NAGAttnProcessor)


def test_both_doors_at_once_are_refused(own: Any, generate: Any, embeds: Any) -> None:
    apply_to_model(own.unet, NAG(*TEXTS), negative_embeds=embeds)
    with pytest.raises(ValueError, match="which would act too"):
        generate(from_pipe(own), negative_guidance=VSF("a hat"))


def test_attention_that_cannot_be_taken_over_is_an_error_and_no_plain_image(
    own: Any, generate: Any, embeds: Any
) -> None:
    own.unet.set_attn_processor(AttnProcessor())
    says = r"NAG takes over torch's scaled_dot_product_attention, but .*attn2 \(one of [0-9]+\) computes attention"
    with pytest.raises(ValueError, match=says):
        generate(from_pipe(own), negative_guidance=NAG(*TEXTS))
    apply_to_model(own.unet, NAG(*TEXTS), negative_embeds=embeds)
    with pytest.raises(ValueError, match=says):
        generate(own)


@pytest.mark.parametrize(
    ("method", "arguments", "error", "says"),
    [
        (
            NAG(*TEXTS),
            {"negative_embeds": None},
            ValueError,
            r"must be \[2, tokens, 32\].* NAG, got None",
        ),
        (ONG("a hat"), {}, ValueError, r"must be \[1, tokens, 32\].* ONG, got \[2, 12, 32\]"),
        (VSF(*TEXTS), {"negative_embeds": torch.rand(2, 32)}, ValueError, r"VSF, got \[2, 32\]"),
        (
            NAG(*TEXTS),
            {"negative_embeds": torch.rand(2, 12, 31)},
            ValueError,
            r"tokens, 32\].* got \[2, 12, 31\]",
        ),
        (NegToMe(stop=1.0), {}, ValueError, "negative_embeds are of NAG, NASA, ONG, VSF"),
        (PerpNeg("a hat"), {}, TypeError, "method must be one of NegToMe, NAG, NASA, ONG, VSF.*from_pipe"),
        (
            NAG(*WINDOWS),
            {"num_inference_steps": 1},
            ValueError,
            r"stop=0.6 of Negative\(.*\) holds none of the 1 steps",
        ),
    ],
)
def test_bad_input_is_refused(
    base: Any, embeds: Any, unchanged: Any, method: Any, arguments: Any, error: Any, says: Any
) -> None:
    with pytest.raises(error, match=says):
        apply_to_model(base.unet, method, **{"negative_embeds": embeds, **arguments})


def test_a_guided_call_on_a_model_with_processors_is_refused_until_they_are_removed(own: Any) -> None:
    apply_to_model(own.unet, NegToMe("others", stop=1.0))
    guided = from_pipe(own)
    call: dict[str, Any] = {"num_inference_steps": 4, "num_images_per_prompt": 2, "output_type": "latent"}
    with pytest.raises(ValueError, match="remove_from_model"):
        guided("a bear", negative_guidance=PerpNeg("black glasses"), **call)
    remove_from_model(own.unet)
    guided("a bear", negative_guidance=PerpNeg("black glasses"), **call)
