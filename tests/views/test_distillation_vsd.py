"""Variational score distillation: the model of the renders learns them, and nothing else learns."""

import copy
from typing import Any

import pytest
import torch
from distilled_by_hand import PLACE, PROMPTS, SEED, distill, gradient, guided_by_hand, noisy_by_hand
from safetensors.torch import load, save
from torch import Tensor

from negguide.views import Descent, SolidFit
from negguide.views.lora import RenderLora, RenderModel

pytest.importorskip("peft")


def test_before_it_has_learnt_the_baseline_is_the_model_without_guidance(
    pipe: Any, by_hand: Any, images: Tensor
) -> None:
    found = gradient(images, distill(pipe, by_hand, loss="vsd")(images, 0.0, step=1))
    latents, sample, _, alpha, sigma = noisy_by_hand(pipe, by_hand, images)
    with torch.no_grad():
        guided = guided_by_hand(pipe, by_hand, sample, 1000 * PLACE)
        plain = torch.cat(
            [
                by_hand.predict(pipe, row, 1000 * PLACE, prompt)
                for row, prompt in zip(sample.split(1), PROMPTS, strict=True)
            ]
        )
        predicted, baseline = (by_hand.noise(m, sample, alpha, sigma) for m in (guided, plain))
    (expected,) = torch.autograd.grad(latents, images, sigma**2 * (predicted - baseline) / 2)
    assert float((found - expected).norm()) < 1e-3 * float(expected.norm())


def test_its_loss_falls_and_only_its_own_weights_change(pipe: Any, by_hand: Any, images: Tensor) -> None:
    model = getattr(pipe, "unet", None) or pipe.transformer
    before = {name: value.clone() for name, value in model.state_dict().items()}
    distiller = distill(pipe, by_hand, loss="vsd", lora=RenderLora(rank=4, learning_rate=3e-3))
    renders = distiller._renders
    assert renders is not None
    start = {name: p.detach().clone() for name, p in renders.parameters.items()}
    # the same step draws the same noise and the same place
    losses = [distiller(images, 0.0, step=1).lora_loss for _ in range(8)]
    assert losses[-1] is not None and losses[0] is not None and losses[-1] < 0.97 * losses[0]
    assert any(not torch.equal(p, start[name]) for name, p in renders.parameters.items())
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    theirs = {p.data_ptr() for p in model.parameters()}
    others = [p for name, p in renders.model.named_parameters() if name not in renders.parameters]
    assert others and all(p.data_ptr() in theirs and not p.requires_grad for p in others)


@pytest.mark.parametrize("how", ["active", "fused", "disabled"])
def test_it_begins_as_a_denoiser_with_adapters_and_leaves_that_as_it_is(sd: Any, how: str) -> None:
    from peft import LoraConfig

    unet = copy.deepcopy(sd.unet)
    config = LoraConfig(r=2, target_modules=["to_q", "to_v", "proj_in"], init_lora_weights=False)
    unet.add_adapter(config, "style")
    if how == "fused":
        unet.fuse_lora()
    if how == "disabled":
        unet.disable_lora()
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(1, unet.config.in_channels, 8, 8, generator=generator)
    text = torch.randn(1, 5, unet.config.cross_attention_dim, generator=generator)

    @torch.no_grad()
    def prediction(model: Any) -> Tensor:
        return model(sample, torch.tensor(500.0), text, return_dict=False)[0]

    expected = prediction(unet)
    renders = RenderModel(unet, RenderLora())
    torch.testing.assert_close(prediction(renders.model), expected)
    assert torch.equal(prediction(unet), expected)
    # it acts in each of its layers
    for part in ("to_q", "to_k", "to_v", "to_out"):
        own = [p for name, p in renders.parameters.items() if part in name and "lora_B" in name]
        with torch.no_grad():
            own[0].fill_(0.3)
            assert not torch.allclose(prediction(renders.model), expected, rtol=0, atol=1e-3), part
            own[0].zero_()


def test_the_renders_model_moves_the_gradient(sd: Any, images: Tensor) -> None:
    distiller = distill(sd, loss="vsd", lora=RenderLora(learning_rate=1e-2))
    first, second = (gradient(images, distiller(images, 0.0, step=1)) for _ in range(2))
    assert float((second - first).norm()) > 1e-3 * float(first.norm())


def test_a_run_is_resumed_with_its_state(sd: Any, images: Tensor) -> None:
    whole, resumed = (distill(sd, loss="vsd", lora=RenderLora(learning_rate=1e-2)) for _ in range(2))
    for step in range(2):
        whole(images, 0.0, step=step)
    resumed.load_state_dict(whole.state_dict())
    one, other = whole(images, 0.0, step=2), resumed(images, 0.0, step=2)
    assert torch.equal(one.loss, other.loss) and one.lora_loss == other.lora_loss
    fresh = distill(sd, loss="vsd", lora=RenderLora(learning_rate=1e-2))(images, 0.0, step=2)
    assert not torch.equal(fresh.loss, one.loss)


def test_a_stopped_solid_goes_on_with_what_was_learnt_of_its_renders(sd: Any) -> None:
    background = torch.full((3, 64, 64), 0.5)

    def fresh(**how: Any) -> SolidFit:
        return SolidFit(distill(sd, **how), background, Descent(seed=1))

    vsd: dict[str, Any] = {"loss": "vsd", "lora": RenderLora(learning_rate=1e-2)}
    whole, first, second = (fresh(**vsd) for _ in range(3))
    for _ in range(3):
        whole.round()
    for _ in range(2):
        first.round()
    state = load(save(first.state_dict()))
    second.load_state_dict(state)
    second.round()
    for one, other in zip(whole.solid.parameters(), second.solid.parameters(), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(ValueError, match="state holds a LoRA, which is not of loss='sds'"):
        fresh().load_state_dict(state)
    with pytest.raises(ValueError, match="another model or rank"):
        fresh(**vsd).load_state_dict(fresh().state_dict())


def test_the_state_of_another_run_is_refused(sd: Any) -> None:
    four, two = (distill(sd, loss="vsd", lora=RenderLora(rank=rank)) for rank in (4, 2))
    with pytest.raises(ValueError, match="another model or rank"):
        two.load_state_dict(four.state_dict())
    with pytest.raises(ValueError, match="state holds lora, which is not of loss='sds'"):
        distill(sd).load_state_dict(four.state_dict())
    assert distill(sd).state_dict() == {} and distill(sd).seed == SEED


def test_the_global_random_numbers_are_left_alone(sd: Any) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    distill(sd, loss="vsd")
    assert torch.equal(torch.get_rng_state(), before)
