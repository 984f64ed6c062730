"""Score distillation as algebra: predictions to noise and clean estimate, gradients, and losses that have them.

Throughout a noisy latent is x_t = alpha x_0 + sigma eps: alpha^2 + sigma^2 = 1 for models with a discrete schedule
(alpha^2 the cumulated product of 1 - beta), and alpha = 1 - sigma for flow models.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from negguide.guidance.precision import reduction_dtype

PredictionType = Literal["epsilon", "v_prediction", "sample", "flow"]
"""What a denoiser predicts: eps; v = alpha eps - sigma x_0; x_0; or eps - x_0."""
Weighting = Literal["variance", "uniform"]
"""w(t) of a loss: sigma^2, or 1."""


def noised(clean: Tensor, noise: Tensor, alpha: float, sigma: float) -> Tensor:
    """x_t = alpha x_0 + sigma eps.

    Args:
        clean: x_0, [B, ...].
        noise: eps, of the same shape.
        alpha, sigma: the noise level, both from 0 to 1.
    """
    return alpha * clean + sigma * noise


def clean_and_noise(
    prediction: Tensor, sample: Tensor, alpha: float, sigma: float, kind: PredictionType
) -> tuple[Tensor, Tensor]:
    """The clean estimate and the noise that a prediction says.

    Formulas, for a prediction m of x_t:

    | kind | x_0 | eps |
    |---|---|---|
    | epsilon | (x_t - sigma m) / alpha | m |
    | v_prediction | alpha x_t - sigma m | alpha m + sigma x_t |
    | sample | m | (x_t - alpha m) / sigma |
    | flow (alpha = 1 - sigma) | x_t - sigma m | x_t + alpha m |

    Args:
        prediction: m, [B, ...].
        sample: x_t, of the same shape.
        alpha, sigma: the noise level of x_t; alpha > 0 for epsilon, sigma > 0 for sample.
        kind: what m is.

    Returns:
        (x_0, eps), in float32 (float64 for float64).

    Raises:
        ValueError: the shapes differ, or `kind` is none of its values.
        TypeError: integer tensors.

    Source: v: Progressive distillation, arXiv 2202.00512; flow: Rectified flow, arXiv 2209.03003.
    """
    m, x = _wide("prediction", prediction), _wide("sample", sample)
    if m.shape != x.shape:
        raise ValueError(
            f"prediction and sample must have the same shape, got {list(m.shape)} and {list(x.shape)}"
        )
    if kind == "epsilon":
        return (x - sigma * m) / alpha, m
    if kind == "v_prediction":
        return alpha * x - sigma * m, alpha * m + sigma * x
    if kind == "sample":
        return m, (x - alpha * m) / sigma
    if kind == "flow":
        return x - sigma * m, x + alpha * m
    raise ValueError(f"kind must be one of {', '.join(get_args(PredictionType))}, got {kind!r}")


def prediction_target(
    clean: Tensor, noise: Tensor, alpha: float, sigma: float, kind: PredictionType
) -> Tensor:
    """What a denoiser of this kind should have predicted for x_t = alpha x_0 + sigma eps: its training target.

    Args:
        clean: x_0, [B, ...].
        noise: eps, of the same shape.
        alpha, sigma: the noise level.
        kind: what the denoiser predicts.

    Returns:
        eps; alpha eps - sigma x_0; x_0; or eps - x_0.

    Raises:
        ValueError: `kind` is none of its values.
    """
    if kind == "epsilon":
        return noise
    if kind == "v_prediction":
        return alpha * noise - sigma * clean
    if kind == "sample":
        return clean
    if kind == "flow":
        return noise - clean
    raise ValueError(f"kind must be one of {', '.join(get_args(PredictionType))}, got {kind!r}")


def distillation_weight(sigma: float, weighting: Weighting) -> float:
    """w(t): sigma^2 as in DreamFusion and its latent form (1 - the cumulated alphas), or 1.

    Raises:
        ValueError: `weighting` is none of its values.
    """
    if weighting not in get_args(Weighting):
        raise ValueError(f"weighting must be 'variance' or 'uniform', got {weighting!r}")
    return sigma * sigma if weighting == "variance" else 1.0


def distillation_gradient(predicted: Tensor, baseline: Tensor, weight: float) -> Tensor:
    """The gradient of score distillation with respect to the latents.

    Formula: w(t) (eps_hat - eps). eps_hat is the noise that the guided model predicts. For SDS eps is the noise that
    was put on; for VSD it is what a model fine-tuned on the renders predicts, eps_phi. The denoiser's Jacobian is left
    out, as published.

    Args:
        predicted: eps_hat, [B, ...].
        baseline: eps or eps_phi, of the same shape.
        weight: w(t), see `distillation_weight`.

    Returns:
        [B, ...] in float32 (float64 for float64), detached.

    Raises:
        TypeError: integer tensors.

    Source: SDS: DreamFusion, arXiv 2209.14988, eq. 3; VSD: ProlificDreamer, arXiv 2305.16213, eq. 9.
    """
    return weight * (_wide("predicted", predicted) - _wide("baseline", baseline)).detach()


def image_loss(images: Tensor, target: Tensor, weight: float) -> Tensor:
    """Half the squared distance of images and their targets, mean over the batch.

    Formula: w(t)/2 sum |images - target|^2 / B. Its derivative by the images is w(t) (images - target) / B.

    Args:
        images: [B, ...].
        target: of the same shape, detached.
        weight: w(t), see `distillation_weight`.

    Returns:
        A scalar.

    Source: the pixel term of HiFA, arXiv 2305.18766.
    """
    return 0.5 * weight * (images - target).square().sum() / len(images)


def half_square(gradient: Tensor) -> Tensor:
    """Half the squared norm of a gradient, mean over the batch: the value of the loss that has this gradient.

    Formula: 1/B sum_b 1/2 |G_b|^2. It is 1/2 |x - (x - G).detach()|^2 / B, whose derivative by x is G / B.

    Args:
        gradient: G, [B, ...].

    Returns:
        A scalar, detached.
    """
    return 0.5 * gradient.detach().square().sum() / len(gradient)


def with_gradient(values: Tensor, gradient: Tensor, loss: Tensor) -> Tensor:
    """A scalar that equals `loss` and whose derivative by `values` is `gradient`.

    Formula: loss + <values - values.detach(), gradient>, of which the second term is 0. The gradient is thus worked out
    once, and what is behind it (an autoencoder, a denoiser) is in nobody's graph.

    Args:
        values: what is differentiated by, [B, ...].
        gradient: of the same shape, finite.
        loss: a scalar.

    Raises:
        ValueError: the shapes differ.
    """
    if values.shape != gradient.shape:
        raise ValueError(
            f"values and gradient must have the same shape, got {list(values.shape)} and {list(gradient.shape)}"
        )
    none = ((values - values.detach()).to(gradient.dtype) * gradient.detach()).sum()
    return loss.detach() + none


def _wide(name: str, tensor: Tensor) -> Tensor:
    wide: Tensor = tensor.to(torch.promote_types(tensor.dtype, reduction_dtype(name, tensor)))
    return wide
