"""What the negatives did during a run, and its picture."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

import PIL.Image
import torch


@dataclass(frozen=True, eq=False)
class Trace:
    """How the negatives acted at each denoiser call of a run; NaN where one rested.

    Attributes:
        timesteps: [S] the calls' timesteps.
        negatives: the K prompts of the PerpNeg negatives, in order.
        cosine: [S, K, B] cosine between negative - uncond and cond - uncond: 1 = the negative says the same as the
            prompt, 0 = unrelated.
        kept: [S, K, B] |perpendicular part| / |negative - uncond|: the fraction of the negative that acts.
        pushed: [S, B] fraction of the tokens that NegToMe pushed, mean over blocks and guidance branches; None without
            NegToMe.
        changed: [S, B] |change| / |output| of the image tokens in attention space, mean over the attention modules;
            None without one of them.
        maps: where each of them acted, {name: [B, h, w]} over the latents, mean over the calls in which it did. The
            names are the negatives' prompts of score space, and the other methods' own; what never acted is not there.
        units: {name: what the numbers of its map are}.
    """

    timesteps: torch.Tensor
    negatives: tuple[str, ...]
    cosine: torch.Tensor
    kept: torch.Tensor
    pushed: torch.Tensor | None
    changed: torch.Tensor | None = None
    maps: Mapping[str, torch.Tensor] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The curves as JSON data, without the maps; None stands for NaN."""
        return {
            "timesteps": self.timesteps.tolist(),
            "negatives": list(self.negatives),
            "cosine": _without_nan(self.cosine.tolist()),
            "kept": _without_nan(self.kept.tolist()),
            "pushed": None if self.pushed is None else _without_nan(self.pushed.tolist()),
            "changed": None if self.changed is None else _without_nan(self.changed.tolist()),
        }


def _without_nan(values: Any) -> Any:
    if isinstance(values, list):
        return [_without_nan(value) for value in values]
    return None if math.isnan(values) else values


class TraceRecorder:
    """Collects device tensors during the loop, without waiting for the device; `trace()` moves them at the end."""

    def __init__(self, negatives: tuple[str, ...], negtome: bool, attention: str | None) -> None:
        self.negatives = negatives
        self.negtome = negtome
        self.attention = attention
        self.sums: dict[str, torch.Tensor] = {}
        self.counts: dict[str, int] = {}
        self.units: dict[str, str] = {}
        self.timesteps: list[torch.Tensor] = []
        self.cosine: list[torch.Tensor] = []
        self.kept: list[torch.Tensor] = []
        self.pushed: list[list[torch.Tensor]] = []
        self.changed: list[torch.Tensor] = []

    def begin_call(self, timestep: torch.Tensor | float, batch: int, device: torch.device) -> None:
        """Start a row, of NaN until something acts."""
        self.timesteps.append(torch.as_tensor(timestep, device=device).flatten()[0].float())
        resting = torch.full((len(self.negatives), batch), torch.nan, device=device)
        self.cosine.append(resting)
        self.kept.append(resting.clone())
        self.pushed.append([])
        self.changed.append(torch.full((batch,), torch.nan, device=device))

    def record_negatives(self, indices: list[int], cosine: torch.Tensor, kept: torch.Tensor) -> None:
        """[len(indices), B] each, of the call begun last."""
        for row, index in enumerate(indices):
            self.cosine[-1][index] = cosine[row]
            self.kept[-1][index] = kept[row]

    def record_shift_maps(self, indices: list[int], maps: list[torch.Tensor]) -> None:
        """[B, h, w] each, one for each of the PerpNeg negatives `indices`."""
        for index, values in zip(indices, maps, strict=True):
            name = self.negatives[index]
            if self.negatives.count(name) > 1:
                name = f"{name} ({1 + self.negatives[:index].count(name)})"
            self._add(name, values, "taken away, in lengths of the guidance")

    def record_token_maps(self, name: str, maps: torch.Tensor) -> None:
        """[branches, B, h, w] of "NegToMe" or of the attention method."""
        self._add(name, maps.mean(dim=0), "relative change of the tokens")

    def _add(self, name: str, values: torch.Tensor, unit: str) -> None:
        self.sums[name] = self.sums[name] + values if name in self.sums else values.float()
        self.counts[name] = self.counts.get(name, 0) + 1
        self.units[name] = unit

    def record_pushed(self, fractions: torch.Tensor) -> None:
        """[branches, B], of the step begun last; its branches may come one by one."""
        self.pushed[-1].append(fractions)

    def record_changed(self, changes: torch.Tensor) -> None:
        """[B], of the call begun last."""
        self.changed[-1] = changes

    def trace(self) -> Trace:
        """Everything, on the CPU."""
        pushed = [
            torch.cat(fractions).mean(dim=0) if fractions else torch.full_like(changed, torch.nan)
            for fractions, changed in zip(self.pushed, self.changed, strict=True)
        ]
        return Trace(
            timesteps=torch.stack(self.timesteps).cpu(),
            negatives=self.negatives,
            cosine=torch.stack(self.cosine).cpu(),
            kept=torch.stack(self.kept).cpu(),
            pushed=torch.stack(pushed).cpu() if self.negtome else None,
            changed=torch.stack(self.changed).cpu() if self.attention else None,
            maps={name: (total / self.counts[name]).cpu() for name, total in self.sums.items()},
            units=dict(self.units),
        )


def plot_trace(trace: Trace, path: str | PathLike[str] | None = None) -> PIL.Image.Image:
    """Curves over the denoiser calls: mean over the images, with a band from the least to the greatest.

    One panel each for the cosine between negatives and prompt, the fraction of the negatives that was kept, and the
    fraction of tokens that NegToMe pushed; panels of methods that were not used are left out.

    Args:
        trace: `pipe(..., trace=True).trace`.
        path: where to save the PNG as well; None = nowhere.
    """
    from matplotlib.figure import Figure

    # title, label of the y axis, limits, [S, B] curves with their names
    panels: list[tuple[str, str, tuple[float, float], list[tuple[str, torch.Tensor]]]] = []
    if trace.negatives:
        for title, label, low, values in (
            ("How far each negative agrees with the prompt", "cosine", -1.05, trace.cosine),
            ("How much of each negative acts", "fraction kept", -0.05, trace.kept),
        ):
            curves = list(zip(trace.negatives, values.unbind(dim=1), strict=True))
            panels.append((title, label, (low, 1.05), curves))
    if trace.pushed is not None:
        curve = ("NegToMe", trace.pushed)
        panels.append(("How many tokens NegToMe pushes", "fraction pushed", (-0.05, 1.05), [curve]))
    if trace.changed is not None:
        largest = float(trace.changed.nan_to_num(0).max())
        curve = ("attention", trace.changed)
        panels.append(
            ("How far attention is changed", "relative change", (-0.05, 1.1 * max(largest, 0.1)), [curve])
        )

    figure = Figure(figsize=(9, 0.7 + 3 * len(panels)), dpi=110, layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    steps = range(1, len(trace.timesteps) + 1)
    for axis, (title, label, limits, curves) in zip(axes, panels, strict=True):
        for name, values in curves:
            mean, (lowest, highest) = values.nanmean(dim=1), torch.aminmax(values, dim=1)
            color = (
                "dimgray" if label in ("fraction pushed", "relative change") else None
            )  # not that of a negative
            (line,) = axis.plot(steps, mean, marker="o", markersize=4, color=color, label=_shortened(name))
            axis.fill_between(steps, lowest, highest, color=line.get_color(), alpha=0.2, linewidth=0)
        axis.set_title(title)
        axis.set_ylabel(label)
        axis.set_xlim(0.5, len(trace.timesteps) + 0.5)
        axis.set_ylim(*limits)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
    first, last = trace.timesteps[0], trace.timesteps[-1]
    axes[-1].set_xlabel(f"denoiser call (timestep {first:.0f} to {last:.0f}); line: mean, band: all images")
    figure.align_ylabels(axes)
    if trace.negatives:
        lines = axes[0].get_lines()
        figure.legend(handles=lines, loc="outside upper center", ncols=min(3, len(lines)), frameon=False)

    image = drawn(figure)
    if path is not None:
        image.save(path)
    return image


def drawn(figure: Any) -> PIL.Image.Image:
    """A matplotlib figure as an image."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return PIL.Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def _shortened(text: str, length: int = 28) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
