"""The command line with other models than the embedded one: what it leaves to the pipeline, and what it records."""

import json
from typing import Any

import pytest

from negguide.pictures import read_settings

_OF_GUIDANCE = {"guidance_scale", "true_cfg_scale", "negative_prompt", "output_type"}
MODEL = ("--model", "owner/name", "--steps", 2, "--device", "cpu")


def guidance(call: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in call.items() if name in _OF_GUIDANCE}


PLAIN = {
    "sd": {"guidance_scale": 7.5},
    "flux": {"true_cfg_scale": 1.0},
    "flux2-dev": {"guidance_scale": 4.0},
    "qwen-image": {"true_cfg_scale": 1.0},
    "z-image": {"guidance_scale": 5.0},
    "pixart-sigma": {"guidance_scale": 4.5},
}


@pytest.mark.parametrize(("calls", "wanted"), PLAIN.items(), ids=PLAIN, indirect=["calls"])
def test_a_plain_drawing_has_the_pipelines_own_guidance_and_a_replay_gives_the_same_bytes(
    run: Any, calls: list[dict[str, Any]], wanted: dict[str, Any]
) -> None:
    first = run("generate", "a bear", *MODEL, "--out", "first")
    assert first.exit_code == 0, first.message
    assert guidance(calls[0]) == wanted
    assert read_settings(first.files[0])["guidance_scale"] == next(iter(wanted.values()))
    second = run("generate", "--from", first.files[-1], "--out", "second")
    assert second.exit_code == 0, second.message
    assert "identical to the recorded images" in second.message
    assert guidance(calls[1]) == wanted


@pytest.mark.parametrize("calls", ["flux", "qwen-image"], indirect=True)
@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (("--negative", "hat"), {"true_cfg_scale": 4.0, "negative_prompt": ""}),
        (("--negative-prompt", "hat"), {"true_cfg_scale": 4.0, "negative_prompt": "hat"}),
        (("--guidance-scale", 3), {"true_cfg_scale": 3.0, "negative_prompt": ""}),
        (("--negative", "hat", "--method", "nag"), {"true_cfg_scale": 1.0}),
    ],
    ids=str,
)
def test_true_cfg_is_on_where_it_is_needed_or_asked_for(
    run: Any, calls: list[dict[str, Any]], arguments: tuple[str, ...], wanted: dict[str, Any]
) -> None:
    first = run("generate", "a bear", *arguments, *MODEL, "--out", "first")
    assert first.exit_code == 0, first.message
    assert guidance(calls[0]) == wanted
    second = run("generate", "--from", first.files[-1], "--out", "second")
    assert "identical to the recorded images" in second.message
    assert guidance(calls[1]) == wanted


@pytest.mark.parametrize("calls", ["flux"], indirect=True)
def test_a_sidecar_of_before_is_replayed_with_the_scale_that_it_names(
    run: Any, calls: list[dict[str, Any]]
) -> None:
    first = run("generate", "a bear", *MODEL)
    sidecar = first.files[-1]
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), "guidance_scale": 7.5}))
    assert run("generate", "--from", sidecar, "--out", "second").exit_code == 0
    assert guidance(calls[1]) == {"true_cfg_scale": 7.5, "negative_prompt": ""}


@pytest.mark.parametrize("calls", ["flux"], indirect=True)
def test_the_columns_of_a_comparison_have_one_guidance_scale(run: Any, calls: list[dict[str, Any]]) -> None:
    outcome = run("compare", "a bear", "--negative", "hat", *MODEL, "--num-images", 1)
    assert outcome.exit_code == 0, outcome.message
    assert {call["true_cfg_scale"] for call in calls} == {4.0}
    assert [call["negative_prompt"] for call in calls] == ["", "hat", ""]
    assert {column["guidance_scale"] for column in read_settings(outcome.files[0])["columns"]} == {4.0}
    calls.clear()
    few = ("--methods", "plain,nag", "--num-images", 1)
    assert run("compare", "a bear", "--negative", "hat", *MODEL, *few).exit_code == 0
    assert [guidance(call) for call in calls] == [{"true_cfg_scale": 1.0}] * 2


@pytest.mark.parametrize("calls", ["flux2-dev"], indirect=True)
def test_a_negative_prompt_where_there_is_none_is_refused(run: Any, calls: list[dict[str, Any]]) -> None:
    outcome = run("generate", "a bear", "--negative-prompt", "hat", *MODEL)
    assert outcome.exit_code == 2
    assert "--negative-prompt: Flux2Pipeline takes none" in outcome.message
    assert not calls


@pytest.mark.parametrize("calls", ["wan"], indirect=True)
def test_a_model_that_makes_videos_is_refused(run: Any, calls: list[dict[str, Any]]) -> None:
    outcome = run("generate", "a bear", *MODEL)
    assert outcome.exit_code == 2
    assert "--model owner/name: " in outcome.message
    assert "give a text-to-image model, or call it from Python" in outcome.message
    assert not calls
