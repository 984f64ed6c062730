import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import PIL.Image
import pytest
import torch

from negguide import NAG, NASA, ONG, VSF, Negative, NegToMe, PerpNeg, Timestep
from negguide.methods import Load, Methods, TokenMethod, collect, fingerprint, method_from_dict

NAN, INF = float("nan"), float("inf")
RED = PIL.Image.new("RGB", (6, 4), "red")
LEFT = PIL.Image.new("L", (6, 4), 0)
LEFT.paste(255, (0, 0, 3, 4))
HALF = torch.tensor([[1.0, 0.0], [1.0, 0.0]])


def test_a_string_is_a_negative_with_the_default_weight_and_window() -> None:
    method = PerpNeg("hat", Negative("glasses", weight=2))
    assert method.negatives == (Negative("hat", 1.0, 0.0, None), Negative("glasses", 2.0, 0.0, None))
    assert [window[1:] for window in method.windows] == [(0.0, 0.5, True), (0.0, 0.5, True)]
    assert isinstance(method.negatives[1].weight, float)


def test_an_automatic_negative_acts_for_three_quarters_of_the_run_unless_it_says_its_own() -> None:
    auto = Negative("glasses", weight="auto")
    method = PerpNeg(auto, "hat", Negative("scarf", weight="auto", stop=0.3), Negative("cap", "auto", 0.6))
    assert [(w.start, w.stop) for w in method.windows] == [(0.0, 0.75), (0.0, 0.5), (0.0, 0.3), (0.6, 0.75)]
    assert auto.automatic and not auto.off and auto.weight_in_words == "auto"
    assert (
        not Negative("hat").automatic
        and Negative("hat", 0).off
        and Negative("hat", 1.5).weight_in_words == "1.5"
    )
    with pytest.raises(ValueError, match=r"weight of Negative\('glasses'\) must be a number here"):
        _ = auto.fixed_weight


def test_methods_cannot_be_changed() -> None:
    for method, name in ((Negative("hat"), "weight"), (PerpNeg("hat"), "joint"), (NegToMe(), "alpha")):
        with pytest.raises(AttributeError):
            setattr(method, name, 3)


def test_methods_with_images_compare_and_hash_by_what_they_hold() -> None:
    one, same, other = (NegToMe(torch.full((3, 2, 2), v)) for v in (0.5, 0.5, 0.25))
    assert one == same and hash(one) == hash(same)
    assert one != other
    assert Negative("hat", mask=LEFT) != Negative("hat")
    assert PerpNeg("hat") == PerpNeg(Negative("hat")) != PerpNeg("hat", joint=True)
    assert Negative("hat") != PerpNeg("hat")


def test_reference_images_are_kept_as_a_tuple() -> None:
    assert NegToMe(RED).images == (RED,)
    assert NegToMe([RED, RED]).images == (RED, RED)
    assert NegToMe("first").images == ()
    assert NegToMe([RED, RED], reference_mask=LEFT).reference_masks == (LEFT, LEFT)
    assert NegToMe([RED, RED], reference_mask=[LEFT, HALF]).reference_masks[1] is HALF
    assert NegToMe("others", reference_mask=HALF).reference_masks == (HALF,)


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: Negative(""), ValueError, "prompt"),
        (lambda: Negative("  "), ValueError, "prompt"),
        (lambda: Negative(3), TypeError, "prompt must be a string, got 3"),
        (lambda: Negative("hat", weight=-1), ValueError, r"weight .*>= 0, got -1"),
        (lambda: Negative("hat", weight=NAN), ValueError, "weight .*nan"),
        (lambda: Negative("hat", weight=INF), ValueError, "weight .*inf"),
        (lambda: Negative("hat", weight="1"), ValueError, "weight must be a number >= 0, or 'auto', got '1'"),
        (lambda: Negative("hat", weight="Auto"), ValueError, "or 'auto', got 'Auto'"),
        (lambda: Negative("hat", weight=None), TypeError, "weight must be a number, got None"),
        (lambda: Negative("hat", weight=True), TypeError, "weight"),
        (lambda: Negative("hat", start=0.5, stop=0.5), ValueError, r"start=0.5, stop=0.5"),
        (lambda: Negative("hat", start=1), ValueError, "0 <= start < stop <= 1"),
        (lambda: PerpNeg(Negative("hat", start=0.6)), ValueError, r"start=0.6, stop=0.5"),
        (lambda: Negative("hat", stop=1.5), ValueError, "stop=1.5"),
        (lambda: Negative("hat", start=-0.1), ValueError, "start=-0.1"),
        (lambda: Negative("hat", start=NAN), ValueError, "start=nan"),
        (lambda: Negative("hat", mask=RED), ValueError, "mask .*'L' or '1', got mode 'RGB'"),
        (
            lambda: Negative("hat", mask=torch.ones(1, 4, 4)),
            ValueError,
            r"mask .*\[H, W\], got .*\[1, 4, 4\]",
        ),
        (lambda: Negative("hat", mask=torch.full((2, 2), 255.0)), ValueError, r"mask .*\[0, 1\]"),
        (lambda: Negative("hat", mask=torch.full((2, 2), NAN)), ValueError, r"mask .*\[0, 1\]"),
        (lambda: Negative("hat", mask=torch.ones(2, 2, dtype=torch.uint8)), ValueError, "mask .*uint8"),
        (lambda: Negative("hat", mask=torch.ones(0, 2)), ValueError, "mask"),
        (lambda: Negative("hat", mask="left"), ValueError, "mask .*'left'"),
        (lambda: PerpNeg(), ValueError, "at least one negative"),
        (lambda: PerpNeg(["hat", "glasses"]), TypeError, r"PerpNeg\(\*negatives\)"),
        (lambda: PerpNeg(NegToMe()), TypeError, "Negative objects or strings"),
        (lambda: PerpNeg("hat", joint=1), TypeError, "joint must be True, False, 'overlap' or None, got 1"),
        (lambda: PerpNeg("hat", joint="both"), ValueError, "joint .*got 'both'"),
        (lambda: PerpNeg("hat", auto_weight=0), ValueError, "auto_weight must be a finite number > 0, got 0"),
        (lambda: PerpNeg("hat", auto_weight=INF), ValueError, "auto_weight .*inf"),
        (lambda: PerpNeg("hat", auto_weight="auto"), TypeError, "auto_weight must be a number, got 'auto'"),
        (lambda: PerpNeg("hat", economy=1), TypeError, "economy must be True or False, got 1"),
        (
            lambda: PerpNeg("hat", economy=True, refresh_every=2),
            ValueError,
            "refresh_every=2 cannot be given beside economy=True",
        ),
        (lambda: PerpNeg("hat", guidance_stop=0), ValueError, "0 < guidance_stop <= 1, .*got 0"),
        (lambda: PerpNeg("hat", guidance_stop=1.5), ValueError, "guidance_stop .*got 1.5"),
        (
            lambda: PerpNeg("hat", guidance_stop="late"),
            TypeError,
            "guidance_stop must be a number, got 'late'",
        ),
        (
            lambda: PerpNeg(Negative("hat", start=0.5, stop=1.0), guidance_stop=0.5),
            ValueError,
            "Negative.'hat'. acts from 0.5 to 1.0, and guidance_stop=0.5 .*never act",
        ),
        (
            lambda: PerpNeg(Negative("hat", start=Timestep(300), stop=1.0), guidance_stop=Timestep(301)),
            ValueError,
            "guidance_stop=Timestep.301. .*never act",
        ),
        (
            lambda: PerpNeg(Negative("hat", weight="auto", start=0.8)),
            ValueError,
            r"start=0.8, stop=0.75",
        ),
        *(
            (
                lambda method=method: method(Negative("hat", weight="auto")),
                ValueError,
                rf"weight of Negative\('hat'\) must be a number in {method.__name__}, got 'auto'",
            )
            for method in (NAG, NASA, ONG, VSF)
        ),
        (lambda: PerpNeg("hat", ""), ValueError, "prompt"),
        (lambda: NegToMe("cat.png"), ValueError, "reference .*'cat.png'.*PIL.Image.open"),
        (lambda: NegToMe(7), ValueError, "reference .*got 7"),
        (lambda: NegToMe([]), ValueError, "reference .*empty"),
        (lambda: NegToMe([RED, "first"]), ValueError, "reference .*'first'"),
        (lambda: NegToMe(torch.ones(4, 4)), ValueError, r"reference .*\[4, 4\]"),
        (lambda: NegToMe(torch.ones(3, 4, 4) * 2), ValueError, r"reference .*\[0, 1\]"),
        (lambda: NegToMe(torch.ones(3, 4, 4, dtype=torch.uint8)), ValueError, "reference .*uint8"),
        (lambda: NegToMe(alpha=-1), ValueError, "alpha"),
        (lambda: NegToMe(alpha=INF), ValueError, "alpha"),
        (lambda: NegToMe(threshold=1.1), ValueError, r"threshold .*\[-1, 1\], got 1.1"),
        (lambda: NegToMe(threshold=NAN), ValueError, "threshold"),
        (lambda: NegToMe(start=0.3, stop=0.2), ValueError, "start=0.3, stop=0.2"),
        (lambda: NegToMe(start=1.0), ValueError, "start=1.0"),
        (lambda: NegToMe(stop="late"), TypeError, "stop must be a number, got 'late'"),
        (lambda: NegToMe(max_push=0), ValueError, "max_push"),
        (lambda: NegToMe(max_push=INF), ValueError, "max_push"),
        (lambda: NegToMe(center=1), TypeError, "center"),
        (lambda: NegToMe(blocks="up_(blocks"), ValueError, "blocks must be a regular expression"),
        (lambda: NegToMe(blocks=3), TypeError, "blocks"),
        (lambda: NegToMe(reference_mask=RED), ValueError, "reference_mask"),
        (lambda: NegToMe(RED, reference_mask=[LEFT, LEFT]), ValueError, "2 masks for 1 reference images"),
        (lambda: NegToMe("others", reference_mask=[LEFT]), ValueError, "1 masks for 0 reference images"),
        (lambda: NegToMe(RED, reference_mask=[RED]), ValueError, "reference_mask"),
    ],
)
def test_bad_input_is_named_with_its_value(make: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        make()


METHODS = [
    PerpNeg(Negative("black glasses", 1.5, 0.1, 0.6), "hat", joint=True),
    PerpNeg(Negative("hat", "auto"), "cap", joint="overlap", auto_weight=3.0, guidance_stop=Timestep(300)),
    PerpNeg(Negative("hat", "auto", stop=Timestep(500)), joint=False, economy=True, guidance_stop=0.75),
    NegToMe(),
    NegToMe(start=0.5, threshold=0.3),
    NegToMe("first", 10, -0.5, 0.1, 0.9, blocks="attn1", center=True, max_push=0.3),
]


@pytest.mark.parametrize("method", METHODS)
def test_a_method_without_images_survives_json(method: Any) -> None:
    assert method_from_dict(json.loads(json.dumps(method.to_dict()))) == method


def test_what_is_left_to_the_model_family_stays_so_in_json() -> None:
    stored = json.loads(json.dumps(NegToMe().to_dict()))
    assert (stored["threshold"], stored["stop"]) == (None, None)
    assert method_from_dict(stored) == NegToMe() != NegToMe(threshold=0.65, stop=0.2)


def test_what_a_default_gave_stays_told_from_what_the_user_gave() -> None:
    settled = NegToMe(threshold=0.5).with_defaults({"threshold": 0.7, "stop": Timestep(800), "center": True})
    said = NegToMe(threshold=0.5, stop=Timestep(800))
    assert settled == said and hash(settled) == hash(said)
    assert (settled.defaulted, said.defaulted) == ({"stop"}, frozenset())
    assert settled.windows[0].default and not said.windows[0].default
    # what was filled before stays so when more is filled
    in_two = NegToMe().with_defaults({"stop": 0.2}).with_defaults({"threshold": 0.7, "stop": 0.5})
    assert (in_two.stop, in_two.threshold, in_two.defaulted) == (0.2, 0.7, {"stop", "threshold"})
    for method in (settled, said):
        stored = json.loads(json.dumps(method.to_dict()))
        again = method_from_dict(stored)
        assert again == method and again.defaulted == method.defaulted
        assert again.windows == method.windows and again.to_dict() == stored
    assert "default_values" not in said.to_dict()
    # a value that is changed in the file is the user's
    changed = method_from_dict({**settled.to_dict(), "stop": {"timestep": 700}})
    assert not changed.defaulted and not changed.windows[0].default


def test_replace_keeps_what_a_default_gave_and_the_user_did_not_change() -> None:
    settled = NegToMe().with_defaults({"threshold": 0.7, "stop": Timestep(800)})
    assert replace(settled, alpha=0.5).defaulted == {"threshold", "stop"}
    assert replace(settled, threshold=0.6).defaulted == {"stop"}
    changed = replace(settled, stop=0.2)
    assert changed.defaulted == {"threshold"} and not changed.windows[0].default
    assert set(changed.to_dict()["default_values"]) == {"threshold"}
    nag = NAG("hat", scale=3.0, default_values={"scale": 3.0})
    assert nag.with_negatives("snow").defaulted == replace(nag, tau=2.0).defaulted == {"scale"}
    assert method_from_dict(json.loads(json.dumps(nag.to_dict()))).defaulted == {"scale"}
    assert not replace(nag, scale=4.0).defaulted and "default_values" not in repr(nag)


@dataclass(frozen=True, eq=False)
class Outside(TokenMethod):
    """A method of another package, with a constructor that it did not write and a field of its own."""

    reference: str = "others"
    length: float | None = None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], load: Load | None = None) -> "Outside":
        return cls(**{name: value for name, value in data.items() if name != "method"})


def test_methods_from_outside_have_it_too() -> None:
    settled = Outside().with_defaults({"length": 2.0})
    again = Outside.from_dict(json.loads(json.dumps(settled.to_dict())))
    assert again.length == 2.0 and again.defaulted == settled.defaulted == {"length"}
    assert replace(again, reference="first").defaulted == {"length"}
    assert not replace(again, length=3.0).defaulted


def test_json_says_what_an_image_is_and_refuses_to_guess_it_back() -> None:
    stored = json.loads(json.dumps(NegToMe([RED], mask=HALF).to_dict()))
    assert stored["reference"] == [fingerprint(RED)]
    assert stored["reference"][0]["size"] == [6, 4] and len(stored["reference"][0]["sha256"]) == 64
    assert stored["mask"]["size"] == [2, 2]
    with pytest.raises(ValueError, match=r"is an image.*load="):
        method_from_dict(stored)


def test_the_digest_tells_pixels_shapes_and_types_apart() -> None:
    images = [
        RED,
        RED.resize((4, 6)),
        LEFT,
        LEFT.convert("1"),
        PIL.Image.new("RGB", (6, 4), "blue").convert("P"),
    ]
    tensors = [
        torch.zeros(2, 3),
        torch.zeros(3, 2),
        torch.zeros(2, 3, dtype=torch.float16),
        torch.ones(2, 3) > 0,
    ]
    hashes = [
        fingerprint(image)["sha256"] for image in [*images, *tensors, torch.zeros(2, 3, dtype=torch.bfloat16)]
    ]
    assert len(set(hashes)) == len(hashes)
    same = [RED.copy(), RED.convert("RGBA"), RED.convert("P")]
    assert [fingerprint(image) for image in same] == [fingerprint(RED)] * 3


def test_save_and_load_carry_images_through_json() -> None:
    files: dict[str, Any] = {}

    def save(image: Any) -> str:
        files[f"{len(files)}.png"] = image
        return f"{len(files) - 1}.png"

    both = [
        NegToMe([RED, torch.rand(3, 2, 2)], mask=LEFT, reference_mask=[HALF, LEFT]),
        NegToMe([RED, RED], reference_mask=HALF),
        PerpNeg(Negative("hat", mask=HALF), "glasses"),
    ]
    stored = json.loads(json.dumps([method.to_dict(save) for method in both]))
    assert stored[0]["reference"] == ["0.png", "1.png"]
    assert stored[1]["reference_mask"] == "7.png"
    assert [method_from_dict(one, load=files.__getitem__) for one in stored] == both


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"method": "Magic"}, "method must be one of PerpNeg, NegToMe, NAG, NASA, ONG, VSF, got 'Magic'"),
        ({}, "got None"),
        ({"method": "NegToMe", "strength": 3}, "NegToMe has no strength; its keys are .*alpha"),
        ({"method": "PerpNeg", "negatives": [{"prompt": "hat", "mode": 1}]}, "Negative has no mode"),
        ({"method": "PerpNeg", "negatives": []}, "at least one negative"),
        ({"method": "NegToMe", "alpha": -1}, "alpha"),
        (
            {"method": "NegToMe", "default_values": {"size": 1}},
            "default_values .* of NegToMe .* it has no size",
        ),
        (
            {"method": "NAG", "negatives": [{"prompt": "hat"}], "default_values": {"size": 1}},
            "it has no size",
        ),
    ],
)
def test_bad_json_is_refused_by_name(data: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        method_from_dict(data)


def test_collect_finds_one_of_each_in_any_order() -> None:
    perp_neg, negtome = PerpNeg("hat"), NegToMe()
    assert collect([negtome, perp_neg]) == Methods(perp_neg, negtome, None)
    assert collect(perp_neg) == Methods(perp_neg, None, None)
    assert collect((negtome,)) == Methods(None, negtome, None)
    for attention in (NAG("hat"), NASA("hat"), ONG("hat"), VSF("hat")):
        assert collect([attention, negtome, perp_neg]) == Methods(perp_neg, negtome, attention)
        assert list(collect([attention, perp_neg])) == [perp_neg, attention]


@pytest.mark.parametrize(
    ("guidance", "error", "says"),
    [
        ([], ValueError, "negative_guidance is empty"),
        ([PerpNeg("a"), PerpNeg("b")], ValueError, "two PerpNeg.*put all negatives into one"),
        ([NegToMe(), NegToMe("first")], ValueError, "two NegToMe"),
        ("glasses", TypeError, r"PerpNeg\('glasses'\)"),
        ([Negative("glasses")], TypeError, r"wrap it: PerpNeg\(Negative"),
        ([None], TypeError, "got None"),
    ],
)
def test_collect_refuses_what_is_no_set_of_methods(guidance: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        collect(guidance)
