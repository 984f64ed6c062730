"""NegToMe through the pipeline, against the formula written out token by token in attention processors of the test."""

from typing import Any

import PIL.Image
import pytest
import torch
from diffusers import EulerDiscreteScheduler, HeunDiscreteScheduler
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from naive_negtome import BLOCKS, HALF, STRONG, Naive, close, first, naive, others
from torch.nn.functional import adaptive_avg_pool2d

from negguide import Negative, NegToMe, PerpNeg


@pytest.mark.parametrize("guidance_scale", [3.0, 1.0])
@pytest.mark.parametrize(
    ("reference", "groups", "mask", "reference_mask"),
    [
        ("others", others, None, None),
        ("first", first, None, None),
        ("others", others, HALF, HALF.T.contiguous()),
        ("first", first, None, HALF),
    ],
)
def test_it_equals_the_formula_inside_every_guidance_branch(
    base: Any,
    pipe: Any,
    generate: Any,
    with_processors: Any,
    unchanged: Any,
    guidance_scale: Any,
    reference: Any,
    groups: Any,
    mask: Any,
    reference_mask: Any,
) -> None:
    arguments = {"num_images_per_prompt": 3, "guidance_scale": guidance_scale, "num_inference_steps": 3}
    expected = with_processors(
        lambda: Naive(groups, mask, reference_mask), lambda: generate(base, **arguments).images
    )
    method = NegToMe(reference, mask=mask, reference_mask=reference_mask, **STRONG)
    close(generate(pipe, negative_guidance=method, **arguments).images, expected)
    plain = generate(base, **arguments).images
    assert (plain - expected).abs().max() > 0.02 * plain.abs().max()


def test_several_prompts_do_not_push_each_other(pipe: Any, generate: Any) -> None:
    prompts = ["a bear wearing glasses", "a cat in snow"]
    method = NegToMe(**STRONG)
    generators = [torch.Generator().manual_seed(seed) for seed in range(4)]
    together = generate(
        pipe, prompts, num_images_per_prompt=2, generator=generators, negative_guidance=method
    ).images
    for prompt in range(2):
        alone = generate(
            pipe,
            prompts[prompt],
            num_images_per_prompt=2,
            generator=[torch.Generator().manual_seed(seed) for seed in (2 * prompt, 2 * prompt + 1)],
            negative_guidance=method,
        ).images
        close(together[2 * prompt : 2 * prompt + 2], alone)


def test_alpha_zero_is_bitwise_the_base_pipeline(base: Any, pipe: Any, generate: Any) -> None:
    method = NegToMe(alpha=0, stop=1.0, threshold=-1)
    guided = generate(pipe, num_images_per_prompt=2, negative_guidance=method).images
    assert torch.equal(guided, generate(base, num_images_per_prompt=2).images)


def test_it_rests_outside_its_window(base: Any, pipe: Any, generate: Any, with_processors: Any) -> None:
    def latents_by_step(pipeline: Any, **arguments: Any) -> list[torch.Tensor]:
        seen: list[torch.Tensor] = []

        def keep(pipeline: Any, step: int, t: Any, values: dict[str, Any]) -> dict[str, Any]:
            seen.append(values["latents"].clone())
            return {}

        generate(pipeline, num_images_per_prompt=2, callback_on_step_end=keep, **arguments)
        return seen

    plain = latents_by_step(base)
    late = latents_by_step(pipe, negative_guidance=NegToMe(**{**STRONG, "start": 0.4}))
    assert torch.equal(plain[1], late[1])
    assert not torch.allclose(plain[2], late[2], atol=1e-3)


@torch.no_grad()
def reference_loop(
    pipe: Any, pixels: torch.Tensor, steps: int, stop: int, reference_mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Reference mode written out: references through VAE, noise and UNet, their tokens kept, then each branch."""
    unet, scheduler = pipe.unet, pipe.scheduler
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn((1, 4, 8, 8), generator=generator, dtype=torch.float64) * scheduler.init_noise_sigma
    encoded = pipe.vae.encode(pixels.double() * 2 - 1).latents * pipe.vae.config.scaling_factor
    noise = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(0)).double()
    empty, cond = (pipe.encode_prompt([text], "cpu", 1, False)[0] for text in ("", "a bear"))
    kept: dict[str, torch.Tensor] = {}

    class Keep(AttnProcessor2_0):
        def __init__(self, name: str, push: bool) -> None:
            super().__init__()
            self.name, self.push = name, push

        def __call__(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            tokens = super().__call__(*args, **kwargs)
            if not self.push:
                kept[self.name] = tokens.flatten(0, 1)
                return tokens
            allowed = None
            if reference_mask is not None:
                side = int(tokens.shape[1] ** 0.5)
                allowed = adaptive_avg_pool2d(reference_mask[:, None], side).flatten() >= 0.5
            return torch.stack([naive(x, kept[self.name], None, allowed) for x in tokens])

    plain = unet.attn_processors

    def predict(mode: str, sample: torch.Tensor, embedding: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        chosen = {
            n: Keep(n, mode == "push") if "attn1" in n and BLOCKS in n and mode != "plain" else p
            for n, p in plain.items()
        }
        unet.set_attn_processor(chosen)
        try:
            return unet(sample, t, embedding).sample
        finally:
            unet.set_attn_processor(dict(plain))

    for step, t in enumerate(scheduler.timesteps):
        sample = scheduler.scale_model_input(latents, t)
        if step < stop:
            noisy = scheduler.add_noise(encoded, noise.expand_as(encoded), t.expand(len(encoded)))
            count = len(encoded)
            predict("keep", scheduler.scale_model_input(noisy, t), empty.expand(count, -1, -1), t)
        mode = "push" if step < stop else "plain"
        u, c = predict(mode, sample, empty, t), predict(mode, sample, cond, t)
        latents = scheduler.step(u + 3.0 * (c - u), t, latents, return_dict=False)[0]
    return latents


def test_reference_images_are_noised_run_and_pushed_from_in_their_window(
    pipe: Any, generate: Any, unchanged: Any
) -> None:
    pipe.scheduler = EulerDiscreteScheduler()
    pixels = torch.rand((2, 3, 64, 64), generator=torch.Generator().manual_seed(3))
    masks = torch.stack([HALF, 1 - HALF])
    expected = reference_loop(pipe, pixels, steps=5, stop=3, reference_mask=masks)
    method = NegToMe(list(pixels), reference_mask=list(masks), **{**STRONG, "stop": 0.6})
    actual = generate(pipe, "a bear", negative_guidance=method).images
    close(actual, expected)
    without_mask = generate(
        pipe, "a bear", negative_guidance=NegToMe(list(pixels), **{**STRONG, "stop": 0.6})
    )
    assert (without_mask.images - expected).abs().max() > 0.01 * expected.abs().max()


def test_a_pil_reference_is_scaled_to_cover_the_image_and_cut_in_the_middle(pipe: Any, generate: Any) -> None:
    square = PIL.Image.effect_noise((64, 64), 90).convert("RGB")
    wide = PIL.Image.new("RGB", (96, 64), "red")
    wide.paste(square, (16, 0))
    mask = PIL.Image.new("L", (96, 64), 0)
    mask.paste(255, (16, 0, 48, 64))
    left = torch.zeros(64, 64)
    left[:, :32] = 1
    methods = [
        NegToMe(square, **STRONG),
        NegToMe(wide, **STRONG),
        NegToMe(square, reference_mask=left, **STRONG),
        NegToMe(wide, reference_mask=mask, **STRONG),
    ]
    images = [generate(pipe, negative_guidance=method).images for method in methods]
    close(images[1], images[0])
    close(images[3], images[2])
    assert not torch.allclose(images[0], images[2], atol=1e-3)


def test_the_order_of_reference_images_does_not_matter(pipe: Any, generate: Any) -> None:
    a, b = torch.rand((2, 3, 64, 64), generator=torch.Generator().manual_seed(3))
    runs = [generate(pipe, negative_guidance=NegToMe(list(r), **STRONG)).images for r in ((a, b), (b, a))]
    close(*runs)


def test_a_latent_distribution_is_read_at_its_mode(make_pipeline: Any, generate: Any) -> None:
    from negguide import from_pipe

    pipe = from_pipe(make_pipeline(kl=True))
    method = NegToMe(torch.rand(3, 64, 64), **STRONG)
    first_run, second_run = (generate(pipe, negative_guidance=method).images for _ in range(2))
    assert torch.equal(first_run, second_run)
    assert not torch.allclose(first_run, generate(pipe).images, atol=1e-3)


@pytest.mark.parametrize("reference", ["others", "image"])
def test_with_perp_neg_any_max_branch_batch_gives_the_same(pipe: Any, generate: Any, reference: Any) -> None:
    pipe.scheduler = HeunDiscreteScheduler()
    image = torch.rand((3, 64, 64), generator=torch.Generator().manual_seed(3))
    methods = [
        NegToMe(image if reference == "image" else "others", **STRONG),
        PerpNeg(Negative("black glasses", stop=1.0), Negative("a hat", stop=0.5)),
    ]

    def run(limit: int | None) -> torch.Tensor:
        return generate(
            pipe,
            num_inference_steps=4,
            num_images_per_prompt=2,
            negative_guidance=methods,
            max_branch_batch=limit,
        ).images

    whole = run(None)
    for limit in (1, 2, 3):
        close(run(limit), whole)


def test_the_processors_that_are_there_stay(base: Any, pipe: Any, generate: Any) -> None:
    method = NegToMe(**STRONG)
    expected = generate(pipe, num_images_per_prompt=2, negative_guidance=method).images
    before = base.unet.attn_processors
    try:
        base.unet.set_attn_processor(AttnProcessor())
        vanilla = generate(pipe, num_images_per_prompt=2, negative_guidance=method).images
        assert {type(p) for p in base.unet.attn_processors.values()} == {AttnProcessor}
        pipe.enable_attention_slicing(1)
        sliced = generate(pipe, num_images_per_prompt=2, negative_guidance=method).images
    finally:
        base.unet.set_attn_processor(before)
    close(vanilla, expected)
    close(sliced, expected)


def test_blocks_choose_modules_by_name(base: Any, pipe: Any, generate: Any, with_processors: Any) -> None:
    arguments = {"num_images_per_prompt": 3, "num_inference_steps": 3}
    expected = with_processors(
        lambda: Naive(others, None, None), lambda: generate(base, **arguments).images, blocks="down_blocks.1"
    )
    method = NegToMe(blocks=r"^down_blocks\.1\.", **STRONG)
    close(generate(pipe, negative_guidance=method, **arguments).images, expected)


def test_default_blocks_leave_out_feature_maps_under_half_the_latents(
    make_unet: Any, make_pipeline: Any, generate: Any
) -> None:
    from negguide import from_pipe

    three_levels = {
        "block_out_channels": (8, 8, 8),
        "down_block_types": ("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    }
    pipe = from_pipe(make_pipeline(make_unet(**three_levels)))
    with pytest.raises(
        ValueError, match=r"blocks: .*at least 4 wide.*the largest is 2.*choose blocks yourself"
    ):
        generate(pipe, num_images_per_prompt=2, negative_guidance=NegToMe(**STRONG))
    chosen = generate(pipe, num_images_per_prompt=2, negative_guidance=NegToMe(blocks="up_blocks", **STRONG))
    assert not torch.equal(chosen.images, generate(pipe, num_images_per_prompt=2).images)


def test_images_that_are_not_square_have_grids_of_their_own(base: Any, pipe: Any, generate: Any) -> None:
    mask = torch.zeros(72, 104)  # latents of 9x13, halved to 5x7
    mask[:, :52] = 1
    arguments = {"height": 72, "width": 104, "num_images_per_prompt": 2}
    pushed = generate(pipe, negative_guidance=NegToMe(mask=mask, **STRONG), **arguments).images
    everywhere = generate(pipe, negative_guidance=NegToMe(**STRONG), **arguments).images
    plain = generate(base, **arguments).images
    assert pushed.shape == (2, 4, 9, 13)
    assert not torch.allclose(pushed, plain, atol=1e-3) and not torch.allclose(pushed, everywhere, atol=1e-3)


def test_centering_and_the_bound_of_a_push_reach_the_mathematics(base: Any, pipe: Any, generate: Any) -> None:
    def run(**changes: Any) -> torch.Tensor:
        method = NegToMe(**{**STRONG, **changes})
        return generate(pipe, num_images_per_prompt=2, negative_guidance=method).images

    plain, strong = generate(base, num_images_per_prompt=2).images, run()
    assert not torch.allclose(run(center=True), strong, atol=1e-3)
    bounded = [(run(max_push=bound) - plain).abs().max() for bound in (1e-6, 1e-3)]
    assert 0 < bounded[0] < bounded[1] < (strong - plain).abs().max()


@pytest.mark.parametrize("reference", ["others", "first"])
def test_groups_reach_across_prompts(
    base: Any, pipe: Any, generate: Any, with_processors: Any, reference: str
) -> None:
    prompts = ["a bear", "a cat in snow", "a red robot"]
    arguments = {"num_images_per_prompt": 2, "num_inference_steps": 2}
    for size in (2, 3, 6):
        method = NegToMe(reference, group_size=size, blocks=BLOCKS, **STRONG)
        grouped = generate(pipe, prompts, negative_guidance=method, **arguments).images

        def of_group(row: int, rows: int, size: int = size) -> list[int]:
            return (others if reference == "others" else first)(row, rows, size)

        expected = with_processors(
            lambda groups=of_group: Naive(groups, None, None),
            lambda: generate(base, prompts, **arguments).images,
        )
        close(grouped, expected)
        within = generate(
            pipe, prompts, negative_guidance=NegToMe(reference, blocks=BLOCKS, **STRONG), **arguments
        ).images
        assert torch.equal(grouped, within) == (size == 2)


def test_groups_that_do_not_go_up_in_the_call_are_refused(pipe: Any, generate: Any) -> None:
    for size, images, prompts in (
        (2, 1, ["a bear", "a cat", "a hat"]),
        (4, 3, ["a bear", "a cat"]),
        (2, 1, "a bear"),
    ):
        total = images * (len(prompts) if isinstance(prompts, list) else 1)
        says = (
            rf"group_size of NegToMe is {size}, and the call has {total} images?, which is no multiple of it"
        )
        with pytest.raises(ValueError, match=says):
            generate(pipe, prompts, num_images_per_prompt=images, negative_guidance=NegToMe(group_size=size))
    for size, error in ((1, ValueError), (0, ValueError), (2.0, TypeError), (True, TypeError)):
        with pytest.raises(error, match="group_size must be"):
            NegToMe(group_size=size)
    with pytest.raises(ValueError, match="group_size must be at least 2, with reference='others' or 'first'"):
        NegToMe(torch.rand(3, 8, 8), group_size=2)
