"""A Hugging Face Space: the folder demo/, with the address from which the package is installed there.

    python scripts/make_space.py OUT --package git+https://HOST/OWNER/negguide@REVISION

OUT is then what to push to the Space. The package is on no index yet, so a name alone would install whatever somebody
else publishes under it: the address is one that you give, of a repository or of a wheel.
"""

from __future__ import annotations

import argparse
import re
import shutil
from pathlib import Path

SPACE = Path(__file__).parents[1] / "demo"
LOCAL = ".[demo]"
"""The line of demo/requirements.txt that installs from a clone."""
_ADDRESS = re.compile(r"(git\+)?https://\S+")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="a folder that is not there yet")
    parser.add_argument("--package", required=True, help="git+https://... or https://....whl")
    arguments = parser.parse_args()
    try:
        make(arguments.out, arguments.package)
    except ValueError as error:
        parser.error(str(error))
    print(arguments.out)


def make(out: Path, package: str) -> None:
    """Copy the Space to `out`, whose requirements name the package by its address.

    Raises:
        ValueError: `package` is no address over https, or `out` is there already.
    """
    if not _ADDRESS.fullmatch(package):
        raise ValueError(
            f"--package must be an address like git+https://... or https://....whl, got {package!r}"
        )
    if out.exists():
        raise ValueError(f"{out} is there already; give a folder that is not")
    shutil.copytree(SPACE, out, ignore=shutil.ignore_patterns("__pycache__"))
    requirements = out / "requirements.txt"
    lines = [line for line in requirements.read_text().splitlines() if not line.startswith("#")]
    lines[lines.index(LOCAL)] = f"negguide[demo] @ {package}"
    requirements.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
