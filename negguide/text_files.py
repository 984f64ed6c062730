"""Tables and JSON that people give: whatever their encoding says, and every error with file and line."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    # before UTF-16, whose mark is the beginning of this one
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_LONGEST = 100
"""Lines of one cell at most."""


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a file with their numbers from 1, each with its line break.

    The file is UTF-8, or UTF-16 or UTF-32 with a byte-order mark.

    Raises:
        ValueError: it is in another encoding (Latin-1 cannot be told from its likes), with file and line.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(4)
    encoding = next((name for mark, name in _MARKS if head.startswith(mark)), "utf-8")
    number = 0
    try:
        with path.open(encoding=encoding, newline="") as file:
            for number, line in enumerate(file, 1):
                if "\0" in line:
                    raise ValueError(
                        f"{path}, line {number}, holds the character 0, as UTF-16 without a byte-order mark does; "
                        "save it as UTF-8"
                    )
                yield number, line
    except UnicodeDecodeError as error:
        # the decoder reads ahead of the lines
        at = _undecodable(path) if encoding.startswith("utf-8") else number + 1
        byte = error.object[error.start]
        raise ValueError(
            f"{path}, line {at}, is not {encoding.removesuffix('-sig').upper()} (byte 0x{byte:02x}); save the file "
            "as UTF-8"
        ) from error


def _undecodable(path: Path) -> int:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return 1


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        ValueError: it is none, with the file.
    """
    text = "".join(line for _, line in text_lines(path))
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error


def json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """The rows of a JSON Lines file with their line numbers; empty lines are passed over.

    Raises:
        ValueError: a line is no JSON, with file and line.
    """
    for number, line in text_lines(path):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path}, line {number}, is no JSON: {error}") from error
            yield number, row


def table_rows(path: Path) -> Iterator[tuple[int, dict[str | None, Any]]]:
    """The rows of a table with a header, by column, with the number of their first line.

    A .csv has commas, anything else tabs. Quotation marks around a cell are those of CSV (RFC 4180). Where they cannot
    be, because a mark is not closed or text follows it, the line is read as it stands, marks included, if it has as
    many cells as the header. A quoted cell may run over several lines, unless it holds delimiters as between cells
    (not followed by a space) besides: rows that a lonely mark would swallow look like that.

    A row with too few cells has None for those missing; of one with too many, the rest is a list under the key None.

    Raises:
        ValueError: a line can be read in neither way, or is in another encoding, or two columns have one name; with
            file and line.
    """
    delimiter = "," if path.suffix.lower() == ".csv" else "\t"
    between = re.compile(r",(?![\s\d])" if delimiter == "," else r"\t")
    lines = text_lines(path)
    ahead: list[tuple[int, str]] = []
    header: list[str] | None = None
    while (first := ahead.pop(0) if ahead else next(lines, None)) is not None:
        number, text = first
        if not text.strip("\r\n"):
            continue
        cells, wrong = _parsed(text, delimiter)
        taken: list[tuple[int, str]] = []
        whole = text
        while cells is None and wrong == _OPEN and len(taken) < _LONGEST:
            following = ahead.pop(0) if ahead else next(lines, None)
            if following is None:
                break
            taken.append(following)
            whole += following[1]
            cells, wrong = _parsed(whole, delimiter)
            if cells is None and between.search(following[1]):
                break
        if cells is not None and any(
            between.search(cell) and "\n" in cell.replace("\r", "\n") for cell in cells
        ):
            cells, wrong = None, _OPEN
        if cells is None:
            ahead = taken + ahead
            cells = text.rstrip("\r\n").split(delimiter)
            if header is None or len(cells) != len(header):
                raise ValueError(
                    f"{path}, line {number}, has a quotation mark that is not closed or not at the edge of its cell "
                    f"({wrong}); double each mark inside a cell and put marks around it"
                )
        if header is None:
            header = _header(cells, path, number)
            continue
        row: dict[str | None, Any] = dict.fromkeys(header)
        row |= zip(header, cells, strict=False)
        if len(cells) > len(header):
            row[None] = cells[len(header) :]
        yield number, row


def full_table_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """As `table_rows`, where a row with more cells than the header is an error."""
    for number, row in table_rows(path):
        if None in row:
            raise ValueError(
                f"{path}, line {number}, has more cells than the header; put quotation marks around a cell that holds "
                "the delimiter"
            )
        yield number, {str(column): value for column, value in row.items()}


def table_columns(path: Path) -> list[str]:
    """The header of a table.

    Raises:
        ValueError: as `table_rows`.
    """
    delimiter = "," if path.suffix.lower() == ".csv" else "\t"
    for number, line in text_lines(path):
        if line.strip("\r\n"):
            cells, wrong = _parsed(line, delimiter)
            if cells is None:
                raise ValueError(f"{path}, line {number}, is no header of a table: {wrong}")
            return _header(cells, path, number)
    return []


def _header(cells: list[str], path: Path, number: int) -> list[str]:
    """The names of the columns. Those without a name may be several: they are read by nobody."""
    twice = next((name for place, name in enumerate(cells) if name and name in cells[:place]), None)
    if twice is not None:
        raise ValueError(
            f"{path}, line {number}, names two columns {twice!r}; give each column a name of its own"
        )
    return cells


_OPEN = "unexpected end of data"
"""What the csv module says of a mark that is not closed."""


def _parsed(text: str, delimiter: str) -> tuple[list[str] | None, str]:
    """The cells of a row, or what is wrong with it."""
    try:
        (cells,) = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    except (csv.Error, ValueError) as error:
        return None, str(error)
    return cells, ""
