"""`negguide views --object`: a solid as a mesh, a turntable and a sheet."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save

from negguide.pictures import read_settings
from negguide.views.solid import TURNTABLE, SolidFit

trimesh = pytest.importorskip("trimesh", reason="meshes need the extra 3d")


def test_a_run_that_is_stopped_goes_on_and_writes_three_files(
    run: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    path = tmp_path / "solids" / "bear.glb"
    arguments = ("views", "a grey bear", "--object", path, "--rounds", 2, "--seed", 1)
    rounds: list[int] = []
    once = SolidFit.round

    def counted(self: SolidFit) -> float:
        if rounds == [0]:
            raise KeyboardInterrupt
        rounds.append(self.done)
        return once(self)

    with monkeypatch.context() as patched:
        patched.setattr(SolidFit, "round", counted)
        assert run(*arguments).exit_code != 0
    assert [one.name for one in path.parent.iterdir()] == ["bear.fit"]
    # another run is not taken for this one
    refused = run(*arguments[:-1], 2)
    assert refused.exit_code != 0 and "bear.fit is of a run with other settings" in refused.message

    outcome = run(*arguments)
    assert outcome.exit_code == 0, outcome.message
    assert "goes on at round 1 of 2" in outcome.message
    assert outcome.files == [path, path.with_suffix(".gif"), path.with_suffix(".png")]
    assert sorted(one.name for one in path.parent.iterdir()) == ["bear.gif", "bear.glb", "bear.png"]
    assert trimesh.load(path, force="mesh").is_watertight
    with Image.open(path.with_suffix(".gif")) as turntable:
        assert turntable.n_frames > len(TURNTABLE) / 2 and turntable.size == (256, 256)
    settings = read_settings(path.with_suffix(".png"))
    assert (settings["prompt"], settings["rounds"], settings["fit"]["seed"]) == (
        "a grey bear in a meadow",
        2,
        1,
    )
    assert len(settings["readings"]) == 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--object", "bear.obj"), "must end in .glb, e.g. bear.glb"),
        (("--object", "bear.glb", "--azimuths", "0,90"), "leave out --azimuths"),
        (("--object", "bear.glb", "--methods", "plain"), "leave out --methods"),
        (("--object", "bear.glb", "--num-images", 2), "leave out --num-images"),
        (("--object", "bear.glb", "--steps", 25), "leave out --steps"),
        (("--rounds", 3), "give --object FILE.glb too"),
        (("--elevation", 91), "--elevation"),
    ],
)
def test_what_a_solid_has_no_use_for_is_refused(run: Any, arguments: Any, message: str) -> None:
    outcome = run("views", "a bear", *arguments)
    assert outcome.exit_code != 0 and message in outcome.message


@pytest.mark.parametrize("kind", ["other bytes", "nothing", "another's tensors", "a pickle"])
def test_a_state_that_is_none_is_told(run: Any, tmp_path: Path, kind: str) -> None:
    """And nothing that such a file says is run."""
    ran = tmp_path / "ran"

    class Touches:
        def __reduce__(self) -> Any:
            return Path.touch, (ran,)

    contents = {
        "other bytes": b"nothing of ours",
        "nothing": b"",
        "another's tensors": save({"weight": torch.zeros(2)}),
        "a pickle": pickle.dumps(Touches()),
    }
    (tmp_path / "bear.fit").write_bytes(contents[kind])
    outcome = run("views", "a bear", "--object", tmp_path / "bear.glb", "--rounds", 1)
    assert outcome.exit_code != 0 and "is no state of such a run" in outcome.message
    assert not ran.exists()


def test_solids_are_of_the_embedded_model(run: Any, tiny_model: Path) -> None:
    outcome = run("views", "a bear", "--model", tiny_model, "--object", "bear.glb")
    assert outcome.exit_code != 0 and "--object is of the embedded UNet" in outcome.message
    outcome = run("views", "two bears", "--object", "bear.glb")
    assert outcome.exit_code != 0 and "one character" in outcome.message
