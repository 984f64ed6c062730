"""The command, its report in three forms, and what it refuses."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from planted import spaced_stop, write_set

from negguide.mining.audit import audit, verdict_lines
from negguide.mining.packed import pack
from negguide.mining.shards import write_json
from negguide.pictures import read_settings
from negguide.toyworld.models import CLIP


def test_the_command_writes_the_report_and_the_choice(command: Callable[..., Any], tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", 48, controls=True, change=spaced_stop)
    (folder / "data" / "00000" / "7.png").write_bytes(b"broken")
    (tmp_path / "eval.txt").write_text(
        json.loads((folder / "data/00000/metadata.jsonl").read_text().splitlines()[0])["caption"]
    )
    before = sorted(path for path in folder.rglob("*") if path.is_file())
    ended = command("audit", folder, "--rebalance", "--against", tmp_path / "eval.txt")
    assert ended.exit_code == 0, ended.message
    names = ["audit/report.md", "audit/audit.png", "audit/audit.json", "rebalanced.json"]
    assert ended.stdout.split() == [str(folder / name) for name in names]
    assert sorted(path for path in folder.rglob("*") if path.is_file()) == sorted(
        [*before, *(folder / n for n in names)]
    )

    data = json.loads((folder / "audit/audit.json").read_text())
    assert data["mined"]["text"]["punctuation"]["all"]["value"] == 1.0
    assert data["mined"]["images"]["original and negative"]["file"]["all"]["n"] == 47
    assert list(data["unreadable images"]) == ["data/00000/7.png"]
    for name in names:
        assert str(tmp_path).encode() not in (folder / name).read_bytes(), name
    for verdict in data["rebalanced"]["text"].values():
        assert verdict["all"]["value"] <= 0.55
    assert "a caption is in eval.txt" in data["dropped"].values()
    kept = json.loads((folder / "rebalanced.json").read_text())
    assert len(kept["kept"]) == data["rebalanced"]["pairs"]
    assert len(kept["kept"]) + len(kept["dropped"]) == 48

    # what could not be opened is not among the pairs of which a figure is told
    assert data["verdicts"][0].startswith("as mined, 48 pairs, captions: told")
    assert data["verdicts"][1].startswith("as mined, 47 of 48 pairs, original and negative: ")

    text = (folder / "audit/report.md").read_text()
    assert "| punctuation | **100.0% [92.6, 100.0]** |" in text
    assert "caption in eval.txt" in text and "7.png" in text
    assert "![accuracy of every probe](audit.png)" in text
    assert "tokens: name a tokenizer with --tokenizer" in text
    assert "1 images could not be opened" in ended.message
    with Image.open(folder / "audit/audit.png") as image:
        assert image.width > 800 and len(image.convert("L").getcolors() or []) > 20
    assert read_settings(folder / "audit/audit.png")["rebalance"] is True


def test_half_a_set_is_not_audited_as_the_whole(command: Callable[..., Any], tmp_path: Path) -> None:
    folder, other = (write_set(tmp_path / name, 24, images=False) for name in ("set", "other"))
    # as a run leaves them that was killed; what is complete has funnel.json
    for half in (folder, other):
        made = half / "data/00000"
        content, members = pack([("metadata.jsonl", (made / "metadata.jsonl").read_bytes())])
        shutil.rmtree(made)
        (half / "data/00000000.tar").write_bytes(content)
        write_json(half / "markers/00000000.json", {"file": "00000000.tar", "members": members})
    ended = command("audit", folder, "--against", other, "--rebalance")
    assert ended.exit_code == 0, ended.message
    mine = "the set was not complete: what `negguide mine` had made of it was audited"
    theirs = "other was not complete: what `negguide mine` had made of it was searched"
    data = json.loads((folder / "audit/audit.json").read_text())
    assert data["verdicts"][:2] == [mine, theirs]
    assert data["not complete"] == {"set": True, "against": ["other"]}
    assert f"- {mine}\n- {theirs}\n" in (folder / "audit/report.md").read_text()
    assert mine in ended.message
    # and nothing of the kind of one that is complete
    for whole in (folder, other):
        write_json(whole / "funnel.json", {})
    assert not any("was not complete" in line for line in verdict_lines(audit(folder, against=[other])))


def test_the_state_of_every_model_is_told(tmp_path: Path) -> None:
    folder, words = write_set(tmp_path / "set", 24, images=False), tmp_path / "words"
    words.mkdir()
    for file in CLIP.glob("*token*"):
        shutil.copy(file, words)

    def told() -> Any:
        return audit(folder, tokenizer=str(words)).settings["revisions"]

    before = told()
    assert before.keys() == {"tokenizer"} and told() == before
    config = words / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "model_max_length": 99}))
    assert told()["tokenizer"] not in (None, before["tokenizer"])
    assert audit(folder).settings["revisions"] == {}


def test_evaluation_sets_of_one_name_are_told_apart(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", 24, images=False)
    rows = [json.loads(line) for line in (folder / "data/00000/metadata.jsonl").read_text().splitlines()]
    for name, row in (("coco", rows[3]), ("flickr", rows[5])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "test.txt").write_text(row["negative_caption"])
    found = audit(folder, against=[tmp_path / name / "test.txt" for name in ("coco", "flickr")])
    leaked = found.duplicates.leaked_captions
    assert list(leaked) == found.settings["against"] == ["test.txt", "test.txt#2"]
    assert "toy-3" in leaked["test.txt"] and "toy-5" in leaked["test.txt#2"]
    assert {"toy-3", "toy-5"} <= set(found.duplicates.leaked)


def test_sugarcrepe_is_audited_without_images(command: Callable[..., Any], tmp_path: Path) -> None:
    rows = {
        str(i): {
            "filename": f"{i}.jpg",
            "caption": f"a dog at {i}",
            "negative_caption": f"a small dog at {i}",
        }
        for i in range(30)
    }
    (tmp_path / "add_att.json").write_text(json.dumps(rows))
    ended = command("audit", tmp_path / "add_att.json", "--rebalance")
    assert ended.exit_code == 0, ended.message
    assert "as mined, 30 pairs, captions: told, at most 100.0% [88.6, 100.0] by characters" in ended.message
    assert "rebalanced, 0 pairs" in ended.message
    report = tmp_path / "add_att-audit"
    assert sorted(path.name for path in report.iterdir()) == [
        "audit.json",
        "audit.png",
        "rebalanced.json",
        "report.md",
    ]
    assert "image-only probes: the set has no negative images" in (report / "report.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere does not exist"),
        (
            ["few"],
            "holds 8 pairs from 8 sources, too few to be judged; at least 20 pairs from 5 sources are needed",
        ),
        (["set", "--rendered"], "rendered=True is about rebalancing"),
        (["set", "--rebalance", "--rendered"], "rendered=True needs rendered originals (controls)"),
        (["set", "--image-sample", 3], "image_sample=3 is too small; use at least 20"),
        (["set", "--against", "nowhere"], "nowhere does not exist"),
        (["set", "--language-model", "no/such-model"], "language_model='no/such-model' cannot be loaded"),
        (["set", "--tokenizer", "no/such-model"], "tokenizer='no/such-model' cannot be loaded"),
    ],
)
def test_wrong_input_is_one_message(
    command: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[object],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_set(tmp_path / "few", 8, images=False)
    write_set(tmp_path / "set", 24, images=False)
    ended = command("audit", *arguments)
    assert ended.exit_code == 2
    assert message in ended.message
    assert not (tmp_path / "set" / "audit").exists()
