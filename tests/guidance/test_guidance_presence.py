"""How present a negative is and what it weighs, and negatives that overlap, against formulas written out here."""

import math

import pytest
import torch
from torch import Tensor

from negguide.guidance import automatic_weight, perp_neg, perp_neg_shift, presence

SHAPE = (3, 4, 5, 5)


def predictions(count: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """uncond, cond and `count` negatives, in float64."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(2 + count, *SHAPE, generator=generator, dtype=torch.float64)
    return drawn[0], drawn[1], drawn[2:]


def across(n: Tensor, p: Tensor) -> Tensor:
    """The part of n at right angles to p, of one sample."""
    return n - (n * p).sum() / (p * p).sum() * p


def test_presence_is_how_much_nearer_the_prompt_lies_to_the_negative_than_to_nothing() -> None:
    u, c, n = predictions(2)
    # one of the two is near the prompt
    n[0] = c + 0.3 * n[0]
    present, along = presence(u, c, n)
    for k in range(2):
        for b in range(len(u)):
            square = float((c[b] - u[b]).square().sum())
            nearer = square - float((c[b] - n[k, b]).square().sum())
            assert float(present[k, b]) == pytest.approx(nearer / square)
            assert float(along[k, b]) == pytest.approx(
                float(((n[k, b] - u[b]) * (c[b] - u[b])).sum()) / square
            )
    assert (present[0] > 0.5).all() and (present[1] < 0.5).all()


def test_presence_of_the_prompt_of_nothing_and_of_something_else() -> None:
    u, c, n = predictions(1)
    p = c - u
    right_angle = torch.stack([across(x, y) for x, y in zip(n[0] - u, p, strict=True)])
    size = p.flatten(1).norm(dim=1) / right_angle.flatten(1).norm(dim=1)
    other = u + size.view(-1, 1, 1, 1) * right_angle
    present, along = presence(u, c, torch.stack([c, u, other]))
    rows = torch.ones(len(u), dtype=torch.float64)
    torch.testing.assert_close(present, torch.stack([rows, 0 * rows, -rows]))
    torch.testing.assert_close(along, torch.stack([rows, 0 * rows, 0 * rows]))
    # far below where it would have to be put into the image
    assert (presence(u, c, (u + 3 * (other - u))[None])[0] < -8.9).all()


@pytest.mark.parametrize("scale", [1e-3, -1.0, 40.0])
def test_presence_does_not_depend_on_the_scale_or_the_origin_of_the_predictions(scale: float) -> None:
    u, c, n = predictions(2)
    moved = torch.randn(SHAPE, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    expected = presence(u, c, n)
    for got, wanted in zip(
        presence(scale * u + moved, scale * c + moved, scale * n + moved), expected, strict=True
    ):
        torch.testing.assert_close(got, wanted)


def test_presence_of_equal_predictions_is_finite() -> None:
    u, _, n = predictions(1)
    for numbers in (presence(u, u, u[None]), presence(u, u, n), presence(0 * u, 0 * u, 0 * n)):
        assert all(number.isfinite().all() for number in numbers)
    assert presence(u, u, u[None])[0].abs().max() == 0
    assert presence(u, u, n[:0])[0].shape == (0, 3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_predictions_are_summed_in_float32(dtype: torch.dtype) -> None:
    # a sum of squares of 4096 elements of 30 overflows float16, and bfloat16 would stop counting
    u = torch.zeros(1, 4096, dtype=dtype)
    c, n = u + 30, u.clone()
    n[:, ::2] = 30
    present, along = presence(u, c, n[None])
    assert present.dtype == along.dtype == torch.float32
    assert float(present) == pytest.approx(0.5) and float(along) == pytest.approx(0.5)


def test_presence_refuses_what_perp_neg_refuses() -> None:
    u, c, n = predictions(1)
    with pytest.raises(ValueError, match="negatives must be"):
        presence(u, c, n[0])
    with pytest.raises(ValueError, match="cond must have the shape"):
        presence(u, c[:2], n)
    with pytest.raises(TypeError):
        presence(u.long(), c.long(), n.long())


def weighed(seen: float, a: float, along: float, strength: float, noise: bool) -> tuple[float, float]:
    """(weight, seen) by the formula of the docstring, in plain numbers."""
    sigmoid = 1 / (1 + math.exp(-(a - (0.7 if noise else -1.0)) / 0.1))
    seen = max(seen, sigmoid)
    weight = strength * seen * (2 - min(max(along, 0), 1))
    # |n|^2 / |p|^2 = 2 along - a, and the square of its part across is that less along^2
    r = math.sqrt(max(2 * along - a - along**2, 0))
    return min(weight, 8 / r) if r else weight, seen


@pytest.mark.parametrize("noise", [True, False])
@pytest.mark.parametrize("seen", [0.0, 0.4])
def test_the_weight_is_the_formula(noise: bool, seen: float) -> None:
    # (a, along) of real negatives: |n|^2 = 2 along - a >= along^2
    cases = [(0.9, 0.97), (0.7, 0.9), (0.6, 1.2), (0.1, 0.5), (-0.9, 0.2), (-1.1, -0.3), (-7.0, 0.1), (0, 0)]
    present, along = torch.tensor(cases, dtype=torch.float64).T
    got = automatic_weight(torch.full_like(present, seen), present, along, 4.5, noise)
    wanted = [weighed(seen, a, b, 4.5, noise) for a, b in cases]
    torch.testing.assert_close(torch.stack(got, dim=1), torch.tensor(wanted, dtype=torch.float64))


def test_a_repeated_prompt_weighs_the_strength_a_fragment_twice_as_much_and_an_absent_one_nothing() -> None:
    zero = torch.zeros(3, dtype=torch.float64)
    # the prompt itself; a short piece of something else; something that would have to be put in
    present = torch.tensor([1.0, -0.04, -5.0], dtype=torch.float64)
    along = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    weight, _ = automatic_weight(zero, present, along, 3.0, False)
    assert weight.tolist() == pytest.approx([3.0, 6.0, 0.0], abs=1e-3)
    # while the image is noise only what says nearly the same counts
    weight, _ = automatic_weight(zero, present, along, 3.0, True)
    assert weight[0] == pytest.approx(3.0, rel=0.06) and weight[1:].max() < 0.01


def test_no_negative_pushes_further_than_eight_times_the_guidance() -> None:
    u, c, n = predictions(1)
    # present, and long across the prompt
    n = u + (c - u) + 3 * (n - u)
    present, along = presence(u, c, n)
    weight, _ = automatic_weight(torch.ones_like(present[0]), present[0], along[0], 100.0, False)
    pushed = perp_neg_shift(u, c, n, weight[None]).flatten(1).norm(dim=1)
    torch.testing.assert_close(pushed, 8 * (c - u).flatten(1).norm(dim=1))


def test_the_largest_so_far_counts_and_never_falls() -> None:
    seen = torch.zeros(2, dtype=torch.float64)
    along = torch.zeros(2, dtype=torch.float64)
    last = []
    for a in ([-0.9, -3.0], [-2.0, -3.0], [-0.8, -0.95], [-9.0, -9.0]):
        _, seen = automatic_weight(seen, torch.tensor(a, dtype=torch.float64), along, 1.0, False)
        last.append(seen.tolist())
    s = [1 / (1 + math.exp(-x)) for x in (1.0, -20.0, 2.0, 0.5)]
    expected = [[s[0], s[1]], [s[0], s[1]], [s[2], s[3]], [s[2], s[3]]]
    torch.testing.assert_close(torch.tensor(last), torch.tensor(expected))


def test_an_image_does_not_depend_on_its_batch_mates() -> None:
    u, c, n = predictions(2)
    whole = presence(u, c, n)
    seen = torch.rand(2, len(u), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weights = automatic_weight(seen, *whole, 4.5, False)[0]
    for b in range(len(u)):
        rows = slice(b, b + 1)
        alone = presence(u[rows], c[rows], n[:, rows])
        torch.testing.assert_close(alone, tuple(part[:, rows] for part in whole))
        torch.testing.assert_close(automatic_weight(seen[:, rows], *alone, 4.5, False)[0], weights[:, rows])


# ---- joint="overlap" ------------------------------------------------------------------------------------------------


def overlapped(u: Tensor, c: Tensor, n: Tensor, weights: Tensor, masks: Tensor | None = None) -> Tensor:
    """S with joint="overlap": each s_k loses what it shares with every one before it."""
    result = torch.zeros_like(u)
    for b in range(len(u)):
        p = c[b] - u[b]
        taken: list[Tensor] = []
        for k in range(len(n)):
            s = weights[k, b] * across(n[k, b] - u[b], p)
            if masks is not None:
                s = masks[k, b] * s
            for earlier in taken:
                square = float((earlier * earlier).sum())
                share = float((s * earlier).sum()) / square if square else 0.0
                s = s - min(max(share, 0.0), 1.0) * earlier
            taken.append(s)
            result[b] += s
    return result


@pytest.mark.parametrize("masked", [False, True])
def test_overlap_is_its_formula(masked: bool) -> None:
    u, c, n = predictions(4)
    # they have much in common
    n[1:3] = 0.5 * n[1:3] + n[0]
    weights = torch.tensor([[1.0, 2.0, 0.5], [3.0, 0.0, 1.0], [0.5, 1.0, 4.0], [1.0, 1.0, 1.0]]).double()
    masks = torch.rand(4, 3, 1, 5, 5, generator=torch.Generator().manual_seed(2)).double() if masked else None
    got = perp_neg_shift(u, c, n, weights, joint="overlap", masks=masks)
    torch.testing.assert_close(got, overlapped(u, c, n, weights, masks))
    # and it is neither of the others
    for other in (False, True):
        assert (got - perp_neg_shift(u, c, n, weights, joint=other, masks=masks)).abs().max() > 0.1


@pytest.mark.parametrize("weights", [(1.0, 1.0), (3.0, 1.0), (1.0, 3.0)])
def test_two_that_are_equal_count_once_as_strongly_as_the_stronger(weights: tuple[float, float]) -> None:
    u, c, n = predictions(1)
    twice = perp_neg_shift(u, c, n.repeat(2, 1, 1, 1, 1), weights, joint="overlap")
    torch.testing.assert_close(twice, perp_neg_shift(u, c, n, [max(weights)]))


def test_those_that_point_away_from_one_another_or_share_nothing_are_as_without() -> None:
    u, c, n = predictions(2)
    p = c - u
    first, second = (torch.stack([across(x, y) for x, y in zip(k - u, p, strict=True)]) for k in n)
    apart = torch.stack([across(x, y) for x, y in zip(second, first, strict=True)])
    for other in (-0.5 * first, apart, apart - 0.3 * first):
        pair = torch.stack([u + first + 0.7 * p, u + other + 0.2 * p])
        separate = perp_neg_shift(u, c, pair, [2.0, 1.0])
        torch.testing.assert_close(perp_neg_shift(u, c, pair, [2.0, 1.0], joint="overlap"), separate)


def test_one_of_weight_0_takes_nothing_from_those_after_it() -> None:
    u, c, n = predictions(1)
    pair = torch.cat([n, n + 0.1 * c])
    alone = perp_neg_shift(u, c, pair[1:], [2.0])
    torch.testing.assert_close(perp_neg_shift(u, c, pair, [0.0, 2.0], joint="overlap"), alone)
    assert torch.equal(perp_neg(u, c, pair, [0.0, 0.0], 5.0, joint="overlap"), u + 5.0 * (c - u))


def test_overlap_of_16_bit_predictions_is_near_that_of_float32() -> None:
    u, c, n = (10 * part for part in predictions(3))
    n[1] = n[0] + 0.1 * n[1]
    half = [part.half() for part in (u, c, n)]
    got = perp_neg_shift(*half, [1.0, 2.0, 1.0], joint="overlap")
    assert got.dtype == torch.float16
    exact = perp_neg_shift(*(part.double() for part in half), [1.0, 2.0, 1.0], joint="overlap")
    assert float((got.double() - exact).norm() / exact.norm()) < 1e-3


@pytest.mark.parametrize("joint", ["all", None, 2])
def test_other_values_of_joint_are_refused(joint: object) -> None:
    u, c, n = predictions(1)
    with pytest.raises(ValueError, match="joint must be True, False or 'overlap', got"):
        perp_neg_shift(u, c, n, [1.0], joint=joint)  # type: ignore[arg-type]
