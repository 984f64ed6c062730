"""Pictures that visitors bring."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import httpx
import numpy as np
import pytest
from gradio.components.image_editor import EditorData
from gradio.data_classes import FileData
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image, PngImagePlugin

from negguide.demo import Limits
from negguide.demo.server import Server
from negguide.demo.state import MAX_SHOWN, enlarged
from negguide.demo.tabs.reference import painted
from negguide.demo.uploads import Waiting, opened


def test_uploads_that_are_too_large_are_refused(server: Server) -> None:
    def upload(size: int) -> int:
        files = {"files": ("x.png", b"\0" * size, "image/png")}
        return httpx.post(f"{server.url}gradio_api/upload", files=files).status_code

    assert upload(1000) == 200
    assert upload(1_200_000) == 413


def test_what_a_request_brings_is_bounded_as_a_whole(
    server: Server, limits: Limits, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Gradio takes a thousand files in one request, each as large as one may be
    many = [("files", (f"{number}.png", b"\0" * 900_000, "image/png")) for number in range(3)]
    for place in ("upload", "component_server"):
        answer = httpx.post(f"{server.url}gradio_api/{place}", files=many, timeout=60)
        assert answer.status_code == 413 and "2,097,152 bytes" in answer.text
    body = b"[" + b"0," * 1_100_000 + b"0]"
    joined = httpx.post(f"{server.url}gradio_api/queue/join", content=body, timeout=60)
    assert joined.status_code == 413

    def chunks() -> Iterator[bytes]:
        yield b"0"

    assert httpx.post(f"{server.url}gradio_api/upload", content=chunks(), timeout=60).status_code == 411
    one = {"files": ("x.png", b"\0" * 1000, "image/png")}
    assert httpx.post(f"{server.url}gradio_api/upload", files=one, timeout=60).status_code == 200
    assert server.outputs.size() >= 1000
    monkeypatch.setattr("negguide.demo.incoming.MAX_STORED", 999)
    full = httpx.post(f"{server.url}gradio_api/upload", files=one, timeout=60)
    assert full.status_code == 507 and "no room" in full.text


def test_a_picture_is_turned_as_the_camera_says(tmp_path: Path) -> None:
    picture = Image.new("RGB", (4, 2), "red")
    exif = picture.getexif()
    exif[0x0112] = 6  # the camera was held upright
    picture.save(tmp_path / "photo.jpg", exif=exif)
    assert opened(str(tmp_path / "photo.jpg")).size == (2, 4)


def test_a_picture_is_seen_as_a_viewer_shows_it(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 2), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.fromarray(np.full((2, 4), 32896, np.uint16)).save(tmp_path / "16.png")
    Image.new("P", (4, 2), 0).save(tmp_path / "palette.gif", transparency=0)
    for name, color in (("clear.png", 255), ("16.png", 128), ("palette.gif", 255)):
        assert opened(str(tmp_path / name)).getcolors() == [(8, (color, color, color))]


def test_a_reference_is_seen_as_a_viewer_shows_it(server: Server, tmp_path: Path) -> None:
    editor = next(block for block in server.page.blocks.values() if isinstance(block, gr.ImageEditor))
    photo = Image.new("RGB", (4, 2), "red")
    exif = photo.getexif()
    exif[0x0112] = 6  # the camera was held upright
    photo.save(tmp_path / "photo.jpg", exif=exif)
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.fromarray(np.full((4, 4), 32896, np.uint16)).save(tmp_path / "16.png")

    def reference(name: str) -> Image.Image:
        sent = EditorData(background=FileData(path=str(tmp_path / name)), layers=[], composite=None)
        picture, mask = painted(editor.preprocess(sent))
        assert picture.mode == "RGB" and mask is None
        return picture

    assert reference("photo.jpg").size == (2, 4)
    assert reference("clear.png").getcolors() == [(16, (255, 255, 255))]
    assert reference("16.png").getcolors() == [(16, (128, 128, 128))]


def test_a_format_that_starts_other_programs_is_not_read(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "page.eps")
    with pytest.raises(ValueError, match="no picture that can be read; PNG, JPEG"):
        opened(str(tmp_path / "page.eps"))


def test_a_file_that_is_no_picture_is_refused_in_words(client: Client, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_text("no picture")
    file = handle_file(str(broken))
    with pytest.raises(AppError, match="no picture that can be read"):
        client.predict(image=file, api_name="/hard_negatives")
    with pytest.raises(AppError, match="no picture that can be read"):
        client.predict(
            character="upload",
            picture={"background": file, "layers": [], "composite": None},
            api_name="/keep_away",
        )


def test_a_picture_with_too_many_pixels_is_refused_in_every_place(
    client: Client, server: Server, editor: dict[str, Any], tmp_path: Path
) -> None:
    # a file of a few kilobytes that would fill hundreds of megabytes
    bomb = tmp_path / "bomb.png"
    Image.new("1", (9000, 9000)).save(bomb)
    file = handle_file(str(bomb))
    with pytest.raises(AppError, match="9000x9000 pixels"):
        client.predict(image=file, api_name="/hard_negatives")
    for place in ({"background": file}, {"layers": [file]}, {"composite": file}):
        with pytest.raises(AppError, match="9000x9000 pixels"):
            client.predict(character="upload", picture=editor | place, api_name="/keep_away")
    # what a page sends ahead of its call
    (painter,) = (block for block in server.page.blocks.values() if block.elem_id == "reference-picture")
    assert _send(server, painter, "one", "background", bomb.read_bytes()) == 200
    with pytest.raises(ValueError, match="9000x9000 pixels"), _shown_messages():
        painter.preprocess(painter.data_model(id="one", background=None, layers=[], composite=None))


@pytest.mark.parametrize("size", [(4000, 1), (1, 4000), (16384, 1), (900, 200)])
def test_a_picture_that_is_a_line_is_refused_in_every_place(
    client: Client, editor: dict[str, Any], tmp_path: Path, size: tuple[int, int]
) -> None:
    # shown as large as a page wants it, a file of a hundred bytes would fill gigabytes
    line = tmp_path / "line.png"
    Image.new("RGB", size).save(line)
    said = f"{size[0]}x{size[1]} pixels; its longer side may be 4 times its shorter one"
    with pytest.raises(AppError, match=said):
        client.predict(image=handle_file(str(line)), api_name="/hard_negatives")
    with pytest.raises(AppError, match=said):
        client.predict(
            character="upload", picture=editor | {"background": handle_file(str(line))}, api_name="/keep_away"
        )


def test_a_picture_that_is_enlarged_stays_below_a_bound() -> None:
    for size in ((1, 1), (4, 1), (383, 1532), (64, 64)):
        shown = enlarged(Image.new("RGB", size))
        assert shown.width * shown.height <= MAX_SHOWN
        assert min(shown.size) >= min(384, 384 * min(size) / max(size) * 4)
    large = Image.new("RGB", (3000, 2000))
    assert enlarged(large) is large


def test_layers_are_counted_and_measured_before_any_is_decoded(
    client: Client, editor: dict[str, Any], picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = handle_file(str(picture))
    with pytest.raises(AppError, match="has 24 layers; at most 4 are read"):
        client.predict(character="upload", picture=editor | {"layers": [layer] * 24}, api_name="/keep_away")
    large = tmp_path / "large.png"
    Image.new("1", (4096, 4096)).save(large)
    monkeypatch.setattr(Image.Image, "convert", None)
    monkeypatch.setattr(Image.Image, "load", None)
    four = [handle_file(str(large))] * 4
    with pytest.raises(AppError, match=r"67,.* pixels; 50,331,648 are read"):
        client.predict(character="upload", picture=editor | {"layers": four}, api_name="/keep_away")


def test_an_editor_that_the_page_has_shown_checks_what_it_is_given(server: Server, picture: Path) -> None:
    # Gradio makes another component for a visit in which one is changed, without what was attached to the first
    (choice,) = (block for block in server.page.blocks.values() if block.elem_id == "reference-character")
    shows = next(fn for fn in server.page.fns.values() if (choice._id, "change") in fn.targets)
    (action,) = (fn for fn in server.page.fns.values() if fn.api_name == "keep_away")
    visit = "shown"
    address = f"{server.url}gradio_api/"
    body = {"data": ["upload"], "fn_index": shows._id, "session_hash": visit}
    assert httpx.post(f"{address}run/predict", json=body, timeout=60).status_code == 200
    files = {"files": ("x.png", picture.read_bytes(), "image/png")}
    (path,) = httpx.post(f"{address}upload", files=files, timeout=60).json()
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    values = {
        "character": "upload",
        "picture": {"background": file, "layers": [file] * 24, "composite": None},
    }
    parameters = httpx.get(f"{address}info", timeout=60).json()["named_endpoints"]["/keep_away"]["parameters"]
    data = [values.get(one["parameter_name"], one.get("parameter_default")) for one in parameters]
    body = {"data": data, "fn_index": action._id, "session_hash": visit}
    assert httpx.post(f"{address}queue/join", json=body, timeout=60).status_code == 200
    told = httpx.get(f"{address}queue/data?session_hash={visit}", timeout=120).text
    assert "has 24 layers; at most 4 are read" in told and '"success":true' not in told
    # nor is there another place in memory for what is painted
    (painter,) = (block for block in server.page.blocks.values() if block.elem_id == "reference-picture")
    assert _send(server, painter, "layers", "layer", picture.read_bytes(), "1000000000", visit) == 400


def test_texts_beside_a_picture_that_unfold_into_much_are_refused_in_words(
    client: Client, tmp_path: Path
) -> None:
    texts = PngImagePlugin.PngInfo()
    texts.add_itxt("comment", "A" * 20_000_000, zip=True)
    bomb = tmp_path / "texts.png"
    Image.new("RGB", (8, 8)).save(bomb, pnginfo=texts)
    assert bomb.stat().st_size < 100_000
    with pytest.raises(AppError, match="no picture that can be read"):
        client.predict(image=handle_file(str(bomb)), api_name="/hard_negatives")


def test_a_refused_file_is_no_page_in_the_log(
    client: Client, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 50)
    capfd.readouterr()
    with pytest.raises(AppError, match="no picture that can be read"):
        client.predict(image=handle_file(str(broken)), api_name="/hard_negatives")
    written = "".join(capfd.readouterr())
    assert "Traceback" not in written
    assert len(written.splitlines()) <= 1


def test_painted_pictures_that_wait_are_bounded_in_bytes_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("negguide.demo.uploads.time.monotonic", lambda: now[0])

    def sent(size: int) -> SimpleNamespace:
        return SimpleNamespace(background=b"x" * size, composite=None, layers=[None, b"y" * size])

    waiting = Waiting(most=100, most_bytes=1000, keep_seconds=600)
    for number in range(4):
        waiting[f"visit-{number}"] = sent(200)
    assert list(waiting) == ["visit-2", "visit-3"]
    # one alone is bounded by what an upload may weigh
    waiting["large"] = sent(5000)
    assert list(waiting) == ["large"]
    waiting = Waiting(most=100, most_bytes=1000, keep_seconds=600)
    for minute in (0, 5, 11):
        now[0] = 60.0 * minute
        waiting[f"minute-{minute}"] = sent(10)
    assert list(waiting) == ["minute-5", "minute-11"]


def test_pictures_that_are_sent_and_never_asked_for_do_not_pile_up(
    server: Server, picture: Path, limits: Limits
) -> None:
    (painter,) = (block for block in server.page.blocks.values() if block.elem_id == "reference-picture")
    sent = picture.read_bytes()
    most = 4 * limits.max_queue
    for number in range(most + 2):
        assert _send(server, painter, f"visit-{number}", "background", sent) == 200
    assert list(painter.blob_storage) == [f"visit-{number}" for number in range(2, most + 2)]
    assert _send(server, painter, "layers", "layer", sent, "1000000000") == 400
    assert _send(server, painter, "layers", "layer", sent, "1") == 200
    painter.blob_storage.clear()


def _send(
    server: Server,
    painter: Any,
    name: str,
    kind: str,
    file: bytes,
    index: str = "null",
    visit: str = "visit",
) -> int:
    fields = {"type": kind, "index": index, "id": name}
    body = {"component_id": str(painter._id), "fn_name": "accept_blobs", "session_hash": visit}
    return httpx.post(
        f"{server.url}gradio_api/component_server",
        data=body | fields,
        files={"files": ("x.png", file, "image/png")},
    ).status_code


@contextmanager
def _shown_messages() -> Iterator[None]:
    """What the page would say, as the ValueError behind it."""
    try:
        yield
    except gr.Error as error:
        raise ValueError(error.message) from error
