"""The card of a result, and what is pushed to the hub; up to the upload."""

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import CommitOperationAdd, ModelCard, RepoUrl

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
    # as a run names them: by where they lie
    before, after = results(str(tiny_clip), 0.5), results(str(out), 0.875)
    outcome = Outcome(out, before, after, (1, 0.875), 1, 64, ("a note",))
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


class Hub:
    """In the place of `HfApi`: keeps what it is given."""

    def __init__(self) -> None:
        self.made: list[tuple[str, dict[str, Any]]] = []
        self.files: dict[str, dict[str, bytes]] = {}

    def create_repo(self, repo_id: str, **more: Any) -> RepoUrl:
        self.made.append((repo_id, more))
        return RepoUrl(f"https://huggingface.co/me/{repo_id}")

    def create_commit(
        self, repo_id: str, operations: list[CommitOperationAdd], *, commit_message: str
    ) -> None:
        def content(operation: CommitOperationAdd) -> bytes:
            with operation.as_file() as file:
                return file.read()

        self.files[repo_id] = {operation.path_in_repo: content(operation) for operation in operations}


def test_the_hub_gets_the_model_and_its_card_and_nothing_of_this_computer(
    written: Path, tiny_clip: Path
) -> None:
    hub: Any = Hub()
    address = push_result(written, "tuned", private=True, api=hub)
    assert address == "https://huggingface.co/me/tuned"
    assert hub.made == [("tuned", {"private": True, "exist_ok": True})]
    files = hub.files["me/tuned"]
    assert {"README.md", "config.json", "model.safetensors", "after.json", "before.json", "loss.png"} <= set(
        files
    )
    assert not [
        file for file in files if file.startswith("checkpoints") or file in ("log.jsonl", "finetune.json")
    ]
    card = ModelCard(files["README.md"].decode())
    assert 'CLIPModel.from_pretrained("me/tuned")' in card.text and len(card.data.eval_results) == 4
    assert "# clip, fine-tuned" in card.text and "Start: `clip`" in card.text
    assert [json.loads(files[f"{name}.json"])["model"] for name in ("before", "after")] == ["clip", "tuned"]
    for place in (str(written.parent), str(tiny_clip.parent), "/home/me"):
        assert not [name for name, found in files.items() if place.encode() in found], place


def test_a_result_can_be_pushed_to_several_places(written: Path) -> None:
    hub: Any = Hub()
    before = (written / "README.md").read_bytes()
    for name in ("first", "second"):
        push_result(written, name, api=hub)
        card = hub.files[f"me/{name}"]["README.md"].decode()
        assert card.count(f'from_pretrained("me/{name}")') == 2 and '"PATH"' not in card
    assert (written / "README.md").read_bytes() == before


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
