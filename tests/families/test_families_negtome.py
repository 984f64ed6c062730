"""NegToMe on every family."""

from collections.abc import Callable
from typing import Any, NamedTuple

import PIL.Image
import pytest
import torch
from tiny_pipelines import (
    NEGATIVES,
    OTHER,
    PROMPT,
    assert_same,
    assert_same_but_for_ties,
    denoiser,
    differ,
    taken,
)
from torch.nn.functional import normalize

import negguide.integration.runtime.tokens as tokens_module
from negguide import (
    NAG,
    Negative,
    NegToMe,
    PerpNeg,
    Timestep,
    apply_to_model,
    remove_from_model,
)
from negguide.integration.diagnostics.trace import TraceRecorder

Run = Callable[..., torch.Tensor]
WHOLE: dict[str, Any] = {"start": 0.0, "stop": 1.0}
STRONG: dict[str, Any] = {"alpha": 2.0, "threshold": 0.1, **WHOLE}


def noise_picture(seed: int = 0) -> PIL.Image.Image:
    pixels = torch.randint(
        0, 256, (64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )
    return PIL.Image.fromarray(pixels.numpy())


def half(pixels: int = 64) -> torch.Tensor:
    """A mask of the left half."""
    mask = torch.zeros(pixels, pixels)
    mask[:, : pixels // 2] = 1
    return mask


def test_others_and_first_push_at_the_default_blocks(base: Any, pipe: Any, run: Run, two: Any) -> None:
    plain = run(base, **two)
    results = [run(pipe, negative_guidance=NegToMe(r, **STRONG), **two) for r in ("others", "first")]
    for result in results:
        assert torch.isfinite(result).all() and result.shape == plain.shape
        assert differ(result[1], plain[1]) > 1e-3
    assert differ(results[0][0], plain[0]) > 1e-3
    # the first image is what the others are pushed from, and goes its own way
    assert_same(results[1][:1], plain[:1])


@pytest.mark.families("sd", "sdxl", "flux", "flux-kontext", "qwen-image")
def test_threshold_and_window_are_those_published_for_the_family_unless_told(
    pipe: Any, run: Run, tiny: Any, two: Any
) -> None:
    published = {"sd": (0.65, 800), "sdxl": (0.7, 800)}
    threshold, end = published.get(tiny.name, (0.65, 900))
    stop = Timestep(end)
    ours = pipe.family.with_defaults(NegToMe())
    assert (ours.alpha, ours.threshold, ours.start, ours.stop) == (0.9, threshold, 0.0, stop)
    assert pipe.family.with_defaults(NegToMe(threshold=0.1, stop=1.0)) == NegToMe(threshold=0.1, stop=1.0)
    arguments = {"steps": 10, "trace": True, "whole": True, **two}
    default, *_, trace = run(pipe, negative_guidance=NegToMe(), **arguments)
    told, *_, _ = run(pipe, negative_guidance=NegToMe(threshold=threshold, stop=stop), **arguments)
    assert torch.equal(default, told)
    inside = [step for step, t in enumerate(pipe.scheduler.timesteps.tolist()) if t >= end]
    assert (~trace.pushed[:, 0].isnan()).nonzero().flatten().tolist() == inside == [0, 1]


@pytest.mark.families("sd", "sdxl")
def test_a_unet_without_its_pipeline_has_the_same_values(base: Any, tiny: Any) -> None:
    apply_to_model(base.unet, NegToMe(), num_inference_steps=10)
    (hook,) = base.unet._diffusers_hook.hooks.values()
    remove_from_model(base.unet)
    assert (hook.method.threshold, hook.method.start, hook.method.stop) == (
        0.7 if tiny.name == "sdxl" else 0.65,
        0.0,
        Timestep(800),
    )


def test_a_reference_image_pushes_inside_the_masks(base: Any, pipe: Any, run: Run, tiny: Any) -> None:
    if not tiny.reference_images:
        return
    methods = [
        NegToMe(noise_picture(), **STRONG),
        NegToMe(noise_picture(), mask=half(), reference_mask=PIL.Image.new("L", (64, 64), 255), **STRONG),
        NegToMe([noise_picture(), noise_picture(1)], reference_mask=half().T.contiguous(), **STRONG),
    ]
    results = [run(base), *(run(pipe, negative_guidance=method) for method in methods)]
    for i, result in enumerate(results):
        assert torch.isfinite(result).all()
        assert all(differ(result, other) > 1e-4 for other in results[:i])
    nowhere = NegToMe(noise_picture(), mask=torch.zeros(64, 64), **STRONG)
    assert_same(run(pipe, negative_guidance=nowhere), results[0])


@pytest.mark.families(
    *("sd-controlnet", "sd-adapter", "sdxl-controlnet", "sd3-controlnet", "flux-controlnet"),
    *("qwen-image-controlnet", "sana-controlnet", "z-image-controlnet"),
)
def test_what_controls_the_images_does_not_reach_a_reference(
    pipe: Any, run: Run, tiny: Any, two: Any, monkeypatch: Any
) -> None:
    """A ControlNet answers to an image's noise: in a reference, that of the first image would reach the others."""
    push = NegToMe(noise_picture(), **STRONG)
    alone = [run(pipe, seed=i, negative_guidance=push) for i in range(2)]
    assert_same_but_for_ties(run(pipe, negative_guidance=push, **two), torch.cat(alone))

    references: list[torch.Tensor] = []
    own_push = NegToMe.push

    def keeping(self: Any, tokens: Any, reference: torch.Tensor, *args: Any) -> Any:
        references.append(reference.clone())
        return own_push(self, tokens, reference, *args)

    monkeypatch.setattr(NegToMe, "push", keeping)
    run(pipe, steps=1, negative_guidance=push)
    controlled = list(references)
    references.clear()
    scale = ("adapter" if tiny.name == "sd-adapter" else "controlnet") + "_conditioning_scale"
    several = isinstance(tiny.call().get(scale), list)
    run(pipe, steps=1, negative_guidance=push, **{scale: [0.0, 0.0] if several else 0.0})
    assert controlled
    for reference, uncontrolled in zip(controlled, references, strict=True):
        assert_same(reference, uncontrolled)


def test_without_an_image_encoder_reference_images_are_refused_at_once(
    base: Any, pipe: Any, run: Run, tiny: Any, monkeypatch: Any
) -> None:
    if tiny.reference_images:
        return

    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a model ran")

    for model in (denoiser(base), base.text_encoder, base.vae):
        monkeypatch.setitem(vars(model), "forward", never)
    with pytest.raises(
        ValueError,
        match=rf"reference holds images, .* for {pipe.family.name}; use reference='others' or 'first'",
    ):
        run(pipe, negative_guidance=NegToMe(noise_picture(), **STRONG))


def test_alpha_zero_is_the_base(base: Any, pipe: Any, run: Run, tiny: Any, two: Any) -> None:
    plain = run(base, **two)
    references = ["others", "first", *([noise_picture()] if tiny.reference_images else [])]
    for reference in references:
        off = NegToMe(reference, alpha=0.0, threshold=-1.0, **WHOLE)
        assert_same(run(pipe, negative_guidance=off, **two), plain)


def test_images_of_another_prompt_have_no_influence_and_a_second_call_gives_the_same(
    pipe: Any, run: Run, two: Any
) -> None:
    # compared bit for bit, in batches of one shape: rounding alone may turn a match into another
    method = NegToMe("others", **STRONG)
    results = [
        run(pipe, [PROMPT, mate], negative_guidance=method, **two)
        for mate in (OTHER, OTHER, "a bear in the forest")
    ]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0][:2], results[2][:2])
    assert differ(results[0][2:], results[2][2:]) > 1e-3


def test_it_goes_with_perp_neg_and_nag(pipe: Any, run: Run, tiny: Any, two: Any) -> None:
    perp_neg, nag = PerpNeg(Negative(NEGATIVES[0], **WHOLE)), NAG(NEGATIVES[1], scale=3.0, alpha=0.7)
    resting = [PerpNeg(Negative(NEGATIVES[0], weight=0, **WHOLE)), NAG(NEGATIVES[1], scale=1)]

    def guided(*methods: Any) -> torch.Tensor:
        return run(pipe, steps=1, negative_guidance=taken(tiny, *methods), **two)

    both = guided(perp_neg, nag)
    for reference in ("others", *([noise_picture()] if tiny.reference_images else [])):
        negtome, off = NegToMe(reference, **STRONG), NegToMe(reference, alpha=0.0, **WHOLE)
        alone, together = guided(negtome), guided(perp_neg, nag, negtome)
        assert_same(guided(*resting, negtome), alone)
        assert_same(guided(perp_neg, nag, off), both)
        assert torch.isfinite(together).all()
        assert differ(together, alone) > 1e-4 and differ(together, both) > 1e-4


def test_the_trace_counts_the_tokens_pushed(pipe: Any, run: Run, two: Any) -> None:
    methods = [NegToMe("first", alpha=0.5, threshold=-1.0, **WHOLE), NAG(NEGATIVES[0])]
    trace = run(pipe, negative_guidance=methods, trace=True, whole=True, **two)[-1]
    assert torch.equal(trace.pushed, torch.tensor([[0.0, 1.0]]).expand(len(trace.timesteps), 2))
    assert trace.changed.shape == trace.pushed.shape and (trace.changed > 0).all()
    assert set(trace.maps) == {"NegToMe", "NAG"}
    pushed, changed = trace.maps["NegToMe"], trace.maps["NAG"]
    assert pushed.shape == changed.shape and len(pushed) == 2
    assert pushed[0].max() == 0 and pushed[1].min() > 0 and changed.min() > 0


@pytest.mark.families("sd", "flux")
def test_the_share_pushed_is_the_mean_over_the_branches(
    pipe: Any, run: Run, two: Any, monkeypatch: Any
) -> None:
    seen: list[torch.Tensor] = []
    keep = TraceRecorder.record_pushed

    def keeping(self: TraceRecorder, fractions: torch.Tensor) -> None:
        seen.append(fractions)
        keep(self, fractions)

    monkeypatch.setattr(TraceRecorder, "record_pushed", keeping)
    method = NegToMe("others", alpha=0.5, threshold=0.7, **WHOLE)
    trace = run(pipe, negative_guidance=method, trace=True, whole=True, **two)[-1]
    shares = torch.cat(seen).reshape(2, 2, 2)
    assert differ(shares[:, 0], shares[:, 1]) > 1e-2
    torch.testing.assert_close(trace.pushed, shares.mean(dim=1))


def test_blocks_that_match_nothing_are_refused(pipe: Any, run: Run, two: Any) -> None:
    with pytest.raises(ValueError, match=r"blocks='no_such_block' is found in no self-attention module"):
        run(pipe, negative_guidance=NegToMe(blocks="no_such_block"), **two)


class Step(NamedTuple):
    """What a scheduler's step gives, by place and by name; a consistency model's has what it would end with too."""

    prev_sample: torch.Tensor
    denoised: torch.Tensor


@pytest.mark.main
def test_the_latents_of_a_reference_are_those_that_the_pipeline_would_decode(
    base: Any, pipe: Any, run: Run, tiny: Any, alike: dict[str, Any], monkeypatch: Any
) -> None:
    """What the pipeline does before decoding takes them back to what the autoencoder itself gives."""
    if not tiny.reference_images:
        return
    side = tiny.side
    pixels = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        frames = tiny.like.startswith(("qwen-image", "krea2"))
        # some see how opaque a picture is
        seen = (
            pixels if tiny.like != "qwen-image-21" else torch.cat([pixels, torch.ones(1, 1, side, side)], 1)
        )
        encoded = base.vae.encode(seen[:, :, None] if frames else seen)
        raw = encoded.latent if tiny.like == "sana" else encoded.latent_dist.mode()
        latents = pipe.family.encode_image(pipe, pixels)
    if tiny.like == "z-image":
        # the denoiser's have a frame axis
        latents = latents.squeeze(2)
    if tiny.forgets_shift:
        raw = raw - base.vae.config.shift_factor
    decoded: list[torch.Tensor] = []

    def decode(latents: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        decoded.append(latents)
        raise KeyboardInterrupt

    monkeypatch.setattr(base.vae, "decode", decode)
    monkeypatch.setattr(base.scheduler, "step", lambda *args, **kwargs: Step(latents, latents))
    with pytest.raises(KeyboardInterrupt):
        run(base, steps=1, output_type="pt", **alike)
    torch.testing.assert_close(decoded[0], raw, rtol=1e-4, atol=1e-5)


@pytest.mark.families("sd3", "flux", "chroma", "flux2-dev", "qwen-image", "z-image", "sana")
def test_references_are_on_the_straight_way_to_the_same_noise_at_every_step(
    pipe: Any, run: Run, monkeypatch: Any
) -> None:
    noised = tokens_module.noised
    seen: list[Any] = []

    def keeping(scheduler: Any, references: Any, timestep: torch.Tensor) -> torch.Tensor:
        seen.append((references, float(timestep), noised(scheduler, references, timestep)))
        return seen[-1][2]

    monkeypatch.setattr(tokens_module, "noised", keeping)
    run(pipe, steps=3, negative_guidance=NegToMe(noise_picture(), **STRONG))
    assert len(seen) == 3 and seen[0][1] > seen[1][1] > seen[2][1]
    for references, timestep, noisy in seen:
        sigma = timestep / 1000
        expected = (1 - sigma) * references.latents + sigma * references.noise
        torch.testing.assert_close(noisy, expected, rtol=0, atol=5e-3)


# modules, each with the tokens of the text before the image, and those behind it that are no part of the new image
PLACES: dict[str, list[tuple[str, int, int]]] = {
    "sd3": [("transformer_blocks.0.attn", 0, 0)],
    "cogview4": [("transformer_blocks.0.attn1", 0, 0)],
    "flux": [("single_transformer_blocks.0.attn", 10, 0)],
    "chroma": [("transformer_blocks.1.attn", 0, 0), ("single_transformer_blocks.0.attn", 10, 0)],
    "flux-kontext": [("transformer_blocks.0.attn", 0, 16), ("single_transformer_blocks.0.attn", 10, 16)],
    "flux2-dev-reference": [("transformer_blocks.0.attn", 0, 16)],
    "flux2-klein-reference": [("transformer_blocks.0.attn", 0, 16)],
    "z-image": [("layers.0.attention", 0, 16 + 32)],
    "lumina2": [("layers.0.attn", 8, 0)],
    "krea2": [("transformer_blocks.0.attn", 20, 0)],
    "hidream": [
        ("double_stream_blocks.0.block.attn1", 0, 0),
        ("single_stream_blocks.0.block.attn1", 0, 30),
    ],
    "qwen-image-edit": [("transformer_blocks.0.attn", 0, 16)],
    "qwen-image-21": [("transformer_blocks.0.attn", 13, 0)],
    # with 16 tokens of the picture
    "qwen-image-21-edit": [("transformer_blocks.1.attn", 34, 0)],
}


@pytest.mark.families(*PLACES)
def test_only_the_generated_images_tokens_are_pushed(
    base: Any, pipe: Any, run: Run, tiny: Any, two: Any
) -> None:
    for name, before, behind in PLACES[tiny.name]:
        seen: list[Any] = []
        module = denoiser(base).get_submodule(name)
        handle = module.register_forward_hook(lambda module, inputs, output, seen=seen: seen.append(output))
        try:
            run(base, steps=1, **two)
            method = NegToMe("first", blocks=f"^{name}$", **STRONG)
            run(pipe, steps=1, negative_guidance=method, **two)
        finally:
            handle.remove()
        plain, pushed = seen[0], seen[len(seen) // 2]
        if isinstance(plain, tuple):
            # image and text apart
            assert torch.equal(pushed[1], plain[1])
            plain, pushed = plain[0], pushed[0]
        tokens = slice(before, plain.shape[1] - behind)
        assert plain[:, tokens].shape[1] == 16
        expected = plain.clone()
        for branch in range(len(plain) // 2):
            reference, x = plain[2 * branch : 2 * branch + 2, tokens]
            cosine, match = (normalize(x, dim=-1) @ normalize(reference, dim=-1).T).max(dim=1)
            strength = STRONG["alpha"] * (cosine > STRONG["threshold"])[:, None]
            expected[2 * branch + 1, tokens] = x + strength * (x - reference[match])
        assert differ(expected, plain) > 1e-3
        torch.testing.assert_close(pushed, expected)
        assert torch.equal(pushed[:, :before], plain[:, :before])
        assert torch.equal(pushed[:, tokens.stop :], plain[:, tokens.stop :])
