"""What happened at every step: a line of JSON each, and its curves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from negguide._utils.files import whole_file
from negguide.storage import write_whole

BLUE, ORANGE, GREY = "#1f6feb", "#bc4c00", "#57606a"


class Log:
    """The file of lines, opened for every line: a run that dies loses none."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, step: int) -> None:
        """Forget what came after `step`, which is done again; also a last line that was cut off."""
        lines = [line for line in self.lines() if line["step"] <= step and "failed" not in line]
        write_whole(self.path, "".join(json.dumps(line) + "\n" for line in lines).encode())

    def add(self, line: Mapping[str, Any]) -> None:
        """Write one line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def lines(self) -> list[dict[str, Any]]:
        """All complete lines."""
        if not self.path.is_file():
            return []
        text = self.path.read_text(encoding="utf-8")
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def plot(log: Log, path: Path, title: str) -> None:
    """The loss with its running mean, what else it is made of, the validation score and the learning rate, as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    lines = log.lines()
    steps = [line for line in lines if "loss" in line]
    checks = [line for line in lines if "validation" in line]
    panels = 3 if checks else 2
    canvas, axes = plt.subplots(1, panels, figsize=(4.2 * panels, 3.4), squeeze=False)
    numbers = [line["step"] for line in steps]
    _plot_loss(axes[0][0], numbers, steps)
    if checks:
        axis = axes[0][1]
        scores = [100 * check["validation"] for check in checks]
        axis.plot([check["step"] for check in checks], scores, "o-", color=BLUE)
        axis.set_ylim(max(-1, min(scores) - 5), min(101, max(scores) + 5))
        axis.set_title("score on held-out rows, %", fontsize=10)
    axis = axes[0][-1]
    axis.plot(numbers, [line["lr"] for line in steps], color=BLUE)
    axis.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
    axis.set_title("learning rate", fontsize=10)
    for axis in axes[0]:
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
    canvas.suptitle(title)
    canvas.tight_layout()
    with whole_file(path) as partial:
        canvas.savefig(partial, dpi=120, format="png")
    plt.close(canvas)


def _plot_loss(axis: Any, numbers: list[int], steps: list[dict[str, Any]]) -> None:
    losses = [line["loss"] for line in steps]
    axis.plot(numbers, losses, color=BLUE, alpha=0.3, linewidth=1)
    window = max(1, len(losses) // 10)
    smooth = [sum(part := losses[max(0, i + 1 - window) : i + 1]) / len(part) for i in range(len(losses))]
    axis.plot(numbers, smooth, color=BLUE, label="loss")
    known = ("loss", "lr", "scale", "grad_norm", "step", "epoch", "images_seen", "images_per_second")
    parts = [name for name in (steps[0] if steps else {}) if name not in known]
    for name, color in zip(parts, (ORANGE, GREY, "#1a7f37"), strict=False):
        axis.plot(numbers, [line[name] for line in steps], color=color, linewidth=1, label=name)
    if parts:
        axis.legend(fontsize=8)
    axis.set_title("training loss", fontsize=10)
