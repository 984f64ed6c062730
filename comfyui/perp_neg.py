"""Perp-Neg: negatives in score space, in front of ComfyUI's own classifier-free guidance.

From the predictions of prompt, negative prompt and negatives the guided one is computed, and the negative prompt's is
replaced by the u' with which plain guidance gives just that: u' + g (c - u') . Whatever ComfyUI or another node does
with the two (RescaleCFG, a cfg function, a change after it) is left alone.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .guidance.automatic import automatic_weight, presence
from .guidance.projection import perpendicular
from .guidance.score import perp_neg, uncond_for
from .negatives import AUTO, Negatives
from .runs import Run, around_run, name, norm, predict, windows_of
from .windows import Step

KEY = "Perp-Neg"
JOINT = {"automatic": None, "off": False, "on": True, "overlap": "overlap"}
_NOISE_GONE = 0.05
"""Up to which the image is noise: what a prediction says of it comes from the text alone."""
_LEAST_GUIDANCE = 1e-4
"""How far g must be from 1: u' moves by 1 / (g - 1), and closer than this float32 no longer carries it."""


@dataclass(frozen=True)
class Options:
    """Of the node, besides the negatives."""

    joint: str = "automatic"
    auto_weight: float = 4.5
    refresh_every: int = 1

    def __post_init__(self) -> None:
        if self.joint not in JOINT:
            raise ValueError(f"joint must be one of {', '.join(JOINT)}, got {self.joint!r}")
        if not self.auto_weight > 0:
            raise ValueError(f"auto_weight must be > 0, got {self.auto_weight}")
        if self.refresh_every < 1:
            raise ValueError(f"refresh_every must be at least 1, got {self.refresh_every}")


def patch(model: Any, negatives: Negatives, options: Options) -> Any:
    """The model with Perp-Neg in front of its guidance."""
    patched = model.clone()
    around_run(
        patched,
        KEY,
        lambda guider, sigmas, latent: PerpNegRun(guider, sigmas, latent, negatives, options),
        negatives,
        unused="Perp-Neg never acted: this guider does not let models change the predictions before guidance; use "
        "KSampler, or CFGGuider",
    )
    patched.set_model_sampler_pre_cfg_function(_before_guidance)
    return patched


def _before_guidance(arguments: dict[str, Any]) -> list[Tensor]:
    place = arguments["model_options"].get("transformer_options", {}).get(KEY)
    if place is None:
        raise ValueError(
            "Perp-Neg: this sampler runs without a guider of ComfyUI; use KSampler or SamplerCustomAdvanced"
        )
    result: list[Tensor] = place.run.combine(arguments)
    return result


class PerpNegRun(Run):
    """One run: what each negative was when it was last asked for."""

    def __init__(
        self, guider: Any, sigmas: Tensor, latent: Tensor, negatives: Negatives, options: Options
    ) -> None:
        super().__init__(guider, sigmas, latent)
        self.negatives = negatives
        self.options = options
        self.masks: Tensor | None = None
        joint = JOINT[options.joint]
        automatic = any(negative.weight == AUTO for negative in negatives)
        self.joint: Any = ("overlap" if automatic else False) if joint is None else joint
        # of each negative: the step of its last prediction, and perp(n - u, p) / |p| of that step
        self.evaluated: dict[int, int] = {}
        self.remainders: dict[int, Tensor] = {}
        # of those with weight "auto": [B] how present at most so far, and the last weights
        self.seen: dict[int, Tensor] = {}
        self.weights: dict[int, Tensor] = {}

    def prepare(self) -> None:
        self.steps.check(windows_of([negative for negative in self.negatives if negative.weight != 0]))
        masks = [self.mask(one.mask, f"negative {i}") for i, one in enumerate(self.negatives, 1)]
        if any(mask is not None for mask in masks):
            whole = torch.ones(1, 1, *self.latent_size)
            self.masks = torch.stack([whole if mask is None else mask for mask in masks])

    def combine(self, arguments: dict[str, Any]) -> list[Tensor]:
        """The predictions with u' in place of u, where a negative acts.

        Raises:
            ValueError: there is no guidance.
        """
        self.used = True
        out, sigma = arguments["conds_out"], arguments["sigma"]
        step = self.steps.at(sigma)
        acting = [
            k
            for k, negative in enumerate(self.negatives)
            if negative.weight != 0 and step.inside(negative.window)
        ]
        if not acting:
            return list(out)
        scale = float(arguments["cond_scale"])
        if arguments["conds"][1] is None or abs(scale - 1) < _LEAST_GUIDANCE:
            raise ValueError(
                f"Perp-Neg needs guidance and cfg is {scale:g}: raise cfg above 1, or use NAG, ONG or VSF, which act "
                "without it"
            )
        c, u = out[0].float(), out[1].float()
        stacked, weights = [], []
        for k in acting:
            prediction = self._prediction(k, arguments, step)
            whole = self._complete(k, u, c, prediction, step)
            stacked.append(whole)
            weights.append(self._weight(k, u, c, whole, prediction is not None, step))
        masks = None
        if self.masks is not None:
            # [K, 1, 1, (1,) h, w]
            masks = self.masks[acting].to(u)
            masks = masks if u.ndim == 4 else masks.unsqueeze(3)
        guided = perp_neg(
            u, c, torch.stack(stacked), torch.stack(weights), scale, joint=self.joint, masks=masks
        )
        return [out[0], uncond_for(guided, u, c, scale), *out[2:]]

    def _prediction(self, k: int, arguments: dict[str, Any], step: Step) -> Tensor | None:
        """Of negative k, or None where its last one is still good."""
        # a step of several calls (samplers of higher order) evaluates in all of them or in none
        if k in self.evaluated and (step.index - self.evaluated[k]) % self.options.refresh_every:
            return None
        cond = self.guider.conds[name(KEY, k)]
        return predict(
            self, cond, arguments["input"], arguments["timestep"], arguments["model_options"]
        ).float()

    def _complete(self, k: int, u: Tensor, c: Tensor, prediction: Tensor | None, step: Step) -> Tensor:
        """The prediction, or what stands for it: u + |p| q' with the q' of the last one."""
        if self.options.refresh_every == 1:
            assert prediction is not None
            return prediction
        length = norm(c - u)
        if prediction is None:
            return u + length * self.remainders[k]
        self.evaluated[k] = step.index
        # the rest lies along a prompt that will have turned since
        self.remainders[k] = perpendicular(prediction - u, c - u) / length
        return prediction

    def _weight(self, k: int, u: Tensor, c: Tensor, negative: Tensor, evaluated: bool, step: Step) -> Tensor:
        """[B]."""
        fixed = self.negatives[k].weight
        if fixed != AUTO:
            return u.new_full((len(u),), float(fixed))
        if evaluated:
            present, along = presence(u, c, negative[None])
            before = self.seen.get(k, torch.zeros_like(present[0]))
            weight, seen = automatic_weight(
                before, present[0], along[0], self.options.auto_weight, _is_noise(step)
            )
            self.weights[k], self.seen[k] = weight, seen
        return self.weights[k]


def _is_noise(step: Step) -> bool:
    noisy = sum(gone is not None and gone < _NOISE_GONE for gone in step.gone)
    return step.index < max(noisy, int(step.from_noise))
