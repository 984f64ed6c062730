"""Every reader opens images as a viewer shows them, and names those that it cannot open."""

import io
import json

import datasets
import numpy as np
import pytest
import webdataset
from PIL import Image
from source_rows import RED, picture, read, write_rows

from negguide.mining.sources import open_source

TURNED = [0x0112, 6]
"""EXIF: the stored pixels are to be turned by 90 degrees clockwise."""


def awkward():
    """A sideways photograph, a 16-bit image and a transparent one, as files: {name: (content, size, pixel)}."""
    sideways = Image.new("RGB", (32, 48), RED)
    exif = Image.Exif()
    exif[TURNED[0]] = TURNED[1]
    grey = Image.fromarray(np.full((8, 8), 128 * 257, dtype=np.uint16))
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    files = {}
    for name, image, size, pixel, options in (
        ("sideways.png", sideways, (48, 32), RED, {"exif": exif}),
        ("deep.png", grey, (8, 8), (128, 128, 128), {}),
        ("clear.png", clear, (8, 8), (255, 255, 255), {}),
    ):
        buffer = io.BytesIO()
        image.save(buffer, "PNG", **options)
        files[name] = (buffer.getvalue(), size, pixel)
    return files


def in_folder(files, folder):
    for name, (content, *_) in files.items():
        (folder / name).write_bytes(content)
    write_rows(folder / "metadata.jsonl", [{"file_name": name, "caption": "a thing"} for name in files])
    return folder


def in_table(files, folder):
    in_folder(files, folder)
    (folder / "t.tsv").write_text(
        "".join(f"{a}\t{b}\n" for a, b in [("filepath", "title")] + [(n, "a thing") for n in files])
    )
    return folder / "t.tsv"


def in_coco(files, folder):
    in_folder(files, folder)
    notes = {
        "images": [{"id": i, "file_name": name} for i, name in enumerate(files)],
        "annotations": [{"id": i, "image_id": i, "caption": "a thing"} for i in range(len(files))],
    }
    (folder / "c.json").write_text(json.dumps(notes))
    return folder / "c.json"


def in_tar(files, folder):
    with webdataset.TarWriter(str(folder / "0.tar")) as tar:
        for name, (content, *_) in files.items():
            tar.write({"__key__": name.partition(".")[0], "png": content, "txt": "a thing"})
    return folder / "0.tar"


def in_parquet(files, folder):
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
    cells = [{"bytes": content, "path": None} for content, *_ in files.values()]
    data = datasets.Dataset.from_dict(
        {"image": cells, "caption": ["a thing"] * len(cells)}, features=features
    )
    data.to_parquet(str(folder / "a.parquet"))
    return folder


@pytest.mark.parametrize("stored", [in_folder, in_table, in_coco, in_tar, in_parquet])
def test_every_reader_gives_images_as_they_are_shown(tmp_path, stored):
    files = awkward()
    rows = list(open_source(str(stored(files, tmp_path))))
    assert [row.load().size for row in rows] == [size for _, size, _ in files.values()]
    assert [row.load().getpixel((4, 4)) for row in rows] == [pixel for *_, pixel in files.values()]


@pytest.mark.parametrize("stored", [in_folder, in_table, in_coco, in_tar, in_parquet])
def test_a_broken_image_is_named_whatever_it_is_stored_in(tmp_path, stored):
    name, (content, *_) = next(iter(awkward().items()))
    ((_, reason),) = read(open_source(str(stored({name: (content[:60],)}, tmp_path))))[1].items()
    where = {in_tar: "0.tar: sideways.png", in_parquet: "a.parquet, row 0, column image"}
    assert reason.startswith(f"corrupt image: {where.get(stored, 'sideways.png')}: ")
    assert str(tmp_path) not in reason


@pytest.mark.parametrize("kind", ["tiff", "tif", "gif", "bmp", "webp"])
def test_images_of_every_kind_in_a_shard(tmp_path, kind):
    buffer = io.BytesIO()
    picture(RED).save(
        buffer,
        "TIFF" if kind.startswith("tif") else kind.upper(),
        **({"lossless": True} if kind == "webp" else {}),
    )
    mask = io.BytesIO()
    Image.new("L", (12, 8), 255).save(mask, "GIF")
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as tar:
        tar.write(
            {"__key__": "0", kind: buffer.getvalue(), "txt": "a red thing", "mask.gif": mask.getvalue()}
        )
        tar.write({"__key__": "1", "heic": b"", "txt": "a thing"})
    source = open_source(str(tmp_path / "a.tar"))
    assert read(source) == ({"a/0": ("a red thing", RED)}, {"a/1": "missing image: none among heic, txt"})
    assert next(iter(source)).mask().getpixel((0, 0)) == 255


def test_a_parquet_column_of_paths_is_read_as_files_beside_it(tmp_path):
    (tmp_path / "photos").mkdir()
    picture().save(tmp_path / "photos/a.png")
    for column in ("image", "filepath", "file_name"):
        rows = {column: ["photos/a.png", "photos/none.png", None], "caption": ["a cat", "a dog", "a bird"]}
        path = tmp_path / f"{column}.parquet"
        datasets.Dataset.from_dict(rows).to_parquet(str(path))
        found, bad = read(open_source(str(path)))
        assert list(found.values()) == [("a cat", RED)]
        assert sorted(bad.values()) == ["missing image", "missing image"]


def test_rows_of_several_parquet_files_are_told_apart(tmp_path):
    cell = {"bytes": b"no image", "path": None}
    for name in ("train-0.parquet", "train-1.parquet"):
        rows = {"image": [cell], "caption": ["a cat"]}
        datasets.Dataset.from_dict(rows).to_parquet(str(tmp_path / name))
    reasons = read(open_source(str(tmp_path)))[1].values()
    assert [reason.partition(":")[2].partition(":")[0] for reason in reasons] == [
        " train-0.parquet, row 0, column image",
        " train-1.parquet, row 0, column image",
    ]
