"""Methods and families from outside: the same doors as for those of negguide, and errors that say what is wrong."""

import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel

import negguide
from negguide import Negative, PerpNeg, apply_to_model, from_pipe, register_family, register_method
from negguide.integration.families import Denoiser, denoiser_family, family_of, supported_pipelines
from negguide.integration.families.stable_diffusion import STABLE_DIFFUSION
from negguide.methods import AttentionMethod, TokenMethod, Window, collect, method_from_dict

WHOLE: dict[str, Any] = {"start": 0.0, "stop": 1.0}


def encode(pipe: Any, text: str) -> torch.Tensor:
    embeddings: torch.Tensor = pipe.encode_prompt([text], "cpu", 1, False)[0]
    return embeddings


def test_a_score_method_from_outside_computes_what_it_says(
    pipe: Any, generate: Any, negguide_extra: Any
) -> None:
    """Whole subtraction of one negative of weight 1 is guidance away from it: u + g (c - n)."""
    method = negguide_extra.Whole(Negative("black glasses", **WHOLE))
    result = generate(pipe, "a bear", negative_guidance=method, num_inference_steps=3).images
    scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    scheduler.set_timesteps(3)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        u, c, n = (encode(pipe, text) for text in ("", "a bear", "black glasses"))
        for t in scheduler.timesteps:
            uncond, cond, negative = (pipe.unet(latents, t, text).sample for text in (u, c, n))
            guided = uncond + 3.0 * (cond - negative)
            latents = scheduler.step(guided, t, latents, return_dict=False)[0]
    torch.testing.assert_close(result, latents, rtol=0, atol=1e-6 * float(latents.abs().max()))


def test_an_attention_method_from_outside_works_in_both_doors(
    make_pipeline: Any, generate: Any, negguide_extra: Any
) -> None:
    own = make_pipeline()
    plain = generate(own).images
    method = negguide_extra.Minus("black glasses", scale=0.5)
    guided = generate(from_pipe(own), negative_guidance=method).images
    assert (guided - plain).abs().max() > 1e-2 * plain.abs().max()
    apply_to_model(own.unet, method, negative_embeds=encode(own, "black glasses").detach())
    assert torch.equal(generate(own).images, guided)
    negguide.remove_from_model(own.unet)
    assert torch.equal(generate(own).images, plain)
    off = negguide_extra.Minus("black glasses", scale=0.0)
    assert torch.equal(generate(from_pipe(own), negative_guidance=off).images, plain)


def test_a_token_method_from_outside_works_in_both_doors(make_pipeline: Any, generate: Any) -> None:
    @dataclass(frozen=True, eq=False)
    class Average(TokenMethod):
        """Half way to the mean of the others."""

        key: ClassVar[str] = "average"
        label: ClassVar[str] = "Average"
        summary: ClassVar[str] = "draws images together"
        source: ClassVar[str] = "tests"
        reference: str = "others"
        mask: Any = None
        blocks: Any = None
        group_size: Any = None

        @property
        def windows(self) -> list[Window]:
            return [Window("Average", 0.0, 1.0)]

        def push_others(self, groups: torch.Tensor, mask: Any = None) -> Any:
            mean = groups.mean(dim=1, keepdim=True).expand_as(groups)
            return (groups + mean) / 2, groups.new_ones(groups.shape[:2])

    own = make_pipeline()
    two = {"num_images_per_prompt": 2}
    plain = generate(own, **two).images
    guided = generate(from_pipe(own), negative_guidance=Average(), **two).images

    def apart(images: torch.Tensor) -> float:
        return float((images[0] - images[1]).norm() / images.norm())

    assert apart(guided) < apart(plain)
    registered = dict(negguide.methods.registry._METHODS)
    try:
        register_method(Average)
        apply_to_model(own.unet, Average(), num_images_per_prompt=2)
        assert torch.equal(generate(own, **two).images, guided)
    finally:
        negguide.methods.registry._METHODS.clear()
        negguide.methods.registry._METHODS.update(registered)


def test_a_family_from_outside_has_its_pipeline_and_its_denoiser(
    base: Any, generate: Any, negguide_extra: Any
) -> None:
    class OutsideUNet(UNet2DConditionModel):
        pass

    found = supported_pipelines()
    assert found["ElsewherePipeline"].name == "Elsewhere"
    pipe = object.__new__(negguide_extra.ElsewherePipeline)
    vars(pipe).update(vars(base))
    guided = from_pipe(pipe)
    assert guided.family.name == "Elsewhere" and type(guided).__name__ == "ElsewherePipeline"
    method = PerpNeg("black glasses")
    expected = generate(from_pipe(base), negative_guidance=method).images
    assert torch.equal(generate(guided, negative_guidance=method).images, expected)
    denoiser: Any = replace(STABLE_DIFFUSION.denoiser, classes=(OutsideUNet,))  # type: ignore[type-var]
    assert isinstance(denoiser, Denoiser)
    register_family(replace(STABLE_DIFFUSION, name="Outside UNet", pipelines=(), denoiser=denoiser))
    model = OutsideUNet.from_config(base.unet.config)
    # a class derived from one that is known belongs to the first family that knows it
    assert denoiser_family(model)[0].name in ("Outside UNet", STABLE_DIFFUSION.name)


def test_a_subclass_of_a_supported_pipeline_is_supported(base: Any, generate: Any) -> None:
    class Louder(StableDiffusionPipeline):
        def __call__(self, *args: Any, loud: bool = False, **kwargs: Any) -> Any:
            output = super().__call__(*args, **kwargs)
            output.images = output.images * (2 if loud else 1)
            return output

    class Deeper(Louder):
        pass

    assert family_of(Deeper) is STABLE_DIFFUSION
    method = PerpNeg("black glasses")
    expected = generate(from_pipe(base), negative_guidance=method).images
    for kind in (Louder, Deeper):
        own = object.__new__(kind)
        vars(own).update(vars(base))
        guided = from_pipe(own)
        assert isinstance(guided, kind)
        assert torch.equal(generate(guided, negative_guidance=method).images, expected)
        assert torch.equal(generate(guided, negative_guidance=method, loud=True).images, 2 * expected)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (lambda kind: object(), TypeError, "needs a class derived from ScoreMethod, TokenMethod or"),
        (lambda kind: int, TypeError, "needs a class derived from"),
        (lambda kind: type("Bare", (AttentionMethod,), {}), TypeError, "Bare must be a frozen dataclass"),
        (lambda kind: without(kind, "summary"), ValueError, "class attribute summary, a string"),
        (lambda kind: changed(kind, key="nag"), ValueError, r"NAG with key 'nag' is registered already"),
        (lambda kind: changed(kind, space="score"), ValueError, "space 'score' and is no ScoreMethod"),
    ],
)
def test_what_is_no_method_is_refused(negguide_extra: Any, change: Any, error: Any, says: str) -> None:
    with pytest.raises(error, match=says):
        register_method(change(negguide_extra.Minus))


def changed(kind: Any, **attributes: Any) -> Any:
    return dataclass(frozen=True, eq=False, init=False, repr=False)(type("Other", (kind,), attributes))


def without(kind: Any, name: str) -> Any:
    return changed(kind, key="other", **{name: None})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, "family 'Stable Diffusion 1.x/2.x' is registered already"),
        (
            {"name": "Mine"},
            "StableDiffusionControlNetPipeline, which belongs to 'Stable Diffusion 1.x/2.x' already",
        ),
        ({"name": "Mine", "pipelines": (), "denoiser": None}, "neither pipelines nor a denoiser"),
        ({"name": "Mine", "pipelines": (int,), "embeds": {}}, "text input 'encoder_hidden_states' neither"),
    ],
)
def test_what_is_no_family_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        register_family(replace(STABLE_DIFFUSION, **changes))
    with pytest.raises(TypeError, match=r"needs a negguide.Family, got 'sd'"):
        register_family("sd")  # type: ignore[arg-type]


def test_its_methods_are_known_by_name(negguide_extra: Any) -> None:
    method = negguide_extra.Minus("hat", Negative("glasses", weight=2))
    assert method_from_dict(method.to_dict()) == method
    assert collect([method, negguide_extra.Whole("hat")]).attention is method
    with pytest.raises(ValueError, match="Minus and NAG, which both work in attention"):
        collect([method, negguide.NAG("hat")])
    with pytest.raises(ValueError, match="Whole and PerpNeg, which both work on predictions"):
        collect([negguide_extra.Whole("hat"), PerpNeg("hat")])


def test_an_installed_package_is_found_by_its_entry_point_and_a_broken_one_is_named(tmp_path: Path) -> None:
    info = tmp_path / "broken_extra-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-extra\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[negguide]\nbroken = broken_extra:register\n")
    (tmp_path / "broken_extra.py").write_text("def register():\n    raise RuntimeError('no luck')\n")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import negguide; negguide.registered_methods()"
    )
    failed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert (
        "broken-extra, which brings methods or model families to negguide by its entry point" in failed.stderr
    )
    assert "fails: no luck; mend or uninstall it" in failed.stderr
