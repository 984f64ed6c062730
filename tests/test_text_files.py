"""Tables and JSON that people give: no row is swallowed, and errors name file and line."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from negguide.text_files import json_lines, read_json, table_columns, table_rows


def rows(path: Path, text: str, encoding: str = "utf-8") -> list[tuple[int, dict]]:
    path.write_bytes(text.encode(encoding))
    return list(table_rows(path))


@pytest.mark.parametrize("kind", ["tsv", "csv"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_what_the_csv_module_writes_is_read_back(tmp_path: Path, kind: str, end: str) -> None:
    cells = [
        ["a.png", 'a "red"\tthing, flat'],
        ["b.png", '"'],
        ["c, d.png", f"two{end}lines"],
        ["e.png", ""],
        ["f.png", f"one, two{end}{end}and 1,000 more"],
        ["g.png", "next\u2028to"],
    ]
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t" if kind == "tsv" else ",", lineterminator=end)
    writer.writerows([["image", "caption"], *cells])
    found = rows(tmp_path / f"a.{kind}", text.getvalue())
    assert [[row["image"], row["caption"]] for _, row in found] == cells
    assert [number for number, _ in found][:4] == [2, 3, 4, 6]
    assert table_columns(tmp_path / f"a.{kind}") == ["image", "caption"]


@pytest.mark.parametrize("kind", ["tsv", "csv"])
@pytest.mark.parametrize(
    "captions",
    [
        ['"a lonely mark', "two", "three"],
        ['"a lonely mark', 'another"', "three"],
        ['"one', '"two', '"three'],
        ['"said" he', "two", "three"],
        ["one", "two", '"at the end'],
        ['5" wide', 'a 6"', '"" and'],
    ],
)
def test_a_lonely_quotation_mark_swallows_no_row(tmp_path: Path, kind: str, captions: list[str]) -> None:
    between = "\t" if kind == "tsv" else ","
    lines = [between.join(cells) for cells in [("image", "caption"), *zip("abc", captions, strict=True)]]
    found = rows(tmp_path / f"a.{kind}", "\n".join(lines) + "\n")
    assert found == [(2 + i, {"image": "abc"[i], "caption": captions[i]}) for i in range(3)]


def test_a_mark_that_can_be_read_in_no_way_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.csv, line 3, has a quotation mark that is not closed"):
        rows(tmp_path / "a.csv", 'image,caption\na,one\nb,"two, three\nc,four\n')
    (tmp_path / "a.tsv").write_text('"image\tcaption\n')
    with pytest.raises(ValueError, match=r"a\.tsv, line 1, is no header"):
        table_columns(tmp_path / "a.tsv")


def test_a_swallowed_row_in_the_middle_of_three_columns_is_named(tmp_path: Path) -> None:
    found = rows(tmp_path / "a.csv", 'image,caption,licence\na,"one,cc0\nb,two",cc0\n')
    assert [row["caption"] for _, row in found] == ['"one', 'two"']


def test_rows_of_another_length_keep_their_cells(tmp_path: Path) -> None:
    found = rows(tmp_path / "a.tsv", "image\tcaption\na\n\nb\ttwo\tthree\tfour\n")
    assert found == [
        (2, {"image": "a", "caption": None}),
        (4, {"image": "b", "caption": "two", None: ["three", "four"]}),
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_what_says_its_encoding_is_read(tmp_path: Path, encoding: str) -> None:
    text = "image\tcaption\na\tein Bär, größer\n"
    assert rows(tmp_path / "a.tsv", text, encoding) == [(2, {"image": "a", "caption": "ein Bär, größer"})]
    (tmp_path / "a.json").write_bytes('{"a": "Bär"}'.encode(encoding))
    assert read_json(tmp_path / "a.json") == {"a": "Bär"}
    (tmp_path / "a.jsonl").write_bytes('\n{"a": "Bär\u2028"}\n'.encode(encoding))
    assert list(json_lines(tmp_path / "a.jsonl")) == [(2, {"a": "Bär\u2028"})]


def test_other_encodings_are_refused_by_name(tmp_path: Path) -> None:
    filler = "x.png\ta thing\n" * 5000
    message = r"a\.tsv, line 5002, is not UTF-8 \(byte 0xe4\); save the file as UTF-8"
    with pytest.raises(ValueError, match=message):
        rows(tmp_path / "a.tsv", f"image\tcaption\n{filler}y.png\tein Bär\n", "latin-1")
    with pytest.raises(ValueError, match=r"a\.csv, line 1, holds the character 0, as UTF-16"):
        rows(tmp_path / "a.csv", "image,caption\n", "utf-16-le")
    (tmp_path / "a.json").write_bytes('{"a": "Bär"}'.encode("latin-1"))
    with pytest.raises(ValueError, match=r"a\.json, line 1, is not UTF-8"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.jsonl").write_text('{}\n{"a": ')
    with pytest.raises(ValueError, match=r"a\.jsonl, line 2, is no JSON"):
        list(json_lines(tmp_path / "a.jsonl"))


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("image,caption,caption\na.png,a cat,a dog\n")
    for read in (table_columns, lambda path: list(table_rows(path))):
        with pytest.raises(ValueError, match=r"a\.csv, line 1, names two columns 'caption'; give each"):
            read(tmp_path / "a.csv")
    # as spreadsheets write empty columns
    (tmp_path / "b.csv").write_text("image,caption,,\na.png,a cat,,\n")
    assert next(table_rows(tmp_path / "b.csv"))[1]["caption"] == "a cat"
