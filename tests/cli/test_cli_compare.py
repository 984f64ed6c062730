from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from negguide import Negative, NegToMe, PerpNeg, Timestep
from negguide.methods import method_from_dict
from negguide.pictures import read_settings

FAST = ("--steps", 5, "--device", "cpu")
MINUS = ("--negative", "black glasses:1.5@0-0.6")
LIGHT = ("--negative", "black glasses@0-0.6")


def columns_of(path: Path) -> list[dict]:
    return read_settings(path)["columns"]


def labels(path: Path) -> list[str]:
    return [column["label"] for column in columns_of(path)]


@pytest.fixture
def compare(run: Any, tiny_model: Path) -> Any:
    """`compare("a bear", ...)` with two seeds of the tiny model; gives the picture's path."""

    def invoke(*args: object) -> Path:
        outcome = run("compare", *args, "--model", tiny_model, *FAST, "--num-images", 2)
        assert outcome.exit_code == 0, outcome.message
        (path,) = outcome.files
        return path

    return invoke


def test_negatives_are_compared_with_plain_and_the_negative_prompt(compare: Any) -> None:
    path = compare("a bear", *MINUS, "--negative", "brown fur", "--seed", 3)
    plain, classic, perp_neg = columns_of(path)
    assert labels(path) == ["plain", "negative prompt", "Perp-Neg"]
    assert (plain["methods"], plain["negative_prompt"]) == ([], "")
    assert (classic["methods"], classic["negative_prompt"]) == ([], "black glasses, brown fur")
    assert perp_neg["negative_prompt"] == ""
    assert method_from_dict(perp_neg["methods"][0]) == PerpNeg(
        Negative("black glasses", 1.5, 0.0, 0.6), Negative("brown fur")
    )
    assert all(
        column["seeds"] == [3, 4] and column["prompt"] == "a bear" for column in (plain, classic, perp_neg)
    )


def test_it_explains_where_and_when_each_method_acted(run: Any, tiny_model: Path) -> None:
    outcome = run(
        "compare", "a bear", *MINUS, "--negtome", "--explain", "--model", tiny_model, *FAST, "--num-images", 2
    )
    assert outcome.exit_code == 0, outcome.message
    sheet, *explained = outcome.files
    stem = Path(sheet).stem
    wanted = [f"{stem}-{column}-{kind}" for column in ("perp-neg", "negtome") for kind in ("where", "when")]
    assert [Path(file).stem for file in explained] == wanted
    for file in explained:
        assert read_settings(Path(file))["columns"] == columns_of(sheet)
    plain = run("compare", "a bear", *MINUS, "--negtome", "--model", tiny_model, *FAST, "--num-images", 2)
    assert [Path(file).read_bytes() for file in plain.files] == [Path(sheet).read_bytes()]


def test_the_cheaper_perp_neg_reaches_every_column(compare: Any) -> None:
    path = compare("a bear", *LIGHT, "--refresh-every", 2, "--adaptive", "--weights", "1,2")
    for column, weight in zip(columns_of(path)[1:], (1.0, 2.0), strict=True):
        negative = Negative("black glasses", weight, 0.0, 0.6)
        assert method_from_dict(column["methods"][0]) == PerpNeg(negative, refresh_every=2, adaptive=True)


def test_automatic_weights_and_economy_reach_every_column(compare: Any) -> None:
    path = compare("a bear", "--negative", "black glasses:auto", "--economy")
    column = columns_of(path)[labels(path).index("Perp-Neg")]
    method = PerpNeg(Negative("black glasses", weight="auto"), economy=True)
    assert method_from_dict(column["methods"][0]) == method


def test_without_negatives_negtome_is_compared(compare: Any) -> None:
    path = compare("a bear", "--alpha", 2)
    assert labels(path) == ["plain", "NegToMe"]
    # with what the family of the model has, so that the picture says all of it
    method = method_from_dict(columns_of(path)[1]["methods"][0])
    assert method == NegToMe(alpha=2.0, threshold=0.65, stop=Timestep(800))


def test_reference_images_are_kept_beside_the_picture(compare: Any, photo: Path) -> None:
    path = compare("a bear", *MINUS, "--reference", photo)
    assert labels(path) == ["plain", "negative prompt", "Perp-Neg", "NegToMe"]
    (stored,) = columns_of(path)[3]["methods"][0]["reference"]
    assert (path.parent / stored["file"]).read_bytes() == photo.read_bytes()


def test_columns_may_be_chosen_and_joined(compare: Any) -> None:
    path = compare("a bear", *MINUS, "--methods", "perp-neg, perp-neg+negtome,plain")
    assert labels(path) == ["Perp-Neg", "Perp-Neg+NegToMe", "plain"]
    assert [[m["method"] for m in column["methods"]] for column in columns_of(path)] == [
        ["PerpNeg"],
        ["PerpNeg", "NegToMe"],
        [],
    ]


def test_weights_make_one_column_each(compare: Any) -> None:
    path = compare("a bear", *LIGHT, "--weights", "0.5,1,2")
    assert labels(path) == ["plain", "weight 0.5", "weight 1", "weight 2"]
    weights = [column["methods"][0]["negatives"][0]["weight"] for column in columns_of(path)[1:]]
    assert weights == [0.5, 1.0, 2.0]


def test_rows_are_seeds_and_columns_are_methods(compare: Any) -> None:
    path = compare("a bear", "--negative", "black glasses:0@0-1")
    with Image.open(path) as image:
        sheet = np.asarray(image).astype(int)
    cells = [_cell(sheet, row, column) for row in range(2) for column in range(3)]
    plain_0, classic_0, zero_0, plain_1, _, _ = cells
    assert np.abs(plain_0 - zero_0).max() <= 2  # weight 0 changes nothing
    assert np.abs(plain_0 - classic_0).max() > 10
    assert np.abs(plain_0 - plain_1).max() > 10


def _cell(sheet: np.ndarray, row: int, column: int) -> np.ndarray:
    """The pixels of a cell of three columns: cells are 192 wide and high and 8 apart, 16 from the right edge."""
    right = sheet.shape[1] - 16 - (2 - column) * 200
    # the first line without any paper in the last column
    top = int(np.flatnonzero((sheet[:, -16 - 192 : -16] != 255).any(-1).all(-1))[0]) + row * 200
    return sheet[top : top + 192, right - 192 : right]


def test_the_same_comparison_gives_the_same_bytes(compare: Any) -> None:
    first = compare("a bear", *MINUS)
    before = first.read_bytes()
    first.unlink()
    assert compare("a bear", *MINUS) == first
    assert first.read_bytes() == before


@pytest.mark.usefixtures("tiny_toyworld")
def test_in_the_toy_world_the_negative_prompt_follows_its_grammar(run: Any) -> None:
    outcome = run("compare", "a bear", *MINUS, "--negative", "a hat", *FAST, "--num-images", 1)
    assert outcome.exit_code == 0, outcome.message
    assert columns_of(outcome.files[0])[1]["negative_prompt"] == "black glasses and a hat"


@pytest.mark.usefixtures("tiny_toyworld")
def test_a_place_goes_to_the_end_of_the_negative_prompt(run: Any) -> None:
    negatives = ("--negative", "in the snow", "--negative", "black glasses")
    outcome = run("compare", "a bear", *negatives, *FAST, "--num-images", 1)
    assert outcome.exit_code == 0, outcome.message
    assert labels(outcome.files[0]) == ["plain", "negative prompt", "Perp-Neg"]
    assert columns_of(outcome.files[0])[1]["negative_prompt"] == "black glasses in the snow"


CONTRADICTORY = ("--negative", "brown fur", "--negative", "grey fur")


@pytest.mark.usefixtures("tiny_toyworld")
def test_negatives_that_make_no_negative_prompt_leave_its_column_out_with_a_remark(run: Any) -> None:
    outcome = run("compare", "a bear", *CONTRADICTORY, *FAST, "--num-images", 1, "--explain")
    assert outcome.exit_code == 0, outcome.message
    assert "without the column negative-prompt: " in outcome.message
    assert "the fur is said twice" in outcome.message
    assert labels(outcome.files[0]) == ["plain", "Perp-Neg"]
    assert [path.stem.rpartition("perp-neg-")[2] for path in outcome.files[1:]] == ["where", "when"]


@pytest.mark.usefixtures("tiny_toyworld")
def test_the_column_may_be_asked_for_where_negatives_contradict_only_if_it_is_possible(run: Any) -> None:
    outcome = run("compare", "a bear", *CONTRADICTORY, *FAST, "--methods", "plain,negative-prompt")
    assert outcome.exit_code == 2
    assert (
        "--methods 'plain,negative-prompt': no column negative-prompt, for the negatives" in outcome.message
    )
    assert "the fur is said twice" in outcome.message


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("a dragon",), "does not know 'dragon'"),
        (("a bear", "--weights", "1,2"), "give at least one --negative"),
        (("a bear", "--explain", "--methods", "plain"), "--explain shows what methods do"),
        (("a bear", *MINUS, "--refresh-every", 0), "refresh_every must be at least 1, got 0"),
        (("a bear", "--refresh-every", 2), "--refresh-every acts on Perp-Neg, which is in no column"),
        (("a bear", "--economy"), "--economy acts on Perp-Neg, which is in no column"),
        (
            ("a bear", "--negative", "hat:auto", "--weights", "1,2"),
            "--weights takes the place of the weight auto of --negative 'hat'",
        ),
        (("a bear", "--joint"), "--joint acts on Perp-Neg, which is in no column"),
        (
            ("a bear", *MINUS, "--joint", "--methods", "nag"),
            "--joint acts on Perp-Neg, which is in no column",
        ),
        (("a bear", *MINUS, "--methods", "nag+ong"), "'nag+ong' is no column"),
        (("a bear", *MINUS, "--weights", "1,2"), "--weights takes the place of the weight 1.5 of --negative"),
        (
            ("a bear", "--negative", "hat", "--weights", "1,1.0"),
            "--weights: weight 1 is there more than once",
        ),
        (("a bear", "--methods", "plain,plain"), "--methods: plain is there more than once"),
        (("a bear", "--out", __file__), "is a file; give a folder"),
        (("a bear", *LIGHT, "--weights", "1,-2"), "--weights must be numbers >= 0 with commas between"),
        (("a bear", *LIGHT, "--weights", "1,nan"), "--weights must be numbers >= 0 with commas between"),
        (("a bear", *LIGHT, "--weights", ""), "--weights must be numbers >= 0 with commas between"),
        (("a bear", *MINUS, "--weights", "1", "--methods", "plain"), "leave out --methods"),
        (("a bear", *MINUS, "--weights", "1", "--negtome"), "leave out --methods, --negtome"),
        (("a bear", "--methods", "plain,magic"), "'magic' is no column; use plain, negative-prompt"),
        (("a bear", "--methods", ""), "'' is no column"),
        (("a bear", "--methods", "plain+negtome"), "'plain+negtome' is no column"),
        (("a bear", "--methods", "perp-neg"), "'perp-neg' needs something to leave out; give --negative"),
        (("a bear", *MINUS, "--methods", "plain,negtome"), "--negative is in no column"),
        (
            ("a bear", *MINUS, "--negtome", "--methods", "plain,perp-neg"),
            "--negtome and --reference are in no column",
        ),
        (("a bear", *MINUS, "--guidance-scale", 1), "acts only with --guidance-scale above 1"),
        (("a bear", "--num-images", 1), "--num-images must be at least 2, got 1"),
        (("a bear", "--num-images", 0), "--num-images must be at least 1"),
        (("a bear", "--model", "nosuch"), "model='nosuch' is unknown"),
        ((), "Missing argument"),
    ],
    ids=str,
)
def test_wrong_input_is_one_message_and_exit_code_2(run: Any, arguments: tuple, reason: str) -> None:
    outcome = run("compare", *arguments)
    assert outcome.exit_code == 2
    assert reason in outcome.message
    assert not Path("out").exists()
