"""The nodes."""

from typing import Any, ClassVar

from . import attention, negtome, perp_neg, schedule
from .methods import NAG, ONG, VSF
from .negatives import AUTO, EITHER, TYPE, Negative, Negatives, as_mask, as_negatives
from .windows import STEPS, UNITS, Window

CATEGORY = "advanced/guidance/negguide"

_START = "When it begins: 0 is the beginning of sampling, 1 its end."
_STOP = "When it ends: 0 is the beginning of sampling, 1 its end."
_UNIT = (
    "What start and stop count. steps: fractions of the run's steps. noise: how much of the noise is gone, whatever "
    "the scheduler: 0.1 is timestep 900, or sigma 0.9 of a flow model."
)
_NEGATIVE = (
    "What to leave out: a conditioning from CLIP Text Encode, which acts with weight 1 in {window}; or one or more "
    "from the node Negative, each with a weight, a window and a mask of its own."
)


def _number(
    default: float, low: float, high: float, tooltip: str, step: float = 0.05
) -> tuple[str, dict[str, Any]]:
    return ("FLOAT", {"default": default, "min": low, "max": high, "step": step, "tooltip": tooltip})


def _window(stop: float, unit: str = STEPS) -> dict[str, Any]:
    return {
        "start": _number(0.0, 0.0, 1.0, _START, 0.01),
        "stop": _number(stop, 0.0, 1.0, _STOP, 0.01),
        "unit": (UNITS, {"default": unit, "tooltip": _UNIT}),
    }


_MODEL = ("MODEL", {"tooltip": "The model to sample with. Other branches of the graph keep it as it is."})
_MASK = (
    "MASK",
    {
        "tooltip": "Where in the image it acts; white is everywhere. Of any resolution, of the image's aspect; one for "
        "all images, or one for each."
    },
)


class NegativeNode:
    """A negative with weight, window and mask, and the ones before it."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "One thing to leave out of the image, with a weight, a window and a mask. Chain several by negatives."
    )
    FUNCTION = "make"
    RETURN_TYPES = (TYPE,)
    RETURN_NAMES = ("negatives",)
    OUTPUT_TOOLTIPS = ("Into the next Negative, or into Perp-Neg, NAG, ONG or VSF.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "conditioning": ("CONDITIONING", {"tooltip": "What to leave out, from CLIP Text Encode."}),
                "weight": _number(1.0, 0.0, 20.0, "How strongly it counts beside the others; 0 is off."),
                "automatic": (
                    "BOOLEAN",
                    {
                        "default": False,
                        "tooltip": "For Perp-Neg: weigh it at each step by how present it is in the image, whatever "
                        "weight says.",
                    },
                ),
                **_window(0.5),
                "stop": _number(0.5, 0.0, 1.0, f"{_STOP} 0.5 suits Perp-Neg, 1 NAG, ONG and VSF.", 0.01),
            },
            "optional": {
                "mask": _MASK,
                "negatives": (TYPE, {"tooltip": "The negatives before this one."}),
            },
        }

    def make(
        self,
        conditioning: Any,
        weight: float,
        automatic: bool,
        start: float,
        stop: float,
        unit: str,
        mask: Any = None,
        negatives: Any = None,
    ) -> tuple[Negatives]:
        before = tuple(negatives or ())
        window = Window(start, stop, unit, f"negative {len(before) + 1}")
        negative = Negative(conditioning, AUTO if automatic else weight, window, as_mask(mask))
        return (Negatives([*before, negative]),)


class _Patch:
    """What the nodes that patch a model have in common."""

    CATEGORY = CATEGORY
    FUNCTION = "patch"
    RETURN_TYPES = ("MODEL",)
    OUTPUT_TOOLTIPS = ("The model to sample with.",)


class PerpNegNode(_Patch):
    """Perp-Neg for any model with classifier-free guidance."""

    DESCRIPTION = (
        "Negatives that take away only what of them is perpendicular to the prompt, each image by itself, so that a "
        "negative cannot destroy what the prompt asks for. For cfg above 1, under any sampler. Each negative costs a "
        "further prediction while it acts."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": _MODEL,
                "negative": (EITHER, {"tooltip": _NEGATIVE.format(window="the first half of the steps")}),
                "joint": (
                    list(schedule.JOINT),
                    {
                        "default": "automatic",
                        "tooltip": "Several negatives that say similar things. off: each counts in full. on: each is "
                        "also made perpendicular to those before it. overlap: what they share counts once, as the "
                        "strongest takes it. automatic: overlap where a negative is automatic, else off.",
                    },
                ),
                "refresh_every": (
                    "INT",
                    {
                        "default": 1,
                        "min": 1,
                        "max": 100,
                        "tooltip": "Ask for the negatives' predictions only every so many steps; in between the last "
                        "ones count. Faster, and hardly different up to 3.",
                    },
                ),
                "auto_weight": _number(
                    4.5, 0.1, 20.0, "What automatic negatives weigh where they are present.", 0.1
                ),
                "adaptive": (
                    "BOOLEAN",
                    {
                        "default": False,
                        "tooltip": "Let a negative rest for the remaining steps, in each image by itself, once it does "
                        "less than half of what it did at most. Saves predictions, and leaves details alone.",
                    },
                ),
                "economy": (
                    "BOOLEAN",
                    {
                        "default": False,
                        "tooltip": "Make the run cost about what cfg alone costs: negatives take turns, and later the "
                        "negative prompt is predicted only now and then. With refresh_every 1 alone.",
                    },
                ),
                "guidance_stop": _number(
                    1.0,
                    0.01,
                    1.0,
                    "Where cfg ends, as a fraction of the steps: behind it the prompt's prediction alone counts, at "
                    "half the time of a step. 1 is never.",
                    0.01,
                ),
            }
        }

    def patch(
        self,
        model: Any,
        negative: Any,
        joint: str,
        refresh_every: int,
        auto_weight: float,
        adaptive: bool,
        economy: bool,
        guidance_stop: float,
    ) -> tuple[Any]:
        negatives = as_negatives(negative, Window(0.0, 0.5, STEPS, "negative 1"))
        options = schedule.Options(joint, auto_weight, refresh_every, adaptive, economy, guidance_stop)
        return (perp_neg.patch(model, negatives, options),)


class NegToMeNode(_Patch):
    """Negative token merging."""

    DESCRIPTION = (
        "Pushes the image's tokens away from the most similar ones of the batch's other images, for more diverse "
        "seeds, or of reference images, to stay away from them. Works with and without cfg."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": _MODEL,
                "reference": (
                    negtome.REFERENCES,
                    {
                        "default": negtome.OTHERS,
                        "tooltip": "others: each image away from all others of the batch. first: from the first "
                        "image, which stays as it is. Without meaning where a reference latent is connected.",
                    },
                ),
                "alpha": _number(0.9, 0.0, 10.0, "How strongly tokens are pushed."),
                "threshold": _number(
                    0.65,
                    -1.0,
                    1.0,
                    "Only tokens that have a match with a cosine above this; lower pushes more.",
                    0.01,
                ),
                **_window(0.2, "noise"),
                "max_push": _number(
                    0.0, 0.0, 10.0, "No token moves by more than so much of its length; 0 is no bound."
                ),
                "perpendicular": (
                    "BOOLEAN",
                    {
                        "default": False,
                        "tooltip": "Leave out of the push what lies along the token itself: change what it says, not "
                        "its length.",
                    },
                ),
            },
            "optional": {
                "reference_latent": (
                    "LATENT",
                    {
                        "tooltip": "Images to stay away from, of the size of the generated ones, from VAE Encode."
                    },
                ),
                "mask": _MASK,
                "reference_mask": (
                    "MASK",
                    {
                        "tooltip": "Which part of the references is to be kept away from; one for all, or one for each."
                    },
                ),
            },
        }

    def patch(
        self,
        model: Any,
        reference: str,
        alpha: float,
        threshold: float,
        start: float,
        stop: float,
        unit: str,
        max_push: float,
        perpendicular: bool,
        reference_latent: Any = None,
        mask: Any = None,
        reference_mask: Any = None,
    ) -> tuple[Any]:
        options = negtome.Options(
            reference,
            None if reference_latent is None else reference_latent["samples"],
            alpha,
            threshold,
            Window(start, stop, unit, "NegToMe"),
            mask,
            reference_mask,
            max_push,
            perpendicular,
        )
        return (negtome.patch(model, options),)


class _Attention(_Patch):
    """What the methods in attention have in common."""

    method: ClassVar[type[Any]]
    options: ClassVar[dict[str, Any]]

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        tooltip = _NEGATIVE.format(window="all steps")
        return {"required": {"model": _MODEL, "negative": (EITHER, {"tooltip": tooltip}), **cls.options}}

    def patch(self, model: Any, negative: Any, **options: Any) -> tuple[Any]:
        negatives = as_negatives(negative, Window(0.0, 1.0, STEPS, "negative 1"))
        return (attention.patch(model, negatives, self.method(**options)),)


class NAGNode(_Attention):
    """Normalized attention guidance."""

    DESCRIPTION = (
        "Normalized attention guidance: moves the attention of image over text away from the negative's. Needs no "
        "cfg: for few-step and guidance-distilled models, at little more than the time of a plain step."
    )
    method = NAG
    options: ClassVar[dict[str, Any]] = {
        "scale": _number(5.0, 1.0, 50.0, "How far away from the negative; 1 is off.", 0.1),
        "tau": _number(2.5, 0.05, 20.0, "How much longer than the prompt's own the result may be."),
        "alpha": _number(0.25, 0.0, 1.0, "How much of the result is used; 0 is off.", 0.01),
    }


class ONGNode(_Attention):
    """Orthogonal negative guidance."""

    DESCRIPTION = (
        "Orthogonal negative guidance: takes from the attention of image over text what the negative has and the "
        "prompt has not. Needs no cfg: for few-step and guidance-distilled models, at little more than the time of a "
        "plain step."
    )
    method = ONG
    options: ClassVar[dict[str, Any]] = {
        "scale": _number(1.0, 0.0, 20.0, "How much of it is taken away; 0 is off.")
    }


class VSFNode(_Attention):
    """Value sign flip."""

    DESCRIPTION = (
        "Value sign flip: the image attends to prompt and negative at once, with the negative's values turned round. "
        "Needs no cfg: for few-step and guidance-distilled models, at little more than the time of a plain step."
    )
    method = VSF
    options: ClassVar[dict[str, Any]] = {
        "scale": _number(3.0, 0.0, 20.0, "How strong the negative's values are."),
        "bias": _number(0.0, -10.0, 10.0, "Below 0 the negative draws less attention.", 0.1),
        "orthogonal": (
            "BOOLEAN",
            {
                "default": False,
                "tooltip": "Leave the prompt its attention, and take away only what the prompt has not.",
            },
        ),
    }


NODE_CLASS_MAPPINGS = {
    "NegguideNegative": NegativeNode,
    "NegguidePerpNeg": PerpNegNode,
    "NegguideNegToMe": NegToMeNode,
    "NegguideNAG": NAGNode,
    "NegguideONG": ONGNode,
    "NegguideVSF": VSFNode,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "NegguideNegative": "Negative",
    "NegguidePerpNeg": "Perp-Neg",
    "NegguideNegToMe": "NegToMe",
    "NegguideNAG": "NAG",
    "NegguideONG": "ONG",
    "NegguideVSF": "VSF",
}
