"""Editing triplets: what is denied, which image is which, and that they are read back."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image

from negguide.mining.audit.roles import exchange
from negguide.mining.formats import write_export
from negguide.mining.formats.editing import Triplet, read_editing, triplet_of
from negguide.mining.item import Item
from negguide.mining.shard_files import METADATA

HAT = "a bear wearing a red hat in a meadow"
BARE = "a bear in a meadow"
BESIDE = Path("beside")


def item(**changes: Any) -> Item:
    """A verified pair: an edited image from which the red hat was taken away."""
    values: dict[str, Any] = {
        "id": "0",
        "source_id": "0",
        "image_file_name": "images/0.jpg",
        "negative_image_file_name": "images/0-negative.png",
        "caption": HAT,
        "negative_caption": BARE,
        "category": "remove",
        "start": 6,
        "end": 24,
        "before": " wearing a red hat",
        "after": "",
        "backend": "rules",
        "scores": (0.9, 0.1, 0.1, 0.9),
        "judge": "toyworld",
        "prompt": BARE,
        "model": "toyworld",
        "revision": None,
        "methods": [{"method": "PerpNeg", "avoid": "red hat", "weight": 1.0}],
        "seed": 1,
        "tries": 1,
        "extra": {"mode": "edit", "original": "input", "control_same_noise": False},
    }
    return Item(**{**values, **changes})


def added(after: str, **changes: Any) -> Item:
    at = len("a bear")
    negative = BARE[:at] + after + BARE[at:]
    return item(
        category="add",
        caption=BARE,
        negative_caption=negative,
        before="",
        after=after,
        prompt=negative,
        methods=[{"method": "PerpNeg", "avoid": "", "weight": 1.0}],
        **changes,
    )


def test_what_was_removed_is_denied_and_the_negative_image_is_the_target() -> None:
    found = triplet_of(item(), BESIDE)
    assert isinstance(found, Triplet)
    assert (found.original_image, found.edited_image) == (
        BESIDE / "images/0.jpg",
        BESIDE / "images/0-negative.png",
    )
    assert (found.original_prompt, found.edited_prompt, found.removed) == (HAT, BARE, "red hat")
    assert "red hat" in found.edit_prompt
    assert any(word in found.edit_prompt.split() for word in ("no", "not", "without"))


@pytest.mark.parametrize("mode", ["edit", "generate"])
@pytest.mark.parametrize("category", ["remove", "negation", "add"])
def test_exchanged_roles_change_nothing_of_what_is_denied(category: str, mode: str) -> None:
    control = {
        "control_image_file_name": "images/0-control.png",
        "extra": {"mode": mode, "original": "input", "control_same_noise": True},
    }
    denied = "a bear without a red hat in a meadow"
    pair = {
        "remove": item(**control),
        "negation": item(
            category="negation",
            negative_caption=denied,
            start=7,
            end=14,
            before="wearing",
            after="without",
            **control,
        ),
        "add": added(" wearing a red hat", **control),
    }[category]
    found = triplet_of(exchange(pair), BESIDE)
    assert isinstance(found, Triplet)
    assert (found.original_prompt, found.edited_prompt, found.removed) == (HAT, BARE, "red hat")
    images = [BESIDE / "images/0-control.png", BESIDE / "images/0-negative.png"]
    # the negative of a caption to which something was added shows it
    assert [found.original_image, found.edited_image] == (images[::-1] if category == "add" else images)


def test_what_was_added_is_denied_the_other_way_round() -> None:
    found = triplet_of(added(" wearing a red hat"), BESIDE)
    assert isinstance(found, Triplet)
    assert (found.original_image, found.edited_image) == (
        BESIDE / "images/0-negative.png",
        BESIDE / "images/0.jpg",
    )
    assert (found.original_prompt, found.edited_prompt, found.removed) == (HAT, BARE, "red hat")


@pytest.mark.parametrize(
    ("after", "thing"),
    [
        (" and black glasses", "black glasses"),
        (" wearing yellow glasses", "yellow glasses"),
        (" and a teddy bear", "teddy bear"),
        ("and a zebra are", "zebra"),
        (" next to two dogs", "dogs"),
    ],
)
def test_the_thing_stands_without_what_joins_it(after: str, thing: str) -> None:
    found = triplet_of(added(after), BESIDE)
    assert isinstance(found, Triplet) and found.removed == thing


def test_a_denied_thing_has_the_caption_without_it() -> None:
    negative = "a bear without a hat in a meadow"
    found = triplet_of(item(category="negation", negative_caption=negative, prompt=BARE), BESIDE)
    assert isinstance(found, Triplet) and found.edited_prompt == BARE


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"category": "swap"}, "nothing is added"),
        ({"scores": ()}, "no image was made"),
        ({"methods": [{"method": "plain", "avoid": "", "weight": 0.0}]}, "has no name"),
        ({"prompt": "a bear by another red hat"}, "names another such thing"),
        ({"extra": {"mode": "generate", "original": "input"}}, "not made of each other"),
        ({"extra": {"mode": "generate", "original": "painted"}, "tries": 2}, "not made of each other"),
    ],
)
def test_pairs_that_make_no_triplet_say_why(changes: dict[str, Any], reason: str) -> None:
    found = triplet_of(item(**changes), BESIDE)
    assert isinstance(found, str) and reason in found


def test_painted_originals_and_controls_from_the_same_noise_serve() -> None:
    painted = triplet_of(item(extra={"mode": "generate", "original": "painted"}), BESIDE)
    assert isinstance(painted, Triplet) and painted.original_image == BESIDE / "images/0.jpg"
    extra = {"mode": "generate", "original": "input", "control_same_noise": True}
    control = triplet_of(item(extra=extra, control_image_file_name="images/0-control.png"), BESIDE)
    assert isinstance(control, Triplet) and control.original_image == BESIDE / "images/0-control.png"


@pytest.fixture
def edited(tmp_path: Path) -> Path:
    """A set with an edit, an addition to the same image, and a swap."""
    shard = tmp_path / "set/data/00000"
    (shard / "images").mkdir(parents=True)
    items = [
        item(),
        replace(added(" wearing a red hat"), id="1", negative_image_file_name="images/1-negative.png"),
        item(id="2", category="swap"),
    ]
    for name, color in (("0.jpg", "red"), ("0-negative.png", "green"), ("1-negative.png", "blue")):
        Image.new("RGB", (8, 8), color).save(shard / "images" / name)
    (shard / METADATA).write_text("".join(json.dumps(one.row()) + "\n" for one in items))
    (shard / "shard.json").write_text("{}")
    (tmp_path / "set/set.json").write_text("{}")
    return tmp_path / "set"


@pytest.mark.parametrize(
    ("format", "held"), [("instructpix2pix", {"remove", "add"}), ("sugarcrepe", {"add", "swap"})]
)
def test_the_card_counts_what_is_in_the_export_alone(
    edited: Path, tmp_path: Path, format: str, held: set[str]
) -> None:
    assert write_export(edited, tmp_path / "out", format, say=print) == 2
    card = (tmp_path / "out" / "README.md").read_text()
    assert "\n2 pairs of an image" in card and "| judge | toyworld | 2 |" in card
    assert {line.split(" | ")[1] for line in card.splitlines() if line.startswith("| category |")} == held


def test_a_set_of_which_the_format_can_hold_nothing_is_refused(edited: Path, tmp_path: Path) -> None:
    lines = (edited / "data/00000" / METADATA).read_text().splitlines()
    (edited / "data/00000" / METADATA).write_text(lines[0] + "\n")
    with pytest.raises(ValueError, match="holds no item that format='sugarcrepe' has a place for"):
        write_export(edited, tmp_path / "out", "sugarcrepe", say=print)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("format", ["instructpix2pix", "instructpix2pix-folder"])
def test_triplets_are_read_back_with_the_bytes_of_their_images(
    edited: Path, tmp_path: Path, format: str
) -> None:
    said: list[str] = []
    write_export(edited, tmp_path / "out", format, say=said.append)
    assert said == ["2 triplets; left out: nothing is added, removed or denied (1 pairs)"]
    first, second = read_editing(tmp_path / "out")
    images = edited / "data/00000/images"
    assert first.original == (images / "0.jpg").read_bytes()
    assert first.target == (images / "0-negative.png").read_bytes()
    assert second.original == (images / "1-negative.png").read_bytes()
    assert second.target == (images / "0.jpg").read_bytes()
    assert (first.removed, first.target_caption, second.id) == ("red hat", BARE, "1")
    assert len(read_editing(tmp_path / "out", limit=1)) == 1
    # each image once
    stored = list((tmp_path / "out").rglob("images/*"))
    assert len(stored) == (3 if format.endswith("folder") else 0)


def test_datasets_reads_the_columns_of_instructpix2pix(
    edited: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    write_export(edited, tmp_path / "out", "instructpix2pix", say=print)
    rows = datasets.load_dataset(str(tmp_path / "out"), split="train")
    assert rows.column_names[:3] == ["original_image", "edit_prompt", "edited_image"]
    assert rows[1]["original_image"].getpixel((0, 0)) == (0, 0, 255)
    write_export(edited, tmp_path / "folder", "instructpix2pix-folder", say=print)
    rows = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "folder"), split="train")
    assert rows[0]["edited_image"].getpixel((0, 0)) == (0, 128, 0)


def test_sets_of_others_are_read_or_refused_with_the_row(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "PNG")
    image = {"bytes": stream.getvalue(), "path": None}
    row = {"input_image": image, "edit_prompt": "no hat", "edited_image": image}
    full = {**row, "edited_prompt": BARE, "removed": "hat"}
    datasets.Dataset.from_list([full, {**full, "removed": ""}]).to_parquet(str(tmp_path / "a.parquet"))
    assert read_editing(tmp_path / "a.parquet", limit=1)[0].original == stream.getvalue()
    with pytest.raises(ValueError, match=r"a\.parquet, row 1: no text in the column removed"):
        read_editing(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"holds neither metadata\.jsonl nor parquet"):
        read_editing(tmp_path / "nothing")
