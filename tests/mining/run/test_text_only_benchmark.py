"""The benchmark of captions a second runs and counts what it says; its numbers are not asserted."""

import importlib.util
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


def test_a_run_is_timed_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("text_only_benchmark", BENCHMARKS / "text_only.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "text_only_benchmark", module)
    spec.loader.exec_module(module)
    captions = ["A man rides a brown horse.", "A black cat on a red sofa.", "The end."]
    module.write_table(captions, tmp_path / "captions.tsv")
    row = module.timed(tmp_path / "captions.tsv", tmp_path / "set", 1)
    assert (row["captions"], row["with a negative"], row["negatives"]) == (3, 2, 2)
    assert row["captions_per_core_second"] == pytest.approx(3 / row["core_seconds"])
    # a run that is there already would be timed as nothing
    assert module.timed(tmp_path / "captions.tsv", tmp_path / "other", 2)["negatives"] >= 2
