"""The card of a result, and what is pushed to the hub; up to the upload."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import ModelCard, RepoUrl

from negguide.vlm import Results, Settings, load_model, push_result
from negguide.vlm.evaluation.results import Row
from negguide.vlm.training.log import Log
from negguide.vlm.training.model_card import check_push, eval_results, write_result
from negguide.vlm.training.outcome import Outcome


def results(name: str, group: float) -> Results:
    rows = (
        Row("toyworld", "group", "all", group, group - 0.1, group + 0.1, 8),
        Row("toyworld", "group", "object", 0.25, 0.1, 0.6, 4),
        Row("toyworld", "paraphrase gap", "all", 0.03125, 0.02, 0.04, 8),
        Row("toyworld/retrieval", "text to image R@1", "all", 0.75, 0.6, 0.9, 8),
        Row("toyworld/zero-shot", "accuracy", "all", 0.5, 0.4, 0.6, 8),
    )
    return Results(name, "abc", rows, {"toyworld": "1"}, notes=("toyworld: 3 of 8 texts are cut",))


@pytest.fixture
def written(tiny_clip: Path, tmp_path: Path) -> Path:
    """A result as a run leaves it, with what is not for others."""
    out = tmp_path / "tuned"
    settings = Settings("/home/me/secret/mined", str(tiny_clip), lr=1e-3)
    log = Log(out / "log.jsonl")
    log.begin(0)
    log.add({"step": 1, "loss": 0.5, "lr": 1e-3})
    vlm = load_model(str(tiny_clip))
    outcome = Outcome(out, results("start", 0.5), results("tuned", 0.875), (1, 0.875), 1, 64, ("a note",))
    write_result(vlm, settings, outcome, vlm.revision, "0123", log)
    (out / "checkpoints" / "step-00000001").mkdir(parents=True)
    (out / "checkpoints" / "step-00000001" / "model.safetensors").write_bytes(b"x")
    return out


def test_the_card_has_the_figures_as_evaluation_results(written: Path) -> None:
    card = ModelCard.load(written / "README.md")
    about = card.data
    assert about.library_name == "transformers" and about.pipeline_tag == "zero-shot-image-classification"
    assert about.model_name == "tuned" and "negguide" in about.tags
    found = {(r.dataset_name, r.metric_name): (r.metric_value, r.task_type) for r in about.eval_results}
    assert found == {
        ("toyworld", "group, percent"): (87.5, "image-text-matching"),
        ("toyworld", "paraphrase gap"): (0.0312, "image-text-matching"),
        ("toyworld/retrieval", "text to image R@1, percent"): (75.0, "image-text-retrieval"),
        ("toyworld/zero-shot", "accuracy, percent"): (50.0, "zero-shot-image-classification"),
    }
    assert {r.dataset_revision for r in about.eval_results} == {"1"}
    assert "| toyworld | group | 50.0 | 87.5 | +37.5 |" in card.text
    assert "- toyworld: 3 of 8 texts are cut" in card.text and "- a note" in card.text
    assert "/home/me" not in card.content and "| lr | `0.001` |" in card.text


def test_a_run_that_measured_nothing_has_no_evaluation_results(tiny_clip: Path, tmp_path: Path) -> None:
    assert eval_results(None) == []
    log = Log(tmp_path / "log.jsonl")
    log.begin(0)
    log.add({"step": 1, "loss": 0.5, "lr": 1e-3})
    vlm = load_model(str(tiny_clip))
    settings = Settings("mined", "openai/clip-vit-base-patch32")
    write_result(vlm, settings, Outcome(tmp_path, None, None, None, 1, 64, ()), None, "0", log)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.eval_results is None and card.data.base_model == "openai/clip-vit-base-patch32"
    assert "Not measured: no suite was named" in card.text


def test_the_hub_gets_the_model_and_its_card_and_nothing_of_this_computer(written: Path) -> None:
    calls: list[tuple[str, Any]] = []

    def create_repo(repo_id: str, **more: Any) -> RepoUrl:
        calls.append((repo_id, more))
        return RepoUrl(f"https://huggingface.co/me/{repo_id}")

    def upload_folder(*, repo_id: str, folder_path: Path, ignore_patterns: list[str], **more: Any) -> None:
        from huggingface_hub.utils import filter_repo_objects

        files = [str(p.relative_to(folder_path)) for p in folder_path.rglob("*") if p.is_file()]
        calls.append((repo_id, sorted(filter_repo_objects(files, ignore_patterns=ignore_patterns))))

    hub: Any = SimpleNamespace(create_repo=create_repo, upload_folder=upload_folder)
    address = push_result(written, "tuned", private=True, api=hub)
    assert address == "https://huggingface.co/me/tuned"
    (name, more), (pushed, files) = calls
    assert (name, more, pushed) == ("tuned", {"private": True, "exist_ok": True}, "me/tuned")
    assert {"README.md", "config.json", "model.safetensors", "after.json", "before.json", "loss.png"} <= set(
        files
    )
    assert not [
        file for file in files if file.startswith("checkpoints") or file in ("log.jsonl", "finetune.json")
    ]
    card = ModelCard.load(written / "README.md")
    assert 'CLIPModel.from_pretrained("me/tuned")' in card.text and len(card.data.eval_results) == 4


def test_a_folder_without_a_result_is_not_pushed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no result of negguide finetune; a run that ended leaves one"):
        push_result(tmp_path, "tuned")


def test_what_could_not_be_pushed_is_refused_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("negguide.vlm.training.model_card.get_token", lambda: None)
    with pytest.raises(ValueError, match="push_to_hub='me/tuned' needs a token of the hub; log in with"):
        check_push("me/tuned")
    monkeypatch.setattr("negguide.vlm.training.model_card.get_token", lambda: "hf_x")
    check_push("me/tuned")
    with pytest.raises(ValueError, match="Repo id must"):
        check_push("me/tuned/again")
