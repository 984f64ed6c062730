"""Other ways to compute the same steps: bfloat16, and a compiled model."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import nn

from negguide.vlm.training.accelerator import make_accelerator
from negguide.vlm.training.config import Settings
from negguide.vlm.training.log import Log
from negguide.vlm.training.loop import finetune
from negguide.vlm.training.towers import Towers


def test_bfloat16_on_a_cpu_trains_to_nearly_the_same_and_leaves_a_plain_model(
    settings: Settings, tmp_path: Path
) -> None:
    lines = {}
    for precision in ("fp32", "amp_bf16"):
        finetune(replace(settings, precision=precision, epochs=1), tmp_path / precision, cpu=True)
        lines[precision] = Log(tmp_path / precision / "log.jsonl").lines()
    for exact, rough in zip(lines["fp32"], lines["amp_bf16"], strict=True):
        assert exact.get("loss", 0.0) == pytest.approx(rough.get("loss", 0.0), rel=0.02)
    configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in lines]
    assert configs[0] == configs[1]


def test_a_compiled_model_trains_to_the_same(settings: Settings, tmp_path: Path, monkeypatch: Any) -> None:
    compiled = []

    def compile_without_compiler(towers: Towers) -> None:
        """As torch.compile traces it, forward and backward, but not in C++."""
        compiled.append(towers)
        nn.Module.compile(towers, backend="aot_eager")

    monkeypatch.setattr(Towers, "compile", compile_without_compiler)
    # cached gradients run the model without gradients as well
    settings = replace(settings, epochs=2, accum_freq=2, val_fraction=0.2)
    lines = {}
    for told in (False, True):
        finetune(replace(settings, torch_compile=told), tmp_path / str(told), cpu=True)
        lines[told] = Log(tmp_path / str(told) / "log.jsonl").lines()
        assert len(compiled) == told
    for plain, found in zip(lines[False], lines[True], strict=True):
        for name in ("loss", "grad_norm", "validation"):
            assert found.get(name, 0.0) == pytest.approx(plain.get(name, 0.0), rel=1e-4)
    plain, found = (load_file(tmp_path / name / "model.safetensors") for name in ("False", "True"))
    assert plain.keys() == found.keys()


@pytest.mark.parametrize("fast", [True, False])
def test_bfloat16_that_is_emulated_is_told(
    settings: Settings, tmp_path: Path, monkeypatch: Any, caplog: Any, fast: bool
) -> None:
    monkeypatch.setattr("negguide.vlm.training.accelerator.fast_bfloat16", lambda device: fast)
    for precision, told in (("fp32", False), ("amp_bf16", not fast)):
        caplog.clear()
        make_accelerator(replace(settings, precision=precision), tmp_path, None, cpu=True)
        said = [record.message for record in caplog.records if record.name.startswith("negguide")]
        assert ("many times slower than precision='fp32'" in "".join(said)) == told
