import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from negguide import NAG, ONG, VSF, Negative, PerpNeg
from negguide.cli import options
from negguide.cli.attachments import Attachments
from negguide.models import TOYWORLD_DEFAULTS, Defaults

NOTHING = dict.fromkeys(("alpha", "threshold", "blocks", "center", "max_push"))


def negtome(mode: str | None, references: list[Path] | None = None, **changes: object) -> object:
    arguments = {
        "given": NOTHING,
        "window": None,
        "mask": None,
        "reference_mask": None,
        "suited": Defaults(),
        "attachments": Attachments(),
    }
    return options.negtome(mode, references, **{**arguments, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("black glasses", Negative("black glasses")),
        ("black glasses:1.5", Negative("black glasses", weight=1.5)),
        ("black glasses@0.1-0.6", Negative("black glasses", start=0.1, stop=0.6)),
        ("black glasses:1.5@0-0.6", Negative("black glasses", weight=1.5, start=0.0, stop=0.6)),
        (" hat : 2 @ 0 - 1 ", Negative("hat", weight=2.0, start=0.0, stop=1.0)),
        ("ratio 16:9:1", Negative("ratio 16:9", weight=1.0)),
        ("me@home:1@0-.5", Negative("me@home", weight=1.0, start=0.0, stop=0.5)),
        ("hat:0", Negative("hat", weight=0.0)),
        ("hat:1e-1", Negative("hat", weight=0.1)),
    ],
)
def test_a_negative_is_text_with_an_optional_weight_and_window(value: str, wanted: Negative) -> None:
    assert options.parse_negative(value) == wanted


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("hat:heavy", "the weight must be a number, got 'heavy'"),
        ("hat:", "the weight must be a number, got ''"),
        ("hat:-1", "weight must be a finite number >= 0, got -1.0"),
        ("hat:nan", "weight must be a finite number >= 0, got nan"),
        ("hat:inf", "weight must be a finite number >= 0, got inf"),
        ("hat:1@0.6-0.2", "start=0.6, stop=0.2"),
        ("hat:1@0.5-0.5", "start=0.5, stop=0.5"),
        ("hat:1@0-1.5", "stop=1.5"),
        ("hat:1@-0.5-0.5", "start=-0.5"),
        ("hat:1@0.5", "the window must be start-stop"),
        ("hat:1@", "the window must be start-stop"),
        ("hat:1@0-0.5-1", "the window must be start-stop"),
        ("hat:1@1.2.3-4", "start must be a number, got '1.2.3'"),
        ("", "must say what to leave out"),
        (":1", "must say what to leave out"),
        ("@0-1", "must say what to leave out"),
    ],
)
def test_a_wrong_negative_is_named_with_its_reason_and_the_form(value: str, reason: str) -> None:
    with pytest.raises(ValueError) as caught:
        options.parse_negative(value)
    text = str(caught.value)
    assert text.startswith(f"--negative {value!r}: ")
    assert reason in text
    assert "text:weight@start-stop" in text


@given(
    text=st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1).filter(lambda t: t.strip()),
    weight=st.floats(0, 100),
    start=st.floats(0, 0.4).map(lambda x: round(x, 3)),
    stop=st.floats(0.5, 1).map(lambda x: round(x, 3)),
)
def test_any_text_survives_when_weight_and_window_follow(
    text: str, weight: float, start: float, stop: float
) -> None:
    read = options.parse_negative(f"{text}:{weight}@{start}-{stop}")
    assert read == Negative(text.strip(), weight, start, stop)


@given(st.text())
def test_whatever_is_typed_is_a_negative_or_a_value_error(value: str) -> None:
    try:
        negative = options.parse_negative(value)
    except ValueError as error:
        assert "text:weight@start-stop" in str(error)
    else:
        assert negative.prompt.strip() and math.isfinite(negative.weight)


def test_all_negatives_act_in_one_method() -> None:
    values = ["hat:2", "scarf@0-0.3"]
    negatives = (Negative("hat", weight=2.0), Negative("scarf", stop=0.3))
    assert options.in_words(values, {"joint": True}, "perp-neg", None) == PerpNeg(*negatives, joint=True)
    assert options.in_words(values, {}, "nag", 3.0) == NAG(*negatives, scale=3.0)
    assert options.in_words(values, {}, "ong", None) == ONG(*negatives)
    assert options.in_words(values, {}, "vsf", 0.5) == VSF(*negatives, scale=0.5)


def test_only_what_differs_from_saying_nothing_counts_as_said() -> None:
    assert options.said_of_method(False, 1, False) == {}
    assert options.said_of_method(True, 3, False) == {"joint": True, "refresh_every": 3}


def test_no_negatives_mean_no_method() -> None:
    assert options.in_words(None, {}, "perp-neg", None) is None


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (([], {"joint": True}, "perp-neg", None), "--joint acts on --negative"),
        (
            ([], {"refresh_every": 2, "adaptive": True}, "perp-neg", None),
            "--refresh-every, --adaptive acts on --negative",
        ),
        (([], {}, "nag", None), "--method nag acts on --negative"),
        ((None, {}, "vsf", 2.0), "--scale acts on --negative"),
        ((["hat"], {"joint": True}, "nag", None), "--joint is of perp-neg"),
        ((["hat"], {}, "perp-neg", 2.0), "--scale is of nag, ong and vsf"),
        ((["hat"], {}, "magic", None), "--method must be one of perp-neg, nag, ong, vsf, got 'magic'"),
        ((["hat"], {}, "nag", 0.5), "scale must be finite and >= 1"),
    ],
)
def test_options_that_act_on_nothing_or_another_method_are_refused(arguments: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        options.in_words(*arguments)


def test_negtome_takes_what_suits_the_model_unless_told() -> None:
    suited = negtome("", suited=TOYWORLD_DEFAULTS)
    assert {name: getattr(suited, name) for name in TOYWORLD_DEFAULTS.negtome} == TOYWORLD_DEFAULTS.negtome
    told = negtome("", suited=TOYWORLD_DEFAULTS, given={**NOTHING, "alpha": 3.0}, window="0.1-0.3")
    assert (told.alpha, told.start, told.stop) == (3.0, 0.1, 0.3)  # type: ignore[attr-defined]


@pytest.mark.parametrize(("mode", "kind"), [("", "others"), ("others", "others"), ("first", "first")])
def test_negtome_says_which_images_are_the_reference(mode: str, kind: str) -> None:
    assert negtome(mode).reference == kind  # type: ignore[attr-defined]


def test_a_reference_alone_is_enough_for_negtome(photo: Path) -> None:
    assert [image.size for image in negtome(None, [photo, photo]).images] == [(40, 40)] * 2  # type: ignore[attr-defined]


@pytest.mark.parametrize("mode", ["others", "first"])
def test_a_reference_image_beside_another_kind_of_reference_is_refused(mode: str, photo: Path) -> None:
    with pytest.raises(ValueError, match="two kinds of references"):
        negtome(mode, [photo])


def test_options_of_negtome_without_it_are_refused_by_name(photo: Path) -> None:
    with pytest.raises(
        ValueError, match=r"--alpha, --max-push, --negtome-window, --mask: acts only with --negtome"
    ):
        negtome(None, given={**NOTHING, "alpha": 1.0, "max_push": 0.5}, window="0-1", mask=photo)


def test_no_option_of_negtome_means_no_negtome() -> None:
    assert negtome(None) is None


def test_an_unknown_kind_of_reference_is_refused() -> None:
    with pytest.raises(ValueError, match="--negtome must be others or first, or stand alone, got 'second'"):
        negtome("second")
