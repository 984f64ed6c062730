"""Solids that follow the gradient of a loss, one step a round."""

from typing import Any

import pytest
import torch
from torch import Tensor

from negguide.guidance.score_distillation import image_loss
from negguide.views import Descent, Distilled, Fit, Schedule, SolidFit

SIZE = 64


def red_left() -> Tensor:
    """A grey picture with a red left half."""
    picture = torch.full((3, SIZE, SIZE), 0.5)
    picture[:, 8:60, 12:32] = torch.tensor([1.0, 0.0, 0.0])[:, None, None]
    return picture


def pulling(loss: str, target: Tensor, calls: list[tuple[list[float], int]]) -> Any:
    """A distillation that wants the same picture of every camera."""

    class Pulling:
        schedule = Schedule(60)

        def __call__(self, renders: Tensor, azimuth: list[float], *, step: int) -> Distilled:
            calls.append((azimuth, step))
            targets = target.expand_as(renders)
            return Distilled(image_loss(renders, targets, 0.5), 0.5, 0.5, target=targets)

    made: Any = Pulling()
    made.loss = loss
    return made


@pytest.mark.parametrize("turned", [False, True])
def test_a_solid_becomes_its_targets_as_they_are_turned(turned: bool) -> None:
    calls: list[tuple[list[float], int]] = []
    background = torch.full((3, SIZE, SIZE), 0.5)
    # red to blue; all around, as a camera at an azimuth below 0 sees the mirror image
    straighten = (lambda one, azimuth: one.flip(0)) if turned else None
    fit = SolidFit(pulling("image", red_left(), calls), background, straighten=straighten)
    losses = [fit.round() for _ in range(30)]
    red, _, blue = fit.turntable((0.0,))[0, :, 8:60, 12:52].mean(dim=(-2, -1)).tolist()
    assert (blue - red if turned else red - blue) > 0.2
    assert losses[-1] < losses[0] / 2
    assert [step for _, step in calls] == list(range(30)) and fit.rounds == 60
    assert all(len(azimuths) == 2 and all(0 <= a <= 180 for a in azimuths) for azimuths, _ in calls)


def test_targets_are_turned_before_the_loss() -> None:
    """The first loss is that of the turned target, with the weight of the distillation."""
    target, background = red_left(), torch.full((3, SIZE, SIZE), 0.5)
    plain = SolidFit(pulling("image", target, []), background, Descent(seed=3))
    turned = SolidFit(
        pulling("image", target, []), background, Descent(seed=3), straighten=lambda one, azimuth: 1 - one
    )
    inverse = SolidFit(pulling("image", 1 - target, []), background, Descent(seed=3))
    assert turned.round() == pytest.approx(inverse.round()) != pytest.approx(plain.round())


def test_a_stopped_descent_goes_on_where_it_was() -> None:
    background = torch.full((3, SIZE, SIZE), 0.5)

    def fresh() -> SolidFit:
        return SolidFit(pulling("sds", red_left(), []), background, Descent(seed=1))

    whole, first, second = fresh(), fresh(), fresh()
    for _ in range(4):
        whole.round()
    for _ in range(2):
        first.round()
    second.load_state_dict(first.state_dict())
    for _ in range(2):
        second.round()
    assert second.done == 4
    for one, other in zip(whole.solid.parameters(), second.solid.parameters(), strict=True):
        assert torch.equal(one, other)


def test_options_are_those_of_the_loss() -> None:
    background = torch.full((3, SIZE, SIZE), 0.5)
    with pytest.raises(TypeError, match="options must be of Descent with loss='image', got Fit"):
        SolidFit(pulling("image", red_left(), []), background, Fit())
    with pytest.raises(TypeError, match="options must be of Fit with loss='denoise', got Descent"):
        SolidFit(pulling("denoise", red_left(), []), background, Descent())
    for loss in ("sds", "vsd"):
        with pytest.raises(ValueError, match=f"straighten turns targets, and loss='{loss}' has none"):
            SolidFit(pulling(loss, red_left(), []), background, straighten=lambda one, azimuth: one)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"views": 0}, "views"),
        ({"smoothness": -1.0}, "smoothness"),
        ({"density_rate": float("nan")}, "density_rate"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Descent(**options)


def test_image_loss_is_half_the_square_and_its_gradient_the_difference() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 4, 4, generator=generator, requires_grad=True)
    target = torch.rand(2, 3, 4, 4, generator=generator)
    loss = image_loss(images, target, 0.7)
    loss.backward()
    expected = sum(0.35 * float(((images - target) ** 2)[i].detach().sum()) for i in range(2)) / 2
    assert float(loss.detach()) == pytest.approx(expected)
    torch.testing.assert_close(images.grad, 0.7 * (images - target).detach() / 2)
