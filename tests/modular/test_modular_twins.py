"""Further modular pipelines beside the classic ones of the same parts: what methods do in both."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import modular_more as more
import pytest
import torch
from diffusers import ClassifierFreeGuidance
from modular_more import PICTURE, PROMPT, SQUARE, VIDEO
from modular_more_parts import SCALE, krea2_encoders, pipeline, qwen_encoders

import negguide
from negguide import NAG, Negative, NegToMe, PerpNeg
from negguide.integration.modular.blocks import with_negative_guidance


def always(text: str, **changes: Any) -> Negative:
    return Negative(text, **{"start": 0.0, "stop": 1.0, **changes})


PERP_NEG = PerpNeg(always("black glasses", weight=1.5), always("a red robot", weight=0.5))
NAG_TWO = NAG(always("black glasses"), always("a red robot wearing a hat", weight=0.5), scale=5.0)


@dataclass(frozen=True)
class Twin:
    """Both pipelines of the same parts.

    Attributes:
        module, function: that make the classic one.
        blocks: of the modular one.
        both, classic: arguments of both calls, and of the classic one.
        guider: of the modular one; None where it asks none.
        change: what is done to the parts before.
    """

    module: str
    function: str
    blocks: str
    both: dict[str, Any]
    classic: dict[str, Any]
    guider: Any = field(default_factory=lambda: ClassifierFreeGuidance(SCALE))
    change: Callable[[dict[str, Any]], None] = lambda parts: None


def one_shift(parts: dict[str, Any]) -> None:
    """As the distilled Krea 2 has, whatever the size."""
    parts["scheduler"].register_to_config(base_shift=1.15, max_shift=1.15)


def one_model(parts: dict[str, Any]) -> None:
    parts["transformer_2"] = parts["transformer"]


KREA = {**SQUARE, "max_sequence_length": 20}
TWINS = {
    "krea2": Twin(
        "tiny_krea2",
        "krea2",
        "Krea2AutoBlocks",
        KREA,
        {"guidance_scale": SCALE - 1},
        ClassifierFreeGuidance(SCALE - 1, use_original_formulation=True),
    ),
    "krea2-turbo": Twin(
        "tiny_krea2", "krea2", "Krea2TurboAutoBlocks", KREA, {"guidance_scale": 0.0}, None, one_shift
    ),
    "wan-i2v": Twin(
        "tiny_wan_siblings",
        "wan_i2v",
        "WanImage2VideoAutoBlocks",
        {**VIDEO, **PICTURE, "max_sequence_length": 512},
        {"guidance_scale": SCALE},
    ),
    "wan-vace": Twin(
        "tiny_wan_siblings", "wan_vace", "Wan22VaceBlocks", VIDEO, {"guidance_scale": SCALE}, change=one_model
    ),
    "qwenimage-edit": Twin(
        "tiny_qwen_siblings",
        "qwen_image_edit",
        "QwenImageEditAutoBlocks",
        {**SQUARE, **PICTURE, "negative_prompt": ""},
        {"true_cfg_scale": SCALE},
    ),
    "qwenimage-edit-plus": Twin(
        "tiny_qwen_siblings",
        "qwen_image_edit_plus",
        "QwenImageEditPlusAutoBlocks",
        {**SQUARE, "image": [more.pil_picture(), more.pil_picture().rotate(90)], "negative_prompt": " "},
        {"true_cfg_scale": SCALE},
    ),
}


class Pair:
    """Both pipelines, and the latents that their scheduler made last."""

    def __init__(self, twin: Twin) -> None:
        krea2_encoders.KREA2_TEXT_ENCODER_SELECT_LAYERS = (1, 2, 4)
        siblings = importlib.import_module("tiny_qwen_siblings")
        qwen_encoders.calculate_dimensions = siblings.small_dimensions
        self.twin = twin
        self.base = getattr(importlib.import_module(twin.module), twin.function)()
        parts = {name: part for name, part in self.base.components.items() if part is not None}
        twin.change(parts)
        self.pipe = pipeline(twin.blocks, parts, guider=twin.guider)

    def _last(self, call: Callable[[], Any]) -> torch.Tensor:
        seen: list[torch.Tensor] = []
        scheduler = self.base.scheduler
        own = scheduler.step

        def step(*args: Any, **kwargs: Any) -> Any:
            result = own(*args, **kwargs)
            seen.append(result[0])
            return result

        scheduler.step = step
        try:
            call()
        finally:
            del scheduler.step
        return seen[-1]

    def arguments(self, **more: Any) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(0)
        return {"prompt": PROMPT, "num_inference_steps": 2, "generator": generator, **self.twin.both, **more}

    def modular(self, methods: Any = None, **more: Any) -> torch.Tensor:
        pipe = self.pipe if methods is None else with_negative_guidance(self.pipe, methods)
        return self._last(lambda: pipe(**self.arguments(**more), output=["latents"]))

    def classic(self, methods: Any = None, **more: Any) -> torch.Tensor:
        pipe, own = negguide.from_pipe(self.base), {**self.twin.classic, **more}
        return self._last(
            lambda: pipe(**self.arguments(**own), negative_guidance=methods, output_type="latent")
        )


_built: dict[str, Pair] = {}


@pytest.fixture(params=TWINS)
def pair(request: pytest.FixtureRequest) -> Pair:
    """Each pair in turn."""
    if request.param not in _built:
        _built[request.param] = Pair(TWINS[request.param])
    return _built[request.param]


def assert_same(one: torch.Tensor, other: torch.Tensor) -> None:
    """No value differs by more than 1e-4, in units of the largest one where that is above 1."""
    largest = max(1.0, float(other.abs().max()))
    torch.testing.assert_close(one, other, rtol=0.0, atol=1e-4 * largest)


def differ(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


@pytest.mark.main
def test_negatives_in_attention_do_what_they_do_in_the_classic_pipeline(pair: Pair) -> None:
    plain, guided = pair.modular(), pair.modular(NAG_TWO)
    assert_same(plain, pair.classic())
    assert differ(guided, plain) > 1e-3
    assert_same(guided, pair.classic(NAG_TWO))


def test_perp_neg_does_what_it_does_in_the_classic_pipeline(pair: Pair) -> None:
    if pair.twin.guider is None:
        with pytest.raises(ValueError, match="has no guider"):
            pair.modular(PERP_NEG)
        return
    guided = pair.modular(PERP_NEG)
    assert differ(guided, pair.modular()) > 1e-3
    assert_same(guided, pair.classic(PERP_NEG))
    both = [PERP_NEG, NAG_TWO]
    assert_same(pair.modular(both), pair.classic(both))


def test_images_of_one_prompt_push_each_other_as_in_the_classic_pipeline(pair: Pair) -> None:
    if "krea2" not in pair.twin.function:
        pytest.skip("one video, or one image to edit, of a call here")
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    two = {"num_images_per_prompt": 2, "generator": generators}
    method = NegToMe("others", stop=1.0, threshold=-1.0, alpha=0.5)
    guided = pair.modular(method, **two)
    for generator, seed in zip(generators, (0, 1), strict=True):
        generator.manual_seed(seed)
    assert_same(guided, pair.classic(method, **two))
