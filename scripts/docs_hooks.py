"""What the documentation shows from elsewhere in the project: the plots of the benchmarks, as results/NAME.png."""

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"


def on_files(files: Files, config: Any) -> Files:
    """Called by mkdocs with the files of the site."""
    for path in sorted(RESULTS.glob("*.png")):
        files.append(File.generated(config, f"results/{path.name}", abs_src_path=str(path)))
    return files
