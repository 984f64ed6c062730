"""What is compared, by name."""

import pytest
from PIL import Image

from negguide import NAG, NegToMe, PerpNeg
from negguide.benchmark.columns import Column, columns_of
from negguide.benchmark.suites import load_suite
from negguide.methods.choices import methods_in_words
from negguide.toyworld.domain import TOYWORLD_DEFAULTS

ITEM = load_suite("overlap", "owner/model", 1).items[0]
BARE = load_suite("diversity", "owner/model", 1).items[0]


def names(methods, kind):
    return [column.name for column in columns_of(methods, kind)]


def test_by_default_all_that_suits_the_suite_is_compared():
    assert names(None, "overlap") == ["plain", "negative-prompt", "perp-neg", "nag", "nasa", "ong", "vsf"]
    assert names(None, "diversity") == ["plain", "negtome"]
    assert names(None, "reference") == ["plain", "negative-prompt", "negtome"]


def test_plain_is_always_the_first():
    assert names("nag,plain", "overlap") == names("nag", "overlap") == ["plain", "nag"]


def test_a_strength_is_the_scale_where_there_is_one_and_else_the_weight():
    _, nag, perp_neg, negtome = columns_of("nag:8,perp-neg:2,negtome:3", "overlap")
    assert nag.methods(ITEM, "owner/model", ()) == (NAG(ITEM.negative, scale=8),)
    suited = {**TOYWORLD_DEFAULTS.attention["nag"], "scale": 8}
    assert nag.methods(ITEM, "toyworld", ()) == (NAG(ITEM.negative, **suited),)
    assert perp_neg.methods(ITEM, "owner/model", ())[0].negatives[0].weight == 2
    assert negtome.methods(ITEM, "owner/model", ())[0].alpha == 3
    assert [column.label for column in (nag, perp_neg, Column("perp-neg"))] == [
        "NAG 8",
        "Perp-Neg 2",
        "Perp-Neg",
    ]


def test_without_a_strength_methods_are_as_they_are_by_default():
    assert Column("perp-neg").methods(ITEM, "owner/model", ()) == (PerpNeg(ITEM.negative),)
    assert Column("negtome").methods(BARE, "owner/model", ()) == (NegToMe("others"),)
    assert Column("negtome").methods(BARE, "toyworld", ()) == (NegToMe(**TOYWORLD_DEFAULTS.negtome),)
    for key in TOYWORLD_DEFAULTS.attention:
        kind = methods_in_words()[key]
        assert Column(key).methods(ITEM, "owner/model", ()) == (kind(ITEM.negative),)
        own = (kind(ITEM.negative, **TOYWORLD_DEFAULTS.attention[key]),)
        assert Column(key).methods(ITEM, "toyworld", ()) == own != (kind(ITEM.negative),)
    picture = Image.new("RGB", (8, 8))
    assert Column("negtome").methods(BARE, "owner/model", [picture]) == (NegToMe(picture),)
    assert Column("plain").methods(ITEM, "owner/model", ()) == ()
    assert Column("negative-prompt").methods(ITEM, "owner/model", ()) == ()
    assert Column("negative-prompt").negative_prompt(ITEM) == ITEM.negative
    assert Column("plain").negative_prompt(ITEM) == Column("nag").negative_prompt(ITEM) == ""


def test_what_a_suite_cannot_carry_has_a_reason():
    assert Column("nag").objection(ITEM, 1, False) is None
    assert Column("plain").objection(BARE, 1, False) is None
    for name in ("nag", "negative-prompt"):
        assert "no negative in words" in Column(name).objection(BARE, 1, False)
    assert "needs other images to stay away from" in Column("negtome").objection(ITEM, 1, False)
    assert Column("negtome").objection(ITEM, 2, False) is Column("negtome").objection(ITEM, 1, True) is None


def test_methods_of_another_package_are_compared_by_their_keys(negguide_extra):
    assert names(None, "overlap")[-2:] != names("minus:0.5,whole", "overlap")[-2:] == ["minus:0.5", "whole"]
    assert {"minus", "whole"} <= set(names(None, "overlap"))
    assert columns_of("minus:0.5", "overlap")[1].methods(ITEM, "owner/model", ()) == (
        negguide_extra.Minus(ITEM.negative, scale=0.5),
    )


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ("perp", "'perp' is unknown; use plain, negative-prompt, perp-neg"),
        ("", "'' is unknown"),
        ("nag,nag", "nag is there more than once"),
        ("nag:x", "'nag:x': could not convert string to float"),
        ("nag:0.5", "'nag:0.5': scale must be finite and >= 1"),
        ("perp-neg:-1", "'perp-neg:-1': weight must be a finite number >= 0"),
        ("negative-prompt:2", "a classic negative prompt has no strength"),
    ],
)
def test_wrong_names_and_strengths_are_refused(methods, message):
    with pytest.raises(ValueError, match=message):
        columns_of(methods, "overlap")
