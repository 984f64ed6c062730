"""No row of the table goes untested."""

from typing import Any

import diffusers
from diffusers import DiffusionPipeline

from negguide.integration.families import supported_pipelines


def test_every_supported_pipeline_has_a_tiny_one(bases: list[Any]) -> None:
    # a library that is not installed (Kolors needs sentencepiece) leaves a placeholder, which is no pipeline
    there = {
        name for name in supported_pipelines() if issubclass(getattr(diffusers, name), DiffusionPipeline)
    }
    assert {type(base).__name__ for base in bases} == there
