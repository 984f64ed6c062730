"""What distillation refuses, before any model runs."""

from typing import Any

import pytest
import torch
from diffusers import (
    EDMEulerScheduler,
    LatentConsistencyModelPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
)
from torch import Tensor

from negguide import Negative, PerpNeg
from negguide.views.distillation import ScoreDistillation
from negguide.views.lora import RenderLora
from negguide.views.schedule import Schedule, generator_of

TEN = Schedule(10)


@pytest.fixture(autouse=True)
def no_model_runs(sd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a model ran")

    for part in ("unet", "vae", "text_encoder"):
        monkeypatch.setattr(type(getattr(sd, part)), "forward", fails)
    monkeypatch.setattr(type(sd.vae), "encode", fails)


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"loss": "sdss"}, ValueError, "loss must be one of 'sds', 'image', 'denoise', 'vsd', got 'sdss'"),
        ({"guidance_scale": 1.0}, ValueError, "guidance_scale must be a finite number > 1, got 1.0"),
        ({"guidance_scale": float("nan")}, ValueError, "guidance_scale must be a finite number > 1, got nan"),
        ({"guidance_scale": float("inf")}, ValueError, "guidance_scale must be a finite number > 1, got inf"),
        ({"guidance_scale": "7"}, TypeError, "guidance_scale must be a number, got '7'"),
        ({"weighting": "sds"}, ValueError, "weighting must be 'variance' or 'uniform', got 'sds'"),
        (
            {"weighting": "uniform", "loss": "denoise"},
            ValueError,
            "weighting is for losses at one noise level",
        ),
        ({"lora": RenderLora()}, ValueError, "lora is for loss='vsd', got it with loss='sds'"),
        ({"schedule": 1000}, TypeError, r"schedule must be a Schedule, e.g. Schedule\(1000\), got 1000"),
        ({"views": "front"}, TypeError, "views must be a function of azimuths and elevations"),
        ({"prompt": ["a bear"]}, TypeError, "prompt must be a string"),
        ({"negatives": "a hat"}, TypeError, "negatives must be a list of Negative objects or strings"),
        (
            {"negatives": PerpNeg("a hat", refresh_every=2)},
            ValueError,
            "refresh_every of negatives is 2, which looks from one step",
        ),
        ({"negatives": PerpNeg("a hat", economy=True)}, ValueError, "economy of negatives is True"),
        (
            {"negatives": [Negative("a hat", prompt_index=1)]},
            ValueError,
            r"prompt_index of Negative\('a hat'\) is 1, and which image",
        ),
        ({"loss": "denoise", "denoise_steps": 0}, ValueError, "denoise_steps must be at least 1, got 0"),
        ({"denoise_steps": 2}, ValueError, "denoise_steps is for loss='denoise', got it with loss='sds'"),
        (
            {"negatives": [Negative("a hat", weight="auto")]},
            ValueError,
            "is 'auto', which looks from one step",
        ),
        ({"seed": -1}, ValueError, "seed must be at least 0, got -1"),
        (
            {"arguments": {"latents": None}},
            TypeError,
            "arguments holds 'latents', which is set by distillation",
        ),
        ({"arguments": {"max_length": 1}}, TypeError, "arguments holds 'max_length', which is unknown"),
    ],
)
def test_settings(sd: Any, arguments: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        ScoreDistillation(sd, **{"prompt": "a bear", "schedule": TEN, **arguments})


def test_a_negative_weight_is_refused_by_the_negative() -> None:
    with pytest.raises(ValueError, match="weight must be a finite number >= 0, got -2"):
        Negative("a bear, front view", weight=-2.0)


@pytest.mark.parametrize(
    ("images", "error", "says"),
    [
        (torch.rand(3, 64, 64), ValueError, r"tensor \[B, 3, H, W\] in \[0, 1\], got shape \[3, 64, 64\]"),
        (torch.rand(1, 4, 64, 64), ValueError, r"got shape \[1, 4, 64, 64\]"),
        (torch.rand(0, 3, 64, 64), ValueError, r"got shape \[0, 3, 64, 64\]"),
        (
            torch.rand(1, 3, 64, 60),
            ValueError,
            "images are 64x60 pixels, and .* whole patches; give e.g. 64x56",
        ),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), TypeError, "got dtype torch.uint8"),
        (torch.rand(1, 3, 64, 64) * 2 - 1, ValueError, "got values from -"),
        (torch.full((1, 3, 64, 64), float("nan")), ValueError, "got values from nan to nan"),
        ("image.png", TypeError, "got str"),
    ],
)
def test_images(sd: Any, images: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        ScoreDistillation(sd, "a bear", schedule=TEN)(images, 0.0, step=0)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        ({"azimuth": float("nan")}, ValueError, "azimuth must be finite, in degrees, got nan"),
        (
            {"azimuth": [0.0, 1.0, 2.0]},
            ValueError,
            "azimuth must be one number, or 2, one for each image, got 3",
        ),
        ({"azimuth": "front"}, TypeError, "azimuth must be a number, got 'front'"),
        ({"elevation": torch.tensor([0.0, float("inf")])}, ValueError, "elevation must be finite"),
        ({"step": 10}, ValueError, "step must be from 0 to 9, one of the schedule's, got 10"),
        ({"step": -1}, ValueError, "step must be at least 0, got -1"),
        ({"step": 0.5}, TypeError, "step must be a whole number, got 0.5"),
    ],
)
def test_places(sd: Any, images: Tensor, call: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        ScoreDistillation(sd, "a bear", schedule=TEN)(images, **{"azimuth": 0.0, "step": 0, **call})


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ((["a bear"], [[], []]), "views must give a text, .* for each of the 2 images, got prompts"),
        ((["a bear", None], [[], []]), "got prompts"),
        ((["a bear", "a cat"], [[]]), "got 1 lists of negatives"),
        ((["a bear", "a cat"], [[], ["a hat"]]), r"got 'a hat' among the negatives; give Negative"),
        (
            (["a bear", "a cat"], [[], []], ["a hat"]),
            r"negative_prompts must be as many texts, got \['a hat'\]",
        ),
        (("ab", [[], []]), "got prompts 'ab'"),
        ((["a", "b"], [Negative("a hat"), Negative("a hat")]), "in place of a list"),
        ((["a", "b"], [[], []], "cd"), "negative_prompts must be as many texts, got 'cd'"),
        ((["a", "b"], [[Negative("a hat", weight="auto")], []]), "is 'auto'"),
    ],
)
def test_views(sd: Any, images: Tensor, given: tuple[Any, ...], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ScoreDistillation(sd, "", schedule=TEN, views=lambda a, e: given)(images, 0.0, step=0)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"start": 0.2, "stop": 0.9}, "1 >= start >= stop > 0, got start=0.2, stop=0.9"),
        ({"stop": 0.0}, "1 >= start >= stop > 0"),
        ({"start": 980.0}, "1 >= start >= stop > 0, got start=980.0"),
        ({"start": float("nan")}, "1 >= start >= stop > 0, got start=nan"),
        ({"kind": "cosine"}, "kind of a Schedule must be 'linear' or 'random', got 'cosine'"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
    ],
)
def test_schedules(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Schedule(**{"steps": 10, **arguments})


def of_class(kind: type, sd: Any, **changes: Any) -> Any:
    """A pipeline of another class on the same parts."""
    pipe = object.__new__(kind)
    pipe.__dict__.update({**vars(sd), **changes})
    return pipe


@pytest.mark.parametrize(
    ("kind", "changes", "says"),
    [
        (StableDiffusionPipeline, {"vae": None}, "has no vae, which encodes the images"),
        (StableDiffusionImg2ImgPipeline, {}, "begins with an image, and .* give the text-to-image pipeline"),
        (LatentConsistencyModelPipeline, {}, "has no classifier-free guidance; distillation needs"),
        (
            StableDiffusionPipeline,
            {"scheduler": EDMEulerScheduler()},
            "has a EDMEulerScheduler .* whose noise levels are not known",
        ),
    ],
)
def test_pipelines(sd: Any, kind: type, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ScoreDistillation(of_class(kind, sd, **changes), "a bear", schedule=TEN)


def test_what_is_no_pipeline_is_refused() -> None:
    with pytest.raises(ValueError, match="from_pipe does not know int"):
        ScoreDistillation(3, "a bear", schedule=TEN)


def test_a_linear_schedule_goes_from_start_to_stop_and_a_random_one_stays_between() -> None:
    linear = Schedule(5, 0.9, 0.1)
    assert [round(linear.noise_level(step), 6) for step in range(5)] == [0.9, 0.7, 0.5, 0.3, 0.1]
    assert Schedule(1, 0.9, 0.1).noise_level(0) == 0.9
    levels = [Schedule(200, 0.9, 0.1, kind="random").noise_level(step, seed=1) for step in range(200)]
    assert all(0.1 <= level <= 0.9 for level in levels) and len(set(levels)) == 200
    assert abs(sum(levels) / 200 - 0.5) < 0.05 and max(levels) > 0.8 and min(levels) < 0.2


def test_random_numbers_differ_by_seed_step_and_use() -> None:
    drawn = {
        float(torch.rand((), generator=generator_of(seed, step, stream)))
        for seed in range(3)
        for step in range(3)
        for stream in ("noise level", "noise", "lora", "solid")
    }
    assert len(drawn) == 36
