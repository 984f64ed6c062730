"""What a user meets around a call: names that are wrong, what is stored, what editors and type checkers know."""

import pickle
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoPipelineForImage2Image,
    DiffusionPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
)

import negguide
from negguide import NAG, ONG, VSF, Negative, NegToMe, PerpNeg, from_pipe
from negguide.integration.hooks import compat


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            {"negative_guidence": PerpNeg("a hat")},
            "no argument 'negative_guidence'; did you mean negative_guidance?",
        ),
        ({"negativ_prompt": "a hat"}, "no argument 'negativ_prompt'; did you mean negative_prompt?"),
        ({"guidance_scales": 3}, "did you mean guidance_scale?"),
        ({"weight": 2.0}, "no argument 'weight'; weight is an argument of Negative, in negative_guidance="),
        ({"alpha": 2.0}, "alpha is an argument of NegToMe, in negative_guidance="),
        ({"joint": True}, "joint is an argument of PerpNeg, in negative_guidance="),
        ({"something": 1}, "StableDiffusionPipeline has no argument 'something'$"),
    ],
)
def test_a_name_that_the_pipeline_does_not_have_is_refused(pipe: Any, arguments: Any, says: str) -> None:
    for more in ({}, {"negative_guidance": PerpNeg("black glasses")}):
        with pytest.raises(TypeError, match=says):
            pipe("a bear", **arguments, **more)


def test_arguments_that_diffusers_only_deprecates_still_work(pipe: Any, generate: Any) -> None:
    seen: list[int] = []
    with pytest.warns(FutureWarning, match="callback"):
        generate(pipe, callback=lambda step, t, latents: seen.append(step), callback_steps=1)
    assert seen == [0, 1, 2, 3, 4]


def test_a_saved_guided_pipeline_is_an_ordinary_folder(
    make_pipeline: Any, generate: Any, tmp_path: Path
) -> None:
    guided = from_pipe(make_pipeline(dtype=torch.float32))
    guided.save_pretrained(tmp_path)
    plain = DiffusionPipeline.from_pretrained(tmp_path, safety_checker=None)
    assert type(plain) is StableDiffusionPipeline
    plain.set_progress_bar_config(disable=True)
    assert torch.equal(generate(plain).images, generate(guided).images)
    method = PerpNeg("black glasses")
    again = from_pipe(plain)
    assert torch.equal(
        generate(again, negative_guidance=method).images, generate(guided, negative_guidance=method).images
    )
    image_to_image = AutoPipelineForImage2Image.from_pipe(guided)
    assert type(image_to_image) is StableDiffusionImg2ImgPipeline and image_to_image.unet is guided.unet


def test_a_guided_class_has_the_name_of_its_pipeline_and_one_of_its_own(pipe: Any) -> None:
    kind = negguide.NegGuideStableDiffusionPipeline
    assert type(pipe) is kind and kind.__name__ == "StableDiffusionPipeline"
    assert kind.__qualname__ == "NegGuideStableDiffusionPipeline"
    assert pickle.loads(pickle.dumps(kind)) is kind


def test_a_traced_output_can_be_pickled(pipe: Any, generate: Any) -> None:
    output = generate(pipe, negative_guidance=[PerpNeg("a hat"), NAG("snow")], trace=True)
    copied = pickle.loads(pickle.dumps(output))
    assert type(copied) is type(output) and torch.equal(copied.images, output.images)
    assert copied.trace.to_dict() == output.trace.to_dict()
    assert torch.equal(copied.trace.maps["a hat"], output.trace.maps["a hat"])


@pytest.mark.parametrize(
    ("method", "change"),
    [
        (PerpNeg("a"), {"joint": True}),
        (NAG("a"), {"scale": 3.0}),
        (ONG("a", "b"), {"scale": 2.0}),
        (VSF("a"), {"bias": -1.0}),
        (VSF("a"), {"orthogonal": True}),
        (NegToMe("first"), {"alpha": 0.5}),
        (Negative("a"), {"weight": 2.0}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_methods_are_dataclasses(method: Any, change: dict[str, Any]) -> None:
    changed = replace(method, **change)
    assert changed != method and hash(changed) != hash(method)
    for name, value in change.items():
        assert getattr(changed, name) == value
    assert replace(changed, **{name: getattr(method, name) for name in change}) == method
    assert pickle.loads(pickle.dumps(method)) == method
    assert replace(method) == method and repr(replace(method)) == repr(method)


def test_negatives_may_be_given_as_one_sequence_but_not_twice() -> None:
    assert PerpNeg(negatives=["a", Negative("b")]) == PerpNeg("a", "b")
    with pytest.raises(TypeError, match="NAG got negatives twice"):
        NAG("a", negatives=["b"])
    with pytest.raises(
        TypeError, match="negatives must be a sequence of Negative objects or strings, got 'hat'"
    ):
        VSF(negatives="hat")


def test_a_negative_without_weight_costs_no_prediction(pipe: Any, base: Any, generate: Any) -> None:
    rows: list[int] = []
    handle = pipe.unet.conv_in.register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
    result = generate(pipe, negative_guidance=PerpNeg(Negative("a hat", weight=0.0, stop=1.0))).images
    handle.remove()
    assert rows == [2] * 5 and torch.equal(result, generate(base).images)


def test_type_checkers_know_the_arguments_of_a_guided_pipeline(tmp_path: Path) -> None:
    right = """
        from negguide import NAG, NegToMe, PerpNeg, from_pipe
        pipe = from_pipe(object()).to("cpu")
        output = pipe("a bear", negative_guidance=[PerpNeg("hat"), NegToMe(), NAG("snow")], trace=True)
        image = output.images[0].convert("L")
        steps: int = len(output.trace.timesteps)
        pipe.unet.eval()
    """
    wrong = {
        "pipe('a bear', negative_guidance='hat')": 'incompatible type "str"',
        "pipe('a bear', negative_guidance=[PerpNeg(3)])": 'incompatible type "int"',
        "pipe('a bear', trace=1)": 'incompatible type "int"',
        "PerpNeg('hat', join=True)": 'Unexpected keyword argument "join"',
        "NegToMe(alpha='strong')": 'incompatible type "str"',
    }
    file = tmp_path / "editor.py"
    lines = textwrap.dedent(right).strip().splitlines()
    file.write_text("\n".join([*lines, *wrong]) + "\n")
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--config-file",
        str(Path(__file__).parents[2] / "pyproject.toml"),
    ]
    result = subprocess.run([*command, str(file)], capture_output=True, text=True, check=False)
    errors = [line for line in result.stdout.splitlines() if "error:" in line]
    assert len(errors) == len(wrong), result.stdout
    for number, (error, says) in enumerate(zip(errors, wrong.values(), strict=True), len(lines) + 1):
        assert f"editor.py:{number}:" in error and says in error


def test_an_untested_diffusers_is_told_once(monkeypatch: Any, base: Any, recwarn: Any) -> None:
    for version in ("0.43.0", "1.0.0.dev0", "0.39.2"):
        compat.warn_if_untested.cache_clear()
        monkeypatch.setattr(compat.diffusers, "__version__", version)
        with pytest.warns(UserWarning, match=f"tested on diffusers 0.40 to 0.42, and this is {version}"):
            from_pipe(base)
        recwarn.clear()
        from_pipe(base)
        assert not recwarn.list
    compat.warn_if_untested.cache_clear()
    for version in ("0.40.0", "0.42.1", "0.42.9"):
        monkeypatch.setattr(compat.diffusers, "__version__", version)
        compat.warn_if_untested.cache_clear()
        from_pipe(base)
    assert not recwarn.list
