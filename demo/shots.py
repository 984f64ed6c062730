"""The screenshots of the demo in docs/, from the embedded model in a real browser.

    python demo/shots.py [--out docs] [--chromium /usr/bin/chromium] [--tabs negatives,mining]

Each tab after its first example, at 1280 pixels in light and at 390 in dark. Needs playwright and a Chromium.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from negguide.cli.errors import quiet_libraries
from negguide.demo import Backend, Limits, serve

TABS = {
    "Negative prompts": "negatives",
    "Diversity": "diversity",
    "Keep away from an image": "reference",
    "Hard negatives": "mining",
    "Compare": "compare",
}
VIEWS = ((1280, "light"), (390, "dark"))
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
WAIT = 300_000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("--tabs", default=",".join(TABS.values()), help="which, by the names of their files")
    arguments = parser.parse_args()
    names = arguments.tabs.split(",")
    if unknown := [name for name in names if name not in TABS.values()]:
        parser.error(f"--tabs: {unknown[0]} is none of {', '.join(TABS.values())}")
    quiet_libraries()
    arguments.out.mkdir(parents=True, exist_ok=True)
    server = serve(Backend(), Limits(), greeting=False, quiet=True)
    try:
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=arguments.chromium, args=ARGUMENTS)
            for width, scheme in VIEWS:
                _shots(browser, server.url, width, scheme, arguments.out, names)
            browser.close()
    finally:
        server.close()


def _shots(browser: Any, url: str, width: int, scheme: str, out: Path, names: Sequence[str]) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.set_default_timeout(WAIT)
    page.goto(url)
    page.wait_for_selector("#negatives-draw")
    for title, name in TABS.items():
        if name not in names:
            continue
        _open(page, title)
        page.click(f"#{name}-example-0")
        page.wait_for_selector(f"#{name}-keep label" if name == "mining" else f"#{name}-said table")
        # pictures that fade in
        page.wait_for_timeout(1500)
        page.evaluate("scrollTo(0, 0)")
        page.mouse.move(2, 2)
        path = out / f"demo-{name}-{width}.png"
        with Image.open(io.BytesIO(page.screenshot(full_page=True))) as shot:
            # a palette: a quarter of the bytes
            shot.convert("RGB").quantize(256).save(path, optimize=True)
        print(f"{path} ({path.stat().st_size / 1024:.0f} kB)")
    page.close()


def _open(page: Any, title: str) -> None:
    """Choose a tab, which on a narrow screen may be in the menu of those that do not fit."""
    tab = page.get_by_role("tab", name=title)
    if tab.count() and tab.first.is_visible():
        tab.first.click()
        return
    page.locator(".overflow-menu > button").click()
    page.locator(".overflow-dropdown button", has_text=title).click()


if __name__ == "__main__":
    main()
