"""Perp-Neg: negatives in score space, in front of ComfyUI's own classifier-free guidance.

From the predictions of prompt, negative prompt and negatives the guided one is computed, and the negative prompt's is
replaced by the u' with which plain guidance gives just that: u' + g (c - u') . Whatever ComfyUI or another node does
with the two (RescaleCFG, a cfg function, a change after it) is left alone. A sampler that goes on from the negative
prompt's prediction (CFG++) gets u itself.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .guidance.score import perp_neg, uncond_for
from .negatives import AUTO, Negatives
from .runs import Run, around_run, name, predict, windows_of
from .schedule import JOINT, Options, Schedule, Unconditional

KEY = "Perp-Neg"
_LEAST_GUIDANCE = 1e-4
"""How far g must be from 1: u' moves by 1 / (g - 1), and closer than this float32 no longer carries it."""
_OTHER_NODE = (
    "Perp-Neg: economy and guidance_stop leave predictions out, and another node of this model computes them itself; "
    "take it out, or set economy off and guidance_stop to 1"
)
_EVALUATES = "sampler_calc_cond_batch_function"
_AFTER_GUIDANCE = "sampler_post_cfg_function"


def patch(model: Any, negatives: Negatives, options: Options) -> Any:
    """The model with Perp-Neg in front of its guidance.

    Raises:
        ValueError: a negative would never act, or another node computes the predictions.
    """
    from comfy.patcher_extension import WrappersMP

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
    patched.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, _step)
    return patched


def _evaluate(arguments: dict[str, Any]) -> list[Tensor]:
    """The predictions of prompt and negative prompt; what stands for the latter's at steps that need none."""
    from comfy.samplers import calc_cond_batch

    conds, sigma, options = arguments["conds"], arguments["sigma"], arguments["model_options"]
    run = _run(options)
    left_out = conds[1] is not None and run.leaves_out_uncond(sigma)
    c, u = calc_cond_batch(
        arguments["model"], [conds[0], None] if left_out else conds, arguments["input"], sigma, options
    )
    return [c, u if conds[1] is None else run.unconditional(u, c, sigma, left_out)]


def _step(executor: Any, x: Tensor, timestep: Tensor, model_options: Any = None, seed: Any = None) -> Any:
    """A step, in which what the sampler itself does behind guidance sees u in place of u'.

    CFG++ and its kin renoise with the negative prompt's prediction, and u' would have them do so with the negatives,
    too. What nodes do behind guidance is made for the two predictions that guidance had, and sees u'.
    """
    after = (model_options or {}).get(_AFTER_GUIDANCE, [])
    of_nodes = executor.class_obj.model_options.get(_AFTER_GUIDANCE, [])
    if len(after) > len(of_nodes):
        run = _run(model_options)
        seeing = [function if function in of_nodes else run.seeing_uncond(function) for function in after]
        model_options = {**model_options, _AFTER_GUIDANCE: seeing}
    return executor(x, timestep, model_options, seed)


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
        # whether the predictions that come next are those of `_evaluate`
        self.evaluated = False
        # u' - u of the last call; None where no negative acted
        self.moved: Tensor | None = None

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
        return self.uncond.left_out(self.steps.at(sigma))

    def unconditional(self, u: Tensor, c: Tensor, sigma: Tensor, left_out: bool) -> Tensor:
        """The prediction of the negative prompt, or what stands for it, before any other node sees them."""
        self.evaluated = True
        if left_out:
            return self.uncond.instead(c, sigma, self.steps.at(sigma))
        self.uncond.keep(u, c, sigma)
        return u

    def seeing_uncond(
        self, function: Callable[[dict[str, Any]], Tensor]
    ) -> Callable[[dict[str, Any]], Tensor]:
        """A function behind guidance that sees u."""

        def see(arguments: dict[str, Any]) -> Tensor:
            if self.moved is None:
                return function(arguments)
            return function({**arguments, "uncond_denoised": arguments["uncond_denoised"] - self.moved})

        return see

    def combine(self, arguments: dict[str, Any]) -> list[Tensor]:
        """The predictions with u' in place of u, where a negative acts.

        Raises:
            ValueError: there is no guidance, or not that of two predictions.
        """
        self.used, self.moved = True, None
        if len(arguments["conds"]) != 2:
            raise ValueError(
                f"Perp-Neg stands in front of guidance by a prompt and a negative prompt, and this guider has "
                f"{len(arguments['conds'])} predictions (PerpNegGuider computes Perp-Neg by itself); use KSampler or "
                "CFGGuider"
            )
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
        if self.options.leaves_out and not self.evaluated:
            raise ValueError(_OTHER_NODE)
        self.evaluated = False
        if not step.inside(self.schedule.guidance):
            # whatever nodes nearer to the checkpoint have made of the prompt's prediction, it alone counts
            return [out[0], out[0], *out[2:]]
        if not acting:
            return list(out)
        c, u = out[0].float(), out[1].float()
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
        instead = uncond_for(result, u, c, scale)
        self.moved = instead - u
        return [out[0], instead, *out[2:]]

    def _prediction(self, k: int, arguments: dict[str, Any]) -> Tensor:
        """Of negative k."""
        cond = self.guider.conds[name(KEY, k)]
        return predict(
            self, cond, arguments["input"], arguments["timestep"], arguments["model_options"]
        ).float()
