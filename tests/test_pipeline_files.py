"""The files in pipelines/: one for each supported pipeline, loadable by diffusers as a custom pipeline."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
from diffusers import DiffusionPipeline

from negguide.integration.families import supported_pipelines

FOLDER = Path(__file__).parents[1] / "pipelines"
FILES = sorted(FOLDER.glob("*.py"))


def loaded(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def classes(path: Path) -> list[Any]:
    return [value for value in vars(loaded(path)).values() if isinstance(value, type)]


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_a_file_shows_diffusers_exactly_one_pipeline_and_says_how_to_load_it(path: Path) -> None:
    (found,) = classes(path)
    assert issubclass(found, DiffusionPipeline) and not found.__module__.startswith("diffusers")
    assert f'"{path.name}"' in (loaded(path).__doc__ or "")


def test_every_supported_pipeline_has_a_file_of_its_own() -> None:
    made = [found.__name__ for path in FILES for found in classes(path)]
    # a guided pipeline has the name of the one that it is, so that diffusers saves it as such
    assert sorted(made) == sorted(supported_pipelines())
    assert all(re.fullmatch(r"negguide_\w+", path.stem) for path in FILES)
