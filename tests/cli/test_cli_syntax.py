"""What may stand in one value: a negative with weight and window, a LoRA with its scale."""

import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from negguide import Negative, Timestep
from negguide.cli import syntax
from negguide.cli.lora import Lora


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("black glasses", Negative("black glasses")),
        ("black glasses:1.5", Negative("black glasses", weight=1.5)),
        ("black glasses@0.1-0.6", Negative("black glasses", start=0.1, stop=0.6)),
        ("black glasses:1.5@0-0.6", Negative("black glasses", weight=1.5, start=0.0, stop=0.6)),
        (" hat : 2 @ 0 - 1 ", Negative("hat", weight=2.0, start=0.0, stop=1.0)),
        ("ratio 16:9:weight=1", Negative("ratio 16:9", weight=1.0)),
        ("clock showing 10:30:weight=1", Negative("clock showing 10:30")),
        ("clock showing 10:weight=30", Negative("clock showing 10", weight=30.0)),
        ("clock showing 10:30:weight=2@0-0.6", Negative("clock showing 10:30", weight=2.0, stop=0.6)),
        ("mail me@0-1:weight=1", Negative("mail me@0-1")),
        ("mail me:weight=1@0-1", Negative("mail me", start=0.0, stop=1.0)),
        ("sign: no entry:weight=1.5", Negative("sign: no entry", weight=1.5)),
        ("hat:weight=0", Negative("hat", weight=0.0)),
        ("hat@1000t-900t", Negative("hat", start=Timestep(1000), stop=Timestep(900))),
        ("hat:2@0-500t", Negative("hat", weight=2.0, stop=Timestep(500))),
        ("(hat):1.5", Negative("(hat)", weight=1.5)),
        ("me@home:1@0-.5", Negative("me@home", weight=1.0, start=0.0, stop=0.5)),
        ("hat:0", Negative("hat", weight=0.0)),
        ("hat:1e-1", Negative("hat", weight=0.1)),
        ("black glasses:auto", Negative("black glasses", weight="auto")),
        ("black glasses:weight=auto", Negative("black glasses", weight="auto")),
        ("hat:auto@0-0.6", Negative("hat", weight="auto", stop=0.6)),
        ("total:weight= auto ", Negative("total", weight="auto")),
        ("auto", Negative("auto")),
    ],
)
def test_a_negative_is_text_with_an_optional_weight_and_window(value: str, wanted: Negative) -> None:
    assert syntax.parse_negative(value) == wanted


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("hat:heavy", "the weight must be a number, got 'heavy'"),
        ("hat:Auto", "the weight must be a number, got 'Auto'"),
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
    with pytest.raises(ValueError, match=re.escape(reason)) as caught:
        syntax.parse_negative(value)
    text = str(caught.value)
    assert text.startswith(f"--negative {value!r}: ")
    assert "text:weight@start-stop" in text


@pytest.mark.parametrize(
    ("value", "text", "other"),
    [
        ("clock showing 10:30", "clock showing 10:30:weight=1", "clock showing 10:weight=30"),
        ("a sign saying 3:2", "a sign saying 3:2:weight=1", "a sign saying 3:weight=2"),
        ("clock 10:30@0-0.6", "clock 10:30:weight=1@0-0.6", "clock 10:weight=30@0-0.6"),
        ("aspect ratio 1:1.85", "aspect ratio 1:1.85:weight=1", "aspect ratio 1:weight=1.85"),
        ("ratio 16:9:1", "ratio 16:9:1:weight=1", "ratio 16:9:weight=1"),
        ("total: 5", "total: 5:weight=1", "total:weight=5"),
        ("prix : 5", "prix : 5:weight=1", "prix:weight=5"),
        ("mail me@0-1", "mail me@0-1:weight=1", "mail me:weight=1@0-1"),
        ("total: auto", "total: auto:weight=1", "total:weight=auto"),
        ("clock 10:auto@0-0.6", "clock 10:auto:weight=1@0-0.6", "clock 10:weight=auto@0-0.6"),
    ],
)
def test_what_may_be_part_of_the_text_is_refused_with_both_ways_to_say_it(
    value: str, text: str, other: str
) -> None:
    both = f"write {text!r} for the text, {other!r} for the"
    with pytest.raises(ValueError, match=re.escape(both)):
        syntax.parse_negative(value)
    whole, *window = text.split(":weight=1")
    assert syntax.parse_negative(text).prompt == whole
    assert syntax.parse_negative(other).prompt != value
    assert window


@given(text=st.text(min_size=1).filter(lambda t: t.strip()), weight=st.floats(0, 100))
def test_any_text_survives_in_front_of_a_weight_by_name(text: str, weight: float) -> None:
    assert syntax.parse_negative(f"{text}:weight={weight}") == Negative(text.strip(), weight)
    read = syntax.parse_negative(f"{text}:weight={weight}@0.25-1")
    assert read == Negative(text.strip(), weight, 0.25, 1.0)


@given(
    # behind a digit it could be a part of the text
    text=st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1).filter(
        lambda t: t.strip() and not t.rstrip()[-1].isnumeric()
    ),
    weight=st.floats(0, 100),
    start=st.floats(0, 0.4).map(lambda x: round(x, 3)),
    stop=st.floats(0.5, 1).map(lambda x: round(x, 3)),
)
def test_any_text_survives_when_weight_and_window_follow(
    text: str, weight: float, start: float, stop: float
) -> None:
    read = syntax.parse_negative(f"{text}:{weight}@{start}-{stop}")
    assert read == Negative(text.strip(), weight, start, stop)


@given(st.text())
def test_whatever_is_typed_is_a_negative_or_a_value_error(value: str) -> None:
    refused = ""
    try:
        negative = syntax.parse_negative(value)
    except ValueError as error:
        refused = str(error)
    if refused:
        assert "text:weight@start-stop" in refused
    else:
        assert negative.prompt.strip() and (negative.automatic or math.isfinite(negative.weight))


@pytest.fixture
def style(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "style.safetensors"
    path.write_bytes(b"weights")
    return path


def test_a_lora_is_a_file_or_a_hub_id_with_an_optional_scale(style: Path, tmp_path: Path) -> None:
    whole = syntax.parse_lora("style.safetensors")
    assert (whole.source, whole.scale) == (str(style), 1.0) and len(whole.sha256 or "") == 64
    assert syntax.parse_lora("style.safetensors:0.8").scale == 0.8
    assert syntax.parse_lora("style.safetensors:scale=-0.5").scale == -0.5
    assert syntax.parse_lora("owner/name:0.8") == Lora("owner/name", 0.8)
    assert syntax.parse_lora("owner/name/a file.safetensors") == Lora("owner/name/a file.safetensors")
    assert syntax.parse_lora("owner/style-2:scale=2") == Lora("owner/style-2", 2.0)
    odd = tmp_path / "a:2.safetensors"
    odd.write_bytes(b"weights")
    assert syntax.parse_lora(str(odd)).source == str(odd)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("nosuch.safetensors", "there is no file 'nosuch.safetensors'; give a .safetensors file"),
        ("", "there is no file ''"),
        ("style.safetensors:", "the scale must be a number, got ''"),
        ("style.safetensors:strong", "the scale must be a number, got 'strong'"),
        ("style.safetensors:nan", "the scale must be finite, got nan"),
        (
            "owner/style-2:2",
            "write 'owner/style-2:2:scale=1' for the name, 'owner/style-2:scale=2' for the scale",
        ),
        ("pickled.bin", "is no .safetensors file, and others may run code"),
    ],
)
def test_a_wrong_lora_is_named_with_its_reason_and_the_form(style: Path, value: str, reason: str) -> None:
    Path("pickled.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=re.escape(reason)) as caught:
        syntax.parse_lora(value)
    text = str(caught.value)
    assert text.startswith(f"--lora {value!r}: ")
    assert "file:scale" in text
