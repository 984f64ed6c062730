"""How many captions a second `negguide mine --text-only` takes on one core, with the rules.

A whole run is timed: a table of captions read, edits and paraphrases planned, shards written to the disk. What it takes
of a core (CPU seconds) depends little on what else the machine does; the seconds of the clock do. The first captions,
with which the lexicon is loaded, are not in it. The captions are those of a file, one a line:

    python benchmarks/text_only.py --captions captions.txt --english-model en_core_web_sm
"""

from __future__ import annotations

import csv
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from report import arguments, print_table, write_json

from negguide.mining.build_text import build_text
from negguide.mining.edits.english import ENGLISH_MODEL
from negguide.mining.run import run


def write_table(captions: list[str], path: Path) -> None:
    """The captions as an open_clip table; their images are empty files, which a run without images does not open."""
    (path.parent / "image.jpg").touch()
    with path.open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file, delimiter="\t")
        lines.writerow(("id", "filepath", "title"))
        lines.writerows((number, "image.jpg", caption) for number, caption in enumerate(captions))


def timed(table: Path, out: Path, per_item: int, english_model: str) -> dict[str, Any]:
    """One run: its captions, what was written, and seconds of the core and of the clock."""
    built = build_text(
        data=str(table),
        data_options={},
        backend="rules",
        planner_options={"english_model": english_model},
        out=out,
        device="cpu",
        categories=None,
        per_item=per_item,
        shard_size=1000,
    )
    core, clock = time.process_time(), time.perf_counter()
    outcome = run(out, built.settings, built.source, built.miner, made_by=built.made_by)
    core, clock = time.process_time() - core, time.perf_counter() - clock
    funnel = outcome.funnel
    return {
        "captions": funnel.sources["read"],
        "with a negative": funnel.sources["planned"],
        "negatives": funnel.total("written"),
        "core_seconds": core,
        "seconds": clock,
        "captions_per_core_second": funnel.sources["read"] / core,
    }


def main() -> None:
    args = arguments(
        "Captions a second of mine --text-only.",
        captions="",
        english_model=ENGLISH_MODEL,
        count=2000,
        turns=3,
        per_item=1,
    )
    if not args.captions:
        raise SystemExit("--captions must be a text file with one caption a line")
    given = [line.strip() for line in Path(args.captions).read_text(encoding="utf-8").splitlines()]
    captions = [caption for caption in given if caption]
    # shorter files are gone through again: the same caption is planned anew for another id
    captions = [captions[number % len(captions)] for number in range(args.count)]
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "captions.tsv"
        write_table(captions[:20], table)
        timed(table, Path(folder) / "warm", args.per_item, args.english_model)
        write_table(captions, table)
        rows = [
            timed(table, Path(folder) / f"set-{turn}", args.per_item, args.english_model)
            for turn in range(args.turns)
        ]
    rates = [row["captions_per_core_second"] for row in rows]
    print_table(
        "negguide mine --text-only, rules",
        ["captions", "with a negative", "per second of a core, median", "least", "most"],
        [
            [
                str(rows[0]["captions"]),
                f"{rows[0]['with a negative'] / rows[0]['captions']:.1%}",
                f"{statistics.median(rates):.0f}",
                f"{min(rates):.0f}",
                f"{max(rates):.0f}",
            ]
        ],
    )
    settings = {name: getattr(args, name) for name in ("english_model", "count", "turns", "per_item")}
    write_json(args.out / "text_only.json", settings, rows)


if __name__ == "__main__":
    main()
