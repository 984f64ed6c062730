"""In 16 bit a guided result is at most twice as far from float32 as plain guidance at the same scale.

The model's own predictions are rounded too. Near a scale of 1 plain guidance has the rounding of one of them, and with
a negative of weight w that of three, sqrt(1 + 2 w^2) as much if all are alike: less than twice up to a weight of 1.2.
"""

import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import diffusers
import pytest
import tiny_joint
import tiny_unet_and_cross
import torch
from diffusers import ClassifierFreeGuidance
from torch import Tensor

from negguide import Negative, PerpNeg, PerpNegGuidance, from_pipe, with_perp_neg
from negguide.guidance import perp_neg

SCALES = (1.0002, 1.001, 1.01, 1.1, 1.5, 3.0, 7.5, 30.0)
OFF = 1.00005
PROMPT = "a bear wearing a hat"
WEIGHT = 0.75
NEGATIVE = PerpNeg(Negative("black glasses", weight=WEIGHT, stop=1.0))


class Classic:
    """A pipeline, in 16 bit and in float32 with the same rounded weights."""

    def __init__(self, build: Callable[[], Any], argument: str, dtype: torch.dtype, **call: Any) -> None:
        self.narrow = build().to(dtype=dtype)
        self.wide = copy.deepcopy(self.narrow).to(dtype=torch.float32)
        self.argument, self.call, self.dtype = argument, call, dtype

    def run(self, pipe: Any, scale: float, method: PerpNeg | None = None, **changes: Any) -> Tensor:
        """The latents of 2 images after one step."""
        arguments = {
            "prompt": PROMPT,
            "num_inference_steps": 1,
            "num_images_per_prompt": 2,
            "generator": [torch.Generator().manual_seed(seed) for seed in range(2)],
            "output_type": "latent",
            "return_dict": False,
            "height": 64,
            "width": 64,
            **self.call,
        }
        latents: Tensor = self._call(pipe, scale, method, {**arguments, **changes})
        return latents

    def _call(self, pipe: Any, scale: float, method: PerpNeg | None, arguments: dict[str, Any]) -> Any:
        guided: Any = from_pipe(pipe)
        return guided(**{self.argument: scale}, **arguments, negative_guidance=method)[0]


class Modular(Classic):
    """The same of modular SDXL, guided by `ClassifierFreeGuidance`, with the latents before they are decoded."""

    def _call(self, pipe: Any, scale: float, method: PerpNeg | None, arguments: dict[str, Any]) -> Any:
        blocks = diffusers.StableDiffusionXLAutoBlocks()
        blocks.sub_blocks.pop("decode")
        modular = blocks.init_pipeline()
        parts = pipe.components
        names = [name for name in modular.component_names if parts.get(name) is not None]
        guider = ClassifierFreeGuidance(
            guidance_scale=scale, guidance_rescale=arguments.pop("guidance_rescale", 0)
        )
        modular.update_components(**{name: parts[name] for name in names}, guider=guider)
        if method is not None:
            modular = with_perp_neg(modular, method)
        for name in ("output_type", "return_dict"):
            arguments.pop(name)
        return modular(**arguments, output=["latents"])["latents"]


TRUE: dict[str, Any] = {"negative_prompt": "", **tiny_joint.T5_TEXT}
KINDS: dict[str, tuple[type[Classic], Callable[[], Any], str, dict[str, Any]]] = {
    "one call for all branches": (Classic, tiny_unet_and_cross.sd, "guidance_scale", {}),
    "a call for each branch": (Classic, tiny_joint.flux, "true_cfg_scale", TRUE),
    "a norm of each token": (Classic, tiny_joint.qwen_image, "true_cfg_scale", {"negative_prompt": ""}),
    "upcasts": (
        Classic,
        tiny_joint.z_image,
        "guidance_scale",
        {"max_sequence_length": tiny_joint.CHAT_LENGTH},
    ),
    "modular": (Modular, tiny_unet_and_cross.sdxl, "guidance_scale", {}),
}
_built: dict[Any, Classic] = {}


@pytest.fixture(params=[torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def dtype(request: Any) -> torch.dtype:
    return request.param


@pytest.fixture(params=KINDS)
def kind(request: Any, dtype: torch.dtype) -> Iterator[Classic]:
    """Each way to be guided in turn."""
    diffusers.utils.logging.disable_progress_bar()
    if (request.param, dtype) not in _built:
        make, build, argument, call = KINDS[request.param]
        _built[request.param, dtype] = make(build, argument, dtype, **call)
    yield _built[request.param, dtype]
    diffusers.utils.logging.enable_progress_bar()


def distance(one: Tensor, other: Tensor) -> float:
    """|one - other| / |other|."""
    return float((one.double() - other.double()).norm() / other.double().norm())


def check(kind: Classic, scale: float, method: PerpNeg = NEGATIVE, **call: Any) -> float:
    """Asserts the text of this file for one scale, and returns what the negative does there."""
    expected, plain = (kind.run(kind.wide, scale, m, **call) for m in (method, None))
    guided = kind.run(kind.narrow, scale, method, **call)
    unguided = kind.run(kind.narrow, scale, **call)
    assert guided.dtype == unguided.dtype
    rounding = distance(unguided, plain)
    assert 0 < rounding < 0.2
    assert distance(guided, expected) <= 2 * rounding, scale
    return distance(expected, plain)


def shifted(kind: Classic, scale: float) -> float:
    """Z-Image's own scale is one less."""
    return scale - 1 if isinstance(kind.narrow, diffusers.ZImagePipeline) else scale


def test_rounding_is_at_most_twice_that_of_plain_guidance(kind: Classic) -> None:
    for scale in (1.0002, 1.01, 1.5, 7.5, 30.0):
        assert check(kind, shifted(kind, scale)) > 1e-3


def test_and_with_a_negative_equal_to_the_prompt(kind: Classic) -> None:
    for scale in (1.0002, 7.5):
        assert check(kind, shifted(kind, scale), PerpNeg(Negative(PROMPT, weight=3, stop=1.0))) < 1e-3


@pytest.mark.parametrize("kind", ["one call for all branches", "modular"], indirect=True)
def test_and_with_guidance_rescale(kind: Classic) -> None:
    for scale in (1.001, 1.1, 3.0):
        check(kind, scale, guidance_rescale=0.7)


@pytest.mark.parametrize("kind", ["one call for all branches", "a call for each branch"], indirect=True)
def test_and_of_float32_weights_inside_autocast(kind: Classic) -> None:
    for scale in (1.0002, 1.01, 7.5):
        expected, plain = (kind.run(kind.wide, scale, method) for method in (NEGATIVE, None))
        with torch.autocast("cpu", kind.dtype):
            guided, unguided = (kind.run(kind.wide, scale, method) for method in (NEGATIVE, None))
        assert guided.dtype == unguided.dtype
        assert distance(guided, expected) <= 2 * distance(unguided, plain), scale


def test_so_near_to_one_negatives_are_off_with_a_warning(kind: Classic) -> None:
    scale = shifted(kind, OFF)
    with pytest.warns(UserWarning, match=r"guidance_scale is 1\.00004\d+|guidance_scale is 1\.00005"):
        off = kind.run(kind.narrow, scale, NEGATIVE)
    assert torch.equal(off, kind.run(kind.narrow, scale))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        kind.run(kind.narrow, shifted(kind, 1.0002), NEGATIVE)
        kind.run(kind.narrow, scale)


@pytest.mark.parametrize("kind", [name for name in KINDS if name != "modular"], indirect=True)
def test_the_scheduler_is_given_the_formula_rounded_once(kind: Classic, monkeypatch: Any) -> None:
    """Of the predictions as they came out of the model, in double precision."""
    pipe = kind.narrow
    model = getattr(pipe, "unet", None) or pipe.transformer
    outputs: list[Tensor] = []
    given: list[Tensor] = []
    step = type(pipe.scheduler).step

    def keeping(self: Any, model_output: Tensor, *args: Any, **kwargs: Any) -> Any:
        given.append(model_output)
        return step(self, model_output, *args, **kwargs)

    def output_of(module: Any, args: Any, output: Any) -> None:
        first = output[0]
        outputs.extend((torch.stack(first) if isinstance(first, list) else first).double().split(2))

    monkeypatch.setattr(type(pipe.scheduler), "step", keeping)
    hook = model.register_forward_hook(output_of)
    try:
        for scale in SCALES:
            outputs.clear(), given.clear()
            kind.run(pipe, shifted(kind, scale), NEGATIVE)
            # the unconditional one is first in a batch, and last of several calls
            first, second, third = outputs
            u, c, n = (first, second, third) if hasattr(pipe, "unet") else (third, first, second)
            if isinstance(pipe, diffusers.ZImagePipeline):
                u, c, n = second, first, third
            expected = perp_neg(u, c, n[None], [WEIGHT], scale)
            if isinstance(pipe, diffusers.QwenImagePipeline):
                expected = expected * c.norm(dim=-1, keepdim=True) / expected.norm(dim=-1, keepdim=True)
            actual = given[0]
            if isinstance(pipe, diffusers.ZImagePipeline):
                # it turns the prediction round, and combines in float32
                expected, actual = -expected[:, :, 0], actual.double()
            else:
                assert actual.dtype == kind.dtype
            # half a unit of rounding for each number; near 1 float32 itself has 1e-7 / (g - 1) of the negative
            assert (
                distance(actual, expected)
                <= torch.finfo(kind.dtype).eps / 2 + 1e-3 * torch.finfo(kind.dtype).eps
            )
    finally:
        hook.remove()


@pytest.mark.parametrize("kind", [name for name in KINDS if name != "modular"], indirect=True)
def test_latents_have_the_plain_runs_dtype_at_every_step(kind: Classic) -> None:
    def dtypes(method: PerpNeg | None) -> list[torch.dtype]:
        seen: list[torch.dtype] = []

        def keep(pipe: Any, i: int, t: Any, values: dict[str, Any]) -> dict[str, Any]:
            seen.append(values["latents"].dtype)
            return values

        result = kind.run(kind.narrow, 1.5, method, num_inference_steps=4, callback_on_step_end=keep)
        return [*seen, result.dtype]

    plain = dtypes(None)
    assert len(plain) == 5
    middle = PerpNeg(Negative("black glasses", start=0.25, stop=0.75), refresh_every=2)
    assert dtypes(NEGATIVE) == dtypes(middle) == plain


@pytest.mark.parametrize("original", [False, True])
def test_the_guider_rounds_the_formula_once(dtype: torch.dtype, original: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    u, c, n = (torch.randn(2, 4, 8, 8, generator=generator).to(dtype) for _ in range(3))
    for scale in SCALES:
        own = scale - 1 if original else scale
        guidance = ClassifierFreeGuidance(guidance_scale=own, use_original_formulation=original)
        guider = PerpNegGuidance(NEGATIVE, guidance=guidance)
        guider.set_negatives([{"text": torch.zeros(1, 4, 8)}])
        guider.set_state(0, 4, torch.tensor(900))
        guider.prepare_inputs({"text": (torch.zeros(2, 4, 8), torch.ones(2, 4, 8))})
        output = guider.forward(c, u, pred_negative_0=n)
        assert output.pred.dtype == dtype
        expected = perp_neg(u.double(), c.double(), n.double()[None], [WEIGHT], scale)
        assert distance(output.pred, expected) <= 0.501 * torch.finfo(dtype).eps
        assert torch.equal(output.pred_cond, c) and torch.equal(output.pred_uncond, u)
