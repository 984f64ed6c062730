"""Perp-Neg through the pipeline, against sampling loops written out here."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)

from negguide import Negative, PerpNeg
from negguide.guidance import perp_neg

WHOLE: dict[str, Any] = {"start": 0.0, "stop": 1.0}


def encode(pipe: Any, text: str, clip_skip: int | None = None) -> torch.Tensor:
    return pipe.encode_prompt([text], "cpu", 1, False, clip_skip=clip_skip)[0]


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal up to 1e-6 of the largest value."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6 * expected.abs().max().item())


@torch.no_grad()
def loop(
    pipe: Any,
    cond: torch.Tensor,
    uncond: torch.Tensor,
    negatives: Sequence[tuple[torch.Tensor, Negative]],
    *,
    steps: int = 5,
    g: float | Callable[[int], float] = 3.0,
    rescale: float = 0.0,
    joint: bool = False,
    masks: torch.Tensor | None = None,
    **unet_arguments: Any,
) -> torch.Tensor:
    """Perp-Neg, one UNet call for each prompt, one image; a step of a second-order scheduler is two calls."""
    scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn((1, 4, 8, 8), generator=generator, dtype=cond.dtype) * scheduler.init_noise_sigma
    calls = len(scheduler.timesteps)
    # Heun: two calls a step but for the last; PNDM: two for the first step
    step_of_call = {
        steps: list(range(steps)),
        2 * steps - 1: [call // 2 for call in range(calls)],
        steps + 1: [0, *range(steps)],
    }[calls]
    for step, t in zip(step_of_call, scheduler.timesteps, strict=True):
        scaled = scheduler.scale_model_input(latents, t)

        def predict(
            embedding: torch.Tensor, scaled: torch.Tensor = scaled, t: torch.Tensor = t
        ) -> torch.Tensor:
            return pipe.unet(scaled, t, embedding, **unet_arguments).sample

        u, c = predict(uncond), predict(cond)
        inside = [int(n.start * steps) <= step < int(n.stop * steps) for _, n in negatives]
        acting = [k for k, is_inside in enumerate(inside) if is_inside]
        n = torch.stack([predict(negatives[k][0]) for k in acting]) if acting else u.new_zeros((0, *u.shape))
        scale = g(step) if callable(g) else g
        weights = torch.tensor([negatives[k][1].weight for k in acting])
        guided = perp_neg(
            u, c, n, weights, scale, joint=joint, masks=None if masks is None else masks[acting]
        )
        if rescale:
            dims = (1, 2, 3)
            matched = guided * (c.std(dims, keepdim=True) / guided.std(dims, keepdim=True))
            guided = rescale * matched + (1 - rescale) * guided
        latents = scheduler.step(guided, t, latents, return_dict=False)[0]
    return latents


def test_without_negative_guidance_the_call_is_bitwise_the_base_pipelines(
    base: Any, pipe: Any, generate: Any
) -> None:
    for arguments in ({}, {"num_images_per_prompt": 2, "guidance_rescale": 0.5}, {"output_type": "np"}):
        expected = generate(base, **arguments).images
        assert torch.equal(torch.as_tensor(generate(pipe, **arguments).images), torch.as_tensor(expected))


def test_steps_outside_every_window_are_bitwise_the_base_pipelines(
    base: Any, pipe: Any, generate: Any, unchanged: Any
) -> None:
    def latents_by_step(pipeline: Any, **arguments: Any) -> list[torch.Tensor]:
        seen: list[torch.Tensor] = []

        def keep(pipeline: Any, step: int, t: Any, values: dict[str, Any]) -> dict[str, Any]:
            seen.append(values["latents"].clone())
            return {}

        generate(pipeline, callback_on_step_end=keep, **arguments)
        return seen

    plain = latents_by_step(base)
    late = latents_by_step(pipe, negative_guidance=PerpNeg(Negative("black glasses", start=0.6, stop=1.0)))
    assert all(torch.equal(a, b) for a, b in zip(plain[:3], late[:3], strict=True))
    assert not torch.allclose(plain[3], late[3], atol=1e-2)


def test_it_equals_the_written_out_loop_with_weights_and_windows(
    pipe: Any, generate: Any, unchanged: Any
) -> None:
    negatives = [Negative("black glasses", 1.5, 0.0, 0.6), Negative("a hat", 0.7, 0.2, 1.0)]
    encoded = [(encode(pipe, n.prompt), n) for n in negatives]
    cond, uncond = encode(pipe, "a bear wearing glasses"), encode(pipe, "")
    expected = loop(pipe, cond, uncond, encoded)
    close(generate(pipe, negative_guidance=PerpNeg(*negatives)).images, expected)
    # and the negatives do something
    assert (expected - loop(pipe, cond, uncond, [])).abs().max() > 0.05 * expected.abs().max()


@pytest.mark.parametrize("rescale", [0.0, 0.7])
def test_guidance_rescale_and_joint_negatives_equal_the_loop(pipe: Any, generate: Any, rescale: Any) -> None:
    negatives = [Negative("black glasses", **WHOLE), Negative("glasses black", **WHOLE)]
    encoded = [(encode(pipe, n.prompt), n) for n in negatives]
    expected = loop(
        pipe, encode(pipe, "a bear wearing glasses"), encode(pipe, ""), encoded, rescale=rescale, joint=True
    )
    method = PerpNeg(*negatives, joint=True)
    close(generate(pipe, negative_guidance=method, guidance_rescale=rescale).images, expected)


@pytest.mark.parametrize(
    "scheduler",
    [
        DDIMScheduler(prediction_type="v_prediction", clip_sample=False, rescale_betas_zero_snr=True),
        EulerDiscreteScheduler(),
        DPMSolverMultistepScheduler(),
        HeunDiscreteScheduler(),
        UniPCMultistepScheduler(),
        PNDMScheduler(skip_prk_steps=True),
    ],
    ids=lambda scheduler: type(scheduler).__name__,
)
def test_every_scheduler_equals_the_loop_with_a_window_in_steps(
    pipe: Any, generate: Any, scheduler: Any
) -> None:
    pipe.scheduler = scheduler
    negative = Negative("black glasses", 1.0, 0.2, 0.8)
    expected = loop(
        pipe, encode(pipe, "a bear"), encode(pipe, ""), [(encode(pipe, negative.prompt), negative)]
    )
    close(generate(pipe, "a bear", negative_guidance=PerpNeg(negative)).images, expected)


def test_masks_limit_a_negative_to_where_they_are(pipe: Any, generate: Any) -> None:
    left = torch.zeros(64, 64)
    left[:, :20] = 1
    negatives = [Negative("black glasses", mask=left, **WHOLE), Negative("a hat", **WHOLE)]
    encoded = [(encode(pipe, n.prompt), n) for n in negatives]
    # the mean over each 8x8 cell: two whole columns and half of the third
    cells = torch.zeros(2, 1, 1, 8, 8)
    cells[0, ..., :2], cells[0, ..., 2], cells[1] = 1, 0.5, 1
    expected = loop(pipe, encode(pipe, "a bear"), encode(pipe, ""), encoded, masks=cells)
    close(generate(pipe, "a bear", negative_guidance=PerpNeg(*negatives)).images, expected)


def test_a_negative_equal_to_the_prompt_changes_nothing(base: Any, pipe: Any, generate: Any) -> None:
    method = PerpNeg(Negative("a bear wearing glasses", weight=2, **WHOLE))
    close(generate(pipe, negative_guidance=method).images, generate(base).images)


def test_negative_prompt_keeps_its_meaning_beside_perp_neg(pipe: Any, generate: Any) -> None:
    negative = Negative("black glasses", **WHOLE)
    expected = loop(
        pipe,
        encode(pipe, "a bear"),
        encode(pipe, "snow"),
        [(encode(pipe, negative.prompt), negative)],
    )
    actual = generate(pipe, "a bear", negative_prompt="snow", negative_guidance=PerpNeg(negative)).images
    close(actual, expected)


def test_clip_skip_holds_for_the_negatives_too(pipe: Any, generate: Any, monkeypatch: Any) -> None:
    # diffusers 0.42 looks for the last norm where transformers 5 no longer has it
    norm = SimpleNamespace(final_layer_norm=pipe.text_encoder.final_layer_norm)
    monkeypatch.setitem(vars(pipe.text_encoder), "text_model", norm)
    negative = Negative("black glasses", **WHOLE)
    expected = loop(
        pipe,
        encode(pipe, "a bear", clip_skip=1),
        # the pipeline itself does not skip layers for its negative prompt
        encode(pipe, ""),
        [(encode(pipe, negative.prompt, clip_skip=1), negative)],
    )
    close(generate(pipe, "a bear", clip_skip=1, negative_guidance=PerpNeg(negative)).images, expected)


def test_an_image_does_not_depend_on_its_batch_mates(pipe: Any, generate: Any) -> None:
    method = PerpNeg(Negative("black glasses", **WHOLE))
    prompts = ["a bear wearing glasses", "a cat in snow"]

    def generators() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in range(4)]

    together = generate(
        pipe, prompts, generator=generators(), num_images_per_prompt=2, negative_guidance=method
    ).images
    for image, generator in enumerate(generators()):
        alone = generate(pipe, prompts[image // 2], generator=[generator], negative_guidance=method).images
        close(together[image : image + 1], alone)


def test_two_calls_in_a_row_give_the_same(pipe: Any, generate: Any) -> None:
    method = PerpNeg(Negative("black glasses", stop=0.6))
    first, second = (generate(pipe, negative_guidance=method).images for _ in range(2))
    assert torch.equal(first, second)


def test_any_max_branch_batch_gives_the_same_and_bounds_the_batch(
    pipe: Any, generate: Any, monkeypatch: Any
) -> None:
    rows: list[int] = []
    forward = pipe.unet.forward

    def counting(sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        rows.append(sample.shape[0])
        return forward(sample, *args, **kwargs)

    monkeypatch.setattr(pipe.unet, "forward", counting)
    # the guided pipeline finds the names of the denoiser's inputs by its signature
    counting.__wrapped__ = forward  # type: ignore[attr-defined]
    method = PerpNeg(*(Negative(text, **WHOLE) for text in ("black glasses", "a hat", "snow")))

    def run(limit: int | None) -> torch.Tensor:
        rows.clear()
        return generate(
            pipe, num_images_per_prompt=2, negative_guidance=method, max_branch_batch=limit
        ).images

    whole = run(None)
    assert rows == [10] * 5
    for limit, expected in ((1, [2] * 5), (2, [4, 4, 2]), (4, [8, 2]), (9, [10])):
        close(run(limit), whole)
        assert rows == expected * 5


def test_longer_prompt_embeds_are_run_apart_from_the_negatives(pipe: Any, generate: Any) -> None:
    cond = torch.cat([encode(pipe, "a bear"), encode(pipe, "glasses")], dim=1)
    uncond = torch.cat([encode(pipe, ""), encode(pipe, "")], dim=1)
    negative = Negative("black glasses", **WHOLE)
    expected = loop(pipe, cond, uncond, [(encode(pipe, negative.prompt), negative)])
    actual = generate(
        pipe, None, prompt_embeds=cond, negative_prompt_embeds=uncond, negative_guidance=PerpNeg(negative)
    ).images
    close(actual, expected)


def test_latents_and_sizes_of_the_caller_are_used(pipe: Any, generate: Any) -> None:
    method = PerpNeg(Negative("black glasses", mask=torch.ones(32, 48), **WHOLE))
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn((1, 4, 8, 12), generator=generator, dtype=torch.float64)
    given = generate(pipe, latents=latents, generator=None, height=64, width=96, negative_guidance=method)
    drawn = generate(pipe, height=64, width=96, negative_guidance=method)
    assert given.images.shape == (1, 4, 8, 12)
    assert torch.equal(given.images, drawn.images)
    # like the base pipeline: without both sizes neither counts, and latents decide over sizes
    only_latents = generate(pipe, latents=latents, generator=None, width=8, negative_guidance=method)
    assert torch.equal(only_latents.images, drawn.images)


def test_callbacks_see_the_embeddings_of_the_base_pipeline_and_may_change_the_guidance(
    pipe: Any, generate: Any
) -> None:
    shapes = set()

    def raise_guidance(pipeline: Any, step: int, t: Any, values: dict[str, Any]) -> dict[str, Any]:
        shapes.add(tuple(values["prompt_embeds"].shape))
        pipeline._guidance_scale = 4.0 + step
        return values

    negative = Negative("black glasses", **WHOLE)
    actual = generate(
        pipe,
        callback_on_step_end=raise_guidance,
        callback_on_step_end_tensor_inputs=["prompt_embeds"],
        negative_guidance=PerpNeg(negative),
    ).images
    expected = loop(
        pipe,
        encode(pipe, "a bear wearing glasses"),
        encode(pipe, ""),
        [(encode(pipe, negative.prompt), negative)],
        g=lambda step: 3.0 if step == 0 else 3.0 + step,
    )
    assert shapes == {(2, 12, 32)}
    close(actual, expected)


def test_negatives_rest_when_a_callback_switches_guidance_off(base: Any, pipe: Any, generate: Any) -> None:
    def switch_off(pipeline: Any, step: int, t: Any, values: dict[str, Any]) -> dict[str, Any]:
        if step == 1:
            pipeline._guidance_scale = 0.0
            values["prompt_embeds"] = values["prompt_embeds"].chunk(2)[-1]
        return values

    arguments = {
        "callback_on_step_end": switch_off,
        "callback_on_step_end_tensor_inputs": ["prompt_embeds"],
    }
    method = PerpNeg(Negative("black glasses", start=0.4, stop=1.0))
    output = generate(pipe, negative_guidance=method, trace=True, **arguments)
    assert torch.equal(output.images, generate(base, **arguments).images)
    assert output.trace.cosine.isnan().all()


def test_lora_kwargs_reach_the_negatives(make_unet: Any, make_pipeline: Any, generate: Any) -> None:
    from peft import LoraConfig

    from negguide import from_pipe

    pipe = from_pipe(make_pipeline(make_unet()))
    method = PerpNeg(Negative("black glasses", **WHOLE))
    without = generate(pipe, negative_guidance=method).images
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    off = generate(pipe, negative_guidance=method, cross_attention_kwargs={"scale": 0.0}).images
    half = generate(pipe, negative_guidance=method, cross_attention_kwargs={"scale": 0.5}).images
    close(off, without)
    negative = method.negatives[0]
    embeddings = encode(pipe, "a bear wearing glasses"), encode(pipe, "")
    encoded = [(encode(pipe, negative.prompt), negative)]
    close(half, loop(pipe, *embeddings, encoded, cross_attention_kwargs={"scale": 0.5}))
    assert (half - without).abs().max() > 0.01 * without.abs().max()


def test_an_ip_adapter_conditions_the_negatives_like_the_prompt(
    make_unet: Any, make_pipeline: Any, generate: Any
) -> None:
    from negguide import from_pipe

    unet = make_unet()
    torch.manual_seed(5)
    weights: dict[str, dict[str, torch.Tensor]] = {
        "image_proj": {
            "proj.weight": torch.randn(4 * 32, 16),
            "proj.bias": torch.randn(4 * 32),
            "norm.weight": torch.ones(32),
            "norm.bias": torch.zeros(32),
        },
        "ip_adapter": {},
    }
    cross = [name for name in unet.attn_processors if "attn2" in name]
    for position, name in enumerate(cross):
        width = unet.get_submodule(name.removesuffix(".processor")).to_q.in_features
        for part in ("k", "v"):
            weights["ip_adapter"][f"{2 * position + 1}.to_{part}_ip.weight"] = torch.randn(width, 32)
    unet._load_ip_adapter_weights([weights])
    pipe = from_pipe(make_pipeline(unet))
    negative = Negative("black glasses", **WHOLE)
    image_embeds = torch.randn(2, 1, 16, dtype=torch.float64)  # of no image, and of one
    actual = generate(
        pipe, ip_adapter_image_embeds=[image_embeds], negative_guidance=PerpNeg(negative)
    ).images

    cond, uncond = encode(pipe, "a bear wearing glasses"), encode(pipe, "")

    def with_image(sample: Any, t: Any, embedding: torch.Tensor) -> Any:
        row = 0 if torch.equal(embedding, uncond) else 1
        added = {"image_embeds": [image_embeds[row : row + 1]]}
        return unet(sample, t, embedding, added_cond_kwargs=added)

    models = SimpleNamespace(scheduler=pipe.scheduler, unet=with_image)
    close(actual, loop(models, cond, uncond, [(encode(pipe, negative.prompt), negative)]))
