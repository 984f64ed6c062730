"""No row of the table goes untested."""

from typing import Any

from negguide.integration.families import supported_pipelines


def test_every_supported_pipeline_has_a_tiny_one(bases: list[Any]) -> None:
    assert {type(base).__name__ for base in bases} == set(supported_pipelines())
