"""The nodes with ComfyUI in one process, for what a graph cannot show: on tiny random models.

The tests are the files of `inside/`, which pytest runs with ComfyUI's own interpreter, once for each version.
"""

import os
import subprocess
from pathlib import Path

import pytest
from comfyui_server import VERSIONS

INSIDE = Path(__file__).parent / "inside"
FILES = sorted(file.stem for file in INSIDE.glob("*.py") if file.stem not in ("conftest", "tiny"))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", FILES)
def test_the_tests_inside_comfyui_pass(request: pytest.FixtureRequest, version: str, name: str) -> None:
    folder = request.config.getoption("--comfyui")
    if folder is None:
        pytest.skip("needs ComfyUI: python scripts/comfyui_environment.py FOLDER, and --comfyui FOLDER")
    # without the settings of this project, which need its packages
    options = ("-q", "-c", os.devnull, "--rootdir", ".", "--confcutdir", ".", "-p", "no:cacheprovider")
    done = subprocess.run(
        [Path(folder).resolve() / "venv" / "bin" / "python", "-m", "pytest", *options, f"{name}.py"],
        cwd=INSIDE,
        env={
            **{key: value for key, value in os.environ.items() if not key.startswith("PYTEST")},
            "COMFYUI_FOLDER": str(Path(folder).resolve() / f"ComfyUI-{version}"),
            "OMP_NUM_THREADS": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-3_000:]
