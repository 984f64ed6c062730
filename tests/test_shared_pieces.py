"""What several parts need is written once, in `negguide._utils`; a copy elsewhere is found by its mark."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
UTILS = "negguide/_utils"


@pytest.mark.parametrize(
    ("mark", "places"),
    [
        # files and folders that are there as a whole or not at all
        (
            '.partial"',
            {f"{UTILS}/files.py", "negguide/mining/shards.py", "negguide/vlm/training/model_card.py"},
        ),
        ("os.replace(", set()),
        ("os.fsync(", {f"{UTILS}/files.py"}),
        # the interval of a share
        ("1.959", {f"{UTILS}/stats.py"}),
        # what is written as an id on the hub
        ("validate_repo_id(", {f"{UTILS}/hub.py", "negguide/vlm/training/model_card.py"}),
        (r"[\w-][\w.-]*/", set()),
        # what texts are compared by
        ("def normalised(", {f"{UTILS}/text.py"}),
        (r"(?:['’", {f"{UTILS}/text.py"}),
    ],
)
def test_what_is_shared_stands_once(mark: str, places: set[str]) -> None:
    files = [
        path for folder in ("negguide", "benchmarks", "scripts") for path in (ROOT / folder).rglob("*.py")
    ]
    assert len(files) > 300
    assert {
        str(path.relative_to(ROOT)) for path in files if mark in path.read_text(encoding="utf-8")
    } == places
