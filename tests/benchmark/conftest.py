"""Small suites in the words of the tiny model, judges without learning, and the command in this process."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from negguide.toyworld.models import CLIP

SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture
def items() -> list[dict[str, Any]]:
    """Two items in words that the tiny model and the embedded CLIP read."""
    return [
        {
            "prompt": "a bear wearing glasses",
            "negative": "black glasses",
            "keep": {"absent": "a dog"},
            "remove": {"absent": "red glasses"},
        },
        {
            "prompt": "a cat",
            "negative": "a brown cat",
            "keep": {"absent": "a dog"},
            "remove": {"present": "brown fur", "absent": "white fur"},
        },
    ]


@pytest.fixture
def suite_file(tmp_path: Path) -> Callable[..., Path]:
    """`suite_file(items)` as a JSON file."""

    def write(items: Any, name: str = "mine.json") -> Path:
        path = tmp_path / name
        path.write_text(items if isinstance(items, str) else json.dumps(items))
        return path

    return write


@pytest.fixture(scope="session")
def _loaded() -> dict[str, Any]:
    return {}


@pytest.fixture(autouse=True)
def loaded_once(_loaded: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each model is loaded once for all tests."""
    from negguide.benchmark import generation
    from negguide.vlm import models

    def once(load: Any) -> Any:
        def cached(model: str, **how: Any) -> Any:
            key = f"{load} {model} {how}"
            if key not in _loaded:
                _loaded[key] = load(model, **how)
            return _loaded[key]

        return cached

    monkeypatch.setattr(generation, "load_pipeline", once(generation.load_pipeline))
    monkeypatch.setattr(models, "load_model", once(models.load_model))


@pytest.fixture(scope="session")
def embedded_clip() -> Path:
    """A CLIP in a folder, which reads the words of the toy world."""
    return CLIP


@pytest.fixture(scope="session")
def tiny_siglip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random SigLIP in a folder."""
    from transformers import SiglipConfig, SiglipImageProcessorPil, SiglipModel, SiglipProcessor

    from negguide.toyworld.words import new_tokenizer

    torch.manual_seed(0)
    tokenizer = new_tokenizer(negation=True)
    words = {**SMALL, "vocab_size": len(tokenizer), "max_position_embeddings": 24}
    model = SiglipModel(
        SiglipConfig(text_config=words, vision_config={**SMALL, "patch_size": 16, "image_size": 32})
    )
    folder = tmp_path_factory.mktemp("judges") / "siglip"
    model.save_pretrained(folder)
    images = SiglipImageProcessorPil(size={"height": 32, "width": 32})
    SiglipProcessor(images, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BLIP for questions, in a folder; it knows the word "is" and answers anything."""
    from transformers import (
        BertTokenizerFast,
        BlipConfig,
        BlipForQuestionAnswering,
        BlipImageProcessorPil,
        BlipProcessor,
        BlipTextConfig,
        BlipVisionConfig,
    )

    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("judges")
    words = [f"[{name}]" for name in ("PAD", "UNK", "CLS", "SEP", "MASK", "DEC", "ENC")]
    (root / "vocab.txt").write_text("\n".join([*words, "is", "yes", "no", "?"]))
    tokenizer = BertTokenizerFast(
        vocab_file=str(root / "vocab.txt"), bos_token="[DEC]", additional_special_tokens=["[ENC]"]
    )
    ends = {"bos_token_id": 5, "sep_token_id": 3, "eos_token_id": 3, "pad_token_id": 0}
    text = BlipTextConfig(
        vocab_size=len(tokenizer), max_position_embeddings=64, encoder_hidden_size=16, **ends, **SMALL
    )
    vision = BlipVisionConfig(image_size=32, patch_size=16, **SMALL)
    config = BlipConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), image_text_hidden_size=16)
    BlipForQuestionAnswering(config).save_pretrained(root / "blip")
    images = BlipImageProcessorPil(size={"height": 32, "width": 32})
    BlipProcessor(image_processor=images, tokenizer=tokenizer).save_pretrained(root / "blip")
    return root / "blip"


@pytest.fixture
def benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`benchmark("--suite", ...)` in an empty folder, on the CPU; gives exit code, message and files."""
    from negguide.cli import app

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "1000")

    def invoke(*args: object) -> Any:
        result = CliRunner().invoke(app, ["benchmark", *map(str, args), "--device", "cpu"])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        files = [Path(line) for line in result.stdout.splitlines()[-4:]] if result.exit_code == 0 else []
        return result.exit_code, re.sub(r"[│╭╮╰╯─\s]+", " ", result.output), files

    return invoke
