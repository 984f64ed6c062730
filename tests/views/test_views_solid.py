"""Solids: what is seen from where, how they are fitted, and what they are as meshes."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from negguide.integration.runtime.masks import image_tensor
from negguide.toyworld import Character, Scene, render
from negguide.toyworld.stage import Stage
from negguide.views.hull import check_packages, mesh, save_glb, visual_hull
from negguide.views.schedule import Schedule
from negguide.views.solid import TURNTABLE, Fit, SolidFit
from negguide.views.voxels import Voxels, on_background

HEIGHT, WIDTH = 24, 20
RED, BLUE = (0, 2)


def ball_with_nose() -> Voxels:
    """A blue ball with a red nose at the front."""
    solid = Voxels(HEIGHT, WIDTH)
    y, z, x = torch.meshgrid(*(torch.arange(float(n)) for n in (HEIGHT, WIDTH, WIDTH)), indexing="ij")
    middle = (WIDTH - 1) / 2
    ball = (y - 11.5) ** 2 + (z - middle) ** 2 + (x - middle) ** 2 < 6**2
    nose = (y - 11.5) ** 2 + (z - 3) ** 2 + (x - middle) ** 2 < 2.5**2
    with torch.no_grad():
        solid.density.fill_(-20)
        solid.density[ball | nose] = 6
        solid.color.fill_(-9)
        for part, channel in ((ball, BLUE), (nose, RED)):
            paint = torch.full((3,), -9.0)
            paint[channel] = 9
            solid.color.permute(0, 2, 3, 1)[part] = paint
    return solid


@pytest.mark.parametrize(
    ("azimuth", "red_columns"), [(0.0, (7, 12)), (90.0, (14, 19)), (180.0, None), (270.0, (0, 5))]
)
def test_the_front_turns_to_the_right(azimuth: float, red_columns: Any) -> None:
    """At 90 degrees it is at the right of the picture, at 180 behind the ball."""
    with torch.no_grad():
        color, alpha = ball_with_nose()(torch.tensor([azimuth]))
    assert color.shape == (1, 3, HEIGHT, WIDTH) and alpha.shape == (1, 1, HEIGHT, WIDTH)
    red = (color[0, RED] > 0.5).any(dim=0).nonzero().flatten()
    if red_columns is None:
        assert not len(red)
    else:
        assert red_columns[0] <= int(red.min()) and int(red.max()) <= red_columns[1]
    assert float(alpha[0, 0, 11, 9]) > 0.99 and float(alpha[0, 0, 0].max()) < 1e-3


def test_what_is_hidden_and_what_is_not_sum_to_the_background() -> None:
    """The colour of a pixel against the sum over the voxels on its line of sight, front to back."""
    solid = Voxels(4, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        solid.density.normal_(generator=torch.Generator().manual_seed(1))
    color, alpha = solid(torch.tensor([0.0]))
    clear = torch.ones(4, 6)
    expected = torch.zeros(3, 4, 6)
    for depth in range(6):
        opaque = 1 - torch.exp(-torch.nn.functional.softplus(solid.density[:, depth]))
        expected = expected + clear * opaque * solid.color[:, :, depth].sigmoid().transpose(0, 1)
        clear = clear * (1 - opaque)
    torch.testing.assert_close(color[0], expected)
    torch.testing.assert_close(alpha[0, 0], 1 - clear)
    background = torch.rand(3, 8, 10, generator=torch.Generator().manual_seed(2))
    picture = on_background(color, alpha, background, bottom=1)[0]
    torch.testing.assert_close(picture[:, 3:7, 2:8], expected + clear * background[:, 3:7, 2:8])
    assert torch.equal(picture[:, :3], background[:, :3]) and torch.equal(picture[:, 7:], background[:, 7:])
    with pytest.raises(ValueError, match="does not fit into a background of 8 x 10"):
        on_background(color, alpha, background, bottom=5)


def test_a_start_shows_no_outline() -> None:
    _, alpha = Voxels(generator=torch.Generator().manual_seed(0))(torch.tensor([0.0, 90.0]))
    assert float((alpha.max() - alpha.min()).detach()) < 0.1


def outlines(solid: Voxels) -> tuple[Tensor, Tensor, Tensor]:
    azimuth = torch.tensor(TURNTABLE, dtype=torch.float32)
    with torch.no_grad():
        return *solid(azimuth), azimuth


def test_a_mesh_is_one_closed_piece_with_colours_that_a_file_keeps(tmp_path: Path) -> None:
    trimesh = pytest.importorskip("trimesh", reason="meshes need the extra 3d")
    solid = ball_with_nose()
    with torch.no_grad():
        # a crumb beside it is left out
        solid.density[2:4, 2:4, 2:4] = 6
    surface = mesh(*outlines(solid))
    assert surface.is_watertight and surface.body_count == 1 and surface.volume > 0
    save_glb(surface, tmp_path / "ball.glb")
    read = trimesh.load(tmp_path / "ball.glb", force="mesh")
    assert read.is_watertight and [path.name for path in tmp_path.iterdir()] == ["ball.glb"]
    colors = torch.tensor(read.visual.vertex_colors[:, :3].astype(int))
    red = colors[:, RED] > 2 * colors[:, BLUE]
    corners = torch.tensor(read.vertices)
    # the nose is at the front, z, and nowhere else
    assert red.any() and float(corners[red, 2].min()) > float(corners[:, 2].mean())
    # y upwards, in the middle of x, as high as the ball
    assert abs(float(corners[:, 0].mean())) < 0.02
    assert float(corners[:, 1].max() - corners[:, 1].min()) == pytest.approx(12 / HEIGHT, abs=1.5 / HEIGHT)


def test_the_colours_of_a_mesh_are_not_darker_where_it_is_half_clear() -> None:
    pytest.importorskip("trimesh", reason="meshes need the extra 3d")
    solid = ball_with_nose()
    with torch.no_grad():
        # every voxel hides little, so that edges are half clear
        solid.density[solid.density > 0] = -1.5
        solid.color.fill_(9)
    color = torch.tensor(mesh(*outlines(solid)).visual.vertex_colors[:, :3].astype(int))
    assert int(color.min()) > 250


def test_a_hull_lies_within_every_outline_and_holds_the_solid() -> None:
    solid = ball_with_nose()
    _, alpha, azimuth = outlines(solid)
    hull = visual_hull(alpha[:, 0], azimuth)
    assert bool((hull[solid.density > 0] > 0.5).float().mean() > 0.9)
    assert float(hull.amax(dim=1).sub(alpha[0, 0]).max()) < 1e-4


def test_bad_outlines_are_refused() -> None:
    pytest.importorskip("skimage", reason="meshes need the extra 3d")
    color, alpha, azimuth = outlines(ball_with_nose())
    with pytest.raises(ValueError, match="0, 90, 180 and 270"):
        mesh(color[:3], alpha[:3], azimuth[:3])
    with pytest.raises(ValueError, match="alpha shows nothing"):
        mesh(color, torch.zeros_like(alpha), azimuth)
    with pytest.raises(ValueError, match="one azimuth a view"):
        visual_hull(alpha[:, 0], azimuth[:2])


def test_missing_packages_are_named(monkeypatch: Any) -> None:
    monkeypatch.setattr("negguide.views.hull.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install scikit-image trimesh"):
        check_packages()


class Known:
    """Stands for a distillation whose targets are the views of a known solid."""

    loss = "denoise"

    def __init__(self, rounds: int, background: Tensor) -> None:
        self.schedule = Schedule(rounds)
        self.background = background
        self.asked: list[tuple[list[float], int]] = []
        self.solid = Voxels()
        with torch.no_grad():
            y, z, x = torch.meshgrid(*(torch.arange(float(n)) for n in (56, 40, 40)), indexing="ij")
            block = ((y - 30).abs() < 12) & ((z - 16).abs() < 9) & ((x - 20).abs() < 7)
            self.solid.density.fill_(-20)
            self.solid.density[block] = 6

    def __call__(self, images: Tensor, azimuth: list[float], *, step: int) -> Any:
        self.asked.append((azimuth, step))
        with torch.no_grad():
            color, alpha = self.solid(torch.tensor(azimuth))
            return SimpleNamespace(target=on_background(color, alpha, self.background, 4))


def test_a_solid_comes_near_its_targets_and_is_resumed_exactly() -> None:
    background = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    known: Any = Known(6, background)
    whole = SolidFit(known, background)
    away = [whole.round() for _ in range(6)]
    assert away[-1] < 0.6 * away[0]
    # each side is asked for from 0 to 180 alone, evenly around, and every round is a step of the schedule
    assert [step for _, step in known.asked] == list(range(6))
    for azimuths, _ in known.asked:
        assert all(0 <= azimuth <= 180 for azimuth in azimuths)
    with pytest.raises(ValueError, match="step must be from 0 to 5"):
        Schedule(6).check_step(whole.done)

    first = SolidFit(known, background)
    for _ in range(3):
        first.round()
    state = first.state_dict()
    # what was kept stays as it was
    first.round()
    second = SolidFit(known, background)
    second.load_state_dict(state)
    for _ in range(3):
        second.round()
    assert torch.equal(second.turntable((0.0, 45.0)), whole.turntable((0.0, 45.0)))


def test_other_losses_and_settings_are_refused() -> None:
    with pytest.raises(TypeError, match="options must be of Descent with loss='sds', got Fit"):
        SolidFit(SimpleNamespace(loss="sds"), torch.zeros(3, 64, 64), Fit())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="views"):
        Fit(views=0)
    with pytest.raises(ValueError, match="smoothness must be finite and at least 0"):
        Fit(smoothness=-1.0)
    with pytest.raises(ValueError, match="density_rate must be finite"):
        Fit(density_rate=float("inf"))
    with pytest.raises(ValueError, match="batch must be at most kept=2"):
        Fit(batch=3, kept=2)
    with pytest.raises(ValueError, match="height and width"):
        Voxels(1, 5)


@pytest.mark.parametrize("kind", ["bear", "cat", "rabbit", "dog", "robot"])
def test_a_stage_turns_profiles_to_the_right(kind: str) -> None:
    stage = Stage(f"a {kind}")
    assert stage.prompt == f"a {kind} in a meadow"
    right = image_tensor(render(Scene((Character(kind, "grey", "side"),), "meadow")))
    left = right.clone()
    left[..., 16:-16] = right.flip(-1)[..., 16:-16]
    straight = stage.straighten()
    assert torch.equal(straight(right, 90.0), right) and torch.equal(straight(left, 90.0), right)
    # views that are no profiles stay as they are
    assert torch.equal(straight(left, 0.0), left) and torch.equal(straight(left, 180.0), left)


def test_a_stage_is_of_one_character_without_a_view() -> None:
    prompts, negatives, _ = Stage("a grey cat in the snow").views()([0.0, 90.0], [0.0, 0.0])
    assert prompts == ["a grey cat in front view in the snow", "a grey cat in side view in the snow"]
    assert [[(one.prompt, one.weight) for one in own] for own in negatives] == [
        [],
        [("a grey cat in front view in the snow", 1.0)],
    ]
    with pytest.raises(ValueError, match="one character"):
        Stage("two bears")
    with pytest.raises(ValueError, match="view"):
        Stage("a bear in side view")
