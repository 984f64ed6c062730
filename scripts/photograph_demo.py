"""The screenshots of the demo in docs/, from the embedded model in a real browser.

    python scripts/photograph_demo.py [--out docs] [--chromium /usr/bin/chromium] [--tabs negatives,mining] [--all]
        [--timeout 300]

Each tab as it opens, at 1280 pixels in light and at 390 in dark; with `--all`, both widths in both. Needs playwright
and a Chromium.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from PIL import Image
from playwright.sync_api import sync_playwright

from negguide.cli.errors import quiet_libraries
from negguide.demo import Backend, Limits, app, serve

TABS = {name: module.__name__.rsplit(".", 1)[1] for name, (_, module) in app.TABS.items()}
"""{end of the address: name of the file}."""
SHOWN = {"mining": "#mining-keep label", "compare": "#compare-sheet img", "views": "#views-perp-neg img"}
"""What is there when a tab's results are, where that is not a table of numbers."""
View = tuple[int, Literal["light", "dark"]]
VIEWS: tuple[View, ...] = ((1280, "light"), (390, "dark"))
OTHER_VIEWS: tuple[View, ...] = ((1280, "dark"), (390, "light"))
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("--tabs", default=",".join(TABS.values()), help="which, by the names of their files")
    parser.add_argument("--all", action="store_true", help="both widths in light and in dark")
    parser.add_argument("--timeout", type=int, default=300, help="seconds that a tab's results may take")
    arguments = parser.parse_args()
    views = VIEWS + OTHER_VIEWS if arguments.all else VIEWS
    names = arguments.tabs.split(",")
    if unknown := [name for name in names if name not in TABS.values()]:
        parser.error(f"--tabs: {unknown[0]} is none of {', '.join(TABS.values())}")
    quiet_libraries()
    arguments.out.mkdir(parents=True, exist_ok=True)
    server = serve(Backend(), Limits(), quiet=True)
    try:
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=arguments.chromium, args=ARGUMENTS)
            for width, scheme in views:
                page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
                page.set_default_timeout(1000 * arguments.timeout)
                _shots(page, server.url, (width, scheme), arguments.out, names)
                page.close()
            browser.close()
    finally:
        server.close()


def _shots(page: Any, url: str, view: View, out: Path, names: Sequence[str]) -> None:
    """Photograph these tabs on a page of this width and colour scheme."""
    width, scheme = view
    for link, name in TABS.items():
        if name not in names:
            continue
        # a change of the address's end alone loads nothing anew
        page.goto("about:blank")
        page.goto(f"{url}#{link}")
        page.wait_for_selector(SHOWN.get(name, f"#{name}-numbers table"))
        # pictures that fade in
        page.wait_for_timeout(2500)
        page.evaluate("scrollTo(0, 0)")
        page.mouse.move(2, 2)
        suffix = "" if view in VIEWS else f"-{scheme}"
        path = out / f"demo-{name}-{width}{suffix}.png"
        with Image.open(io.BytesIO(page.screenshot(full_page=True))) as shot:
            # a palette: a quarter of the bytes
            shot.convert("RGB").quantize(256).save(path, optimize=True)
        print(f"{path} ({path.stat().st_size / 1024:.0f} kB)")


if __name__ == "__main__":
    main()
