"""Score distillation against its formulas written out, with the denoiser called by hand."""

from collections.abc import Callable
from typing import Any

import pytest
import tiny_unet_and_cross
import torch
from distilled_by_hand import (
    PLACE,
    PROMPTS,
    SCALE,
    SEED,
    assert_close,
    distill,
    gradient,
    guided_by_hand,
    noisy_by_hand,
    views,
)
from peft import LoraConfig
from torch import Tensor

from negguide import Negative, PerpNeg, Timestep, from_pipe
from negguide.toyworld import load_judge, load_pipeline
from negguide.views.distillation import ScoreDistillation
from negguide.views.schedule import Schedule, generator_of


def test_sds_is_the_published_gradient_on_predictions_by_hand(
    pipe: Any, by_hand: Any, images: Tensor
) -> None:
    found = gradient(images, distill(pipe, by_hand)(images, [0.0, 180.0], step=1))
    latents, sample, noise, alpha, sigma = noisy_by_hand(pipe, by_hand, images)
    with torch.no_grad():
        guided = guided_by_hand(pipe, by_hand, sample, 1000 * PLACE)
        by_latents = sigma**2 * (by_hand.noise(guided, sample, alpha, sigma) - noise)
    (expected,) = torch.autograd.grad(latents, images, by_latents / 2)
    assert_close(found, expected)


def test_the_negatives_of_one_image_do_not_touch_the_other(pipe: Any, by_hand: Any, images: Tensor) -> None:
    def only_first(azimuths: Any, elevations: Any) -> tuple[Any, ...]:
        return PROMPTS, [views(azimuths, elevations)[1][0], []]

    both = gradient(images, distill(pipe, by_hand, views=only_first)(images, 0.0, step=1))
    none = gradient(
        images, distill(pipe, by_hand, views=lambda a, e: (PROMPTS, [[], []]))(images, 0.0, step=1)
    )
    assert_close(both[1], none[1], 1e-4)
    assert float((both[0] - none[0]).norm()) > 1e-2 * float(none[0].norm())


def test_the_loss_has_the_value_of_the_surrogate(sd: Any, images: Tensor) -> None:
    uniform = distill(sd, weighting="uniform")(images, 0.0, step=1)
    variance = distill(sd)(images, 0.0, step=1)
    cumulated = float(sd.scheduler.alphas_cumprod[700])
    weight = 1 - cumulated
    torch.testing.assert_close(variance.loss, weight**2 * uniform.loss)
    torch.testing.assert_close(gradient(images, variance), weight * gradient(images, uniform))


def test_image_pulls_the_pixels_to_the_decoded_clean_estimate(
    pipe: Any, by_hand: Any, images: Tensor
) -> None:
    given = distill(pipe, by_hand, loss="image")(images, 0.0, step=1)
    with torch.no_grad():
        _, sample, _, alpha, sigma = noisy_by_hand(pipe, by_hand, images)
        guided = guided_by_hand(pipe, by_hand, sample, 1000 * PLACE)
        clean = (sample - sigma * by_hand.noise(guided, sample, alpha, sigma)) / alpha
        if clean.ndim == 3:
            clean = pipe._unpack_latents(clean, 64, 64, pipe.vae_scale_factor)
        decoded = pipe.vae.decode(
            clean / pipe.vae.config.scaling_factor + (pipe.vae.config.shift_factor or 0)
        )
    target = (decoded.sample / 2 + 0.5).clamp(0, 1)
    assert given.target is not None and not given.target.requires_grad
    assert_close(given.target, target)
    torch.testing.assert_close(gradient(images, given), (images - given.target).detach() / 2)


def test_denoise_goes_down_in_deterministic_steps(pipe: Any, by_hand: Any, images: Tensor) -> None:
    given = distill(pipe, by_hand, loss="denoise", denoise_steps=2)(images, 0.0, step=1)
    with torch.no_grad():
        _, sample, _, alpha, sigma = noisy_by_hand(pipe, by_hand, images)
        for timestep, following in ((700, 350), (350, None)):
            guided = guided_by_hand(pipe, by_hand, sample, float(timestep))
            noise = by_hand.noise(guided, sample, alpha, sigma)
            clean = (sample - sigma * noise) / alpha
            if following is not None:
                alpha, sigma = by_hand.levels(pipe, following)
                sample = alpha * clean + sigma * noise
        if clean.ndim == 3:
            clean = pipe._unpack_latents(clean, 64, 64, pipe.vae_scale_factor)
        decoded = pipe.vae.decode(
            clean / pipe.vae.config.scaling_factor + (pipe.vae.config.shift_factor or 0)
        )
    assert given.target is not None
    assert_close(given.target, (decoded.sample / 2 + 0.5).clamp(0, 1), 2e-3)
    torch.testing.assert_close(given.loss, (images - given.target).abs().mean())


def test_the_shipped_model_denoises_noise_to_what_is_asked_for() -> None:
    """The judge sees the kind that each image's prompt names in a target made of grey images and noise."""
    kinds = ["bear", "cat", "rabbit", "robot"]
    distiller = ScoreDistillation(
        load_pipeline(),
        "",
        views=lambda a, e: ([f"a {kind}" for kind in kinds], [[]] * 4),
        schedule=Schedule(1),
        loss="denoise",
        guidance_scale=5.0,
        denoise_steps=6,
    )
    given = distiller(torch.full((4, 3, 64, 64), 0.5), 0.0, step=0)
    assert given.target is not None
    pictures = distiller._predictor.pipe.image_processor.numpy_to_pil(
        given.target.permute(0, 2, 3, 1).numpy()
    )
    seen = [scene.characters[0].kind for scene in load_judge().read(pictures)]
    assert seen == kinds


# ---- Windows, trace, memory ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("negative", "acts"),
    [
        (Negative("black glasses"), True),
        (Negative("black glasses", stop=0.25), False),
        (Negative("black glasses", start=0.4, stop=1.0), False),
        (Negative("black glasses", start=0.25, stop=0.35), True),
        (Negative("black glasses", start=Timestep(800), stop=Timestep(600)), True),
        (Negative("black glasses", stop=Timestep(750)), False),
        (Negative("black glasses", weight=0.0, stop=1.0), False),
    ],
)
def test_a_window_is_a_place_on_the_noise_schedule(
    sd: Any, images: Tensor, negative: Negative, acts: bool
) -> None:
    """A fraction f is the timestep 1000 (1 - f), and the step is at t = 700."""
    without = distill(sd, views=None)(images, 0.0, step=1)
    given = distill(sd, views=None, negatives=[negative], trace=True)(images, 0.0, step=1)
    assert (given.trace is not None) is acts
    assert torch.equal(given.loss, without.loss) is not acts


def test_in_denoise_a_window_ends_on_the_way_down(sd: Any, images: Tensor) -> None:
    given = distill(
        sd, views=None, negatives=[Negative("a hat", stop=0.5)], loss="denoise", denoise_steps=3, trace=True
    )(images, 0.0, step=1)
    assert given.trace is not None
    assert [round(float(t)) for t in given.trace.timesteps] == [700, 467, 233]
    assert given.trace.cosine[:, 0, 0].isnan().tolist() == [False, True, True]


def test_the_trace_names_the_negatives_of_each_image(sd: Any, images: Tensor) -> None:
    trace = distill(sd, trace=True)(images, 0.0, step=1).trace
    assert trace is not None and trace.negatives == ("black glasses", "a red hat", "a robot")
    assert trace.cosine[0].isfinite().tolist() == [[True, False], [False, True], [False, True]]


def test_options_of_the_method_count(sd: Any, images: Tensor) -> None:
    twice = [Negative("a hat", stop=1.0), Negative("a red hat", stop=1.0)]
    plain = distill(sd, views=None, negatives=twice)(images, 0.0, step=1)
    joint = distill(sd, views=None, negatives=PerpNeg(*twice, joint=True))(images, 0.0, step=1)
    assert not torch.allclose(plain.loss, joint.loss, rtol=1e-4)


def test_a_classic_negative_prompt_of_each_view_is_the_pipelines_own(sd: Any, images: Tensor) -> None:
    def classic(azimuths: Any, elevations: Any) -> tuple[Any, ...]:
        return PROMPTS, [[], []], ["a hat", "glasses"]

    distiller = distill(sd, views=classic, weighting="uniform")
    found = gradient(images, distiller(images, 0.0, step=1))
    latents = sd.vae.encode(images * 2 - 1).latent_dist.mode() * sd.vae.config.scaling_factor
    noise = torch.randn(latents.shape, generator=generator_of(SEED, 1, "noise"))
    cumulated = sd.scheduler.alphas_cumprod[700]
    sample = (cumulated.sqrt() * latents + (1 - cumulated).sqrt() * noise).detach()

    def predict(texts: list[str]) -> Tensor:
        embeds, _ = sd.encode_prompt(texts, "cpu", 1, False)
        prediction: Tensor = sd.unet(sample, 700, encoder_hidden_states=embeds).sample
        return prediction

    with torch.no_grad():
        uncond, cond = predict(["a hat", "glasses"]), predict(PROMPTS)
        guided = uncond + SCALE * (cond - uncond)
    (expected,) = torch.autograd.grad(latents, images, (guided - noise) / 2)
    assert_close(found, expected)


def test_a_text_is_encoded_once(sd: Any, images: Tensor) -> None:
    calls: list[int] = []
    handle = sd.text_encoder.register_forward_hook(lambda *_: calls.append(1))
    try:
        distiller = distill(sd)
        first = distiller(images, 0.0, step=1)
        count = len(calls)
        again = distiller(images, 0.0, step=1)
        assert count > 0 and len(calls) == count
        assert torch.equal(first.loss, again.loss)
        distiller.views = lambda a, e: (["a robot", "a boy"], [[], []])
        assert not torch.equal(distiller(images, 0.0, step=1).loss, first.loss) and len(calls) > count
    finally:
        handle.remove()


def _trained(pipe: Any) -> None:
    with torch.no_grad():
        pipe.text_encoder.get_input_embeddings().weight[:100] *= 2


def _replaced(pipe: Any) -> None:
    torch.manual_seed(7)
    pipe.text_encoder = type(pipe.text_encoder)(pipe.text_encoder.config).eval()


def _adapted(pipe: Any) -> None:
    adapter = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    pipe.text_encoder.add_adapter(adapter, "other")


def _rescaled(pipe: Any) -> None:
    pipe.set_adapters(["other"], adapter_weights=[3.0])


def _disabled(pipe: Any) -> None:
    pipe.text_encoder.disable_adapters()


def _fused(pipe: Any) -> None:
    _adapted(pipe)
    pipe.fuse_lora(components=["text_encoder"])
    pipe.unload_lora_weights()


@pytest.mark.parametrize(
    ("before", "change"),
    [
        (None, _trained),
        (None, _replaced),
        (None, _adapted),
        (None, _fused),
        (_adapted, _rescaled),
        (_adapted, _disabled),
    ],
)
def test_a_text_is_encoded_again_after_its_encoder_has_changed(
    images: Tensor, before: Callable[[Any], None] | None, change: Callable[[Any], None]
) -> None:
    pipe = tiny_unet_and_cross.sd()
    if before is not None:
        before(pipe)
    distiller = distill(pipe)
    first = distiller(images, 0.0, step=1)
    change(pipe)
    found, right = distiller(images, 0.0, step=1), distill(pipe)(images, 0.0, step=1)
    assert torch.equal(found.loss, right.loss) and not torch.equal(found.loss, first.loss)


@pytest.mark.parametrize("schedule", [Schedule(10, 0.9, 0.1), Schedule(10, 0.9, 0.1, kind="random")])
def test_a_run_is_resumed_at_any_step(sd: Any, images: Tensor, schedule: Schedule) -> None:
    whole, resumed = distill(sd, schedule=schedule), distill(sd, schedule=schedule)
    run = [whole(images, 0.0, step=step) for step in range(3)]
    again = resumed(images, 0.0, step=2)
    assert again.noise_level == run[2].noise_level and torch.equal(again.loss, run[2].loss)
    assert len({given.noise_level for given in run}) == 3
    assert not torch.equal(distill(sd, schedule=schedule, seed=4)(images, 0.0, step=2).loss, again.loss)


# ---- What is left as it was -----------------------------------------------------------------------------------------


def state(pipe: Any) -> dict[str, Any]:
    """Every attribute of the pipeline, of its scheduler and of its modules."""
    modules = {
        name: (sorted(vars(module)), list(module._modules), id(getattr(module, "processor", None)))
        for part in ("unet", "vae", "text_encoder")
        for name, module in getattr(pipe, part).named_modules(prefix=part)
    }
    flags = [p.requires_grad for part in ("unet", "vae") for p in getattr(pipe, part).parameters()]
    return {
        "pipe": {name: id(value) for name, value in vars(pipe).items()},
        "scheduler": {name: id(value) for name, value in vars(pipe.scheduler).items()},
        "modules": modules,
        "flags": flags,
    }


@pytest.mark.parametrize("loss", ["sds", "image", "denoise", "vsd"])
@pytest.mark.parametrize("guided", [False, True])
def test_the_pipeline_is_left_as_it_was_also_by_a_failure(
    sd: Any, images: Tensor, loss: Any, guided: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = from_pipe(sd) if guided else sd
    distiller = distill(given, loss=loss)
    before = state(given)
    distiller(images, 0.0, step=1).loss.backward()
    assert state(given) == before
    assert all(p.grad is None for part in (sd.unet, sd.vae, sd.text_encoder) for p in part.parameters())

    def fails(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(type(sd.unet.conv_in), "forward", fails)
        with pytest.raises(RuntimeError, match="out of memory"):
            distiller(images, 0.0, step=1)
    assert state(given) == before
