"""A small set on disk, and the commands in this process."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from negguide.cli.audit import audit
from negguide.cli.errors import CleanErrors
from negguide.cli.export import export
from negguide.mining.item import Item
from negguide.toyworld import parse, render

PAIRS = (
    ("object", "a brown bear in a meadow", "a brown cat in a meadow", "bear", "cat"),
    (
        "attribute",
        "a brown bear wearing a red hat at night",
        "a brown bear wearing a blue hat at night",
        "red",
        "blue",
    ),
    ("add", "a grey cat on a beach", "a grey cat wearing a red scarf on a beach", "", " wearing a red scarf"),
)
COUNT = 7


def drawn(text: str, seed: int) -> object:
    from random import Random

    from negguide.cli.toyworld import complete

    return render(complete(parse(text), Random(seed)), 64, seed=seed)


@pytest.fixture(scope="session")
def mined(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven items in two shards; every second one has a control; one original is a JPEG; ids hold dots and slashes."""
    folder = tmp_path_factory.mktemp("sets") / "mined"
    for number in range(COUNT):
        category, right, wrong, before, after = PAIRS[number % 3]
        shard = folder / "data" / f"{number // 4:05d}"
        (shard / "images").mkdir(parents=True, exist_ok=True)
        image, negative = (
            f"images/{number}.{'jpg' if number == 1 else 'png'}",
            f"images/{number}-negative.png",
        )
        control = f"images/{number}-control.png" if number % 2 else None
        start = right.index(before) if before else right.index(" on a")
        item = Item(
            id=f"a.b/{number}",
            source_id=f"a.b/{number}",
            image_file_name=image,
            negative_image_file_name=negative,
            caption=right,
            negative_caption=wrong,
            category=category,
            start=start,
            end=start + len(before),
            before=before,
            after=after,
            backend="rules",
            scores=(0.9, 0.1, 0.2, 0.8),
            judge="toyworld",
            prompt=wrong,
            model="toyworld",
            revision=None,
            methods=[{"type": "PerpNeg", "weight": 1.5}, {"type": "NegToMe"}] if number % 2 else [],
            seed=2**53 - 1 - number,
            tries=1,
            positive_captions=("one bear",) if number % 2 else (),
            control_image_file_name=control,
            licence="CC0-1.0",
            extra={"outside": 0.01} if number == 2 else {},
        )
        for name, text, seed in ((image, right, 1), (negative, wrong, 2), (control, right, 3)):
            if name is not None:
                drawn(text, 10 * number + seed).save(shard / name)  # type: ignore[attr-defined]
        with (shard / "metadata.jsonl").open("a") as file:
            file.write(json.dumps(item.row()) + "\n")
        (shard / "shard.json").write_text("{}")
    (folder / "set.json").write_text("{}")
    return folder


@dataclass(frozen=True)
class Ended:
    exit_code: int
    stdout: str
    message: str


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ended]:
    monkeypatch.setenv("COLUMNS", "1000")
    app = typer.Typer(cls=CleanErrors, pretty_exceptions_enable=False)
    app.command()(audit)
    app.command()(export)

    def invoke(*args: object) -> Ended:
        result = CliRunner().invoke(app, [str(arg) for arg in args])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ended(result.exit_code, result.stdout, re.sub(r"[│╭╮╰╯─\s]+", " ", result.output))

    return invoke
