"""Near-duplicates are found inside a set and in evaluation sets; what only resembles is left alone."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from planted import write_set

from negguide.mining.audit.duplicates import Reference, find_duplicates, loosely, read_reference
from negguide.mining.audit.looks import look_at
from negguide.mining.audit.pairs import Pair
from negguide.toyworld import caption, render, sample_scene


def drawn(folder: Path, count: int, seed: int = 0, size: int = 64) -> list[Pair]:
    """Pairs of different scenes."""
    rng = random.Random(seed)
    pairs = []
    while len(pairs) < count:
        scene, wrong = sample_scene(rng), sample_scene(rng)
        files = [folder / f"{len(pairs)}{role}.png" for role in "ab"]
        for path, one in zip(files, (scene, wrong), strict=True):
            render(one, size, seed=len(pairs)).save(path)
        pairs.append(
            Pair(f"p{len(pairs)}", f"s{len(pairs)}", caption(scene), caption(wrong), "object", *files)
        )
    return pairs


def looked(pairs: list[Pair], *more: Path) -> dict[Path, object]:
    paths = [path for pair in pairs for path in (pair.image, pair.negative_image) if path] + list(more)
    return {path: look_at(path) for path in paths}


@pytest.mark.parametrize(("size", "resized", "quality"), [(64, 64, 50), (64, 32, 90), (192, 150, 75)])
def test_a_resized_recompressed_copy_is_found_and_other_scenes_are_not(
    tmp_path: Path, size: int, resized: int, quality: int
) -> None:
    pairs = drawn(tmp_path, 12, size=size)
    with Image.open(tmp_path / "4b.png") as image:
        image.resize((resized, resized)).save(tmp_path / "copy.jpg", quality=quality)
    twin = Pair("twin", "elsewhere", "x", "y", "object", tmp_path / "copy.jpg")
    found = find_duplicates([*pairs, twin], looked([*pairs, twin]), [])
    assert found.images == [("twin", "copy.jpg", "p4", "4b.png")]


def test_images_of_one_source_may_be_alike(tmp_path: Path) -> None:
    [pair] = drawn(tmp_path, 1)
    again = Pair("again", pair.source, "x", "y", "object", pair.image, pair.image)
    assert find_duplicates([pair, again], looked([pair]), []).images == []


def test_captions_are_compared_without_case_marks_and_articles() -> None:
    assert loosely("A  Café, by the sea!") == "cafe by sea"
    rows = [
        ("1", "A red hat.", "a blue hat"),
        ("2", "a red hat", "The BLUE hat"),
        ("3", "a red hat", "a hat"),
    ]
    pairs = [Pair(name, name, right, wrong, "attribute") for name, right, wrong in rows]
    assert find_duplicates(pairs, {}, []).texts == [["1", "2"]]


def test_evaluation_sets_are_searched_for_captions_and_images(tmp_path: Path) -> None:
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    mine.mkdir()
    theirs.mkdir()
    pairs = drawn(mine, 4)
    # two items share an original: both have leaked
    pairs.append(Pair("p0-again", "s0", pairs[0].caption, "other words", "object", pairs[0].image))
    with Image.open(mine / "0a.png") as image:
        image.convert("RGB").save(theirs / "known.webp")
    (theirs / "notes.md").write_text("no image")
    reference = read_reference(theirs)
    assert reference.images == (theirs / "known.webp",)
    found = find_duplicates(pairs, looked(pairs, *reference.images), [reference])
    assert [row[0] for row in found.leaked_images["theirs"]] == ["p0", "p0-again"]
    assert found.leaked_captions == {"theirs": []}
    captions = Reference("words", captions=(pairs[2].negative_caption.upper(),))
    found = find_duplicates(pairs, {}, [captions])
    assert found.leaked_captions == {"words": ["p2"]}
    assert found.leaked == {"p2": "a caption is in words"}


def test_controls_are_searched_as_the_other_images_are(tmp_path: Path) -> None:
    first, second, control = drawn(tmp_path, 3)
    pairs = [replace(first, control=control.image), second]
    looks = looked([*pairs, control])
    assert control.image is not None
    reference = Reference("theirs", images=(control.image,))
    found = find_duplicates(pairs, looks, [reference])
    assert found.leaked_images == {"theirs": [("p0", "2a.png", "2a.png")]}
    # and those of an evaluation set, in which a pair with exchanged roles shows them
    folder = write_set(tmp_path / "set", 1, controls=True)
    names = [path.name for path in read_reference(folder).images]
    assert names == ["0.png", "0-negative.png", "0-control.png"]


def test_references_are_read_from_text_json_with_images_and_sets(tmp_path: Path) -> None:
    (tmp_path / "eval.txt").write_text("a cat\n\na dog\n")
    assert read_reference(tmp_path / "eval.txt").captions == ("a cat", "a dog")
    (tmp_path / "images").mkdir()
    rows = {"0": {"filename": "x.png", "caption": "a cat", "negative_caption": "a dog"}}
    (tmp_path / "add.json").write_text(json.dumps(rows))
    found = read_reference(f"{tmp_path / 'add.json'}={tmp_path / 'images'}")
    assert found == Reference("add.json", ("a cat", "a dog"), (tmp_path / "images" / "x.png",))
    assert read_reference(tmp_path / "add.json").images == ()


def test_captions_of_a_text_file_are_read_whole_in_any_encoding_that_it_names(tmp_path: Path) -> None:
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        # a line separator of Unicode ends no line of a file
        (tmp_path / "eval.txt").write_bytes("a cat\u2028on a sofa\r\na dog\r\n".encode(encoding))
        assert read_reference(tmp_path / "eval.txt").captions == ("a cat\u2028on a sofa", "a dog")
    (tmp_path / "eval.txt").write_bytes("a cat\na café\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"eval\.txt, line 2, is not UTF-8"):
        read_reference(tmp_path / "eval.txt")


def test_a_reference_without_anything_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"against=.*empty' holds neither captions nor images"):
        read_reference(tmp_path / "empty")
    with pytest.raises(ValueError, match="nowhere does not exist"):
        read_reference(tmp_path / "nowhere")
