"""Attention processors on every family's denoiser: what they give is what `from_pipe` gives."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from diffusers.hooks import FirstBlockCacheConfig
from tiny_pipelines import NEGATIVES, TINY, assert_same, build, denoiser, differ, encoded, put_on_model
from torch._dynamo.testing import CompileCounter

from negguide import (
    NAG,
    ONG,
    VSF,
    Negative,
    NegToMe,
    apply_to_model,
    from_pipe,
    remove_from_model,
)

Run = Callable[..., torch.Tensor]
WITH_PROCESSORS = pytest.mark.families(
    *(
        tiny.name
        for tiny in TINY
        if tiny.like not in ("z-image", "lumina2", "animatediff", "animatediff-sdxl")
    )
)
ONE_OF_EACH = pytest.mark.families(
    "sd",
    "sdxl-img2img",
    "sd3",
    "pixart-sigma",
    "sana",
    "wan",
    "wan-vace",
    "ltx",
    "cogview4",
    "flux",
    "chroma",
    "flux2-dev",
    "flux2-klein",
    "qwen-image",
    "qwen-image-21",
    "krea2",
    "hidream",
)
"""One of each denoiser class, and of each way to be guided."""
# whose size is the one that is asked for, and which is said in as many ways as there are
SIZES: dict[str, dict[str, int]] = {
    "sd": {"height": 64, "width": 96},
    "sdxl": {"height": 64, "width": 96},
    "sd3": {"height": 64, "width": 96},
    "pixart-sigma": {"height": 64, "width": 96},
    "sana": {"height": 64, "width": 96},
    "wan": {"height": 64, "width": 96},
    "ltx": {"height": 64, "width": 96},
    "cogview4": {"height": 64, "width": 96},
    "flux": {"height": 64, "width": 96},
    "chroma": {"height": 64, "width": 96},
    "flux-kontext": {"height": 64, "width": 96, "max_area": 64 * 96},
    "flux2-dev": {"height": 64, "width": 96},
    "flux2-klein-reference": {"height": 64, "width": 96},
    "qwen-image": {"height": 64, "width": 96},
    "qwen-image-21": {"height": 64, "width": 96},
    "qwen-image-21-edit": {"height": 64, "width": 96},
    "qwen-image-edit": {"height": 64, "width": 96},
    "krea2": {"height": 64, "width": 96},
}


@pytest.fixture
def install(base: Any, tiny: Any) -> Iterator[Callable[..., None]]:
    """`install(method, ..)` puts its processors into the pipeline's denoiser; they go when the test ends."""

    def install(method: Any, **arguments: Any) -> None:
        put_on_model(base, tiny, method, **arguments)

    yield install
    remove_from_model(denoiser(base))


def half(width: int = 64) -> torch.Tensor:
    """A mask of the left half, 64 high."""
    mask = torch.zeros(64, width)
    mask[:, : width // 2] = 1
    return mask


def distinct_steps(tiny: Any) -> int:
    """Of 5 steps; image to image leaves some out."""
    return 3 if "strength" in tiny.call() else 5


METHODS: dict[str, Any] = {
    "NegToMe": NegToMe("others", alpha=2.0, threshold=0.1, stop=1.0),
    "NAG": NAG(*NEGATIVES, scale=3.0, alpha=0.7),
    "ONG": ONG(*NEGATIVES),
    "VSF": VSF(*NEGATIVES, scale=1.0),
}


@WITH_PROCESSORS
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_they_give_what_from_pipe_gives(
    base: Any, pipe: Any, run: Run, two: Any, install: Any, method: Any
) -> None:
    plain, expected = run(base, **two), run(pipe, negative_guidance=method, **two)
    install(method)
    result = run(base, **two)
    assert_same(result, expected)
    assert differ(result, plain) > 1e-3
    # and a second time
    assert torch.equal(run(base, **two), result)


@ONE_OF_EACH
def test_and_without_guidance(base: Any, pipe: Any, run: Run, unguided: dict[str, Any], install: Any) -> None:
    method = METHODS["NAG"]
    plain, expected = run(base, **unguided), run(pipe, negative_guidance=method, **unguided)
    install(method, guidance_branches=1)
    assert_same(run(base, **unguided), expected)
    assert differ(expected, plain) > 1e-3


@pytest.mark.families("sd", "sdxl", "sd3")
def test_a_run_without_guidance_is_refused_where_branches_were_told(
    base: Any, run: Run, two: Any, unguided: dict[str, Any], install: Any
) -> None:
    """Its two images would be taken for two branches, of which the second alone has negatives."""
    for method in (METHODS["NAG"], NegToMe("others", alpha=2.0, threshold=0.1, stop=1.0)):
        install(method)
        with pytest.raises(ValueError, match=r"guidance_branches is 2, .* without classifier-free guidance"):
            run(base, **two, **unguided)
        # it is whole after that
        assert torch.isfinite(run(base, **two)).all()


@pytest.mark.families(*SIZES)
@pytest.mark.parametrize(
    "method",
    [
        NAG(Negative(NEGATIVES[0], stop=0.6), Negative(NEGATIVES[1], start=0.2, mask=half(96)), scale=3.0),
        VSF(Negative(NEGATIVES[0], start=0.4), Negative(NEGATIVES[1], stop=0.8, mask=half(96))),
        NegToMe("first", alpha=2.0, threshold=0.1, stop=0.4, mask=half(96)),
    ],
    ids=["NAG", "VSF", "NegToMe"],
)
def test_windows_and_masks_on_an_image_that_is_not_square(
    base: Any, pipe: Any, run: Run, tiny: Any, two: Any, install: Any, method: Any
) -> None:
    arguments = {"steps": 5, **two, **SIZES[tiny.name]}
    expected = run(pipe, negative_guidance=method, **arguments)
    install(method, num_inference_steps=5)
    assert_same(run(base, **arguments), expected)


@ONE_OF_EACH
@pytest.mark.parametrize("at", ["begin", "end"])
def test_without_a_number_of_steps_the_timestep_places_the_window(
    base: Any, pipe: Any, run: Run, tiny: Any, install: Any, at: str
) -> None:
    steps = distinct_steps(tiny)
    plain, steps = run(base, steps=5), distinct_steps(tiny)
    timesteps = sorted({float(t) for t in base.scheduler.timesteps}, reverse=True)[-steps:]
    # the border behind the first step, or the second, as a fraction of the steps and of the way
    i = 0 if at == "begin" else 1
    borders = ((i + 1) / steps + 1e-3, 1 - (timesteps[i] + timesteps[i + 1]) / 2000)
    counted, placed = (
        NAG(
            Negative(
                NEGATIVES[0],
                start=0.0 if at == "begin" else border,
                stop=border if at == "begin" else 1.0,
            ),
            scale=3.0,
            alpha=0.7,
        )
        for border in borders
    )
    expected = run(pipe, steps=5, negative_guidance=counted)
    assert differ(expected, plain) > 1e-3
    install(placed)
    assert_same(run(base, steps=5), expected)


@pytest.mark.families("sd3", "wan", "flux", "qwen-image")
def test_a_run_that_broke_off_in_the_second_branch_does_not_turn_the_branches_of_the_next(
    base: Any, pipe: Any, run: Run, install: Any, monkeypatch: Any
) -> None:
    method = METHODS["NAG"]
    expected = run(pipe, negative_guidance=method)
    install(method)
    model, calls = denoiser(base), 0
    block = next(module for name, module in model.named_modules() if name.endswith("blocks.0"))

    def breaks(module: Any, inputs: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt

    handle = block.register_forward_pre_hook(breaks)
    with pytest.raises(KeyboardInterrupt):
        run(base)
    handle.remove()
    assert_same(run(base), expected)


@ONE_OF_EACH
def test_once_removed_the_model_is_as_it_was(base: Any, run: Run, install: Any) -> None:
    model = denoiser(base)
    # a denoiser may have processors without a dictionary of them (CogView4)
    before, plain = {name: getattr(m, "processor", None) for name, m in model.named_modules()}, run(base)
    for method in (METHODS["NAG"], METHODS["NegToMe"]):
        install(method)
    remove_from_model(model)
    assert {name: getattr(m, "processor", None) for name, m in model.named_modules()} == before
    assert not hasattr(model, "_diffusers_hook") or not model._diffusers_hook.hooks
    assert torch.equal(run(base), plain)


@pytest.mark.families("sd3")
def test_a_call_that_skips_layers_is_left_alone(base: Any, pipe: Any, run: Run, install: Any) -> None:
    skipping = {"skip_guidance_layers": [1], "skip_layer_guidance_stop": 1.0}
    for method in (METHODS["NAG"], METHODS["NegToMe"]):
        two = {"num_images_per_prompt": 2}
        expected = run(pipe, negative_guidance=method, **skipping, **two)
        install(method)
        assert_same(run(base, **skipping, **two), expected)
        remove_from_model(denoiser(base))


@pytest.mark.families("flux", "wan")
def test_with_a_cache_they_act_in_the_whole_run_only(base: Any, pipe: Any, run: Run, install: Any) -> None:
    base.transformer.enable_cache(FirstBlockCacheConfig(threshold=1e9))
    try:
        expected = run(pipe, steps=3, negative_guidance=METHODS["NAG"])
        install(METHODS["NAG"])
        assert_same(run(base, steps=3), expected)
        install(NAG(Negative(NEGATIVES[0], stop=0.5)))
        with pytest.raises(
            ValueError, match=r"NAG has a window, .* use from_pipe, .* or model.disable_cache"
        ):
            run(base, steps=3)
    finally:
        base.transformer.disable_cache()


@pytest.mark.families("wan")
def test_a_compiled_model_is_not_compiled_again_in_further_steps_and_runs(tiny: Any, run: Run) -> None:
    torch._dynamo.reset()
    plain, counter, method = build(tiny), CompileCounter(), METHODS["NAG"]
    # compiling is slow
    plain.transformer.blocks = plain.transformer.blocks[:1]
    expected = run(from_pipe(plain), negative_guidance=method)
    plain.transformer = torch.compile(plain.transformer, backend=counter, fullgraph=True)
    apply_to_model(
        plain.transformer, method, negative_embeds=encoded(plain, tiny, method), guidance_branches=2
    )
    counts = []
    for _ in range(2):
        torch.testing.assert_close(run(plain), expected)
        counts.append(counter.frame_count)
    # once for the branch with the negatives, once for that without
    assert counts == [2, 2]


@pytest.mark.families("z-image")
def test_z_image_has_no_attention_processors_and_is_refused(base: Any) -> None:
    with pytest.raises(
        TypeError, match=r"got ZImageTransformer2DModel; other denoisers .*negguide.from_pipe\(pipe\)"
    ):
        apply_to_model(base.transformer, METHODS["NegToMe"])


TEXT = torch.zeros(2, 10, 32)


@pytest.mark.families("flux")
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            {"negative_embeds": TEXT},
            r"must be {.*: \[2, tokens, 32\], 'txt_ids': \[tokens, \.\.\]}.*, got \[2, 10, 32\]",
        ),
        (
            {"negative_embeds": {"encoder_hidden_states": TEXT, "txt_ids": torch.zeros(9, 3)}},
            r"for FluxTransformer2DModel, one row for each negative of NAG, got .*'txt_ids': \[9, 3\]",
        ),
        (
            {"negative_embeds": {"encoder_hidden_states": None, "txt_ids": torch.zeros(9, 3)}},
            r"got {'encoder_hidden_states': None",
        ),
        ({"negative_embeds": {"encoder_hidden_states": TEXT, "txt_ids": None}}, r"got .*'txt_ids': None}"),
        (
            {"guidance_branches": None},
            "guidance_branches must be given: FluxTransformer2DModel is called once",
        ),
    ],
)
def test_bad_input_is_refused(base: Any, tiny: Any, arguments: Any, says: str) -> None:
    method = METHODS["NAG"]
    right = {"negative_embeds": encoded(base, tiny, method), "guidance_branches": 2}
    with pytest.raises(ValueError, match=says):
        apply_to_model(base.transformer, method, **{**right, **arguments})


@pytest.mark.families("sana")
def test_embeddings_without_the_mask_that_goes_with_them_are_refused(base: Any) -> None:
    embeds = {"encoder_hidden_states": torch.zeros(2, 10, 40)}
    says = r"'encoder_attention_mask': \[2, tokens, \.\.\]} for SanaTransformer2DModel"
    for given in (embeds, {**embeds, "encoder_attention_mask": torch.ones(1, 10)}):
        with pytest.raises(ValueError, match=says):
            apply_to_model(base.transformer, METHODS["NAG"], negative_embeds=given)


@pytest.mark.families("qwen-image")
def test_a_mask_that_the_pipeline_leaves_out_lets_everything_through(
    base: Any, pipe: Any, run: Run, tiny: Any, install: Any
) -> None:
    method = NAG(NEGATIVES[0], scale=3.0, alpha=0.7)
    expected = run(pipe, negative_guidance=method)
    embeds = encoded(base, tiny, method)
    install(method, negative_embeds={**embeds, "encoder_hidden_states_mask": None})
    assert_same(run(base), expected)
