"""The tab "Views and 3D", as a program calls it."""

from typing import Any

import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from PIL import Image, ImageChops

from negguide.demo.solids import MADE


@pytest.mark.parametrize("views", ["nothing", "words", "perp-neg"])
def test_a_solid_is_fitted_and_shown_from_all_around(client: Client, views: str) -> None:
    file, said = client.predict(prompt="a bear", views=views, rounds=1, api_name="/turn_around")
    with Image.open(file) as turntable:
        assert turntable.format == "GIF" and turntable.n_frames == 24
    assert said.startswith("**“a bear” from behind: a face in ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": "two bears"}, "must be of one character"),
        ({"prompt": "a bear in side view"}, "view"),
        ({"views": "magic"}, "not in the list of choices"),
        ({"rounds": 99}, "greater than maximum value 26"),
    ],
)
def test_what_is_no_solid_is_refused(client: Client, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(AppError, match=message):
        client.predict(**{"prompt": "a bear", "rounds": 1, **arguments}, api_name="/turn_around")


def test_the_turntables_that_are_shown_first_differ_from_behind() -> None:
    behind = []
    for path in MADE.values():
        with Image.open(path) as turntable:
            assert turntable.n_frames == 24
            turntable.seek(12)
            behind.append(turntable.convert("RGB"))
    levels = ImageChops.difference(*behind).getextrema()
    assert max(high for _, high in levels) > 100
