"""What benchmarks/janus.py counts of a solid, and how benchmarks/solid.py draws a mesh."""

from typing import Any

import janus
import numpy as np
import pytest
from PIL import Image

from negguide.views.solid import TURNTABLE


def reading(views: dict[int, str] | None = None, **changed: Any) -> dict[str, Any]:
    """A grey bear that turns as it should, but for some azimuths."""
    right = {
        at: "front" if min(at, 360 - at) < 45 else "back" if abs(at - 180) < 45 else "side"
        for at in TURNTABLE
    }
    plain = {
        "prompt": "a bear",
        "kind": " ".join(["bear"] * 24),
        "fur": " ".join(["grey"] * 24),
        "profile": True,
    }
    return {**plain, "view": " ".join({**right, **(views or {})}.values()), **changed}


def test_a_right_solid_is_right_in_every_figure() -> None:
    found = {name: rate.value for name, rate in janus.figures([reading()]).items()}
    assert found.pop("back_faces") == 0
    assert set(found.values()) == {1}


@pytest.mark.parametrize(("azimuth", "counts"), [(120, 0), (135, 1), (180, 1), (225, 1), (240, 0)])
def test_a_face_counts_from_135_to_225_degrees(azimuth: int, counts: int) -> None:
    assert janus.figures([reading({azimuth: "front"})])["back_faces"].value == counts


def test_views_count_within_30_degrees_of_their_middles() -> None:
    found = janus.figures([reading({0: "side", 60: "front", 195: "side", 45: "back"})])
    assert (found["front"].value, found["front"].n) == (4 / 5, 5)
    assert (found["side"].value, found["side"].n) == (9 / 10, 10)
    assert (found["back"].value, found["back"].n) == (4 / 5, 5)


def test_a_fur_counts_against_the_commonest_of_its_solid_and_nobody_is_none() -> None:
    furs = " ".join(["white"] * 6 + ["brown"] * 18)
    assert janus.figures([reading(fur=furs)])["fur"].value == 18 / 24
    nobody = " ".join(["None"] * 24)
    found = janus.figures([reading(fur=nobody, kind=nobody)])
    assert found["fur"].value == found["kind"].value == 0
    # two solids of different furs are each of one
    assert janus.figures([reading(), reading(fur=" ".join(["white"] * 24))])["fur"].value == 1


def test_rows_differ_in_what_the_cameras_say() -> None:
    cameras = {
        row: janus.cameras_of(row, [180], janus.preset_of(row))[0]
        for row in (janus.NO_WORDS, janus.WORDS, janus.CLASSIC, "Perp-Neg, toyworld", "Perp-Neg, paper")
    }
    assert cameras[janus.NO_WORDS].negatives == cameras[janus.WORDS].negatives == ()
    assert dict(cameras["Perp-Neg, toyworld"].negatives) == {"front": 3.0}
    assert dict(cameras["Perp-Neg, paper"].negatives) == {"front": 1.5, "side": 1.5}
    assert [janus._prompt(*words) for words in (("", "cat"), ("orange", "cat"), ("grey", "cat"))] == [
        "a cat",
        "an orange cat",
        "a grey cat",
    ]


def test_a_mesh_is_drawn_from_the_side_that_is_asked_for() -> None:
    trimesh = pytest.importorskip("trimesh", reason="meshes need the extra 3d")
    import solid

    # one unit high, y upwards, front towards z
    box = trimesh.creation.box((0.5, 1.0, 0.5)).subdivide().subdivide()
    x, y, z = box.vertices.T
    box.visual.vertex_colors = np.stack([255 * (z > 0.2), 255 * (x > 0.2), 255 * (y > 0.2)], axis=1).astype(
        np.uint8
    )
    backdrop = Image.new("RGB", (64, 64), (90, 90, 90))
    seen = {at: np.asarray(solid.drawn(box, at, backdrop, height=40, bottom=4)) for at in solid.SIDES}
    # rows 20 to 59 of the picture, columns 22 to 41
    middle = {at: picture[44, 32] for at, picture in seen.items()}
    assert middle[0][0] > 200 > 50 > middle[180][0]
    # at 90 degrees the front is to the right of the picture, so that the camera sees -x
    assert middle[90][1] < 50 and middle[270][1] > 200
    assert seen[90][44, 40][0] > seen[90][44, 24][0] + 100
    assert seen[0][24, 32][2] > 200 > 50 > seen[0][54, 32][2]
    for picture in seen.values():
        outside = np.ones((64, 64), dtype=bool)
        outside[19:61, 21:43] = False
        assert (picture[outside] == 90).all()
