"""Methods of attention and token space in modular pipelines: against the classic pipelines of the same weights."""

import copy
from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch
from diffusers import ClassifierFreeGuidance, SkipLayerGuidance
from diffusers.hooks import LayerSkipConfig

import negguide
from negguide import NAG, ONG, VSF, Negative, NegToMe, PerpNeg, PerpNegGuidance, with_perp_neg
from negguide.integration.modular.blocks import GuideDenoiser, with_negative_guidance

PROMPT, OTHER = "a bear wearing a hat", "a cat in the snow"
SCALE = 4.0
Family = Callable[[str], Any]


def always(text: str = "", **changes: Any) -> Negative:
    return Negative(text, **{"start": 0.0, "stop": 1.0, **changes})


TWO = (always("black glasses"), always("a red robot wearing a hat", weight=0.5))
NAG_TWO = NAG(*TWO, scale=5.0)
PERP_NEG = PerpNeg(always("black glasses", weight=1.5))


def assert_same(one: torch.Tensor, other: torch.Tensor) -> None:
    """No value differs by more than 1e-4, in units of the largest one where that is above 1."""
    largest = max(1.0, float(other.abs().max()))
    torch.testing.assert_close(one, other, rtol=0.0, atol=1e-4 * largest)


def differ(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


def processors(both: Any) -> list[Any]:
    return [module.processor for module in both.denoiser.modules() if hasattr(module, "processor")]


def unguided(both: Any) -> dict[str, Any]:
    """The arguments with which the classic pipeline runs without guidance."""
    return dict.fromkeys(both.family.classic, 0.0 if both.family.name == "z-image" else 1.0)


# ---- As in the classic pipelines ------------------------------------------------------------------------------------


@pytest.mark.main
@pytest.mark.parametrize(
    "method", [NAG_TWO, ONG(*TWO, scale=5.0), VSF(*TWO, scale=2.0)], ids=["nag", "ong", "vsf"]
)
def test_a_method_in_attention_does_what_it_does_in_the_classic_pipeline(both: Any, method: Any) -> None:
    before, plain = processors(both), both.run(both.pipe, steps=2)
    guided = both.run(with_negative_guidance(both.pipe, method), steps=2)
    assert differ(guided, plain) > 1e-3
    assert_same(guided, both.run_classic(negguide.from_pipe(both.classic), steps=2, negative_guidance=method))
    # the model and the pipeline are as they were
    assert all(one is other for one, other in zip(processors(both), before, strict=True))
    assert "guide_denoiser" not in both.pipe.blocks.sub_blocks
    assert torch.equal(both.run(both.pipe, steps=2), plain)


def test_it_does_so_with_guidance_off_too(both: Any) -> None:
    if both.family.name == "wan":
        pytest.skip("modular Wan itself does not run without guidance (diffusers 0.42)")
    pipe = both.modular(both.family.blocks)
    pipe.update_components(guider=ClassifierFreeGuidance(guidance_scale=1.0))
    guided = both.run(with_negative_guidance(pipe, NAG_TWO), steps=2)
    assert differ(guided, both.run(pipe, steps=2)) > 1e-3
    classic = negguide.from_pipe(both.classic)
    expected = both.run_classic(classic, steps=2, negative_guidance=NAG_TWO, options=unguided(both))
    assert_same(guided, expected)
    if both.family.name == "sdxl":
        # nor does modular SDXL with a guider that is switched off
        return
    pipe.update_components(guider=ClassifierFreeGuidance(SCALE))
    pipe.guider.disable()
    assert_same(both.run(with_negative_guidance(pipe, NAG_TWO), steps=2), expected)


def test_fewer_tokens_of_negatives_are_those_of_the_classic_pipeline(both: Any) -> None:
    """Or refused with the same words."""
    classic = negguide.from_pipe(both.classic)
    # all but Qwen's texts of two words fit into so many
    method = NAG("a hat", scale=5.0, max_sequence_length=38)
    if not classic.family.padded_text:
        for run in (
            lambda: both.run_classic(classic, steps=2, negative_guidance=method),
            lambda: both.run(with_negative_guidance(both.pipe, method), steps=2),
        ):
            with pytest.raises(
                ValueError, match=r"^max_sequence_length of NAG is 38, and the negatives of .*leave"
            ):
                run()
        return
    guided = both.run(with_negative_guidance(both.pipe, method), steps=2)
    assert_same(guided, both.run_classic(classic, steps=2, negative_guidance=method))
    assert (
        differ(guided, both.run(with_negative_guidance(both.pipe, NAG("a hat", scale=5.0)), steps=2)) > 1e-5
    )


def test_windows_and_masks_are_those_of_the_classic_pipeline(both: Any) -> None:
    left = torch.zeros(32, 32)
    left[:, :16] = 1
    method = NAG(always("black glasses", stop=0.5, mask=left), always("a red robot", start=0.25), scale=5.0)
    guided = both.run(with_negative_guidance(both.pipe, method))
    assert_same(guided, both.run_classic(negguide.from_pipe(both.classic), negative_guidance=method))
    assert differ(guided, both.run(with_negative_guidance(both.pipe, NAG(*TWO, scale=5.0)))) > 1e-3


def test_it_goes_beside_perp_neg_as_in_the_classic_pipeline(both: Any) -> None:
    methods = [PERP_NEG, NAG_TWO]
    guided = both.run(with_negative_guidance(both.pipe, methods), steps=2)
    assert_same(
        guided, both.run_classic(negguide.from_pipe(both.classic), steps=2, negative_guidance=methods)
    )
    # one after the other, in either order, is the same
    one = with_negative_guidance(with_perp_neg(both.pipe, PERP_NEG), NAG_TWO)
    other = with_perp_neg(with_negative_guidance(both.pipe, NAG_TWO), PERP_NEG)
    assert torch.equal(both.run(one, steps=2), guided) and torch.equal(both.run(other, steps=2), guided)


def test_each_prompt_of_a_batch_has_its_own_negatives(both: Any) -> None:
    method = NAG.per_prompt("black glasses", [always("snow"), always("a red robot")], scale=5.0)
    images = 1 if both.family.name == "sdxl" else 2
    guided = both.run(with_negative_guidance(both.pipe, method), [PROMPT, OTHER], steps=2, images=images)
    classic = negguide.from_pipe(both.classic)
    expected = both.run_classic(classic, [PROMPT, OTHER], steps=2, images=images, negative_guidance=method)
    assert_same(guided, expected)
    # what the other prompt has changes nothing
    alone = NAG.per_prompt("black glasses", "a hat", scale=5.0)
    mates = both.run(with_negative_guidance(both.pipe, alone), [PROMPT, OTHER], steps=2, images=images)
    assert_same(mates[:images], guided[:images])
    assert differ(mates[images:], guided[images:]) > 1e-3


@pytest.mark.parametrize("reference", ["others", "first"])
def test_images_of_one_prompt_push_each_other_as_in_the_classic_pipeline(both: Any, reference: str) -> None:
    method = NegToMe(reference, stop=1.0, threshold=-1.0, alpha=0.5, blocks="attn|attention")
    guided = both.run(with_negative_guidance(both.pipe, method), steps=2, images=2)
    assert differ(guided, both.run(both.pipe, steps=2, images=2)) > 1e-3
    classic = negguide.from_pipe(both.classic)
    assert_same(guided, both.run_classic(classic, steps=2, images=2, negative_guidance=method))
    together = [method, NAG_TWO]
    guided = both.run(with_negative_guidance(both.pipe, together), steps=2, images=2)
    assert_same(guided, both.run_classic(classic, steps=2, images=2, negative_guidance=together))


def test_a_negative_given_as_embeddings_is_the_negative_in_words(family: Family) -> None:
    both = family("sd3")
    classic = negguide.from_pipe(both.classic)
    with torch.no_grad():
        row = classic.family.encode_text(
            classic,
            ["black glasses"],
            {"clip_skip": None, "max_sequence_length": 10, "joint_attention_kwargs": None},
        )[0]
    given = NAG(always(embeds=row["encoder_hidden_states"]), scale=5.0)
    words = NAG(always("black glasses"), scale=5.0)
    assert_same(
        both.run(with_negative_guidance(both.pipe, given), steps=2),
        both.run(with_negative_guidance(both.pipe, words), steps=2),
    )


# ---- Pipelines without a guider -------------------------------------------------------------------------------------


def latents_of(pipe: Any, **arguments: Any) -> torch.Tensor:
    size = {"prompt": PROMPT, "height": 64, "width": 64, "num_inference_steps": 2}
    return pipe(**size, generator=torch.Generator().manual_seed(0), output=["latents"], **arguments)[
        "latents"
    ]


LAYERS = {"text_encoder_out_layers": (1, 2, 3)}
DISTILLED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "flux": ("flux_dev", "FluxAutoBlocks", {"max_sequence_length": 10}),
    "flux-kontext": ("flux_kontext", "FluxKontextAutoBlocks", {"max_sequence_length": 10}),
    "flux2": ("flux2_dev", "Flux2AutoBlocks", {"max_sequence_length": 56, **LAYERS}),
    "flux2-klein": ("flux2_klein", "Flux2KleinAutoBlocks", {"max_sequence_length": 40, **LAYERS}),
}


@pytest.fixture(scope="module")
def distilled() -> Callable[[str], tuple[Any, Any, dict[str, Any]]]:
    """A classic pipeline, the modular one of the same parts up to its latents, and arguments for both."""
    built: dict[str, Any] = {}

    def build(name: str) -> tuple[Any, Any, dict[str, Any]]:
        function, blocks_name, arguments = DISTILLED[name]
        if name not in built:
            classic = getattr(__import__("tiny_joint"), function)()
            blocks = getattr(diffusers, blocks_name)()
            blocks.sub_blocks.pop("decode")
            pipe = blocks.init_pipeline()
            parts = classic.components
            pipe.update_components(**{n: parts[n] for n in pipe.component_names if parts.get(n) is not None})
            built[name] = classic, pipe
        return (*built[name], arguments)

    return build


@pytest.mark.parametrize("name", DISTILLED)
def test_models_that_are_guided_inside_have_negatives_in_attention(distilled: Any, name: str) -> None:
    classic, pipe, arguments = distilled(name)
    guided = latents_of(with_negative_guidance(pipe, NAG_TWO), **arguments)
    assert differ(guided, latents_of(pipe, **arguments)) > 1e-3
    own = {"guidance_scale": 1.0} if name == "flux2-klein" else {}
    if name == "flux-kontext":
        own = {"max_area": 64 * 64, "_auto_resize": False}
    call = {
        "prompt": PROMPT, "height": 64, "width": 64, "num_inference_steps": 2, "output_type": "latent",
        "generator": torch.Generator().manual_seed(0), **arguments, **own,
    }  # fmt: skip
    expected = negguide.from_pipe(classic)(**call, negative_guidance=NAG_TWO).images
    if name == "flux2":
        guided = guided.flatten(2).transpose(1, 2) if guided.ndim == 4 else guided
    elif name == "flux2-klein":
        norm = classic.vae.bn
        deviation = torch.sqrt(norm.running_var + classic.vae.config.batch_norm_eps).view(1, -1, 1, 1)
        expected = (classic._patchify_latents(expected) - norm.running_mean.view(1, -1, 1, 1)) / deviation
    else:
        guided = classic._pack_latents(guided, *guided.shape) if guided.ndim == 4 else guided
    assert_same(guided, expected)


def test_perp_neg_needs_a_guider_and_says_what_does_not(distilled: Any) -> None:
    for name in DISTILLED:
        _, pipe, _ = distilled(name)
        with pytest.raises(
            ValueError, match=r"has no guider: its model is distilled .* negguide\.with_negative"
        ):
            with_negative_guidance(pipe, PERP_NEG)


# ---- Guiders --------------------------------------------------------------------------------------------------------


def test_both_models_of_wan_2_2_are_guided(family: Family) -> None:
    both = family("wan")
    second = copy.deepcopy(both.classic.transformer)
    for parameter in second.parameters():
        parameter.data *= 1.1
    parts = both.classic.components | {"transformer_2": second}
    classic = diffusers.WanPipeline(**parts, boundary_ratio=0.9)
    blocks = diffusers.Wan22Blocks()
    blocks.sub_blocks.pop("decode")
    pipe = blocks.init_pipeline()
    pipe.update_components(**parts, boundary_ratio=0.9)
    pipe.update_components(guider=ClassifierFreeGuidance(SCALE), guider_2=ClassifierFreeGuidance(2.5))
    method = NAG(always("black glasses", start=0.25, stop=0.75), scale=5.0)
    expected = both.run_classic(negguide.from_pipe(classic), negative_guidance=method, guidance_scale_2=2.5)
    assert_same(both.run(with_negative_guidance(pipe, method)), expected)


def test_a_guider_that_skips_layers_finds_the_model_itself(family: Family) -> None:
    both = family("wan")
    skip = SkipLayerGuidance(
        guidance_scale=SCALE,
        skip_layer_config=LayerSkipConfig(indices=[1], fqn="blocks"),
        skip_layer_guidance_start=0.0,
        skip_layer_guidance_stop=1.0,
    )
    pipe = both.modular(both.family.blocks)
    pipe.update_components(guider=skip)
    skipping = both.run(pipe)
    guided = both.run(with_negative_guidance(pipe, NAG_TWO))
    assert differ(guided, skipping) > 1e-3
    # the prediction without layers is left alone, and the model has them again
    off = NAG(always("black glasses", weight=0.0), scale=5.0)
    assert torch.equal(both.run(with_negative_guidance(pipe, off)), skipping)
    assert torch.equal(both.run(pipe), skipping)


def test_what_is_given_takes_the_place_of_what_is_there(family: Family) -> None:
    both = family("z-image")
    pipe = with_negative_guidance(with_negative_guidance(both.pipe, VSF("a hat")), NAG_TWO)
    assert torch.equal(both.run(pipe, steps=2), both.run(with_negative_guidance(both.pipe, NAG_TWO), steps=2))
    assert [name for name in pipe.blocks.sub_blocks if name == "guide_denoiser"] == ["guide_denoiser"]
    guider = PerpNegGuidance(PERP_NEG, guidance_scale=SCALE)
    perp_neg = with_negative_guidance(pipe, guider)
    assert perp_neg.guider is guider and "guide_denoiser" not in perp_neg.blocks.sub_blocks
    assert torch.equal(both.run(perp_neg, steps=2), both.run(with_perp_neg(both.pipe, guider), steps=2))


def test_the_block_can_be_put_in_by_hand(family: Family) -> None:
    both = family("sdxl")
    pipe = both.modular(
        both.family.blocks, lambda blocks: blocks.sub_blocks.insert("negatives", GuideDenoiser(NAG_TWO), 0)
    )
    assert torch.equal(both.run(pipe, steps=2), both.run(with_negative_guidance(both.pipe, NAG_TWO), steps=2))


# ---- Refusals -------------------------------------------------------------------------------------------------------


def test_what_cannot_act_in_a_denoiser_is_refused(family: Family) -> None:
    both = family("sd3")
    with pytest.raises(
        ValueError, match="GuideDenoiser takes methods of attention and token space, got PerpNeg"
    ):
        GuideDenoiser(PERP_NEG)
    with pytest.raises(ValueError, match="holds NAG and VSF, which both work in attention"):
        with_negative_guidance(both.pipe, [NAG_TWO, VSF("a hat")])
    with pytest.raises(ValueError, match="holds two PerpNeg objects"):
        with_negative_guidance(both.pipe, [PerpNegGuidance(PERP_NEG), PERP_NEG])
    with pytest.raises(TypeError, match=r"must hold methods .* got 'glasses'"):
        with_negative_guidance(both.pipe, "glasses")
    with pytest.raises(TypeError, match=r"for classic pipelines there is negguide\.from_pipe"):
        with_negative_guidance(both.classic, NAG_TWO)
    with pytest.raises(ValueError, match="reference holds images, which modular pipelines do not encode"):
        with_negative_guidance(both.pipe, NegToMe(torch.rand(3, 8, 8)))
    with pytest.raises(ValueError, match=r"num_images_per_prompt is 1 .* needs at least 2 images"):
        both.run(with_negative_guidance(both.pipe, NegToMe("others", stop=1.0)), steps=2)
    with pytest.raises(ValueError, match="holds none of the 2 steps"):
        both.run(with_negative_guidance(both.pipe, NAG(always("a hat", stop=0.1))), steps=2)
    long = with_negative_guidance(both.pipe, NAG(always(" ".join(["hat"] * 40))))
    with pytest.raises(ValueError, match=r"^prompt of Negative\(.* would be cut off"):
        both.run(long, steps=2)
    negguide.apply_to_model(both.denoiser, NegToMe("others"))
    try:
        with pytest.raises(ValueError, match="has a method of negguide on it already"):
            both.run(with_negative_guidance(both.pipe, NAG_TWO), steps=2)
    finally:
        negguide.remove_from_model(both.denoiser)


def test_a_cache_that_would_mix_up_two_sides_of_a_window_is_refused(distilled: Any) -> None:
    _, pipe, arguments = distilled("flux")
    half = NAG(always("a hat", stop=0.5))
    pipe.transformer.enable_cache(diffusers.FirstBlockCacheConfig(threshold=0.1))
    try:
        with pytest.raises(
            ValueError, match="NAG has a window, and what the model's cache keeps of one side"
        ):
            latents_of(with_negative_guidance(pipe, half), **arguments)
    finally:
        pipe.transformer.disable_cache()
    config = diffusers.PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2, current_timestep_callback=lambda: 500
    )
    pipe.transformer.enable_cache(config)
    try:
        with pytest.raises(ValueError, match="PyramidAttentionBroadcast"):
            latents_of(with_negative_guidance(pipe, NAG_TWO), **arguments)
    finally:
        pipe.transformer.disable_cache()


def test_a_view_answers_for_the_model_in_everything_but_its_call(family: Family) -> None:
    both = family("qwen-image")
    seen: list[Any] = []

    class Look(diffusers.modular_pipelines.ModularPipelineBlocks):
        """Keeps what the blocks behind `GuideDenoiser` are handed."""

        def __call__(self, components: Any, state: Any) -> Any:
            seen.append(components)
            return components, state

    pipe = both.modular(both.family.blocks, lambda blocks: blocks.sub_blocks.insert("look", Look(), 1))
    guided = with_negative_guidance(pipe, NAG_TWO)
    guided._blocks.sub_blocks.insert("behind", Look(), 2)
    both.run(guided, steps=2)
    view = seen[0]
    assert view is not guided and isinstance(view, type(guided))
    assert isinstance(view.transformer, type(both.denoiser)) and view.transformer.dtype == both.denoiser.dtype
    with view.transformer.cache_context("cond"):
        pass
    assert view.guider.guidance_scale == SCALE and guided.transformer is both.denoiser
    with pytest.raises(ValueError, match="GuideDenoiser is not saved with its methods"):
        GuideDenoiser(NAG_TWO).save_pretrained("unused")


def test_a_loop_that_asks_its_guider_nothing_is_refused(family: Family) -> None:
    both = family("sd3")

    class Deaf(diffusers.modular_pipelines.ModularPipelineBlocks):
        """Calls the denoiser without asking the guider."""

        def __call__(self, components: Any, state: Any) -> Any:
            components.transformer(
                hidden_states=torch.zeros(1, 4, 8, 8), timestep=torch.ones(1), encoder_hidden_states=None
            )
            return components, state

    pipe = both.modular(
        both.family.blocks,
        lambda blocks: (blocks.sub_blocks.insert("deaf", Deaf(), len(blocks.sub_blocks) - 1), None)[1],
    )
    with pytest.raises(
        ValueError, match="the denoiser is called outside of what the pipeline's guider prepared"
    ):
        both.run(with_negative_guidance(pipe, NAG_TWO), steps=2)
