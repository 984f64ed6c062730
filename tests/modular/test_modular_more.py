"""Perp-Neg in modular pipelines without a classic one of the same parts: against plain guidance and the formula."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import diffusers
import modular_more as more
import pytest
import torch
from diffusers.modular_pipelines.modular_pipeline import MODULAR_PIPELINE_MAPPING
from modular_more import MORE, OTHER, PROMPT, More
from modular_more_parts import SCALE

import negguide
from negguide import NAG, Negative, NegToMe, PerpNeg, PerpNegGuidance, with_perp_neg
from negguide.guidance import perp_neg
from negguide.integration.families import modular_families, registry
from negguide.integration.modular.blocks import with_negative_guidance
from negguide.integration.modular.unsupported import UNSUPPORTED


def always(text: str, **changes: Any) -> Negative:
    return Negative(text, **{"start": 0.0, "stop": 1.0, **changes})


TWO = PerpNeg(always("black glasses", weight=1.5), always("a red robot wearing a hat", weight=0.5))
BY_NAME = {one.name: one for one in MORE}
_built: dict[str, Any] = {}


def built(one: More) -> Any:
    if one.name not in _built:
        _built[one.name] = one.build()
    return _built[one.name]


@pytest.fixture(params=[one.name for one in MORE])
def one(request: pytest.FixtureRequest) -> More:
    """Each of them in turn."""
    return BY_NAME[request.param]


def run(one: More, pipe: Any, prompt: Any = PROMPT, steps: int = 2, **changes: Any) -> torch.Tensor:
    arguments = {"prompt": prompt, "num_inference_steps": steps, **one.call, **changes}
    arguments.setdefault("generator", torch.Generator().manual_seed(0))
    if one.empty and isinstance(prompt, list):
        arguments["negative_prompt"] = [""] * len(prompt)
    return pipe(**arguments, output=["latents"])["latents"]


def assert_same(one: torch.Tensor, other: torch.Tensor) -> None:
    """No value differs by more than 1e-4, in units of the largest one where that is above 1."""
    largest = max(1.0, float(other.abs().max()))
    torch.testing.assert_close(one, other, rtol=0.0, atol=1e-4 * largest)


def differ(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


def test_negatives_without_weight_leave_the_plain_pipeline(one: More) -> None:
    pipe = built(one)
    off = PerpNeg(always("black glasses", weight=0), always("a red robot", weight=0))
    assert_same(run(one, with_perp_neg(pipe, off)), run(one, pipe))


def test_a_negative_equal_to_the_prompt_changes_nothing(one: More) -> None:
    pipe = built(one)
    same = with_perp_neg(pipe, PerpNeg(always(PROMPT, weight=3)))
    assert_same(run(one, same), run(one, pipe))
    assert differ(run(one, same, OTHER), run(one, pipe, OTHER)) > 1e-4


class Watched:
    """What denoisers give and the scheduler is given."""

    def __init__(self, pipe: Any, monkeypatch: Any) -> None:
        self.predictions: list[torch.Tensor] = []
        self.steps: list[tuple[list[torch.Tensor], torch.Tensor]] = []
        models = [getattr(pipe, name, None) for name in ("transformer", "transformer_2")]
        self.handles = [m.register_forward_hook(self.see) for m in models if m is not None]
        own = pipe.scheduler.step

        def step(model_output: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            self.steps.append((self.predictions, model_output.clone()))
            self.predictions = []
            return own(model_output, *args, **kwargs)

        monkeypatch.setattr(pipe.scheduler, "step", step)

    def see(self, model: Any, args: Any, output: Any) -> None:
        self.predictions.append(output[0].clone())


@pytest.fixture
def watched(monkeypatch: Any) -> Iterator[Any]:
    found: list[Watched] = []

    def watch(pipe: Any) -> Watched:
        found.append(Watched(pipe, monkeypatch))
        return found[-1]

    yield watch
    for one in found:
        for handle in one.handles:
            handle.remove()


@pytest.mark.main
def test_the_guided_prediction_is_the_formula(one: More, watched: Any) -> None:
    pipe = built(one)
    if one.name == "helios-pyramid":
        pytest.skip("its guider bends the direction; the formula around it is tested by itself")
    seen = watched(pipe)
    run(one, with_perp_neg(pipe, TWO))
    assert len(seen.steps) == 2 * one.chunks
    for predictions, stepped in seen.steps:
        cond, uncond, *negatives = [one.own(prediction) for prediction in predictions]
        if one.name == "qwenimage21":
            cond, uncond, *negatives = [p[:, -stepped.shape[1] :] for p in (cond, uncond, *negatives)]
        assert len(negatives) == 2
        guided = perp_neg(uncond, cond, torch.stack(negatives), [1.5, 0.5], SCALE)
        assert_same(stepped, one.stepped(guided, cond))


def test_windows_end_and_the_second_call_is_as_the_first(one: More, watched: Any) -> None:
    pipe = built(one)
    method = PerpNeg(always("black glasses", weight=1.5, stop=0.5), always("a red robot", start=0.5))
    guided = with_perp_neg(pipe, method)
    if one.name == "helios-pyramid":
        # its guider makes nothing of the first step
        method = PerpNeg(always("black glasses", weight=1.5, start=0.5))
        guided = with_perp_neg(pipe, method)
        assert differ(run(one, guided), run(one, pipe)) > 1e-4
        assert torch.equal(run(one, guided), run(one, guided))
        return
    seen = watched(pipe)
    first = run(one, guided)
    # one negative in each step, in every chunk
    assert [len(predictions) for predictions, _ in seen.steps] == [3] * (2 * one.chunks)
    assert differ(first, run(one, with_perp_neg(pipe, TWO))) > 1e-4
    assert torch.equal(run(one, guided), first)


def test_each_prompt_gives_the_image_of_its_own_negatives(one: More) -> None:
    if one.several is None:
        pytest.skip("it takes one prompt, or one image for all")
    pipe, seeds = built(one), (0, 1)
    prompts, own = [PROMPT, OTHER], ("black glasses", [always("snow", weight=1.5), "a red robot"])
    images = {"generator": [torch.Generator().manual_seed(seed) for seed in seeds]}
    together = run(one, with_perp_neg(pipe, PerpNeg.per_prompt(*own)), prompts, **images)
    plain = run(one, pipe, prompts, generator=[torch.Generator().manual_seed(s) for s in seeds])
    assert differ(together, plain) > 1e-4
    other = run(
        one,
        with_perp_neg(pipe, PerpNeg.per_prompt(own[0], "a hat")),
        prompts,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
    )
    # what the other prompt has changes nothing
    assert_same(other[:1], together[:1])
    assert differ(other[1:], together[1:]) > 1e-4


def test_several_images_of_a_prompt_have_its_negatives(one: More) -> None:
    if one.several is None:
        pytest.skip("it makes one image of a call here")
    if one.name in ("helios", "helios-pyramid", "hunyuan-video-1.5"):
        pytest.skip("the modular pipeline itself does not make several videos of a prompt (diffusers 0.42)")
    pipe = with_perp_neg(built(one), TWO)
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    two = run(one, pipe, **{one.several: 2, "generator": generators})
    assert_same(two[:1], run(one, pipe, generator=[torch.Generator().manual_seed(0)]))


def test_a_mask_is_placed_or_refused(one: More) -> None:
    pipe = built(one)
    left = torch.zeros(32, 32)
    left[:, :16] = 1
    masked = with_perp_neg(pipe, PerpNeg(always("black glasses", weight=1.5, mask=left)))
    if one.name in ("ltx", "ltx-i2v", "qwenimage-layered"):
        with pytest.raises(ValueError, match=r"mask of Negative.* cannot be placed in modular pipelines of"):
            run(one, masked)
        return
    everywhere = with_perp_neg(pipe, PerpNeg(always("black glasses", weight=1.5)))
    assert differ(run(one, masked), run(one, everywhere)) > 1e-4


# ---- Chunks ---------------------------------------------------------------------------------------------------------


def test_each_chunk_asks_anew_for_negatives_that_are_asked_every_so_many_steps(watched: Any) -> None:
    one = BY_NAME["helios"]
    pipe = built(one)
    seen = watched(pipe)
    run(one, with_perp_neg(pipe, PerpNeg(always("black glasses"), refresh_every=2)), steps=3)
    assert [len(predictions) for predictions, _ in seen.steps] == [3, 2, 3, 3, 2, 3]


def test_the_stages_of_a_pyramid_differ_in_size_and_begin_anew() -> None:
    one = BY_NAME["helios-pyramid"]
    pipe = built(one)
    refreshed = with_perp_neg(pipe, PerpNeg(always("black glasses"), refresh_every=2))
    assert torch.isfinite(run(one, refreshed)).all()


def test_a_run_inside_another_draws_all_its_chunks(monkeypatch: Any) -> None:
    one = BY_NAME["helios"]
    pipe = built(one)
    guider = PerpNegGuidance(TWO, guidance_scale=SCALE)
    guided = with_perp_neg(pipe, guider)
    expected, expected_inner = run(one, guided), run(one, guided, OTHER)
    inner = with_perp_neg(one.build(), guider)
    seen: list[torch.Tensor] = []

    def nest(*_: Any) -> None:
        if not seen:
            seen.append(torch.empty(0))
            seen.append(run(one, inner, OTHER))

    handle = pipe.transformer.register_forward_hook(nest)
    try:
        assert torch.equal(run(one, guided), expected)
    finally:
        handle.remove()
    assert torch.equal(seen[1], expected_inner)


# ---- Refusals -------------------------------------------------------------------------------------------------------


def test_every_modular_pipeline_of_diffusers_is_known_or_refused_with_a_reason() -> None:
    assert set(MODULAR_PIPELINE_MAPPING) <= set(modular_families()) | set(UNSUPPORTED)
    assert not set(modular_families()) & set(UNSUPPORTED)
    assert all("would help" in reason or "has no text" in reason for reason in UNSUPPORTED.values())


@pytest.mark.parametrize(
    ("blocks", "says"),
    [
        (
            "Ideogram4AutoBlocks",
            "'ideogram4' cannot have negatives: its unconditional prediction comes from a second",
        ),
        ("LTX2AutoBlocks", "'ltx2' cannot have negatives: its loop guides the estimates of the clean video"),
        ("Cosmos3OmniBlocks", "'cosmos3-omni' cannot have negatives: its loop packs text, video"),
        ("WanAnimate2Blocks", "'wan-animate-2' cannot have negatives: its predictions are of one video"),
        ("Flux3DistilledAutoBlocks", "'flux3-distilled' cannot have negatives: its model is distilled"),
    ],
)
def test_what_cannot_have_negatives_is_refused_by_name(blocks: str, says: str) -> None:
    if not hasattr(diffusers, blocks):
        pytest.skip("not in this diffusers")
    pipe = getattr(diffusers, blocks)().init_pipeline()
    for method in (TWO, NAG("a hat")):
        with pytest.raises(ValueError, match=says):
            with_negative_guidance(pipe, method)


@pytest.mark.parametrize("name", ["flux3", "anima", "ltx", "qwenimage-layered"])
def test_methods_inside_a_model_whose_tokens_have_no_known_place_are_refused(name: str) -> None:
    one = BY_NAME[name]
    for method in (NAG("a hat"), NegToMe("others")):
        with pytest.raises(ValueError, match=r"cannot act in|cannot be placed in it"):
            run(one, with_negative_guidance(built(one), method))


def test_a_family_from_outside_may_have_modular_pipelines_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_FAMILIES", dict(registry._FAMILIES))
    flux3, row = modular_families()["flux3"]
    assert flux3.pipelines == () and flux3.denoiser is None
    rows = (replace(row, model_name="mine"), replace(row, model_name="mine-2"))
    mine = negguide.register_family(replace(flux3, name="Mine", modular=rows))
    assert modular_families()["mine-2"] == (mine, rows[1])
    with pytest.raises(
        ValueError, match="'Yours' has the modular pipelines 'mine-2', which belong to 'Mine'"
    ):
        negguide.register_family(replace(flux3, name="Yours", modular=rows[1]))
    with pytest.raises(ValueError, match="has neither pipelines nor a denoiser"):
        negguide.register_family(replace(flux3, name="Nobody's", modular=None))


def test_several_images_to_edit_are_refused_where_negatives_are_read_with_one() -> None:
    one = BY_NAME["qwenimage-edit"]
    two = [more.pil_picture(), more.pil_picture().rotate(90)]
    with pytest.raises(ValueError, match="image holds 2 images, and negatives are encoded together with"):
        run(one, with_perp_neg(built(one), TWO), [PROMPT, OTHER], image=two)
