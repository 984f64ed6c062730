"""The demo as a Hugging Face Space; `python app.py` runs it here, as `negguide demo` does."""

from __future__ import annotations

import os

from negguide.cli.errors import quiet_libraries
from negguide.demo import Backend, Limits, serve

MODEL = os.environ.get("NEGGUIDE_MODEL", "toyworld")
ON_SPACES = "SPACE_ID" in os.environ
"""A Space is reached from outside its container; anywhere else only this machine may come in."""


def main() -> None:
    quiet_libraries()
    if ON_SPACES:
        # visitors come through a proxy; without this they would all be one address, with the places in the queue of one
        os.environ.setdefault("FORWARDED_ALLOW_IPS", "*")
    server = serve(
        Backend(MODEL),
        Limits(),
        host="0.0.0.0" if ON_SPACES else "127.0.0.1",
        port=7860 if ON_SPACES else None,
    )
    server.wait()


if __name__ == "__main__":
    main()
