"""A set is not gone on with from images that have changed under the same captions."""

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import mining_fakes as fakes
import pytest
from PIL import Image

from negguide.mining.item import Source, StoredImage
from negguide.mining.mined import Mined
from negguide.mining.originals import changed, image_digest, in_a_line
from negguide.mining.run import run
from negguide.mining.shards import SetFolder
from negguide.mining.sources import Input, open_source
from negguide.storage import fingerprint, location


def in_folder(folder: Path, count: int = 4) -> Input:
    folder.mkdir()
    rows = []
    for number, row in enumerate(fakes.sources(count)):
        assert row.load is not None
        row.load().save(folder / f"{number}.png")
        rows.append({"file_name": f"{number}.png", "caption": row.caption})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return open_source(str(folder))


def mine(out: Path, data: Path, **parts: Any) -> Any:
    return fakes.mine(out, source=open_source(str(data)), shard_size=2, controls=0, **parts)


def test_an_image_that_has_changed_is_refused_by_its_name(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "set"
    in_folder(data)
    mine(out, data)
    assert mine(out, data).made == 0
    # the run was killed before its last shard
    (out / "funnel.json").unlink()
    (out / "markers/00000001.json").unlink()
    first = (data / "0.png").read_bytes()
    (data / "0.png").write_bytes((data / "1.png").read_bytes())
    message = (
        r"--data has changed since shard 00000000 of .*: the image of '0\.png' \(.*data/0\.png\) is another"
    )
    with pytest.raises(ValueError, match=message):
        mine(out, data)
    (data / "0.png").unlink()
    with pytest.raises(ValueError, match=message):
        mine(out, data)
    # of what is still to be made, the image is taken as it is
    (data / "0.png").write_bytes(first)
    (data / "3.png").write_bytes((data / "2.png").read_bytes())
    assert mine(out, data).made == 1


def test_a_set_that_was_made_before_says_nothing_of_its_images_and_is_gone_on_with(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "set"
    in_folder(data)
    mine(out, data)
    for marker in (out / "markers").iterdir():
        record = json.loads(marker.read_text())
        # 16 hex digits for each of two rows
        assert len(record.pop("originals")) == 32
        marker.write_text(json.dumps(record))
    (data / "0.png").write_bytes((data / "1.png").read_bytes())
    assert mine(out, data).made == 0


def test_a_mask_counts_where_it_says_what_may_change() -> None:
    row = Source("one", "a bear", stored=StoredImage(lambda: b"pixels"), mask=lambda: Image.new("L", (4, 4)))
    other = replace(row, mask=lambda: Image.new("L", (4, 4), 255))
    from_column = fakes.settings(mode="inpaint", region="column")
    for settings, differ in ((fakes.settings(), False), (from_column, True)):
        line = in_a_line([row], {"one": image_digest(row, settings)})
        assert changed([row], line, settings) is None
        assert (changed([other], line, settings) == other) is differ
    # a row whose image was not read stands in its place, and is not compared
    assert in_a_line([row, other], {}) == ""
    two = in_a_line([replace(row, id="zero"), row], {"one": image_digest(row, from_column)})
    assert two[:16] == "-" * 16
    assert changed([replace(other, id="zero"), other], two, from_column) == other


class Plain:
    """A miner that keeps nothing."""

    def keeping(self, painted: Any, answers: Any, told: Any) -> Any:
        return self

    def plan(self, rows: Any) -> Mined:
        mined = Mined()
        mined.funnel.sources["read"] += len(rows)
        return mined

    def make(self, shards: Any) -> list[Mined]:
        return list(shards)


def in_tar(file: Path, colors: list[int]) -> Input:
    with tarfile.open(file, "w") as tar:
        for number, color in enumerate(colors):
            stream = io.BytesIO()
            Image.new("RGB", (8, 8), (color, 0, 0)).save(stream, "BMP")
            for suffix, content in (("bmp", stream.getvalue()), ("txt", b"a brown bear in a room")):
                member = tarfile.TarInfo(f"{number}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return open_source(str(file))


def test_a_complete_file_of_the_same_size_is_told_by_its_content(tmp_path: Path) -> None:
    file, chosen = tmp_path / "a.tar", fakes.settings(shard_size=2)
    run(tmp_path / "set", chosen, in_tar(file, [10, 20, 30]), Plain(), made_by={})
    size = file.stat().st_size
    assert run(tmp_path / "set", chosen, open_source(str(file)), Plain(), made_by={}).made == 0
    other = in_tar(file, [10, 20, 31])
    assert file.stat().st_size == size
    with pytest.raises(
        ValueError, match=rf"shard 00000000 .*: it was a\.tar, {size} bytes, \w+, and is a\.tar"
    ):
        run(tmp_path / "set", chosen, other, Plain(), made_by={})
    # also where a part of it is still to be made
    (tmp_path / "set/markers/00000001.json").unlink()
    with pytest.raises(ValueError, match=r"shard 00000000 .*: it was a\.tar"):
        run(tmp_path / "set", chosen, other, Plain(), made_by={})
    # sets made before say its size alone
    folder = SetFolder(tmp_path / "set", chosen, {})
    folder.record("00000000")["input"] = f"a.tar, {size} bytes"
    folder.check_print("00000000", other.shard_print(0) or "")
    folder.record("00000000")["input"] = f"a.tar, {size // 10} bytes"
    with pytest.raises(ValueError, match="has changed"):
        folder.check_print("00000000", other.shard_print(0) or "")


def test_a_fingerprint_is_of_the_whole_of_a_small_file_and_of_pieces_of_a_large_one(
    tmp_path: Path, memory: str
) -> None:
    for size, places in (
        (1000, (0, 500, 999)),
        (3 << 20, (0, ((3 << 20) - (1 << 16)) * 7 // 15, (3 << 20) - 1)),
    ):
        content = bytearray(size)
        found = set()
        for place in (None, *places):
            if place is not None:
                content[place] = 1
            (tmp_path / "file").write_bytes(content)
            away = location(f"{memory}/file")
            away.write_bytes(content)
            found.add(fingerprint(tmp_path / "file"))
            # wherever it lies
            assert fingerprint(away) == fingerprint(tmp_path / "file")
            if place is not None:
                content[place] = 0
        assert len(found) == len(places) + 1
