"""A solid that becomes what a prompt says, by what a text-to-image model makes of its renders."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from negguide.guidance.score_distillation import image_loss
from negguide.methods.validation import at_least_one, at_least_zero, number
from negguide.views.distillation import ScoreDistillation
from negguide.views.prompts import wrap_azimuth
from negguide.views.schedule import generator_of
from negguide.views.voxels import Voxels, on_background

TURNTABLE = tuple(range(0, 360, 15))
"""Azimuths of a finished solid's pictures and outlines, in degrees."""

Straighten = Callable[[Tensor, float], Tensor]
"""`straighten(target [3, H, W], azimuth from 0 to 180)` gives the target with what it shows turned accordingly."""


@dataclass(frozen=True)
class Descent:
    """How a solid follows the gradient of a loss: one step of Adam a round.

    Attributes:
        views: cameras a round, evenly around the solid from a random angle on.
        density_rate, color_rate: Adam's learning rates.
        smoothness: weight of the mean absolute difference of neighbouring voxels' parameters; views between the axes
            average voxels, so that nothing else keeps those from alternating. These losses are sums over an image.
        bottom: pixels between the solid's lower end and that of the picture.
        seed: of the start and the cameras.

    Raises:
        TypeError, ValueError: naming the argument.
    """

    views: int = 2
    density_rate: float = 0.3
    color_rate: float = 0.15
    smoothness: float = 3.0
    bottom: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "views", at_least_one("views", self.views))
        for name in ("bottom", "seed"):
            object.__setattr__(self, name, at_least_zero(name, getattr(self, name)))
        for name in ("density_rate", "color_rate", "smoothness"):
            object.__setattr__(self, name, number(name, getattr(self, name)))
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be finite and at least 0, got {getattr(self, name)!r}")


@dataclass(frozen=True)
class Fit(Descent):
    """How a solid is fitted to targets, those of the loss "denoise".

    Attributes:
        views, density_rate, color_rate, bottom: as in `Descent`.
        smoothness: as there; this loss is a mean over an image.
        seed: of the start, the cameras and the choice of targets.
        fits: steps of Adam a round.
        batch: targets a step of Adam.
        kept: how many of the latest targets it draws from.

    Raises:
        TypeError, ValueError: naming the argument.
    """

    views: int = 4
    smoothness: float = 0.003
    fits: int = 6
    batch: int = 4
    kept: int = 24

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("fits", "batch", "kept"):
            object.__setattr__(self, name, at_least_one(name, getattr(self, name)))
        if self.batch > self.kept:
            raise ValueError(
                f"batch must be at most kept={self.kept}, the targets that it is drawn from, got {self.batch}"
            )


class SolidFit:
    """Makes `Voxels` what a prompt says, round by round.

    Formula of a round with the loss "denoise": its targets at `views` azimuths; then `fits` steps of Adam on
    mean |render - target| over `batch` of the `kept` latest targets. With the others: one step of Adam on the loss of
    `views` renders. Smoothness is added to either. What a camera at an azimuth above 180, that is below 0, sees is
    mirrored before the model gets it, with the azimuth above 0.

    Args:
        distill: whose schedule has a step a round.
        background: [3, H, W] in [0, 1], what lies behind the solid in every view.
        options: `Fit` with the loss "denoise", `Descent` with the others; None = its defaults.
        straighten: turns a target where a model says nothing of left and right; None = as it is. Of the losses
            "denoise" and "image", which have targets.

    Raises:
        TypeError: options that are not of the loss.
        ValueError: `straighten` with a loss that has no targets.
    """

    def __init__(
        self,
        distill: ScoreDistillation,
        background: Tensor,
        options: Fit | Descent | None = None,
        *,
        straighten: Straighten | None = None,
    ) -> None:
        wanted = Fit if distill.loss == "denoise" else Descent
        options = wanted() if options is None else options
        if type(options) is not wanted:
            raise TypeError(
                f"options must be of {wanted.__name__} with loss={distill.loss!r}, got {type(options).__name__}"
            )
        if straighten is not None and distill.loss not in ("denoise", "image"):
            raise ValueError(f"straighten turns targets, and loss={distill.loss!r} has none; leave it out")
        self.distill, self.background, self.straighten = distill, background, straighten
        self.options = options
        self.solid = Voxels(generator=torch.Generator().manual_seed(options.seed))
        self.optimizer = torch.optim.Adam(
            [
                {"params": [self.solid.density], "lr": options.density_rate},
                {"params": [self.solid.color], "lr": options.color_rate},
            ]
        )
        self.azimuths = torch.zeros(0)
        self.targets = torch.zeros(0, *background.shape)
        self.done = 0

    @property
    def rounds(self) -> int:
        """How many there are."""
        return self.distill.schedule.steps

    def round(self) -> float:
        """One more round; gives the last loss, without smoothness.

        Raises:
            ValueError: all rounds are done.
        """
        # of this round alone, so that a run goes on at any of them
        generator = generator_of(self.options.seed, self.done, "solid")
        first = 360 * float(torch.rand((), generator=generator))
        turns = [wrap_azimuth(first + 360 * i / self.options.views) for i in range(self.options.views)]
        options = self.options
        last = self._fitted(turns, options, generator) if isinstance(options, Fit) else self._descended(turns)
        self.done += 1
        return last

    def _fitted(self, turns: list[float], options: Fit, generator: torch.Generator) -> float:
        with torch.no_grad():
            renders = self._pictures(torch.tensor(turns))
        around = [abs(turn) for turn in turns]
        targets = self._straight(self.distill(renders, around, step=self.done).target, around)
        self.azimuths = torch.cat([self.azimuths, torch.tensor(turns)])[-options.kept :]
        self.targets = torch.cat([self.targets, targets])[-options.kept :]
        for _ in range(options.fits):
            chosen = torch.randperm(len(self.targets), generator=generator)[: options.batch]
            last = self._learn((self._pictures(self.azimuths[chosen]) - self.targets[chosen]).abs().mean())
        return last

    def _descended(self, turns: list[float]) -> float:
        renders = self._pictures(torch.tensor(turns))
        around = [abs(turn) for turn in turns]
        distilled = self.distill(renders, around, step=self.done)
        if self.straighten is None:
            return self._learn(distilled.loss)
        return self._learn(image_loss(renders, self._straight(distilled.target, around), distilled.weight))

    def _straight(self, targets: Tensor | None, around: list[float]) -> Tensor:
        assert targets is not None
        if self.straighten is None:
            return targets
        return torch.stack([self.straighten(one, turn) for one, turn in zip(targets, around, strict=True)])

    def _learn(self, loss: Tensor) -> float:
        rough = _rough(self.solid.density) + _rough(self.solid.color)
        self.optimizer.zero_grad()
        (loss + self.options.smoothness * rough).backward()
        self.optimizer.step()
        return float(loss.detach())

    def _pictures(self, turns: Tensor) -> Tensor:
        """[B, 3, H, W]: those of negative azimuths as mirror images, before the background as it is."""
        color, alpha = self.solid(turns)
        mirrored = (turns < 0)[:, None, None, None]
        color, alpha = (torch.where(mirrored, part.flip(-1), part) for part in (color, alpha))
        return on_background(color, alpha, self.background, self.options.bottom)

    @torch.no_grad()
    def turntable(self, azimuths: tuple[float, ...] = TURNTABLE) -> Tensor:
        """[N, 3, H, W], the solid before the background."""
        color, alpha = self.solid(torch.tensor(azimuths, dtype=torch.float32))
        return on_background(color, alpha, self.background, self.options.bottom)

    @torch.no_grad()
    def outlines(self) -> tuple[Tensor, Tensor, Tensor]:
        """(color, alpha, azimuth) of all views of the turntable, what `mesh` takes."""
        azimuth = torch.tensor(TURNTABLE, dtype=torch.float32)
        return *self.solid(azimuth), azimuth

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that a run needs to go on, as tensors by name, which safetensors can hold."""
        lora = self.distill.state_dict()["lora"] if self.distill.loss == "vsd" else None
        tensors = {
            "done": torch.tensor(self.done),
            "azimuths": self.azimuths,
            "targets": self.targets,
            **{f"solid.{name}": value for name, value in self.solid.state_dict().items()},
            **_moments("optimizer", self.optimizer.state_dict()),
        }
        if lora is not None:
            tensors |= {f"lora.{name}": value for name, value in lora["weights"].items()}
            tensors |= _moments("lora optimizer", lora["optimizer"])
        # as they are now: the next round changes them in place
        return {name: tensor.detach().clone() for name, tensor in tensors.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on where another run of the same settings was.

        Raises:
            ValueError: it is the state of another loss, or of "vsd" with another model or rank.
        """
        parts: dict[str, dict[str, Tensor]] = {}
        for key, tensor in state.items():
            part, _, name = key.partition(".")
            # optimisers change in place what they are given
            parts.setdefault(part, {})[name] = tensor.clone()
        lora = parts.get("lora", {})
        if self.distill.loss == "vsd":
            own = self.distill.state_dict()["lora"]["optimizer"]
            optimizer = _with_moments(own, parts.get("lora optimizer", {}))
            self.distill.load_state_dict({"lora": {"weights": lora, "optimizer": optimizer}})
        elif lora:
            raise ValueError(f"state holds a LoRA, which is not of loss={self.distill.loss!r}")
        self.solid.load_state_dict(parts["solid"])
        optimizer = _with_moments(self.optimizer.state_dict(), parts.get("optimizer", {}))
        self.optimizer.load_state_dict(optimizer)
        self.done = int(state["done"])
        self.azimuths, self.targets = state["azimuths"], state["targets"]


def _moments(part: str, optimizer: Mapping[str, Any]) -> dict[str, Tensor]:
    """What an optimiser remembers of each parameter, as tensors by name."""
    return {
        f"{part}.{index}.{name}": torch.as_tensor(value)
        for index, state in optimizer["state"].items()
        for name, value in state.items()
    }


def _with_moments(optimizer: Mapping[str, Any], named: Mapping[str, Tensor]) -> dict[str, Any]:
    """The state of an optimiser that remembers what `_moments` named."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in named.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = tensor
    return {"state": state, "param_groups": optimizer["param_groups"]}


def _rough(field: Tensor) -> Tensor:
    """Mean absolute difference of neighbours along the three axes of space, the first and the last two."""
    total = torch.zeros(())
    for axis in (0, -2, -1):
        total = total + field.diff(dim=axis).abs().mean()
    return total
