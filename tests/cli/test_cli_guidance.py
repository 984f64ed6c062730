from pathlib import Path
from typing import Any

import pytest

from negguide import NAG, ONG, VSF, Negative, NegToMe, PerpNeg, Timestep
from negguide.cli import guidance
from negguide.cli.attachments import Attachments
from negguide.domain import Defaults
from negguide.toyworld.domain import TOYWORLD_DEFAULTS

PUBLISHED = Defaults()
NOTHING = dict.fromkeys(
    ("alpha", "threshold", "blocks", "center", "max_push", "perpendicular", "match_every")
)


def negtome(mode: str | None, references: list[Path] | None = None, **changes: object) -> object:
    arguments = {
        "given": NOTHING,
        "window": None,
        "mask": None,
        "reference_mask": None,
        "suited": Defaults(),
        "attachments": Attachments(),
    }
    return guidance.negtome(mode, references, **{**arguments, **changes})  # type: ignore[arg-type]


def test_all_negatives_act_in_one_method() -> None:
    values = ["hat:2", "scarf@0-0.3"]
    negatives = (Negative("hat", weight=2.0), Negative("scarf", stop=0.3))
    assert guidance.in_words(values, {"joint": True}, "perp-neg", None, PUBLISHED) == PerpNeg(
        *negatives, joint=True
    )
    assert guidance.in_words(values, {}, "nag", 3.0, PUBLISHED) == NAG(*negatives, scale=3.0)
    assert guidance.in_words(values, {}, "ong", None, PUBLISHED) == ONG(*negatives)
    assert guidance.in_words(values, {}, "vsf", 0.5, PUBLISHED) == VSF(*negatives, scale=0.5)


def test_a_negative_begins_with_the_weight_that_suits_the_model_unless_it_says_its_own() -> None:
    values = ["hat", "scarf:2", "a cap:weight=1@0-0.3"]
    own = (Negative("scarf", weight=2.0), Negative("a cap", weight=1.0, stop=0.3))
    expected = PerpNeg(Negative("hat", weight=3.0), *own)
    assert guidance.in_words(values, {}, "perp-neg", None, TOYWORLD_DEFAULTS) == expected
    # in attention space a weight multiplies what the method's own scale says
    suited = TOYWORLD_DEFAULTS.attention
    expected_nag = NAG("hat", *own, **suited["nag"])
    assert guidance.in_words(values, {}, "nag", None, TOYWORLD_DEFAULTS) == expected_nag


def test_a_method_in_attention_space_has_what_suits_the_model_unless_told() -> None:
    suited = TOYWORLD_DEFAULTS.attention
    assert guidance.in_words(["hat"], {}, "vsf", None, TOYWORLD_DEFAULTS) == VSF("hat", **suited["vsf"])
    told = VSF("hat", **{**suited["vsf"], "scale": 1.5})
    assert guidance.in_words(["hat"], {}, "vsf", 1.5, TOYWORLD_DEFAULTS) == told


def test_only_what_differs_from_saying_nothing_counts_as_said() -> None:
    assert guidance.said_of_method(False, 1, False, False, None) == {}
    assert guidance.said_of_method(True, 3, False, False, None) == {"joint": True, "refresh_every": 3}
    assert guidance.said_of_method(False, 1, True, True, None) == {"adaptive": True, "economy": True}
    assert guidance.said_of_method(False, None, False, False, 16) == {"max_sequence_length": 16}


def test_no_negatives_mean_no_method() -> None:
    assert guidance.in_words(None, {}, "perp-neg", None, PUBLISHED) is None


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (([], {"joint": True}, "perp-neg", None), "--joint acts on --negative"),
        (
            ([], {"refresh_every": 2, "adaptive": True}, "perp-neg", None),
            "--refresh-every, --adaptive acts on --negative",
        ),
        (([], {"economy": True}, "perp-neg", None), "--economy acts on --negative"),
        ((["hat"], {"economy": True}, "nag", None), "--economy is of perp-neg"),
        (
            (["hat"], {"max_sequence_length": 16}, "perp-neg", None),
            "--max-sequence-length is of nag, nasa, ong and vsf; with --method perp-neg leave it out",
        ),
        ((["hat"], {"max_sequence_length": 0}, "nag", None), "max_sequence_length must be at least 1, got 0"),
        (
            (["hat"], {"economy": True, "refresh_every": 2}, "perp-neg", None),
            "refresh_every=2 cannot be given beside economy=True",
        ),
        ((["hat:auto"], {}, "nag", None), r"weight of Negative\('hat'\) must be a number in NAG, got 'auto'"),
        (([], {}, "nag", None), "--method nag acts on --negative"),
        ((None, {}, "vsf", 2.0), "--scale acts on --negative"),
        ((["hat"], {"joint": True}, "nag", None), "--joint is of perp-neg"),
        ((["hat"], {}, "perp-neg", 2.0), "--scale is of nag, nasa, ong and vsf"),
        ((["hat"], {}, "magic", None), "--method must be one of perp-neg, nag, nasa, ong, vsf, got 'magic'"),
        ((["hat"], {}, "nag", 0.5), "scale must be finite and >= 1"),
    ],
)
def test_options_that_act_on_nothing_or_another_method_are_refused(arguments: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        guidance.in_words(*arguments, PUBLISHED)


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


WINDOW = {"start": Timestep(1000), "stop": Timestep(900)}


def test_a_window_in_timesteps_is_negtomes_and_that_of_negatives_without_their_own() -> None:
    minus = {"perp-neg": PerpNeg("hat", Negative("scarf", 2.0, 0.0, 0.3))}
    changed, apart = guidance.in_timesteps(minus, NegToMe(stop=0.5), "1000:900", None)
    assert changed == {"perp-neg": PerpNeg(Negative("hat", **WINDOW), Negative("scarf", 2.0, 0.0, 0.3))}
    assert apart == NegToMe(**WINDOW)
    assert guidance.in_timesteps(minus, None, None, "0-1") == (minus, None)


@pytest.mark.parametrize(
    ("minus", "apart", "value", "other", "says"),
    [
        ({}, None, "1000:900", None, "acts on NegToMe and on each --negative without a window"),
        ({"nag": NAG(Negative("hat", stop=0.5))}, None, "1000:900", None, "and there is none"),
        ({}, NegToMe(), "1000:900", "0-1", "both say when NegToMe acts"),
        ({}, NegToMe(), "900:1000", None, "--timestep-window '900:1000': start must be noisier than stop"),
        ({}, NegToMe(), "2000:900", None, "Timestep must be from 0, the image, to 1000"),
        ({}, NegToMe(), "1000-900", None, "--timestep-window must be start:stop, timesteps"),
        ({}, NegToMe(), "early", None, "got 'early'"),
    ],
)
def test_a_window_in_timesteps_that_is_wrong_or_acts_on_nothing_is_refused(
    minus: Any, apart: Any, value: str, other: str | None, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        guidance.in_timesteps(minus, apart, value, other)


def test_what_was_read_as_a_weight_or_a_window_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    values = ["hat", "chapter:5", "scarf@0-0.6"]
    guidance.say_negatives(values, guidance.in_words(values, {}, "perp-neg", None, PUBLISHED))
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["leaving out “chapter”, weight 5", "leaving out “scarf”, weight 1, 0-0.6"]
