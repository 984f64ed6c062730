"""The tab "Hard negatives", as a program calls it."""

import zipfile
from pathlib import Path
from typing import Any

import pytest
from gradio_client import Client, handle_file
from PIL import Image, ImageChops

from negguide.demo.studio import enlarged
from negguide.image_files import read_image
from negguide.mining.render.job import Job
from negguide.mining.render.pipeline import PipelinePainter
from negguide.mining.shards import read_set
from negguide.toyworld import parse


def test_hard_negatives_are_judged_and_packed_in_the_mining_format(client: Client, tmp_path: Path) -> None:
    original, table, gallery, keep, _, set_id = client.predict(
        caption="a brown bear in front view wearing a red hat in a meadow",
        categories=["attribute", "object", "remove"],
        edits=3,
        steps=2,
        api_name="/hard_negatives",
    )
    assert len(gallery) == 3 and table.count("\n") == 4
    assert Image.open(original).size == (384, 384)
    # a random model paints nothing right: kept or not is up to the visitor
    assert [value for _, value in keep["choices"]] == ["1", "2", "3"]
    packed = client.predict(set_id=set_id, keep=["1", "3"], api_name="/download_set")
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(tmp_path / "set")
    items = [item for item, _ in read_set(tmp_path / "set")]
    assert [item.id for item in items] == ["1", "3"]
    for item, folder in read_set(tmp_path / "set"):
        assert item.caption[item.start : item.end] == item.before
        assert item.category in ("attribute", "object", "remove") and len(item.scores) == 4
        assert read_image(folder / item.negative_image_file_name).size == (64, 64)


def test_a_scene_is_drawn_with_the_caption_that_is_true_of_it(client: Client) -> None:
    image, caption = client.predict(seed=3, api_name="/draw_scene")
    assert Image.open(image).size == (64, 64) and parse(caption).background
    assert client.predict(seed=3, api_name="/draw_scene")[1] == caption


def test_hard_negatives_of_an_uploaded_picture(client: Client, picture: Path) -> None:
    original = client.predict(
        caption="a white cat wearing a red hat in the snow",
        image=handle_file(str(picture)),
        edits=1,
        steps=2,
        api_name="/hard_negatives",
    )[0]
    shown = Image.open(original).convert("RGB").resize((64, 64), Image.Resampling.BOX)
    assert shown.getpixel((2, 2)) == pytest.approx(Image.open(picture).getpixel((2, 2)), abs=4)


@pytest.mark.parametrize("method", ["perp-neg", "negative-prompt", "plain"])
def test_a_negative_is_painted_as_the_mine_paints_it(
    client: Client, backend: Any, tmp_path: Path, method: str
) -> None:
    *_, gallery, _, _, set_id = client.predict(
        categories=["attribute"], edits=1, steps=2, method=method, weight=2.0, api_name="/hard_negatives"
    )
    packed = client.predict(set_id=set_id, keep=["1"], api_name="/download_set")
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(tmp_path / "set")
    ((item, _),) = read_set(tmp_path / "set")
    avoid = item.methods[0]["avoid"]
    assert avoid and item.methods[0] == {"method": method, "avoid": avoid, "weight": 2.0}
    painter = PipelinePainter(backend.pipe, method=method, steps=2, guidance_scale=5.0, stop=0.6)  # type: ignore[arg-type]
    (painted,) = painter([Job(item.prompt, item.seed, avoid=avoid, weight=2.0)])
    shown = Image.open(gallery[0]["image"]).convert("RGB")
    levels = ImageChops.difference(shown, enlarged(painted)).getextrema()
    assert max(high for _, high in levels) <= 2
