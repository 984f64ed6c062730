"""benchmarks/vlm_speed.py runs both loops on the same rows; its numbers are not asserted."""

import json
import sys
from pathlib import Path

import pytest
import vlm_speed

from negguide.vlm.data.readers import read_triplets


def test_open_clip_reads_the_pairs_that_finetune_reads(tmp_path: Path) -> None:
    lines = vlm_speed.write_set(tmp_path, 3)
    rows = read_triplets(str(vlm_speed.write_table(tmp_path, lines)))
    assert [row.caption for row in rows] == [line["caption"] for line in lines]
    assert [Path(row.image.name) for row in rows] == [tmp_path / line["image"] for line in lines]


def test_what_is_missing_or_unknown_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    for given, message in (
        ([], r'needs open_clip and its training loop .*; pip install "open_clip_torch\[training\]"'),
        (["--against", "timm"], "--against must be open_clip or plain, got 'timm'"),
    ):
        monkeypatch.setattr(sys, "argv", ["vlm_speed.py", *given])
        with pytest.raises(SystemExit, match=message):
            vlm_speed.main()


def test_a_pair_of_loops_gives_a_ratio(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    small = {
        "--pairs": 1,
        "--steps": 1,
        "--batch-size": 4,
        "--threads": 1,
        "--out": tmp_path,
        "--against": "plain",
    }
    monkeypatch.setattr(
        sys, "argv", ["vlm_speed.py", *(str(part) for pair in small.items() for part in pair)]
    )
    vlm_speed.main()
    found = json.loads((tmp_path / "vlm-speed.json").read_text())
    rates = {row["name"]: row for row in found["rows"]}
    (ours,), (plain,) = (rates[name]["images_per_second"] for name in ("finetune", "plain"))
    assert rates["ratio"]["median"] == pytest.approx(ours / plain) and found["settings"]["pairs"] == 1


def test_the_model_of_open_clip_has_the_shape_of_the_embedded_one() -> None:
    open_clip = pytest.importorskip("open_clip")
    embedded, _ = vlm_speed.load_clip()
    model = vlm_speed.open_clip_model(open_clip, embedded.config, 44)
    sizes = [sum(p.numel() for p in m.parameters()) for m in (model, embedded)]
    assert sizes[0] == sizes[1]
