"""No row of the table goes untested."""

from typing import Any

from tiny_pipelines import OLDER

from negguide.integration.families import supported_pipelines


def test_every_supported_pipeline_has_a_tiny_one(bases: list[Any]) -> None:
    tiny = {type(base).__name__ for base in bases}
    assert tiny <= set(supported_pipelines()) if OLDER else tiny == set(supported_pipelines())
