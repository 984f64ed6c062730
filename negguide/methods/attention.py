"""Negatives in attention space: NAG, ONG and VSF, for few-step and guidance-distilled models too.

They need no second prediction, so they work at guidance_scale 1; with classifier-free guidance they act on the
conditional prediction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from negguide.methods.score import Negative, NegativesMethod
from negguide.methods.values import non_negative, number


@dataclass(frozen=True, eq=False, init=False, repr=False)
class NAG(NegativesMethod):
    """Normalized attention guidance (arXiv 2505.21179): extrapolate attention away from the negatives.

    With z+ and z_k the attention outputs for the prompt and for negative k, per token:
    z = z+ + (scale - 1) sum_k weight_k (z+ - z_k); |z|_1 is capped at tau |z+|_1; the result is
    alpha z + (1 - alpha) z+. One negative of weight 1 is the published scale z+ - (scale - 1) z_1.

    Args:
        negatives: one or more `Negative` or plain strings.
        scale: extrapolation, >= 1; 1 is off.
        tau: largest |z|_1 as a multiple of |z+|_1, > 0.
        alpha: share of the extrapolated output, in [0, 1]; 0 is off.

    The defaults are the ones published for FLUX.1.

    Raises:
        TypeError, ValueError: naming the argument, its value and what would be right.
    """

    default_stop = 1.0

    negatives: tuple[Negative, ...]
    scale: float
    tau: float
    alpha: float

    def __init__(
        self, *negatives: Negative | str, scale: float = 5.0, tau: float = 2.5, alpha: float = 0.25
    ) -> None:
        self._hold(negatives)
        scale, tau, alpha = number("scale", scale), number("tau", tau), number("alpha", alpha)
        if not (math.isfinite(scale) and scale >= 1):
            raise ValueError(f"scale must be finite and >= 1 (1 is off), got {scale}")
        if not (math.isfinite(tau) and tau > 0):
            raise ValueError(f"tau must be finite and > 0, got {tau}")
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must be in [0, 1], got {alpha}")
        for name, value in (("scale", scale), ("tau", tau), ("alpha", alpha)):
            object.__setattr__(self, name, value)


@dataclass(frozen=True, eq=False, init=False, repr=False)
class ONG(NegativesMethod):
    """Orthogonal negative guidance (arXiv 2605.29390): Perp-Neg's projection on attention outputs.

    With z+ and z_k the attention outputs for the prompt and for negative k, per token:
    z+ - scale sum_k weight_k (z_k - <z_k, z+> / |z+|^2 z+).

    Args:
        negatives: one or more `Negative` or plain strings.
        scale: strength, >= 0; 0 is off.

    Raises:
        TypeError, ValueError: naming the argument, its value and what would be right.
    """

    default_stop = 1.0

    negatives: tuple[Negative, ...]
    scale: float

    def __init__(self, *negatives: Negative | str, scale: float = 1.0) -> None:
        self._hold(negatives)
        object.__setattr__(self, "scale", non_negative("scale", scale))


@dataclass(frozen=True, eq=False, init=False, repr=False)
class VSF(NegativesMethod):
    """Value sign flip (arXiv 2508.10931): attend to prompt and negatives at once, the negatives' values turned round.

    softmax(Q [K+; K_1; ..; K_n] / sqrt(D) + [0; bias; ..]) [V+; -scale weight_1 V_1; ..].

    It is off only without a negative: at scale 0 the negatives still draw attention away from the prompt.

    Args:
        negatives: one or more `Negative` or plain strings.
        scale: strength of the flipped values, >= 0.
        bias: added to the logits of the negatives' keys; below 0 they draw less attention.

    Raises:
        TypeError, ValueError: naming the argument, its value and what would be right.
    """

    default_stop = 1.0

    negatives: tuple[Negative, ...]
    scale: float
    bias: float

    def __init__(self, *negatives: Negative | str, scale: float = 3.0, bias: float = 0.0) -> None:
        self._hold(negatives)
        object.__setattr__(self, "scale", non_negative("scale", scale))
        bias = number("bias", bias)
        if not math.isfinite(bias):
            raise ValueError(f"bias must be finite, got {bias}")
        object.__setattr__(self, "bias", bias)


AttentionMethod = NAG | ONG | VSF
