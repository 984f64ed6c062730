"""How long a visitor of the demo waits, in a real browser: for the page, for its example, and for the first picture.

    python scripts/time_demo.py [--repeat 3] [--chromium /usr/bin/chromium] [--check]

`page` is from the start of `negguide demo` until Draw can be pressed, `example` from there until the pictures that the
page opens with are there, `picture` from pressing Draw to the first picture of other words. Each repetition starts the
demo anew. Wanted are a page within 15 seconds and a first picture within 5 on two cores that have nothing else to do;
`--check` ends with 1 where the median is above. The load of the machine is told, since on a busy one the numbers say
nothing about the demo. Needs playwright and a Chromium.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import time
from typing import Any

from photograph_demo import ARGUMENTS
from playwright.sync_api import sync_playwright

WANTED = {"page": 15.0, "picture": 5.0}
"""{what is measured: seconds}."""
WAIT_SECONDS = 300.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeat", type=int, default=3, help="starts of the demo")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument(
        "--check", action="store_true", help="end with 1 where a median is above what is wanted"
    )
    arguments = parser.parse_args()
    if arguments.repeat < 1:
        parser.error(f"--repeat must be at least 1, got {arguments.repeat}")
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=arguments.chromium, args=ARGUMENTS)
        runs = [_times(browser) for _ in range(arguments.repeat)]
        browser.close()
    slow = False
    for name in runs[0]:
        seconds = [run[name] for run in runs]
        median, wanted = statistics.median(seconds), WANTED.get(name)
        slow |= wanted is not None and median > wanted
        told = "" if wanted is None else f", wanted {wanted:g}"
        print(f"{name}: median {median:.1f} s of {', '.join(f'{one:.1f}' for one in seconds)}{told}")
    print(f"load {os.getloadavg()[0]:.1f} after")
    sys.exit(int(arguments.check and slow))


def _times(browser: Any) -> dict[str, float]:
    """Seconds of one start of the demo and one visit."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    began = time.monotonic()
    command = [sys.executable, "-m", "negguide", "demo", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = next((line.strip() for line in process.stdout if line.startswith("http://")), None)
            if url is None:
                raise RuntimeError(f"{' '.join(command)} ended without an address")
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.set_default_timeout(WAIT_SECONDS * 1000)
            page.goto(url)
            page.wait_for_selector("#negatives-draw:enabled")
            opened = time.monotonic()
            page.wait_for_selector("#negatives-numbers table")
            shown = time.monotonic()
            page.fill("#negatives-prompt textarea", "a cat wearing glasses")
            asked = time.monotonic()
            page.click("#negatives-draw")
            # what the page opened with is taken away first
            page.wait_for_selector("#negatives-numbers table", state="detached")
            page.wait_for_selector("#negatives-gallery img")
            drawn = time.monotonic()
            page.close()
        finally:
            process.terminate()
    return {"page": opened - began, "example": shown - opened, "picture": drawn - asked}


if __name__ == "__main__":
    main()
