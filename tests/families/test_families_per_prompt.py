"""Negatives of each prompt's own, on every family: an image is what its prompt gives alone with its own negatives."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from tiny_pipelines import assert_same, differ, taken
from torch import Tensor, nn

from negguide import NAG, ONG, VSF, Negative, NegToMe, PerpNeg

Run = Callable[..., Any]
LEFT = torch.zeros(64, 64)
LEFT[:, :24] = 1


def always(text: str, **changes: Any) -> Negative:
    return Negative(text, **{"start": 0.0, "stop": 1.0, **changes})


# texts of different lengths: two negatives, one, none
PROMPTS = ("a cat in the snow", "a bear wearing a hat", "a robot")
OWN: tuple[tuple[Negative, ...], ...] = (
    (always("a red scarf", weight=1.5), always("snow", weight=0.5, start=0.5)),
    (always("a black frame on a boy", mask=LEFT),),
    (),
)
SHORT = ((always("black glasses"),), (always("snow", weight=2), always("a red scarf")))
SCORE: dict[str, tuple[dict[str, Any], int | None]] = {
    "joint, one branch at once": ({"joint": True}, 1),
    "refreshed and adaptive": ({"refresh_every": 2, "adaptive": True}, None),
}
ONE_OF_EACH = pytest.mark.families(
    "sd-controlnet",
    "sdxl",
    "sd3",
    "pixart-sigma",
    "sana",
    "wan",
    "ltx",
    "cogview4",
    "lumina2",
    "flux",
    "chroma",
    "flux2-klein",
    "qwen-image",
    "qwen-image-21",
    "z-image",
    "krea2",
    "hidream",
)
ATTENTION: dict[str, tuple[type[Any], dict[str, Any]]] = {
    # tau below 1 shortens attention wherever NAG acts, so that it shows where it does
    "NAG": (NAG, {"scale": 3.0, "tau": 0.8, "alpha": 0.7}),
    "ONG": (ONG, {"scale": 0.8}),
    "VSF": (VSF, {"scale": 1.0}),
}

# of as many words each, for images that stand behind the longest text
ALIKE = ("a cat in the snow", "a bear wearing a hat", "a robot in the snow")

_plain: dict[tuple[str, int, int], Tensor] = {}


@pytest.fixture
def check(base: Any, pipe: Any, run: Run, tiny: Any) -> Callable[..., None]:
    """Runs prompts with negatives of their own together, and each with its own alone."""

    def check(
        method: Any,
        options: dict[str, Any],
        prompts: Sequence[str] = PROMPTS,
        own: Sequence[Sequence[Negative]] = OWN,
        images: int = 1,
        limit: int | None = None,
        **call: Any,
    ) -> None:
        if tiny.image_behind_text and prompts is PROMPTS:
            prompts = ALIKE
        together = run(
            pipe,
            list(prompts),
            negative_guidance=method.per_prompt(*own, **options),
            max_branch_batch=limit,
            **call,
        )
        # inpainting draws the noise of the given image from the first generator alone
        count = 1 if tiny.one_noise else len(prompts)
        for i, (prompt, negatives) in enumerate(zip(prompts[:count], own[:count], strict=True)):
            if (tiny.name, i, images) not in _plain:
                _plain[tiny.name, i, images] = run(base, prompt, seed=i * images, **call)
            plain = _plain[tiny.name, i, images]
            alone = plain
            if negatives:
                guidance = method(*negatives, **options)
                alone = run(
                    pipe,
                    prompt,
                    seed=i * images,
                    negative_guidance=guidance,
                    max_branch_batch=limit,
                    **call,
                )
                assert differ(alone, plain) > 1e-3
            assert_same(together[i * images : (i + 1) * images], alone)

    return check


@pytest.mark.guided_only
@pytest.mark.parametrize(("options", "limit"), SCORE.values(), ids=SCORE)
def test_perp_neg_gives_each_prompt_the_image_of_its_own_negatives(
    check: Any, options: Any, limit: Any
) -> None:
    check(PerpNeg, options, limit=limit)


@pytest.mark.parametrize("name", ["NAG", "VSF"])
def test_attention_gives_each_prompt_the_image_of_its_own_negatives(check: Any, name: str) -> None:
    check(*ATTENTION[name])


@pytest.mark.families("sd", "wan", "sd3", "cogview4", "lumina2", "flux2-klein", "z-image")
def test_and_so_does_orthogonal_attention(check: Any) -> None:
    check(*ATTENTION["ONG"])


@ONE_OF_EACH
def test_and_each_of_its_images(check: Any, tiny: Any, two: dict[str, int]) -> None:
    # of one length: Sana and Qwen-Image give the images of a shorter prompt the mask of a longer one
    prompts = ("a cat in the snow", "a bear wearing a hat")
    for method in taken(tiny, PerpNeg("a"), NAG("a")):
        options = {} if isinstance(method, PerpNeg) else ATTENTION["NAG"][1]
        check(type(method), options, prompts, SHORT, images=2, **two)


@pytest.mark.guided_only
@ONE_OF_EACH
def test_a_trace_is_nan_where_a_negative_is_not_an_images_own(
    pipe: Any, run: Run, two: dict[str, int]
) -> None:
    method = PerpNeg.per_prompt("black glasses", [always("snow"), always("a red scarf", stop=0.5)], [])
    trace = run(pipe, list(PROMPTS), steps=4, negative_guidance=method, trace=True, whole=True, **two)[-1]
    steps = len(trace.timesteps)
    # [steps, negatives, images]
    expected = torch.zeros(steps, 3, 6, dtype=torch.bool)
    expected[: steps // 2, 0, :2] = expected[:, 1, 2:4] = expected[: steps // 2, 2, 2:4] = True
    assert torch.equal(torch.isfinite(trace.cosine), expected)
    assert torch.equal(torch.isfinite(trace.kept), expected)
    for values, own in zip(trace.maps.values(), ([0, 1], [2, 3], [2, 3]), strict=True):
        acted = values.flatten(1).amax(dim=1) > 0
        assert acted.nonzero().flatten().tolist() == own


def test_a_prompt_that_is_not_there_is_refused_before_any_model_runs(
    base: Any, pipe: Any, run: Run, tiny: Any, monkeypatch: Any
) -> None:
    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a model ran")

    for part in base.components.values():
        if isinstance(part, nn.Module):
            monkeypatch.setitem(vars(part), "forward", never)
    negative = Negative("snow", prompt_index=2)
    for method in taken(tiny, PerpNeg("a hat", negative), NAG(negative), ONG(negative), VSF(negative)):
        for prompts, count in ((list(PROMPTS[:2]), "2 prompts"), (PROMPTS[0], "1 prompt")):
            with pytest.raises(ValueError, match=rf"prompt_index of Negative\('snow'\) is 2, .* {count};"):
                run(pipe, prompts, negative_guidance=method)


@pytest.mark.guided_only
@pytest.mark.families("sd", "flux", "z-image")
def test_negatives_of_all_prompts_go_beside_those_of_one(pipe: Any, run: Run) -> None:
    common, own = always("black glasses"), always("snow", prompt_index=1)
    first, second = PROMPTS[:2]
    for method, options in ((PerpNeg, {"joint": True}), ATTENTION["NAG"], ATTENTION["VSF"]):
        together = run(pipe, [first, second], negative_guidance=method(own, common, **options))
        alone = [
            run(pipe, first, negative_guidance=method(common, **options)),
            run(pipe, second, seed=1, negative_guidance=method(always("snow"), common, **options)),
        ]
        assert_same(together, torch.cat(alone))


@pytest.mark.guided_only
@pytest.mark.families("sd", "sd3", "flux", "z-image")
def test_no_more_rows_are_evaluated_than_negatives_have_images(
    base: Any, pipe: Any, run: Run, two: dict[str, int], monkeypatch: Any
) -> None:
    rows: list[int] = []
    model = getattr(base, "unet", None) or base.transformer
    forward = model.forward

    def counting(sample: Any = None, *args: Any, **kwargs: Any) -> Any:
        given = kwargs.get("hidden_states", sample)
        rows.append(len(given))
        return forward(*(() if sample is None else (sample,)), *args, **kwargs)

    counting.__wrapped__ = forward  # type: ignore[attr-defined]
    monkeypatch.setitem(vars(model), "forward", counting)
    run(base, list(PROMPTS), steps=1, **two)
    plain = sum(rows)
    rows.clear()
    method = PerpNeg.per_prompt(always("black glasses"), [always("snow"), always("a red scarf")], [])
    run(pipe, list(PROMPTS), steps=1, negative_guidance=method, **two)
    assert sum(rows) == plain + 3 * 2


@pytest.mark.guided_only
@pytest.mark.families("sd", "qwen-image", "z-image")
def test_images_of_several_prompts_that_push_each_other_do_so_in_each_negatives_branch(
    pipe: Any, run: Run, tiny: Any
) -> None:
    """As if each negative were evaluated for all: for an image, what others take away does not count."""
    push = NegToMe(group_size=2, alpha=2.0, threshold=0.1, stop=1.0)
    negatives = [always("black glasses"), always("snow")]
    prompts = list(PROMPTS[:2])
    together = run(pipe, prompts, steps=1, negative_guidance=[push, PerpNeg.per_prompt(*negatives)])
    common: list[Tensor] = [
        run(pipe, prompts, steps=1, negative_guidance=[push, PerpNeg(one)])[i : i + 1]
        for i, one in enumerate(negatives)
    ]
    assert_same(together, torch.cat(common))
    without = run(pipe, prompts, steps=1, negative_guidance=PerpNeg.per_prompt(*negatives))
    for one, other in itertools.pairwise((together, without)):
        assert differ(one, other) > 1e-3
