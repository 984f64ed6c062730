"""Score distillation as algebra: predictions, gradients and losses that have them."""

from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from negguide.guidance.score_distillation import (
    PredictionType,
    clean_and_noise,
    distillation_gradient,
    distillation_weight,
    half_square,
    noised,
    prediction_target,
    with_gradient,
)

SHAPE = (2, 3, 4, 4)


def drawn(seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("kind", get_args(PredictionType))
def test_what_a_perfect_model_predicts_gives_back_clean_and_noise(kind: Any) -> None:
    clean, noise = drawn(0), drawn(1)
    alpha, sigma = (0.7, 0.3) if kind == "flow" else (0.6, 0.8)
    target = prediction_target(clean, noise, alpha, sigma, kind)
    found = clean_and_noise(target, noised(clean, noise, alpha, sigma), alpha, sigma, kind)
    torch.testing.assert_close(found, (clean, noise))


@pytest.mark.parametrize("kind", get_args(PredictionType))
def test_clean_and_noise_make_the_sample_whatever_is_predicted(kind: Any) -> None:
    sample, prediction = drawn(2), drawn(3)
    alpha, sigma = (0.7, 0.3) if kind == "flow" else (0.6, 0.8)
    clean, noise = clean_and_noise(prediction, sample, alpha, sigma, kind)
    torch.testing.assert_close(noised(clean, noise, alpha, sigma), sample)


def test_16_bit_predictions_are_taken_apart_in_float32() -> None:
    for dtype in (torch.float16, torch.bfloat16):
        clean, noise = clean_and_noise(drawn(0).to(dtype), drawn(1).to(dtype), 0.6, 0.8, "v_prediction")
        assert clean.dtype == noise.dtype == torch.float32


def test_the_gradient_is_the_weighted_difference_and_has_no_graph() -> None:
    predicted, noise = drawn(0).requires_grad_(), drawn(1)
    found = distillation_gradient(predicted, noise, 0.25)
    torch.testing.assert_close(found, 0.25 * (predicted.detach() - noise))
    assert not found.requires_grad


def test_weights() -> None:
    assert distillation_weight(0.5, "variance") == 0.25
    assert distillation_weight(0.5, "uniform") == 1.0
    with pytest.raises(ValueError, match="weighting must be 'variance' or 'uniform', got 'sds'"):
        distillation_weight(0.5, "sds")  # type: ignore[arg-type]


def test_the_loss_is_the_surrogate_in_value_and_in_gradient() -> None:
    values, gradient = drawn(0).requires_grad_(), drawn(1)
    surrogate = 0.5 * (values - (values - gradient).detach()).square().sum() / len(values)
    loss = with_gradient(values, gradient / len(values), half_square(gradient))
    torch.testing.assert_close(loss, surrogate)
    torch.testing.assert_close(torch.autograd.grad(loss, values), torch.autograd.grad(surrogate, values))


def test_it_goes_on_to_what_the_values_were_made_of() -> None:
    parameter, gradient = torch.tensor(2.0, dtype=torch.float64, requires_grad=True), drawn(1)
    base = drawn(0)
    (found,) = torch.autograd.grad(with_gradient(parameter * base, gradient, torch.tensor(1.0)), parameter)
    torch.testing.assert_close(found, (base * gradient).sum())


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the same shape, got \[2, 3, 4, 4\] and \[1, 3, 4, 4\]"):
        clean_and_noise(drawn(0), drawn(1)[:1], 0.6, 0.8, "epsilon")
    with pytest.raises(ValueError, match="kind must be one of epsilon, v_prediction, sample, flow, got 'v'"):
        clean_and_noise(drawn(0), drawn(1), 0.6, 0.8, "v")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="kind must be one of"):
        prediction_target(drawn(0), drawn(1), 0.6, 0.8, "v")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="prediction must be a floating point tensor"):
        clean_and_noise(torch.ones(SHAPE, dtype=torch.int64), drawn(1), 0.6, 0.8, "epsilon")
    with pytest.raises(ValueError, match="values and gradient must have the same shape"):
        with_gradient(drawn(0), drawn(1)[:1], torch.tensor(1.0))
