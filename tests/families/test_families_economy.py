"""Fewer evaluations with `economy` and `guidance_stop`: one representative of each way to call a denoiser."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_pipelines import NEGATIVES, SCALE, assert_same, denoiser, differ

from negguide import Negative, PerpNeg
from negguide.guidance import perp_neg

Run = Callable[..., torch.Tensor]
# one call for all branches, of tensors and of lists; and a call for each
REPRESENTATIVES = pytest.mark.families("sdxl", "sd3", "z-image", "wan", "flux", "qwen-image", "qwen-image-21")
SEQUENTIAL = ("wan", "flux", "qwen-image", "qwen-image-21")
STEPS = 6
WEIGHT = 1.5


class Watched:
    """What the denoiser gave and what the scheduler was given, by step."""

    def __init__(self) -> None:
        self.rows: list[list[torch.Tensor]] = [[]]
        self.calls: list[int] = [0]
        self.predictions: list[torch.Tensor] = []

    def clear(self) -> None:
        self.__init__()  # type: ignore[misc]

    @property
    def counts(self) -> list[int]:
        """How many predictions each step made."""
        return [len(rows) for rows in self.rows[:-1]]


@pytest.fixture
def watched(base: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    seen = Watched()
    step = base.scheduler.step

    def stepping(prediction: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        seen.predictions.append(prediction.clone())
        seen.rows.append([])
        seen.calls.append(0)
        return step(prediction, *args, **kwargs)

    def keep(module: Any, args: Any, output: Any) -> None:
        seen.rows[-1] += [row.clone() for row in output[0]]
        seen.calls[-1] += 1

    monkeypatch.setattr(base.scheduler, "step", stepping)
    handle = denoiser(base).register_forward_hook(keep)
    yield seen
    handle.remove()


def as_scheduled(tiny: Any, prediction: torch.Tensor) -> torch.Tensor:
    """A prediction of the denoiser as the scheduler is given it.

    Z-Image turns its sign, and leaves out the frame; Qwen-Image 2.1 leaves out the text before the image's 16 tokens.
    """
    if tiny.name == "qwen-image-21":
        return prediction[-16:]
    return -prediction.squeeze(1) if tiny.name == "z-image" else prediction


@REPRESENTATIVES
def test_behind_the_end_of_guidance_the_scheduler_gets_the_conditional_prediction(
    pipe: Any, run: Run, tiny: Any, watched: Watched
) -> None:
    negative = Negative(NEGATIVES[0], weight=WEIGHT, stop=1.0)
    run(pipe, steps=STEPS, negative_guidance=PerpNeg(negative))
    whole, counts = watched.predictions, watched.counts
    assert counts == [3] * STEPS
    watched.clear()
    run(pipe, steps=STEPS, negative_guidance=PerpNeg(negative, guidance_stop=0.5))
    assert watched.counts == [3] * 3 + [1] * 3
    # in sequence the call for the unconditional prediction is there for the pipeline, and runs nothing
    assert watched.calls[3:-1] == [1] * 3
    for index in range(3):
        assert_same(watched.predictions[index], whole[index])
    for index in range(3, STEPS):
        (cond,) = watched.rows[index]
        assert_same(watched.predictions[index][0], as_scheduled(tiny, cond))
    assert differ(watched.predictions[3], whole[3]) > 1e-3


@REPRESENTATIVES
def test_economy_goes_on_with_the_last_direction(pipe: Any, run: Run, tiny: Any, watched: Watched) -> None:
    negative = Negative(NEGATIVES[0], weight=WEIGHT, stop=1.0)
    latents = run(pipe, steps=STEPS, negative_guidance=PerpNeg(negative, economy=True))
    # two fifths of 6 steps, rounded up, and then every second; the negative at each
    assert watched.counts == [3, 3, 3, 2, 3, 2]
    names = ["cond", "negative", "uncond"] if tiny.name in SEQUENTIAL else ["uncond", "cond", "negative"]
    if tiny.name == "z-image":
        names = ["cond", "uncond", "negative"]
    direction = torch.empty(0)
    for prediction, rows in zip(watched.predictions, watched.rows, strict=False):
        named = dict(zip([n for n in names if len(rows) == 3 or n != "uncond"], rows, strict=True))
        if tiny.name == "qwen-image-21":
            # each text is as long as it is
            named = {name: as_scheduled(tiny, row) for name, row in named.items()}
        cond, negated = (named[name].double()[None] for name in ("cond", "negative"))
        if "uncond" in named:
            direction = cond - named["uncond"].double()
        expected = perp_neg(cond - direction, cond, negated[None], [WEIGHT], SCALE)
        if tiny.rescales:
            expected = expected * cond.norm(dim=-1, keepdim=True) / expected.norm(dim=-1, keepdim=True)
        assert_same(prediction[0].double(), as_scheduled(tiny, expected[0]))
    method = PerpNeg(negative, economy=True)
    assert_same(run(pipe, steps=STEPS, negative_guidance=method, max_branch_batch=1), latents)


@REPRESENTATIVES
def test_automatic_negatives_and_economy_leave_an_image_to_itself(pipe: Any, run: Run, two: Any) -> None:
    method = PerpNeg(
        Negative(NEGATIVES[0], weight="auto"), Negative(NEGATIVES[1], weight="auto"), economy=True
    )
    together = run(pipe, steps=STEPS, negative_guidance=method, **two)
    # the pipelines count the seeds of the images of a prompt
    alone = torch.cat([run(pipe, steps=STEPS, seed=i, negative_guidance=method) for i in range(2)])
    assert_same(together, alone)


@pytest.mark.families("wan", "flux", "qwen-image")
def test_a_cache_that_counts_on_every_forward_is_refused(base: Any, pipe: Any, run: Run) -> None:
    from diffusers.hooks import FirstBlockCacheConfig

    negative = Negative(NEGATIVES[0], stop=1.0)
    base.transformer.enable_cache(FirstBlockCacheConfig(threshold=1e-9))
    try:
        for options in ({"economy": True}, {"guidance_stop": 0.5}):
            with pytest.raises(ValueError, match="economy and guidance_stop leave out forwards"):
                run(pipe, steps=STEPS, negative_guidance=PerpNeg(negative, **options))
        # it is whole after that
        assert torch.isfinite(run(pipe, negative_guidance=PerpNeg(negative))).all()
    finally:
        base.transformer.disable_cache()
