"""Video models that take each frame for an image: negatives act in each frame, NegToMe over all of them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from tiny_pipelines import NEGATIVES, PROMPT, SCALE, assert_same, build, denoiser, differ
from torch.nn.functional import normalize

from negguide import NAG, ONG, VSF, Negative, NegToMe, from_pipe

Run = Callable[..., torch.Tensor]
ANIMATED = pytest.mark.families("animatediff", "animatediff-sdxl")
PUSH: dict[str, Any] = {"alpha": 2.0, "threshold": 0.1, "stop": 1.0}
BOTH = [PROMPT, PROMPT]


def left() -> torch.Tensor:
    mask = torch.zeros(64, 64)
    mask[:, :24] = 1
    return mask


# Perp-Neg's projection is over a whole video
METHODS: dict[str, Any] = {
    "NAG": NAG(NEGATIVES[0], Negative(NEGATIVES[1], mask=left()), scale=3.0, alpha=0.7),
    "ONG": ONG(NEGATIVES[0]),
    "VSF": VSF(Negative(NEGATIVES[0], stop=0.5), Negative(NEGATIVES[1], mask=left())),
}


@pytest.mark.families("animatediff")
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_without_motion_each_frame_is_the_image_that_stable_diffusion_makes(
    tiny: Any, run: Run, method: Any
) -> None:
    own = build(tiny)
    for name, module in own.unet.named_modules():
        if name.split(".")[-2:-1] == ["motion_modules"]:
            torch.nn.init.zeros_(module.proj_out.weight)
            torch.nn.init.zeros_(module.proj_out.bias)
    images = StableDiffusionPipeline(
        vae=own.vae,
        text_encoder=own.text_encoder,
        tokenizer=own.tokenizer,
        unet=_of_images(own.unet),
        scheduler=type(own.scheduler).from_config(own.scheduler.config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    images.set_progress_bar_config(disable=True)
    latents = torch.randn(2, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    prompts = [PROMPT, "a cat in the snow"]
    videos = run(from_pipe(own), prompts, negative_guidance=method, latents=latents)
    call = {"num_inference_steps": 2, "guidance_scale": SCALE, "output_type": "latent", "return_dict": False}
    for frame in range(3):
        expected = from_pipe(images)(
            prompts, latents=latents[:, :, frame].clone(), negative_guidance=method, **call
        )[0]
        assert_same(videos[:, :, frame], expected)
        plain = images(prompts, latents=latents[:, :, frame].clone(), **call)[0]
        assert differ(expected, plain) > 1e-3


def _of_images(unet: Any) -> Any:
    """The UNet whose blocks a motion UNet has taken over."""
    from tiny_unet_and_cross import UNET
    from tiny_unet_and_cross import unet as image_unet

    made = image_unet(UNET)
    missing = made.load_state_dict(unet.state_dict(), strict=False).missing_keys
    assert not missing
    return made.eval()


@ANIMATED
def test_negtome_pushes_tokens_away_from_those_of_all_frames_of_the_other_videos(
    base: Any, pipe: Any, run: Run
) -> None:
    plain = run(base, BOTH)
    others, first = (
        run(pipe, BOTH, negative_guidance=NegToMe(r, group_size=2, **PUSH)) for r in ("others", "first")
    )
    assert differ(others[0], plain[0]) > 1e-3 and differ(others[1], plain[1]) > 1e-3
    assert_same(first[:1], plain[:1])
    assert differ(first[1], plain[1]) > 1e-3

    name = next(
        name
        for name, module in denoiser(base).named_modules()
        if name.startswith("up") and name.endswith("attn1")
    )
    seen: list[torch.Tensor] = []
    handle = denoiser(base).get_submodule(name).register_forward_hook(lambda *given: seen.append(given[-1]))
    method = NegToMe("first", group_size=2, blocks=f"^{name}$", **PUSH)
    try:
        run(base, BOTH, steps=1)
        run(pipe, BOTH, steps=1, negative_guidance=method)
    finally:
        handle.remove()
    given, pushed = seen
    # uncond and cond, of two videos of three frames each
    expected = given.clone().unflatten(0, (2, 2, 3))
    for branch in expected:
        reference, tokens = (video.flatten(0, 1) for video in branch.clone())
        cosine, match = (normalize(tokens, dim=-1) @ normalize(reference, dim=-1).T).max(dim=1)
        strength = PUSH["alpha"] * (cosine > PUSH["threshold"])[:, None]
        branch[1] = (tokens + strength * (tokens - reference[match])).unflatten(0, (3, -1))
    assert differ(expected.flatten(0, 2), given) > 1e-3
    torch.testing.assert_close(pushed, expected.flatten(0, 2))


@ANIMATED
def test_motion_modules_are_no_place_where_text_is_met_or_tokens_are_pushed_unless_told(
    pipe: Any, run: Run
) -> None:
    method = [NAG(NEGATIVES[0]), NegToMe("first", group_size=2, **PUSH)]
    trace = run(pipe, BOTH, negative_guidance=method, trace=True, whole=True)[-1]
    assert trace.changed.shape == trace.pushed.shape == (2, 2)
    assert (trace.changed > 0).all() and trace.maps["NAG"].shape == trace.maps["NegToMe"].shape


@ANIMATED
def test_what_cannot_be_carried_is_refused(base: Any, pipe: Any, run: Run) -> None:
    def refused(says: str, **call: Any) -> None:
        with pytest.raises(ValueError, match=says):
            run(pipe, negative_guidance=NAG("a hat"), **{"prompt": "a bear", **call})

    refused("num_videos_per_prompt is 2, .* one video of each prompt.*several times", num_videos_per_prompt=2)
    refused("prompt is a dict", prompt={0: "a bear", 2: "a cat"})
    refused(
        "cross_attention_kwargs holds ip_adapter_masks", cross_attention_kwargs={"ip_adapter_masks": [left()]}
    )
    with pytest.raises(
        ValueError, match=r"blocks: up_.*motion_modules.* rows for 12 frames, .*blocks='attentions'"
    ):
        run(pipe, BOTH, negative_guidance=NegToMe(group_size=2, blocks="up_blocks.*motion_modules"))
    pipe.enable_free_init(num_iters=2)
    refused("FreeInit .*disable_free_init")
    pipe.disable_free_init()


@pytest.mark.families("animatediff")
def test_free_noise_and_prompts_that_change_over_the_frames_are_refused(tiny: Any, run: Run) -> None:
    base = build(tiny)
    pipe = from_pipe(base)

    def change(pipe: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        embeds = values["prompt_embeds"].clone()
        embeds[1] += 1
        return {"prompt_embeds": embeds}

    with pytest.raises(ValueError, match="the frames of a video have different prompts"):
        run(
            pipe,
            negative_guidance=NAG("a hat"),
            callback_on_step_end=change,
            callback_on_step_end_tensor_inputs=["prompt_embeds"],
        )
    pipe.enable_free_noise(context_length=2, context_stride=1)
    with pytest.raises(ValueError, match=r"FreeNoise .*disable_free_noise"):
        run(pipe, negative_guidance=NAG("a hat"))
