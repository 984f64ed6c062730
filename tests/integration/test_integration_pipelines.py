"""from_pipe and the pipeline around the guidance: sharing, signatures, failures, offloading, custom_pipeline."""

import copy
import inspect
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import PIL.Image
import pytest
import torch
from diffusers import (
    DiffusionPipeline,
    EulerDiscreteScheduler,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPanoramaPipeline,
    StableDiffusionPipeline,
)
from diffusers.hooks.hooks import HookRegistry, ModelHook

import negguide
from negguide import Negative, NegToMe, PerpNeg, Timestep, from_pipe
from negguide.integration.families import supported_pipelines
from negguide.integration.families.refused import REFUSED

BOTH = [PerpNeg(Negative("black glasses", stop=1.0)), NegToMe(alpha=3.0, threshold=0.2, stop=1.0)]
FILE = Path(__file__).parents[2] / "pipelines" / "negguide_stable_diffusion.py"


def test_from_pipe_shares_everything_and_leaves_the_pipeline_usable(
    make_pipeline: Any, generate: Any
) -> None:
    plain = make_pipeline()
    plain.vae.to(torch.float32)
    guided = from_pipe(plain)
    assert type(guided) is negguide.NegGuideStableDiffusionPipeline
    assert type(plain) is StableDiffusionPipeline
    assert all(guided.components[name] is part for name, part in plain.components.items())
    assert (guided.unet.dtype, guided.vae.dtype) == (torch.float64, torch.float32)
    assert from_pipe(guided) is guided
    guided.scheduler = EulerDiscreteScheduler()
    assert plain.scheduler is not guided.scheduler
    assert (
        plain.config.scheduler[1] == "DDIMScheduler"
        and guided.config.scheduler[1] == "EulerDiscreteScheduler"
    )
    assert generate(plain).images.shape == (1, 4, 8, 8)


def test_an_unsupported_pipeline_is_refused_by_name(base: Any) -> None:
    own = {**base.components, "safety_checker": None}
    says = r"does not know StableDiffusionPanoramaPipeline; supported .*: .*StableDiffusion\w+Pipeline"
    with pytest.raises(ValueError, match=says):
        from_pipe(StableDiffusionPanoramaPipeline(**own, requires_safety_checker=False))
    with pytest.raises(
        ValueError, match="StableDiffusionInstructPix2PixPipeline: it weighs the image and the text"
    ):
        from_pipe(StableDiffusionInstructPix2PixPipeline(**own, requires_safety_checker=False))
    with pytest.raises(ValueError, match="does not know str"):
        from_pipe("toyworld")


def test_what_is_refused_with_a_reason_is_a_pipeline_that_no_family_has() -> None:
    assert all(issubclass(getattr(diffusers, name), diffusers.DiffusionPipeline) for name in REFUSED)
    assert not set(REFUSED) & set(supported_pipelines())


def test_the_signature_shows_the_base_arguments_and_the_new_ones() -> None:
    parameters = inspect.signature(negguide.NegGuideStableDiffusionPipeline.__call__).parameters
    original = inspect.signature(StableDiffusionPipeline.__call__).parameters
    new = ["negative_guidance", "trace", "max_branch_batch"]
    assert [name for name in parameters if name not in new] == list(original)
    assert all(parameters[name].kind is inspect.Parameter.KEYWORD_ONLY for name in new)
    assert "max_branch_batch" in negguide.NegGuideStableDiffusionPipeline.__call__.__doc__


def test_positional_arguments_mean_what_they_mean_in_the_base_pipeline(base: Any, pipe: Any) -> None:
    arguments = ("a bear", 64, 72, 3)
    options = {"output_type": "latent", "guidance_scale": 3.0}
    torch.manual_seed(0)
    expected = base(*arguments, **options).images
    torch.manual_seed(0)
    assert torch.equal(pipe(*arguments, **options).images, expected)
    torch.manual_seed(0)
    guided = pipe(*arguments, **options, negative_guidance=PerpNeg(Negative("hat", stop=1.0))).images
    assert guided.shape == (1, 4, 8, 9) and not torch.equal(guided, expected)


def test_every_output_type_is_the_decoded_latents(base: Any, pipe: Any, generate: Any) -> None:
    arguments = {"num_images_per_prompt": 2, "negative_guidance": BOTH}
    latents = generate(pipe, **arguments).images
    with torch.no_grad():
        decoded = base.vae.decode(latents / base.vae.config.scaling_factor).sample
    expected = (decoded / 2 + 0.5).clamp(0, 1)
    assert torch.allclose(generate(pipe, output_type="pt", **arguments).images, expected)
    array = generate(pipe, output_type="np", **arguments).images
    assert np.allclose(array, expected.permute(0, 2, 3, 1).numpy(), atol=1e-6)
    images = generate(pipe, output_type="pil", **arguments).images
    assert [type(image) for image in images] == [PIL.Image.Image] * 2 and images[0].size == (64, 64)
    as_tuple = generate(pipe, return_dict=False, **arguments)
    assert isinstance(as_tuple, tuple) and torch.equal(as_tuple[0], latents)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_finite_and_half(make_pipeline: Any, generate: Any, dtype: Any) -> None:
    pipe = from_pipe(make_pipeline(dtype=dtype))
    image = torch.rand(3, 64, 64)
    methods = [BOTH[0], NegToMe(image, alpha=0.5, max_push=0.5, stop=1.0, mask=torch.ones(64, 64))]
    latents = generate(pipe, num_inference_steps=3, negative_guidance=methods).images
    assert latents.dtype == dtype and latents.isfinite().all()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_after_an_exception_the_model_is_as_before(
    base: Any, pipe: Any, generate: Any, unchanged: Any, error: Any
) -> None:
    def fail(*_: Any) -> None:
        raise error("stop")

    def fail_between_steps(*_: Any) -> Any:
        raise error("stop")

    expected = generate(base).images
    with pytest.raises(error, match="stop"):
        generate(
            pipe, num_images_per_prompt=2, negative_guidance=BOTH, callback_on_step_end=fail_between_steps
        )
    # in the middle of a forward, with intercepted processors in the model
    handle = base.unet.conv_out.register_forward_hook(fail)
    try:
        with pytest.raises(error, match="stop"):
            generate(pipe, num_images_per_prompt=2, negative_guidance=BOTH)
    finally:
        handle.remove()
    assert "forward" not in vars(base.unet) and not hasattr(base.unet, "_diffusers_hook")
    assert torch.equal(generate(base).images, expected)


def test_a_callback_that_calls_the_denoiser_is_told_so(pipe: Any, generate: Any, unchanged: Any) -> None:
    def call(pipeline: Any, step: int, t: Any, values: Any) -> Any:
        pipeline.unet(values["latents"], t, torch.zeros(1, 12, 32, dtype=torch.float64))
        return values

    with pytest.raises(ValueError, match="more often than the 5 timesteps"):
        generate(
            pipe,
            negative_guidance=PerpNeg(Negative("a hat", start=0.8, stop=1.0)),
            callback_on_step_end=call,
        )


def test_hooks_and_processors_of_others_survive(make_pipeline: Any, generate: Any) -> None:
    plain = make_pipeline()

    class Doubling(ModelHook):
        def post_forward(self, module: Any, output: Any) -> Any:
            return (output[0] * 2,)

    registry = HookRegistry.check_if_exists_or_initialize(plain.unet)
    registry.register_hook(Doubling(), "doubling")
    pipe = from_pipe(plain)
    before = generate(plain).images

    def swap(pipeline: Any, step: int, t: Any, values: Any) -> Any:
        if step == 0:
            registry.register_hook(ModelHook(), "late")
            pipeline.unet.up_blocks[1].attentions[0].transformer_blocks[0].attn1.set_processor(mine)
        return values

    mine = copy.copy(plain.unet.mid_block.attentions[0].transformer_blocks[0].attn1.processor)
    generate(pipe, num_images_per_prompt=2, negative_guidance=BOTH, callback_on_step_end=swap)
    assert list(registry.hooks) == ["doubling", "late"]
    assert plain.unet.up_blocks[1].attentions[0].transformer_blocks[0].attn1.processor is mine
    registry.remove_hook("late")
    assert torch.equal(generate(plain).images, before)
    registry.remove_hook("doubling")
    assert not torch.equal(generate(plain).images, before)


def test_offloading_before_or_after_from_pipe_keeps_working(
    make_pipeline: Any, generate: Any, pipe: Any
) -> None:
    methods = [BOTH[0], NegToMe(torch.rand(3, 64, 64), alpha=3.0, threshold=0.2, stop=1.0)]
    expected = generate(pipe, negative_guidance=methods).images
    for enable_first in (False, True):
        plain = make_pipeline()
        if enable_first:
            plain.enable_model_cpu_offload(device="cpu")
        guided = from_pipe(plain)
        if not enable_first:
            guided.enable_model_cpu_offload(device="cpu")
        for _ in range(2):
            assert torch.allclose(generate(guided, negative_guidance=methods).images, expected)
            # the forward is the offloading's, of the hook that is there now
            assert guided.unet.forward.__wrapped__ == guided.unet._old_forward
            assert "_diffusers_hook" not in vars(guided.unet)
        plain.remove_all_hooks()
        assert not hasattr(guided.unet, "_hf_hook")


def test_diffusers_from_pipe_goes_both_ways(make_pipeline: Any, generate: Any) -> None:
    base = make_pipeline(kl=True)  # the class that diffusers insists on
    guided = negguide.NegGuideStableDiffusionPipeline.from_pipe(base, dtype=base.dtype)
    guided.set_progress_bar_config(disable=True)
    back = StableDiffusionPipeline.from_pipe(guided, dtype=base.dtype)
    back.set_progress_bar_config(disable=True)
    assert type(back) is StableDiffusionPipeline and back.unet is base.unet
    expected = generate(from_pipe(base), negative_guidance=BOTH[0]).images
    assert torch.equal(generate(guided, negative_guidance=BOTH[0]).images, expected)
    assert torch.equal(generate(back).images, generate(base).images)


def test_a_saved_pipeline_loads_with_the_file_as_custom_pipeline(
    make_pipeline: Any, generate: Any, tmp_path: Any
) -> None:
    plain = make_pipeline(dtype=torch.float32)
    for name, pipeline in (("plain", plain), ("guided", from_pipe(plain))):
        pipeline.save_pretrained(tmp_path / name)
        loaded = DiffusionPipeline.from_pretrained(
            tmp_path / name, custom_pipeline=str(FILE), trust_remote_code=True
        )
        loaded.set_progress_bar_config(disable=True)
        assert isinstance(loaded, negguide.NegGuideStableDiffusionPipeline)
        method = PerpNeg(Negative("black glasses", stop=1.0))
        expected = generate(from_pipe(plain), negative_guidance=method).images
        assert torch.equal(generate(loaded, negative_guidance=method).images, expected)


BIG = torch.ones(32, 64)
LONG = "hat " * 10 + "back"


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"prompt": []}, ValueError, "prompt is an empty list"),
        ({"negative_guidance": []}, ValueError, "negative_guidance is empty"),
        ({"negative_guidance": "glasses"}, TypeError, r"wrap it: PerpNeg\('glasses'\)"),
        ({"negative_guidance": [PerpNeg("a"), PerpNeg("b")]}, ValueError, "two PerpNeg"),
        (
            {"negative_guidance": PerpNeg("a hat"), "guidance_scale": 1.0},
            ValueError,
            "PerpNeg needs classifier-free guidance: guidance_scale is 1.0.*use e.g. 4.5",
        ),
        ({"negative_guidance": PerpNeg("a hat"), "guidance_scale": 0}, ValueError, "guidance_scale is 0"),
        (
            {"negative_guidance": PerpNeg(Negative("a hat", mask=BIG))},
            ValueError,
            r"mask of Negative\('a hat'\) is 64x32 .*the image is 64x64.*aspect ratio",
        ),
        ({"negative_guidance": NegToMe()}, ValueError, "num_images_per_prompt is 1.*reference='others'"),
        (
            {"negative_guidance": NegToMe(start=Timestep(700)), "num_images_per_prompt": 2},
            ValueError,
            r"start must be noisier than stop, got start=Timestep\(700\), stop=Timestep\(800\)",
        ),
        (
            {"negative_guidance": NegToMe(stop=0.1), "num_images_per_prompt": 2},
            ValueError,
            "stop=0.1 of NegToMe holds none of the 5 steps; .* give stop=0.2 or more",
        ),
        (
            {"negative_guidance": PerpNeg("a hat"), "prompt": LONG},
            ValueError,
            "^prompt is 13 tokens long.* reads 12: 'back' would be cut off; shorten it$",
        ),
        (
            {"negative_guidance": NegToMe(), "num_images_per_prompt": 2, "prompt": ["a hat", LONG]},
            ValueError,
            r"^prompt\[1\] is 13 tokens long",
        ),
        (
            {"negative_guidance": PerpNeg("a hat"), "negative_prompt": LONG},
            ValueError,
            "^negative_prompt is 13 tokens long.*: 'back' would be cut off",
        ),
        (
            {"negative_guidance": PerpNeg("a hat"), "prompt": ["a", "a"], "negative_prompt": ["a", LONG]},
            ValueError,
            r"^negative_prompt\[1\] is 13 tokens long",
        ),
        (
            {"negative_guidance": NegToMe("first"), "prompt": ["a hat", "a bear"]},
            ValueError,
            "num_images_per_prompt is 1.*at least 2 images of each prompt",
        ),
        (
            {"negative_guidance": NegToMe(mask=BIG), "num_images_per_prompt": 2},
            ValueError,
            "mask of NegToMe is 64x32",
        ),
        (
            {"negative_guidance": NegToMe(reference_mask=BIG), "num_images_per_prompt": 2},
            ValueError,
            "reference_mask of NegToMe is 64x32 .*the image is 64x64",
        ),
        (
            {"negative_guidance": NegToMe(torch.rand(3, 64, 32), reference_mask=BIG)},
            ValueError,
            "reference_mask of NegToMe is 64x32 .*the reference image is 32x64",
        ),
        (
            {"negative_guidance": NegToMe(blocks="attn7"), "num_images_per_prompt": 2},
            ValueError,
            r"blocks='attn7' is found in no self-attention module.*mid_block\.",
        ),
        ({"trace": True}, ValueError, "trace=True needs negative_guidance"),
        ({"trace": "yes", "negative_guidance": PerpNeg("a hat")}, TypeError, "trace must be True or False"),
        (
            {"max_branch_batch": 2},
            ValueError,
            "max_branch_batch=2 needs negative_guidance=; the plain pipeline",
        ),
        ({"max_branch_batch": 0, "negative_guidance": PerpNeg("a hat")}, ValueError, "at least 1.*got 0"),
        ({"max_branch_batch": 1.5, "negative_guidance": PerpNeg("a hat")}, TypeError, "max_branch_batch"),
    ],
)
def test_bad_calls_are_refused_before_any_model_runs(
    base: Any,
    pipe: Any,
    generate: Any,
    unchanged: Any,
    monkeypatch: Any,
    arguments: Any,
    error: Any,
    says: Any,
) -> None:
    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a model ran")

    for model in (base.unet, base.text_encoder, base.vae):
        monkeypatch.setitem(vars(model), "forward", never)
    with pytest.raises(error, match=says):
        generate(pipe, **{"prompt": "a bear", **arguments})


@pytest.mark.parametrize(
    ("method", "says"),
    [
        (
            PerpNeg("a hat", Negative("a cat", start=0.9, stop=0.95)),
            r"start=0.9, stop=0.95 of Negative\('a cat'\)",
        ),
        (NegToMe(stop=0.1), "start=0.0, stop=0.1 of NegToMe"),
        (NegToMe(start=0.3), r"start=0.3, stop=Timestep\(800\) of NegToMe"),
    ],
)
def test_a_window_without_a_step_is_refused(
    pipe: Any, generate: Any, unchanged: Any, method: Any, says: Any
) -> None:
    with pytest.raises(ValueError, match=f"{says} holds none of the 5 steps"):
        generate(pipe, num_images_per_prompt=2, negative_guidance=method)


def test_a_distilled_unet_refuses_perp_neg_and_takes_negtome(
    make_unet: Any, make_pipeline: Any, generate: Any
) -> None:
    pipe = from_pipe(make_pipeline(make_unet(time_cond_proj_dim=8)))
    with pytest.raises(ValueError, match="PerpNeg needs classifier-free guidance: this UNet is distilled"):
        generate(pipe, negative_guidance=PerpNeg("a hat"))
    for method in (BOTH[1], NegToMe(torch.rand(3, 64, 64), alpha=3.0, threshold=0.2, stop=1.0)):
        guided = generate(pipe, num_images_per_prompt=2, negative_guidance=method).images
        assert not torch.allclose(guided, generate(pipe, num_images_per_prompt=2).images, atol=1e-3)


def test_a_pipeline_without_text_encoder_says_that_it_needs_one(make_pipeline: Any, generate: Any) -> None:
    plain = make_pipeline()
    embeds = plain.encode_prompt(["a bear"], "cpu", 1, True)
    plain.text_encoder = None
    arguments = {"prompt": None, "prompt_embeds": embeds[0], "negative_prompt_embeds": embeds[1]}
    with pytest.raises(ValueError, match="needs the pipeline's text_encoder"):
        generate(from_pipe(plain), negative_guidance=BOTH[0], **arguments)


def test_importing_negguide_does_not_import_torch_or_diffusers() -> None:
    import subprocess
    import sys

    code = "import sys, negguide; print(sorted({'torch', 'diffusers', 'matplotlib'} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"
    assert set(negguide.__all__) <= set(dir(negguide))
    assert all(getattr(negguide, name) is not None for name in negguide.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'Magic'"):
        negguide.Magic  # noqa: B018
