"""Which of diffusers' guiders Perp-Neg can go around, and how; the others with the reason why not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import diffusers.guiders
from diffusers.guiders import BaseGuidance

from negguide.methods import PerpNeg, Timestep

# Linear in the unconditional prediction u, with a factor that does not depend on the predictions: these get u'.
LINEAR = (
    "ClassifierFreeGuidance",
    "PerturbedAttentionGuidance",
    "SkipLayerGuidance",
    "SmoothedEnergyGuidance",
)
# These bend the guidance direction; they get c - S, for which Perp-Neg needs no factor.
BENDING = (
    "AdaptiveProjectedGuidance",
    "AdaptiveProjectedMixGuidance",
    "ClassifierFreeZeroStarGuidance",
    "FrequencyDecoupledGuidance",
    "MagnitudeAwareGuidance",
    "TangentialClassifierFreeGuidance",
)
REFUSED = {
    "AutoGuidance": "its second prediction is that of a weakened model and not of the empty prompt, so that there is "
    "no direction of the prompt for a negative to be perpendicular to",
    "LTX2Guidance": "the LTX-2 denoiser names its predictions itself and has no place for those of negatives",
    "PerpNegGuidance": "Perp-Neg inside Perp-Neg would subtract twice; put all negatives into one PerpNeg",
}


def check_guider(guidance: Any) -> None:
    """Refuse what Perp-Neg cannot go around.

    Raises:
        TypeError: it is no guider.
        ValueError: a guider for which Perp-Neg is not defined, or whose guidance is off.
    """
    name = type(guidance).__name__
    if not isinstance(guidance, BaseGuidance):
        raise TypeError(f"guidance must be a guider of diffusers, got {guidance!r}")
    # a subclass may compute anything
    if name not in (*LINEAR, *BENDING) or type(guidance) is not getattr(diffusers.guiders, name, None):
        reason = REFUSED.get(name, "what it computes from its predictions is not known here")
        raise ValueError(
            f"guidance={name} cannot be combined with Perp-Neg: {reason}. Those that can: "
            f"{', '.join((*LINEAR, *BENDING))}"
        )
    # made from nothing, the batches still show which predictions there are
    names = [getattr(batch, BaseGuidance._identifier_key) for batch in guidance.prepare_inputs({})]
    if guidance._enabled and "pred_uncond" not in names:
        off = "0.0" if guidance.use_original_formulation else "1.0"
        raise ValueError(
            f"guidance_scale of {name} is {off}, where it makes no unconditional prediction, and Perp-Neg needs one; "
            "use e.g. 5.0"
        )


def check_left_out(perp_neg: PerpNeg, guidance: Any) -> None:
    """Refuse to leave out predictions of a guider that counts on each of them.

    Raises:
        ValueError: naming the option.
    """
    if type(guidance).__name__ == "ClassifierFreeGuidance":
        return
    for name, given in (("economy", perp_neg.economy), ("guidance_stop", perp_neg.guidance_stop != 1)):
        if given:
            raise ValueError(
                f"{name}={getattr(perp_neg, name)!r} leaves out unconditional predictions, which "
                f"{type(guidance).__name__} does not do without; use ClassifierFreeGuidance, or leave it out"
            )


def check_overlap(perp_neg: PerpNeg, guidance: Any) -> None:
    """Refuse a negative whose window lies outside the guider's.

    Raises:
        ValueError: naming both windows.
    """
    for window in perp_neg.windows:
        start, stop = window.start, window.stop
        if isinstance(start, Timestep) or isinstance(stop, Timestep):
            # where that is in the run, only the run knows
            continue
        if max(start, guidance._start) >= min(stop, guidance._stop):
            raise ValueError(
                f"{window.owner} acts from {start} to {stop}, and {type(guidance).__name__} guides from "
                f"{guidance._start} to {guidance._stop}; the negative would never act"
            )


def guider_of_config(config: Mapping[str, Any]) -> Any:
    """The guider that a config holds.

    Raises:
        ValueError: it is none that Perp-Neg can go around.
    """
    name = config.get("_class_name")
    if name not in (*LINEAR, *BENDING):
        raise ValueError(
            f"_class_name of guidance must be one of {', '.join((*LINEAR, *BENDING))}, got {name!r}"
        )
    return getattr(diffusers.guiders, name).from_config(dict(config))
