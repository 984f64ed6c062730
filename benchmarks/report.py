"""What every benchmark shares: the command line, a printed table, JSON with versions, and where results go."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import matplotlib
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import negguide
from negguide import PerpNeg, toyworld
from negguide._utils.devices import fast_bfloat16
from negguide._utils.stats import Rate
from negguide.models import call_arguments, embedded_of, guidance_arguments, own_guidance_scale, revision
from negguide.storage import write_whole
from negguide.toyworld.domain import EMBEDDED, TOYWORLD
from negguide.toyworld.judge import Judge

matplotlib.use("Agg")
import matplotlib.pyplot as plt

RESULTS = Path(__file__).parent / "results"


STEPS = 12
"""Sampling steps of the benchmarks that judge images."""


def arguments(description: str, **defaults: int | float | str) -> argparse.Namespace:
    """The flags of a benchmark: ``--out``, ``--threads`` and one flag for every default, of its type."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for JSON and plots")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    for name, value in defaults.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    parsed = parser.parse_args()
    torch.set_num_threads(parsed.threads)
    return parsed


def models(name: str = TOYWORLD) -> tuple[Any, Judge]:
    """An embedded text-to-image model with negative guidance, and the judge.

    The denoiser computes in bfloat16, as it was trained, where the machine does; everything around it in float32.
    """
    diffusers.utils.logging.set_verbosity_error()
    if name not in EMBEDDED:
        raise SystemExit(f"--model must be one of {', '.join(EMBEDDED)}, got {name!r}")
    plain = toyworld.load_pipeline(name)
    if fast_bfloat16("cpu"):
        denoiser = getattr(plain, "unet", None) or plain.transformer
        denoiser.forward = torch.autocast("cpu", torch.bfloat16)(denoiser.forward)
        # the scheduler of flow matching hands on what the denoiser gives, in its precision
        denoiser.register_forward_hook(lambda _module, _inputs, output: (output[0].float(), *output[1:]))
    pipe = negguide.from_pipe(plain)
    pipe.set_progress_bar_config(disable=True)
    return pipe, toyworld.load_judge()


def steps_of(name: str) -> int:
    """Sampling steps of an embedded model in the benchmarks that judge images."""
    return EMBEDDED[name].draft_steps


def own_steps(pipe: Any) -> int:
    """The same of the embedded model that a pipeline holds."""
    found = embedded_of(pipe)
    assert found is not None
    return steps_of(found.name)


def call_of(pipe: Any, guidance_scale: float | None = None, prompts: int | None = None) -> dict[str, Any]:
    """What every call of an embedded model has beside prompt, seeds and steps; one image of each of ``prompts``.

    Args:
        guidance_scale: of classifier-free guidance; None = the model's own, off where it is distilled.
        prompts: how many the call has, as a list; None = one, as a string.
    """
    scale = own_guidance_scale(pipe, guided=False) if guidance_scale is None else guidance_scale
    return call_arguments(pipe) | guidance_arguments(pipe, scale, prompts=prompts)


def file_stem(name: str, model: str) -> str:
    """What the result of a benchmark is called: of the model that is used unless another is named, its bare name."""
    return name if model == TOYWORLD else f"{name}-{model.removeprefix('toyworld-')}"


def title_of(title: str, model: str) -> str:
    """A title that says the model, where it is not the one that is used unless another is named."""
    return title if model == TOYWORLD else f"{title}, {model}"


def chosen_rows(names: Sequence[str], only: str) -> list[str]:
    """Those of the names that `--only`, a regular expression, finds something in; the empty one does in all.

    Raises:
        SystemExit: it is none, or none of the names is left.
    """
    try:
        found = [name for name in names if re.search(only, name)]
    except re.error as error:
        raise SystemExit(f"--only must be a regular expression, got {only!r}: {error}") from None
    if not found:
        raise SystemExit(f"--only {only!r} finds none of {', '.join(names)}")
    return found


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """The result on the terminal."""
    table = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right")
    for row in rows:
        table.add_row(*[str(cell) for cell in row])
    Console(width=140).print(table)


def write_json(
    path: Path, settings: Mapping[str, object], rows: Sequence[Mapping[str, object]], model: str = TOYWORLD
) -> None:
    """The same result for programs, with what it was made by."""
    content = {"settings": dict(settings), "made_by": _made_by(model), "rows": [dict(row) for row in rows]}
    write_whole(path, (json.dumps(content, indent=1) + "\n").encode())


def rows_so_far(path: Path, settings: Mapping[str, object], model: str = TOYWORLD) -> list[dict[str, Any]]:
    """The rows that an earlier run with these settings, versions and weights has left in ``path``; it goes on there."""
    if not path.exists():
        return []
    content = json.loads(path.read_text())
    same = content["settings"] == json.loads(json.dumps(dict(settings))) and content["made_by"] == _made_by(
        model
    )
    return list(content["rows"]) if same else []


def _made_by(model: str) -> dict[str, str]:
    return {
        "negguide": negguide.__version__,
        "weights": str(revision(model)),
        "diffusers": diffusers.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processor": f"{os.cpu_count()} cores, {platform.machine()}",
    }


def plot_rates(path: Path, title: str, bars: Mapping[str, Mapping[str, Rate]]) -> None:
    """Horizontal bars with their intervals: one panel for every figure, one bar for every method."""
    figures = list(next(iter(bars.values())))
    size = (3.2 * len(figures) + 1.6, 0.36 * len(bars) + 1.5)
    canvas, panels = plt.subplots(1, len(figures), sharey=True, squeeze=False, figsize=size)
    places = range(len(bars))
    for panel, figure in zip(panels[0], figures, strict=True):
        rates = [row[figure] for row in bars.values()]
        low, high = [r.value - r.low for r in rates], [r.high - r.value for r in rates]
        # Rounding may put the end of an interval just inside its value.
        errors = [[max(0.0, e) for e in low], [max(0.0, e) for e in high]]
        panel.barh(
            places, [r.value for r in rates], xerr=errors, color="#1f6feb", ecolor="#24292f", capsize=2
        )
        panel.set_title(figure, fontsize=10)
        panel.grid(axis="x", alpha=0.3)
    panels[0][0].set_yticks(places, list(bars))
    # the first on top, and as little room above it in a tall picture as in a low one
    panels[0][0].set_ylim(len(bars) - 0.4, -0.6)
    # about ten letters an inch
    canvas.suptitle(textwrap.fill(title, int(10 * size[0])), y=1 - 0.1 / size[1], va="top")
    canvas.tight_layout()
    canvas.savefig(path, dpi=120)
    plt.close(canvas)
    print(f"wrote {path}")


def subtraction(uncond: Tensor, negatives: Tensor, weights: Tensor) -> Tensor:
    """What is taken away when the whole negative is subtracted, sum_k w_k (n_k - u) (arXiv 2206.01714).

    Args:
        uncond: [B, ...].
        negatives: [K, B, ...].
        weights: [K] or [K, B].
    """
    columns = weights.reshape(*weights.shape, *[1] * (negatives.ndim - weights.ndim)).to(negatives.dtype)
    return (columns * (negatives - uncond)).sum(dim=0)


@dataclass(frozen=True, eq=False, init=False, repr=False)
class Subtraction(PerpNeg):
    """`PerpNeg` with the rule that it replaces, everything else being equal."""

    def guide(
        self,
        uncond: Tensor,
        cond: Tensor,
        negatives: Tensor,
        weights: Tensor,
        guidance_scale: float,
        masks: Tensor | None = None,
    ) -> Tensor:
        return uncond + guidance_scale * (cond - uncond - subtraction(uncond, negatives, weights))

    def remainder(self, negative: Tensor, positive: Tensor) -> Tensor:
        return negative
