"""What `pip install` brings: everything that `negguide demo` needs is in the wheel."""

import zipfile
from pathlib import Path

import pytest

wheel = pytest.importorskip("hatchling.builders.wheel", reason="needs hatchling (pip install hatchling)")

ROOT = Path(__file__).parents[2]


def test_the_wheel_holds_every_file_of_the_package(tmp_path: Path) -> None:
    (built,) = wheel.WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(built) as archive:
        packed = {name: archive.getinfo(name).file_size for name in archive.namelist()}
        (entries,) = (name for name in packed if name.endswith("/entry_points.txt"))
        assert "negguide = negguide.cli:main" in archive.read(entries).decode()
    here = {
        path.relative_to(ROOT).as_posix(): path.stat().st_size
        for path in (ROOT / "negguide").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    here |= {
        f"negguide/_pipelines/{path.name}": path.stat().st_size for path in (ROOT / "pipelines").glob("*.py")
    }
    assert {name: size for name, size in packed.items() if ".dist-info/" not in name} == here
    assert "negguide/demo/style.css" in here
    weights = {Path(name).parent.name for name in here if name.endswith(".safetensors")}
    assert {"unet", "vae", "text_encoder"} <= weights
