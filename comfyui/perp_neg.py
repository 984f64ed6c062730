"""Perp-Neg: negatives in score space, in front of ComfyUI's own classifier-free guidance.

From the predictions of prompt, negative prompt and negatives the guided one is computed, and the negative prompt's is
replaced by the u' with which plain guidance gives just that: u' + g (c - u') . Whatever ComfyUI or another node does
with the two (RescaleCFG, a cfg function, a change after it) is left alone.
"""

from typing import Any

import torch
from torch import Tensor

from .guidance.score import perp_neg, uncond_for
from .negatives import AUTO, Negatives
from .runs import Run, around_run, name, predict, windows_of
from .schedule import JOINT, Options, Schedule, Unconditional
from .windows import Step

KEY = "Perp-Neg"
_LEAST_GUIDANCE = 1e-4
"""How far g must be from 1: u' moves by 1 / (g - 1), and closer than this float32 no longer carries it."""
_OTHER_NODE = (
    "Perp-Neg: economy and guidance_stop leave predictions out, and another node of this model computes them itself; "
    "take it out, or set economy off and guidance_stop to 1"
)
_EVALUATES = "sampler_calc_cond_batch_function"


def patch(model: Any, negatives: Negatives, options: Options) -> Any:
    """The model with Perp-Neg in front of its guidance.

    Raises:
        ValueError: a negative would never act, or another node computes the predictions.
    """
    options.check(negatives)
    patched = model.clone()
    around_run(
        patched,
        KEY,
        lambda guider, sigmas, latent: PerpNegRun(guider, sigmas, latent, negatives, options),
        negatives,
        unused="Perp-Neg never acted: this guider does not let models change the predictions before guidance; use "
        "KSampler, or CFGGuider",
    )
    if options.leaves_out:
        if _EVALUATES in patched.model_options:
            raise ValueError(_OTHER_NODE)
        patched.set_model_sampler_calc_cond_batch_function(_evaluate)
    patched.set_model_sampler_pre_cfg_function(_before_guidance)
    return patched


def _evaluate(arguments: dict[str, Any]) -> list[Tensor]:
    """The predictions of prompt and negative prompt, without that of the latter at steps that need none."""
    from comfy.samplers import calc_cond_batch

    conds, options = arguments["conds"], arguments["model_options"]
    if conds[1] is not None and _run(options).leaves_out_uncond(arguments["sigma"]):
        conds = [conds[0], None]
    result: list[Tensor] = calc_cond_batch(
        arguments["model"], conds, arguments["input"], arguments["sigma"], options
    )
    return result


def _before_guidance(arguments: dict[str, Any]) -> list[Tensor]:
    return _run(arguments["model_options"]).combine(arguments)


def _run(model_options: dict[str, Any]) -> "PerpNegRun":
    place = model_options.get("transformer_options", {}).get(KEY)
    if place is None:
        raise ValueError(
            "Perp-Neg: this sampler runs without a guider of ComfyUI; use KSampler or SamplerCustomAdvanced"
        )
    run: PerpNegRun = place.run
    return run


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
        self.schedule = Schedule(negatives, options)
        self.uncond = Unconditional(self.schedule, self.model)
        # whether the last call was made without a prediction of the negative prompt
        self.left_out = False

    def prepare(self) -> None:
        self.steps.check(windows_of([negative for negative in self.negatives if negative.weight != 0]))
        masks = [self.mask(one.mask, f"negative {i}") for i, one in enumerate(self.negatives, 1)]
        if any(mask is not None for mask in masks):
            whole = torch.ones(1, 1, *self.latent_size)
            images = max(1 if mask is None else len(mask) for mask in masks)
            self.masks = torch.stack(
                [(whole if mask is None else mask).expand(images, -1, -1, -1) for mask in masks]
            )

    def leaves_out_uncond(self, sigma: Tensor) -> bool:
        """Whether this step needs no prediction of the negative prompt."""
        self.left_out = self.uncond.left_out(self.steps.at(sigma))
        return self.left_out

    def combine(self, arguments: dict[str, Any]) -> list[Tensor]:
        """The predictions with u' in place of u, where a negative acts.

        Raises:
            ValueError: there is no guidance.
        """
        self.used = True
        out, sigma = arguments["conds_out"], arguments["sigma"]
        step = self.steps.at(sigma)
        acting = self.schedule.acting(step)
        scale = float(arguments["cond_scale"])
        guided = arguments["conds"][1] is not None and abs(scale - 1) >= _LEAST_GUIDANCE
        if acting and not guided:
            raise ValueError(
                f"Perp-Neg needs guidance and cfg is {scale:g}: raise cfg above 1, or use NAG, ONG or VSF, which act "
                "without it"
            )
        if not guided:
            return list(out)
        c = out[0].float()
        u = self._unconditional(out[1].float(), c, sigma, step)
        if not acting:
            return [out[0], u, *out[2:]] if self.left_out else list(out)
        stacked, weights = [], []
        for k in acting:
            prediction = self._prediction(k, arguments) if self.schedule.stale(k, step) else None
            whole = self.schedule.complete(k, u, c, prediction, step)
            stacked.append(whole)
            weights.append(self.schedule.weight(k, u, c, whole, prediction is not None, step))
        masks = None
        if self.masks is not None:
            # [K, n, 1, (1,) h, w]
            masks = self.masks[acting].to(u)
            masks = masks if u.ndim == 4 else masks.unsqueeze(3)
        result = perp_neg(
            u, c, torch.stack(stacked), torch.stack(weights), scale, joint=self.joint, masks=masks
        )
        return [out[0], uncond_for(result, u, c, scale), *out[2:]]

    def _unconditional(self, u: Tensor, c: Tensor, sigma: Tensor, step: Step) -> Tensor:
        """The prediction of the negative prompt, or what stands for it."""
        if not self.options.leaves_out:
            return u
        if self.uncond.left_out(step) != self.left_out:
            raise ValueError(_OTHER_NODE)
        if self.left_out:
            return self.uncond.instead(c, sigma, step)
        self.uncond.keep(u, c, sigma)
        return u

    def _prediction(self, k: int, arguments: dict[str, Any]) -> Tensor:
        """Of negative k."""
        cond = self.guider.conds[name(KEY, k)]
        return predict(
            self, cond, arguments["input"], arguments["timestep"], arguments["model_options"]
        ).float()
