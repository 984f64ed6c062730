"""What trace=True returns, and its picture."""

import json
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from diffusers import HeunDiscreteScheduler
from diffusers.pipelines.stable_diffusion import StableDiffusionPipelineOutput

from negguide import Negative, NegToMe, PerpNeg, Trace, plot_trace
from negguide.guidance import alignment

PUSH: dict[str, Any] = {"alpha": 3.0, "threshold": 0.2, "start": 0.0, "stop": 0.6}


def test_it_changes_nothing_and_rides_on_the_output(pipe: Any, generate: Any) -> None:
    arguments = {
        "negative_guidance": [PerpNeg("black glasses"), NegToMe(**PUSH)],
        "num_images_per_prompt": 2,
    }
    plain = generate(pipe, **arguments)
    traced = generate(pipe, trace=True, **arguments)
    assert torch.equal(plain.images, traced.images)
    assert not hasattr(plain, "trace")
    assert isinstance(traced, StableDiffusionPipelineOutput) and isinstance(traced.trace, Trace)
    assert traced.nsfw_content_detected is None
    as_tuple = generate(pipe, trace=True, return_dict=False, **arguments)
    assert len(as_tuple) == 3 and as_tuple[2].to_dict() == traced.trace.to_dict()


def test_rows_are_calls_with_nan_where_a_negative_rests(pipe: Any, generate: Any) -> None:
    negatives = [Negative("black glasses", stop=0.4), Negative("a hat", start=0.2, stop=1.0)]
    trace = generate(
        pipe,
        num_images_per_prompt=2,
        negative_guidance=[PerpNeg(*negatives), NegToMe(**PUSH)],
        trace=True,
        max_branch_batch=2,
    ).trace
    assert trace.negatives == ("black glasses", "a hat")
    assert trace.timesteps.tolist() == pipe.scheduler.timesteps.tolist()
    acts = torch.tensor([[True, False], [True, True], [False, True], [False, True], [False, True]])
    for values in (trace.cosine, trace.kept):
        assert values.shape == (5, 2, 2) and values.device.type == "cpu"
        assert torch.equal(~values.isnan(), acts[..., None].expand(5, 2, 2))
    torch.testing.assert_close(trace.cosine[acts] ** 2 + trace.kept[acts] ** 2, torch.ones(6, 2))
    assert trace.pushed.shape == (5, 2)
    assert torch.equal(trace.pushed.isnan().all(dim=1), torch.tensor([False, False, False, True, True]))
    assert ((trace.pushed[:3] > 0) & (trace.pushed[:3] <= 1)).all()


def test_the_numbers_are_those_of_the_predictions(
    base: Any, pipe: Any, generate: Any, monkeypatch: Any
) -> None:
    predictions: list[torch.Tensor] = []
    forward = base.unet.forward

    def keeping(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        predictions.append(output[0])
        return output

    keeping.__wrapped__ = forward  # type: ignore[attr-defined]
    monkeypatch.setattr(base.unet, "forward", keeping)
    trace = generate(pipe, negative_guidance=PerpNeg(Negative("a hat", stop=1.0)), trace=True).trace
    for step, rows in enumerate(predictions):
        uncond, cond, negative = rows.chunk(3)
        cosine, kept = alignment(uncond, cond, negative[None])
        torch.testing.assert_close(trace.cosine[step], cosine.float())
        torch.testing.assert_close(trace.kept[step], kept.float())
    assert len(predictions) == 5


def test_a_negative_equal_to_the_prompt_has_cosine_one_and_nothing_kept(pipe: Any, generate: Any) -> None:
    same = PerpNeg(Negative("a bear wearing glasses", stop=1.0))
    trace = generate(pipe, negative_guidance=same, trace=True).trace
    torch.testing.assert_close(trace.cosine, torch.ones(5, 1, 1))
    torch.testing.assert_close(trace.kept, torch.zeros(5, 1, 1), atol=1e-6, rtol=0)
    assert trace.pushed is None


def test_the_share_pushed_counts_tokens_over_the_threshold_inside_the_mask(pipe: Any, generate: Any) -> None:
    def share(**changes: Any) -> torch.Tensor:
        method = NegToMe(**{**PUSH, "stop": 1.0, **changes})
        return generate(pipe, num_images_per_prompt=2, negative_guidance=method, trace=True).trace.pushed

    assert torch.equal(share(threshold=1.0), torch.zeros(5, 2))
    assert torch.equal(share(threshold=-1.0), torch.ones(5, 2))
    half = torch.zeros(64, 64)
    half[:, :32] = 1
    torch.testing.assert_close(share(threshold=-1.0, mask=half), torch.full((5, 2), 0.5))
    assert torch.equal(share(reference="first", threshold=-1.0), torch.tensor([[0.0, 1.0]]).expand(5, 2))


def test_second_order_schedulers_have_a_row_for_each_evaluation(pipe: Any, generate: Any) -> None:
    pipe.scheduler = HeunDiscreteScheduler()
    method = PerpNeg(Negative("a hat", stop=0.4))
    trace = generate(pipe, negative_guidance=method, trace=True).trace
    assert len(trace.timesteps) == 9
    # the first two of five steps, each of two evaluations
    assert (~trace.cosine.isnan()).flatten().tolist() == [True] * 4 + [False] * 5


def test_to_dict_is_json_with_null_for_resting(pipe: Any, generate: Any) -> None:
    trace = generate(pipe, negative_guidance=PerpNeg(Negative("a hat", stop=0.2)), trace=True).trace
    data = json.loads(json.dumps(trace.to_dict(), allow_nan=False))
    assert data["negatives"] == ["a hat"] and data["pushed"] is None
    assert data["kept"][0] == trace.kept[0].tolist() and data["kept"][1] == [[None]]


def made_up(negtome: bool = True, negatives: tuple[str, ...] = ("black glasses", "a hat")) -> Trace:
    calls, images = 20, 3
    ramp = torch.linspace(0.9, 0.2, calls)[:, None, None].repeat(1, len(negatives), images)
    ramp = ramp - 0.15 * torch.arange(len(negatives))[None, :, None] + 0.03 * torch.arange(images)
    ramp[10:] = torch.nan
    return Trace(
        timesteps=torch.linspace(960, 1, calls),
        negatives=negatives,
        cosine=ramp,
        kept=(1 - ramp**2).clamp_min(0).sqrt(),
        pushed=torch.rand(calls, images) if negtome else None,
    )


def test_the_plot_has_a_panel_for_each_thing_measured_and_is_saved(tmp_path: Any) -> None:
    image = plot_trace(made_up(), tmp_path / "trace.png")
    assert isinstance(image, PIL.Image.Image) and image.mode == "RGB"
    with PIL.Image.open(tmp_path / "trace.png") as saved:
        assert np.array_equal(np.asarray(saved), np.asarray(image))
    heights = [plot_trace(made_up(negtome)).height for negtome in (True, False)]
    only_negtome = plot_trace(made_up(negatives=())).height
    assert heights[0] > heights[1] > only_negtome
    # curves are drawn: many pixels are neither black, grey nor white
    pixels = np.asarray(image).astype(int)
    assert (np.ptp(pixels, axis=2) > 60).sum() > 2000


def test_a_trace_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        made_up().pushed = None  # type: ignore[misc]
