import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from negguide import pictures

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def plain(color: tuple[int, int, int], size: tuple[int, int] = (64, 64)) -> Image.Image:
    return Image.new("RGB", size, color)


def box_of(sheet: Image.Image, color: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """Left, top, right, bottom (inclusive) of all pixels of one colour."""
    ys, xs = np.nonzero((np.asarray(sheet) == color).all(-1))
    return int(xs.min()), int(ys.min()), int(xs.max()), int(ys.max())


def ink(sheet: Image.Image, box: tuple[int, int, int, int]) -> int:
    """How many pixels inside a box are not paper."""
    return int((np.asarray(sheet.crop(box)) != 255).any(-1).sum())


def test_settings_inside_a_png_are_read_back(tmp_path: Path) -> None:
    settings = {"prompt": "ein Bär, 熊 “quoted”\nsecond line", "seeds": [1, 2], "weight": 1.5, "none": None}
    pictures.save_png(plain(RED), tmp_path / "a.png", settings)
    assert pictures.read_settings(tmp_path / "a.png") == settings


def test_settings_lie_in_a_text_chunk_that_other_programs_read(tmp_path: Path) -> None:
    pictures.save_png(plain(RED), tmp_path / "a.png", {"prompt": "a bear"})
    with Image.open(tmp_path / "a.png") as image:
        assert json.loads(image.info["negguide"]) == {"prompt": "a bear"}
        assert image.getpixel((0, 0)) == RED


def test_settings_in_json_are_read_back(tmp_path: Path) -> None:
    pictures.save_json({"prompt": "熊"}, tmp_path / "a.json")
    assert pictures.read_settings(tmp_path / "a.json") == {"prompt": "熊"}
    assert "熊" in (tmp_path / "a.json").read_text(encoding="utf-8")


def test_the_same_image_and_settings_give_the_same_bytes(tmp_path: Path) -> None:
    first = pictures.save_png(plain(RED), tmp_path / "a.png", {"seed": 1})
    second = pictures.save_png(plain(RED), tmp_path / "sub" / "b.png", {"seed": 1})
    assert first == second == (tmp_path / "a.png").read_bytes() == (tmp_path / "sub" / "b.png").read_bytes()


def test_a_picture_that_cannot_be_written_leaves_the_old_one_and_no_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    pictures.save_png(plain(RED), path, {})
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        pictures.save_png(plain(GREEN), path, {})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_nan_is_no_setting(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        pictures.save_png(plain(RED), tmp_path / "a.png", {"weight": float("nan")})
    assert not list(tmp_path.iterdir())


def test_only_png_files_hold_settings(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.jpg' must end in \.png"):
        pictures.save_png(plain(RED), tmp_path / "a.jpg", {})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot be read: No such file"),
        (b"", "neither a PNG nor JSON"),
        (b"[1, 2]", "must hold a JSON object with settings, got list"),
        (b"\xff\xfe\x00", "neither a PNG nor JSON"),
        (b"\x89PNG\r\n\x1a\n and then nothing", "no readable PNG"),
    ],
)
def test_a_file_without_settings_is_refused_with_the_reason(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=reason) as caught:
        pictures.read_settings(path)
    assert str(path) in str(caught.value)


def test_a_png_of_another_program_is_refused(tmp_path: Path) -> None:
    plain(RED).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="has no settings of negguide inside"):
        pictures.read_settings(tmp_path / "a.png")


def test_a_damaged_png_is_refused(tmp_path: Path) -> None:
    content = pictures.save_png(Image.effect_noise((64, 64), 50), tmp_path / "a.png", {"seed": 1})
    (tmp_path / "a.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"a\.png is no readable PNG"):
        pictures.read_settings(tmp_path / "a.png")


def test_versions_name_what_decides_an_image() -> None:
    assert set(pictures.versions()) == {"negguide", "diffusers", "torch", "transformers"}
    assert all(value[0].isdigit() for value in pictures.versions().values())


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("A bear, wearing glasses!", "a-bear-wearing-glasses"),
        ("../../etc/passwd", "etc-passwd"),
        ("Ein Bär / 熊", "ein-bär-熊"),
        ("!?", "image"),
        ("x" * 100, "x" * 40),
    ],
)
def test_file_names_hold_words_only(text: str, name: str) -> None:
    assert pictures.file_name(text) == name


def test_a_grid_has_rows_and_columns_where_they_belong() -> None:
    sheet = pictures.grid([[plain(RED), plain(GREEN)], [plain(BLUE), plain((9, 9, 9))]])
    red, green, blue = (box_of(sheet, color) for color in (RED, GREEN, BLUE))
    assert red[1] == green[1] and red[2] < green[0]
    assert red[0] == blue[0] and red[3] < blue[1]


@pytest.mark.parametrize(("width", "shown"), [(16, 160), (64, 192), (160, 160), (300, 300), (1024, 512)])
def test_small_images_grow_by_a_whole_factor_and_large_ones_shrink(width: int, shown: int) -> None:
    left, top, right, bottom = box_of(pictures.grid([[plain(RED, (width, width))]]), RED)
    assert (right - left + 1, bottom - top + 1) == (shown, shown)


def test_images_keep_their_shape() -> None:
    left, top, right, bottom = box_of(pictures.grid([[plain(RED, (1024, 512))]]), RED)
    assert (right - left + 1, bottom - top + 1) == (512, 256)


def test_labels_stand_beside_their_rows_and_above_their_columns() -> None:
    images = [[plain(RED), plain(GREEN)], [plain(BLUE), plain((9, 9, 9))]]
    sheet = pictures.grid(images, ["first", "second"], ["left", "right"], "title", "footer")
    red, green, blue = (box_of(sheet, color) for color in (RED, GREEN, BLUE))
    assert ink(sheet, (0, red[1], red[0], red[3])) > 50
    assert ink(sheet, (0, blue[1], blue[0], blue[3])) > 50
    assert ink(sheet, (red[0], red[1] - 30, red[2], red[1])) > 50
    assert ink(sheet, (green[0], green[1] - 30, green[2], green[1])) > 50
    assert ink(sheet, (0, 0, sheet.width, red[1] - 30)) > 50
    assert ink(sheet, (0, blue[3] + 1, sheet.width, sheet.height)) > 50


def test_a_grid_without_texts_has_no_room_for_them() -> None:
    sheet = pictures.grid([[plain(RED)]])
    left, top, right, bottom = box_of(sheet, RED)
    assert left == top == sheet.width - 1 - right == sheet.height - 1 - bottom


def test_long_labels_and_titles_wrap_inside_the_picture() -> None:
    short = pictures.grid([[plain(RED)]], ["row"], ["column"], "title", "footer")
    text = "words that go on and on " * 6
    long = pictures.grid([[plain(RED)]], [text], [text], text, text)
    assert long.width < 1.5 * short.width
    assert long.height > short.height + 200
    edges = np.asarray(long)[:, [0, -1]]
    assert (edges == 255).all()


def test_a_word_wider_than_its_place_is_broken() -> None:
    sheet = pictures.grid([[plain(RED)]], column_labels=["w" * 100])
    left, top, right, _ = box_of(sheet, RED)
    assert ink(sheet, (left, 0, right + 1, top)) == ink(sheet, (0, 0, sheet.width, top)) > 100


def test_grey_and_transparent_images_are_shown_too() -> None:
    sheet = pictures.grid([[Image.new("L", (64, 64), 7), Image.new("RGBA", (64, 64), (9, 8, 7, 255))]])
    assert box_of(sheet, (7, 7, 7))[2] < box_of(sheet, (9, 8, 7))[0]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (([],), "at least one row with at least one image"),
        (([[]],), "at least one row with at least one image"),
        (([[plain(RED)], [plain(RED)] * 2],), r"rows must be of one length, got \[1, 2\]"),
        (([[plain(RED), plain(RED, (32, 32))]],), r"images of one size, got \[\(32, 32\), \(64, 64\)\]"),
        (([[plain(RED)]], ["a", "b"]), "row_labels must hold 1 labels, or none, got 2"),
        (([[plain(RED)] * 3], [], ["a"]), "column_labels must hold 3 labels, or none, got 1"),
    ],
)
def test_a_grid_that_does_not_fit_together_is_refused(arguments: tuple, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        pictures.grid(*arguments)


def test_captions_stand_under_their_images() -> None:
    rows = [[plain(RED), plain(GREEN)], [plain(BLUE), plain(RED)]]
    without = pictures.grid(rows, column_labels=["a", "b"])
    sheet = pictures.grid(rows, column_labels=["a", "b"], captions=[["front", ""], ["side", "back"]])
    left, top, right, bottom = box_of(sheet, GREEN)
    assert box_of(without, GREEN) == (left, top, right, bottom)
    below = box_of(sheet, BLUE)
    space = (bottom + 1, below[1])
    assert space[1] - space[0] > box_of(without, BLUE)[1] - space[0]
    assert ink(sheet, (below[0], space[0], below[2], space[1])) > 0  # "front"
    assert ink(sheet, (left, space[0], right, space[1])) == 0
    assert ink(sheet, (left, below[3] + 1, right, sheet.height)) > 0  # "back"


@pytest.mark.parametrize("captions", [[["a"]], [["a", "b"], ["c", "d"]], [["a", "b", "c"]]])
def test_captions_of_another_shape_are_refused(captions: list[list[str]]) -> None:
    with pytest.raises(ValueError, match="captions must hold 1 rows of 2, or none"):
        pictures.grid([[plain(RED), plain(GREEN)]], captions=captions)
