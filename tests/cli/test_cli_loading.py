"""LoRAs, offloading and dtypes: what a model is loaded with."""

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image

from negguide import NegToMe, PerpNeg, from_pipe, models
from negguide.cli import draw as drawing
from negguide.cli.job import Job, choose_dtype
from negguide.cli.lora import Lora, load_loras
from negguide.cli.options import OFFLOADS
from negguide.integration.families import registered_families
from negguide.pictures import read_settings

Lines = tuple[object, ...]


def save_lora(model: Path, file: Path, seed: int = 1) -> None:
    """A LoRA with weights that are not zero for the UNet of a model in a folder."""
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(model)
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    torch.manual_seed(seed)
    layers = {name: torch.randn_like(value) for name, value in get_peft_model_state_dict(pipe.unet).items()}
    pipe.save_lora_weights(file.parent, unet_lora_layers=layers, weight_name=file.name)


@pytest.fixture
def style(tiny_model: Path, tmp_path: Path) -> Path:
    path = tmp_path / "style.safetensors"
    save_lora(tiny_model, path)
    return path


@pytest.fixture
def draw(run: Any, tiny_model: Path) -> Any:
    fast = ("--model", tiny_model, "--steps", 3, "--device", "cpu")
    return lambda *words: run("generate", "a bear", *words, *fast)


def pixels(outcome: Any) -> bytes:
    assert outcome.exit_code == 0, outcome.message
    return np.asarray(Image.open(outcome.files[0])).tobytes()


def test_loras_and_their_scales_decide_the_picture_and_are_recorded(
    draw: Any, run: Any, style: Path, tiny_model: Path, tmp_path: Path
) -> None:
    save_lora(tiny_model, tmp_path / "other.safetensors", seed=2)
    told: list[Lines] = [
        (),
        ("--lora", "style.safetensors:0"),
        ("--lora", "style.safetensors:0.5"),
        ("--lora", style),
        ("--lora", style, "--lora", "other.safetensors"),
    ]
    outcomes = [draw(*words, "--out", f"{i}") for i, words in enumerate(told)]
    plain, zero, *others = [pixels(outcome) for outcome in outcomes]
    assert plain == zero
    assert len({plain, *others}) == 4
    (stored,) = read_settings(outcomes[2].files[0])["loras"]
    assert (stored["source"], stored["scale"], len(stored["sha256"])) == (str(style), 0.5, 64)
    assert "loras" not in read_settings(outcomes[0].files[0])
    again = run("generate", "--from", outcomes[4].files[-1], "--out", "again")
    assert "identical to the recorded images" in again.message
    save_lora(tiny_model, style, seed=3)
    refused = run("generate", "--from", outcomes[4].files[-1], "--out", "again")
    assert refused.exit_code == 2
    assert f"{style} has changed since the images were made" in refused.message


def test_a_lora_of_another_model_is_refused_instead_of_left_out(draw: Any, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    layers = {"lora_A": torch.ones(2, 8), "lora_B": torch.ones(8, 2)}
    save_file(
        {f"transformer.x.{name}.weight": t for name, t in layers.items()}, tmp_path / "other.safetensors"
    )
    outcome = draw("--lora", "other.safetensors")
    assert outcome.exit_code == 2
    assert "other.safetensors" in outcome.message and "StableDiffusionPipeline" in outcome.message
    assert "holds no weights for" in outcome.message or "cannot be loaded into" in outcome.message


def test_a_file_that_is_no_lora_and_one_that_is_missing_are_refused(draw: Any, tmp_path: Path) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"no weights")
    broken = draw("--lora", "broken.safetensors")
    assert broken.exit_code == 2
    assert "broken.safetensors cannot be loaded into StableDiffusionPipeline: " in broken.message
    missing = draw("--lora", "owner/no-such-lora")
    assert missing.exit_code == 2
    assert "--lora owner/no-such-lora cannot be loaded into" in missing.message
    assert "there is no file 'nosuch.safetensors'" in draw("--lora", "nosuch.safetensors").message


def test_a_pipeline_without_loras_says_so() -> None:
    with pytest.raises(ValueError, match="--lora: object takes none; leave it out"):
        load_loras(object(), [Lora("owner/name")])


# accelerate's sequential one does not run with the CPU in place of the GPU
@pytest.mark.parametrize("how", ["model", "group"])
def test_an_offloaded_pipeline_draws_the_same_picture(tiny_model: Path, how: str) -> None:
    call: dict[str, Any] = {
        "prompt": "a bear",
        "num_images_per_prompt": 2,
        "negative_guidance": [PerpNeg("hat"), NegToMe(alpha=2.0)],
        "num_inference_steps": 3,
        "output_type": "np",
    }
    drawn = []
    for told in ("none", how):
        pipe = models.load_pipeline(str(tiny_model))
        pipe.set_progress_bar_config(disable=True)
        # the CPU stands for the GPU
        drawing.offload(pipe, told, "cpu")
        drawn += [pipe(**call, generator=torch.Generator().manual_seed(0)).images for _ in range(2)]
    assert np.array_equal(drawn[0], drawn[1])
    for images in drawn[2:]:
        np.testing.assert_allclose(images, drawn[0], atol=1e-4)


def test_each_kind_of_offloading_is_diffusers_own() -> None:
    called: list[Any] = []

    class Pipe:
        def __getattr__(self, name: str) -> Any:
            return lambda *args, **kwargs: called.append((name, args, kwargs))

    for how in OFFLOADS:
        drawing.offload(Pipe(), how, "cuda:1")
    group = {"offload_type": "leaf_level", "use_stream": True}
    assert called == [
        ("enable_model_cpu_offload", (), {"device": "cuda:1"}),
        ("enable_sequential_cpu_offload", (), {"device": "cuda:1"}),
        ("enable_group_offload", (torch.device("cuda:1"),), group),
    ]


def test_offloading_is_refused_where_nothing_is_saved_and_where_it_is_unknown(draw: Any) -> None:
    refused = draw("--offload", "model")
    assert refused.exit_code == 2
    assert (
        "--offload model keeps a model on the CPU while a GPU computes, and --device is cpu"
        in refused.message
    )
    assert (
        "--offload must be one of none, model, sequential, group, got 'disk'"
        in draw("--offload", "disk").message
    )


def test_an_offloaded_model_is_loaded_onto_the_cpu_and_that_is_recorded(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places: list[Any] = []
    real = models.load_pipeline

    def load(model: str, *, device: str, **options: Any) -> Any:
        places.append(device)
        return real(model, device=device, **options)

    monkeypatch.setattr(drawing, "load_pipeline", load)
    monkeypatch.setattr(drawing, "offload", lambda _pipe, how, device: places.append((how, device)))
    job = Job("a bear", str(tiny_model), 2, 5.0, (0,), device="cuda", offload="model")
    drawing.draw([job])
    assert places == ["cpu", ("model", "cuda")]
    assert Job.from_dict(json.loads(json.dumps(job.to_dict()))) == job


@pytest.mark.parametrize(
    ("pipeline", "dtype"),
    [
        ("StableDiffusionPipeline", "float16"),
        ("StableDiffusionXLImg2ImgPipeline", "float16"),
        ("FluxPipeline", "bfloat16"),
        ("QwenImagePipeline", "bfloat16"),
        ("ZImagePipeline", "bfloat16"),
        ("SanaPipeline", "bfloat16"),
        ("WanPipeline", "bfloat16"),
        ("StableDiffusion3Pipeline", "bfloat16"),
        ("NewPipeline", "bfloat16"),
    ],
)
def test_on_a_gpu_the_dtype_is_what_the_family_was_published_in(
    tmp_path: Path, pipeline: str, dtype: str
) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": pipeline}))
    assert choose_dtype("auto", "cuda", str(tmp_path)) == dtype
    assert choose_dtype("auto", "cpu", str(tmp_path)) == "float32"
    assert choose_dtype("float32", "cuda", str(tmp_path)) == "float32"
    assert choose_dtype("auto", "cuda", "owner/nowhere", pipeline) == dtype
    assert choose_dtype("auto", "cuda", "toyworld") == "float32"


def test_every_family_was_published_in_a_dtype_that_can_be_named() -> None:
    for family in registered_families():
        assert str(family.dtype).removeprefix("torch.") in ("float16", "bfloat16"), family.name


def test_the_pipeline_of_a_model_is_known_without_loading_it(
    tiny_model: Path, tmp_path: Path, negguide_extra: Any
) -> None:
    assert models.pipeline_name(str(tiny_model)) == "StableDiffusionPipeline"
    assert models.pipeline_name("toyworld") == "StableDiffusionPipeline"
    assert models.pipeline_name("owner/nowhere") is None
    folder = tmp_path / "broken"
    shutil.copytree(tiny_model, folder)
    (folder / "model_index.json").write_text("no json")
    assert models.pipeline_name(str(folder)) is None
    assert models.pipeline_class("ElsewherePipeline") is negguide_extra.ElsewherePipeline
    assert models.pipeline_class("FluxPipeline") is diffusers.FluxPipeline
    assert models.pipeline_class("DDPMPipeline") is None


def test_the_embedded_model_is_loaded_as_another_pipeline() -> None:
    pipe = models.load_pipeline(pipeline="StableDiffusionImg2ImgPipeline")
    assert isinstance(pipe, diffusers.StableDiffusionImg2ImgPipeline)
    assert from_pipe(pipe) is pipe
    with pytest.raises(ValueError, match="cannot be loaded as StableDiffusionControlNetPipeline: "):
        models.load_pipeline(pipeline="StableDiffusionControlNetPipeline")
