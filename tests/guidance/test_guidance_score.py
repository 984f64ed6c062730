"""Perp-Neg in score space: its algebra, its edge cases, its derivatives."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from negguide.guidance import alignment, perp_neg, perp_neg_shift, perpendicular

SHAPE = (3, 4, 5, 5)


def predictions(
    count: int, seed: int = 0, dtype: torch.dtype = torch.float32, shape: tuple[int, ...] = SHAPE
):
    """uncond, cond and `count` negatives, each with its own direction."""
    generator = torch.Generator().manual_seed(seed)
    uncond, cond = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    return uncond, cond, torch.randn(count, *shape, generator=generator).to(dtype)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """One inner product a sample, in float64."""
    return (a.double() * b.double()).flatten(1).sum(1)


def formula(uncond, cond, negatives, weights, guidance_scale) -> Tensor:
    """The published formula, sample by sample, in float64."""
    result = torch.empty_like(uncond, dtype=torch.float64)
    for b in range(len(uncond)):
        u = uncond[b].double()
        p = cond[b].double() - u
        direction = p.clone()
        for k in range(len(negatives)):
            n = negatives[k, b].double() - u
            direction -= float(weights[k][b]) * (n - (n * p).sum() / (p * p).sum() * p)
        result[b] = u + guidance_scale * direction
    return result


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    size=st.integers(2, 40),
    scale=st.floats(1e-3, 1e3),
    stretch=st.floats(-5, 5),
)
def test_the_perpendicular_part_is_perpendicular_and_the_rest_is_parallel(seed, size, scale, stretch):
    generator = torch.Generator().manual_seed(seed)
    p = scale * torch.randn(2, size, generator=generator, dtype=torch.float64)
    n = torch.randn(2, size, generator=generator, dtype=torch.float64) + stretch * p
    part = perpendicular(n, p)
    bound = 1e-10 * n.norm(dim=1) * p.norm(dim=1)
    assert (dot(part, p).abs() <= bound).all()
    rest = n - part
    cosine = dot(rest, p).abs() / (rest.norm(dim=1) * p.norm(dim=1)).clamp_min(1e-300)
    parallel = (cosine - 1).abs() < 1e-6
    assert (parallel | (rest.norm(dim=1) < 1e-9 * n.norm(dim=1))).all()


def test_the_perpendicular_part_does_not_depend_on_the_length_or_sign_of_p():
    n, p = torch.randn(2, *SHAPE)
    expected = perpendicular(n, p)
    for factor in (-1.0, 1e-3, 1e3):
        torch.testing.assert_close(perpendicular(n, factor * p), expected)


def test_the_perpendicular_part_is_its_own_perpendicular_part():
    n, p = torch.randn(2, *SHAPE)
    once = perpendicular(n, p)
    torch.testing.assert_close(perpendicular(once, p), once)


def test_a_vector_has_no_part_perpendicular_to_itself():
    p = torch.randn(SHAPE)
    assert perpendicular(p, p).abs().max() == 0
    assert perpendicular(-3 * p, p).abs().max() < 1e-5


def test_nothing_is_removed_along_a_zero_vector():
    n = torch.randn(SHAPE)
    assert torch.equal(perpendicular(n, torch.zeros_like(n)), n)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("guidance_scale", [1.0, 7.5, torch.tensor(7.5), torch.full((3, 1, 1, 1), 4.0)])
@pytest.mark.parametrize("joint", [False, True])
def test_without_negatives_it_is_classifier_free_guidance_bit_for_bit(dtype, guidance_scale, joint):
    uncond, cond, none = predictions(0, dtype=dtype)
    expected = (uncond + guidance_scale * (cond - uncond)).to(dtype)
    result = perp_neg(uncond, cond, none, torch.zeros(0), guidance_scale, joint=joint)
    assert result.dtype == dtype
    assert torch.equal(result, expected)


@pytest.mark.parametrize("joint", [False, True])
def test_negatives_of_weight_zero_leave_classifier_free_guidance_bit_for_bit(joint):
    uncond, cond, negatives = predictions(3)
    result = perp_neg(uncond, cond, negatives, torch.zeros(3), 7.5, joint=joint)
    assert torch.equal(result, uncond + 7.5 * (cond - uncond))


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_negative_equal_to_the_positive_changes_nothing(joint, dtype):
    uncond, cond, _ = predictions(0, dtype=dtype)
    result = perp_neg(uncond, cond, torch.stack([cond, cond]), torch.tensor([1.0, 4.0]), 7.5, joint=joint)
    assert torch.equal(result, uncond + 7.5 * (cond - uncond))


def test_a_negative_equal_to_the_unconditional_prediction_changes_nothing():
    uncond, cond, _ = predictions(0)
    assert torch.equal(perp_neg(uncond, cond, uncond[None], [2.0], 7.5), uncond + 7.5 * (cond - uncond))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    count=st.integers(1, 4),
    batch=st.integers(1, 4),
    guidance_scale=st.floats(1, 15),
    per_sample=st.booleans(),
)
def test_it_equals_the_published_formula(seed, count, batch, guidance_scale, per_sample):
    uncond, cond, negatives = predictions(count, seed, shape=(batch, 3, 4))
    generator = torch.Generator().manual_seed(seed + 1)
    weights = 3 * torch.rand((count, batch) if per_sample else (count,), generator=generator)
    expected = formula(
        uncond, cond, negatives, weights if per_sample else weights[:, None].expand(-1, batch), guidance_scale
    )
    result = perp_neg(uncond, cond, negatives, weights, guidance_scale)
    torch.testing.assert_close(result.double(), expected, rtol=1e-4, atol=1e-4)


def test_one_weight_a_negative_is_that_weight_for_every_sample():
    uncond, cond, negatives = predictions(2)
    weights = torch.tensor([0.5, 2.0])
    expected = perp_neg(uncond, cond, negatives, weights[:, None].expand(2, 3), 5.0)
    assert torch.equal(perp_neg(uncond, cond, negatives, weights, 5.0), expected)
    assert torch.equal(perp_neg(uncond, cond, negatives, [0.5, 2.0], 5.0), expected)


def test_weights_per_sample_switch_a_negative_on_for_some_samples_only():
    uncond, cond, negatives = predictions(1)
    result = perp_neg(uncond, cond, negatives, torch.tensor([[1.0, 0.0, 2.0]]), 5.0)
    assert torch.equal(result[1], (uncond + 5.0 * (cond - uncond))[1])
    for sample, weight in ((0, 1.0), (2, 2.0)):
        torch.testing.assert_close(
            result[sample], perp_neg(uncond, cond, negatives, [weight], 5.0)[sample], rtol=1e-6, atol=1e-6
        )
        assert not torch.allclose(result[sample], (uncond + 5.0 * (cond - uncond))[sample], atol=1e-2)


def test_a_guidance_scale_per_sample_is_used_per_sample():
    uncond, cond, negatives = predictions(2)
    scales = torch.tensor([2.0, 5.0, 9.0])
    result = perp_neg(uncond, cond, negatives, [1.0, 1.0], scales.view(3, 1, 1, 1))
    for sample, scale in enumerate(scales.tolist()):
        expected = perp_neg(uncond, cond, negatives, [1.0, 1.0], scale)[sample]
        torch.testing.assert_close(result[sample], expected)


@pytest.mark.parametrize("joint", [False, True])
def test_batch_mates_have_no_influence(joint):
    uncond, cond, negatives = predictions(3)
    weights = torch.tensor([1.0, 2.0, 0.5])
    together = perp_neg(uncond, cond, negatives, weights, 7.5, joint=joint)
    for b in range(len(uncond)):
        alone = perp_neg(
            uncond[b : b + 1], cond[b : b + 1], negatives[:, b : b + 1], weights, 7.5, joint=joint
        )
        torch.testing.assert_close(together[b : b + 1], alone, rtol=1e-5, atol=1e-5)
    for spoiled in (uncond, cond, negatives[0]):
        spoiled[1:] = torch.nan
    assert torch.equal(perp_neg(uncond, cond, negatives, weights, 7.5, joint=joint)[0], together[0])


def test_what_is_taken_away_is_perpendicular_to_the_guidance_direction():
    uncond, cond, negatives = predictions(3)
    negatives = negatives + 2 * cond
    for joint in (False, True):
        shift = perp_neg_shift(uncond, cond, negatives, [1.0, 2.0, 0.5], joint=joint)
        positive = cond - uncond
        cosine = dot(shift, positive) / (shift.flatten(1).norm(dim=1) * positive.flatten(1).norm(dim=1))
        assert shift.abs().max() > 0.1
        assert cosine.abs().max() < 1e-5


def test_joint_mode_counts_a_duplicated_negative_once():
    uncond, cond, negatives = predictions(2)
    one, other = negatives
    once = perp_neg_shift(uncond, cond, negatives, [1.5, 0.7], joint=True)
    repeated = torch.stack([one, one, other, one, other])
    weights = [1.5, 1.5, 0.7, 3.0, 0.7]
    assert torch.equal(perp_neg_shift(uncond, cond, repeated, weights, joint=True), once)
    separate = perp_neg_shift(uncond, cond, repeated, weights)
    assert not torch.allclose(separate, perp_neg_shift(uncond, cond, negatives, [1.5, 0.7]), atol=0.1)


def test_joint_mode_counts_a_negative_once_that_is_a_combination_of_the_earlier_ones_and_the_positive():
    uncond, cond, negatives = predictions(3)
    combined = uncond + 2 * (cond - uncond) + 0.5 * (negatives[0] - uncond) - 3 * (negatives[1] - uncond)
    stack = torch.stack([negatives[0], negatives[1], combined, negatives[2]])
    expected = perp_neg_shift(uncond, cond, negatives, [1.0, 1.0, 1.0], joint=True)
    result = perp_neg_shift(uncond, cond, stack, [1.0, 1.0, 1.0, 1.0], joint=True)
    torch.testing.assert_close(result, expected, rtol=1e-3, atol=1e-4)


def test_joint_mode_subtracts_what_orthogonalisation_of_all_vectors_leaves():
    uncond, cond, negatives = predictions(3, dtype=torch.float64, shape=(2, 6))
    weights = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    result = perp_neg_shift(uncond, cond, negatives, weights, joint=True)
    for b in range(2):
        vectors = torch.stack([cond[b] - uncond[b], *(negatives[:, b] - uncond[b])], dim=1)
        q, r = torch.linalg.qr(vectors)
        parts = q * r.diagonal()
        torch.testing.assert_close(result[b], (parts[:, 1:] * weights).sum(1))


def test_joint_mode_changes_nothing_for_negatives_that_are_orthogonal_already():
    basis = torch.eye(8)
    uncond, cond, negatives = torch.zeros(1, 8), basis[:1], 2 * basis[1:4, None]
    separate = perp_neg_shift(uncond, cond, negatives, [1.0, 2.0, 3.0])
    assert torch.equal(perp_neg_shift(uncond, cond, negatives, [1.0, 2.0, 3.0], joint=True), separate)
    assert torch.equal(separate, torch.tensor([[0.0, 2, 4, 6, 0, 0, 0, 0]]))


def test_in_joint_mode_a_negative_of_weight_zero_does_not_stand_in_for_its_duplicate():
    uncond, cond, negatives = predictions(1)
    twice = negatives.expand(2, *SHAPE)
    weights = torch.tensor([[0.0, 1.0, 0.0], [1.0, 1.0, 0.0]])
    result = perp_neg_shift(uncond, cond, twice, weights, joint=True)
    expected = perp_neg_shift(uncond, cond, negatives, torch.tensor([[1.0, 1.0, 0.0]]))
    assert torch.equal(result, expected)


def test_a_mask_limits_where_a_negative_acts():
    uncond, cond, negatives = predictions(2)
    masks = torch.zeros(2, 1, 1, *SHAPE[2:])
    masks[0, ..., :2] = 1
    masks[1, ..., 2:] = 0.5
    result = perp_neg_shift(uncond, cond, negatives, [1.0, 3.0], masks=masks)
    first = perp_neg_shift(uncond, cond, negatives[:1], [1.0])
    second = perp_neg_shift(uncond, cond, negatives[1:], [3.0])
    torch.testing.assert_close(result[..., :2], first[..., :2])
    torch.testing.assert_close(result[..., 2:], 0.5 * second[..., 2:])


def test_a_mask_may_be_bool_and_shared_by_all_negatives_and_samples():
    uncond, cond, negatives = predictions(2)
    mask = torch.rand(SHAPE[2:]) > 0.5
    expected = perp_neg_shift(uncond, cond, negatives, [1.0, 1.0]) * mask
    torch.testing.assert_close(perp_neg_shift(uncond, cond, negatives, [1.0, 1.0], masks=mask), expected)


def test_in_joint_mode_two_masks_together_let_a_duplicate_act_once_everywhere():
    uncond, cond, negatives = predictions(1)
    left = (torch.arange(SHAPE[-1]) < 2).float().expand(*SHAPE[2:])
    masks = torch.stack([left, torch.ones_like(left)]).view(2, 1, 1, *SHAPE[2:])
    result = perp_neg_shift(uncond, cond, negatives.expand(2, *SHAPE), [1.0, 1.0], joint=True, masks=masks)
    torch.testing.assert_close(result, perp_neg_shift(uncond, cond, negatives, [1.0]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_agrees_with_single_precision_to_its_own_rounding(dtype):
    uncond, cond, negatives = predictions(2, dtype=dtype)
    result = perp_neg(uncond, cond, negatives, [1.0, 0.5], 5.0)
    expected = perp_neg(uncond.float(), cond.float(), negatives.float(), [1.0, 0.5], 5.0)
    assert result.dtype == dtype
    torch.testing.assert_close(result.float(), expected, rtol=0, atol=16 * 4 * torch.finfo(dtype).eps)


def test_alignment_is_the_cosine_and_the_share_that_is_kept():
    uncond = torch.zeros(1, 2)
    cond = torch.tensor([[2.0, 0.0]])
    negatives = torch.tensor([[[3.0, 4.0]], [[-1.0, 0.0]], [[0.0, 5.0]], [[0.0, 0.0]]])
    cosine, kept = alignment(uncond, cond, negatives)
    torch.testing.assert_close(cosine, torch.tensor([[0.6], [-1.0], [0.0], [0.0]]))
    torch.testing.assert_close(kept, torch.tensor([[0.8], [0.0], [1.0], [0.0]]))


def test_the_two_numbers_of_alignment_are_the_legs_of_a_unit_triangle():
    uncond, cond, negatives = predictions(3)
    cosine, kept = alignment(uncond, cond, negatives + 0.5 * cond)
    assert cosine.shape == kept.shape == (3, 3)
    torch.testing.assert_close(cosine**2 + kept**2, torch.ones(3, 3))


def test_alignment_of_no_negatives_is_empty():
    cosine, kept = alignment(*predictions(0))
    assert cosine.shape == kept.shape == (0, 3)


def test_alignment_with_a_zero_positive_is_no_cosine_and_everything_kept():
    uncond, _, negatives = predictions(2)
    cosine, kept = alignment(uncond, uncond, negatives)
    assert torch.equal(cosine, torch.zeros(2, 3))
    torch.testing.assert_close(kept, torch.ones(2, 3))


@pytest.mark.parametrize("joint", [False, True])
def test_derivatives_are_those_of_the_function(joint):
    uncond, cond, negatives = predictions(2, dtype=torch.float64, shape=(2, 3, 2))
    weights = torch.tensor([0.5, 2.0], dtype=torch.float64)
    inputs = tuple(tensor.requires_grad_() for tensor in (uncond, cond, negatives, weights))
    assert torch.autograd.gradcheck(lambda u, c, n, w: perp_neg(u, c, n, w, 3.0, joint=joint), inputs)
    assert torch.autograd.gradcheck(alignment, inputs[:3])
    assert torch.autograd.gradcheck(perpendicular, (cond, uncond))


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("case", ["zero", "equal", "tiny"])
def test_derivatives_are_finite_at_degenerate_vectors(joint, case):
    uncond, cond, negatives = predictions(3)
    if case == "zero":
        cond, negatives = uncond.clone(), uncond.expand(3, *SHAPE).clone()
    elif case == "equal":
        negatives = cond.expand(3, *SHAPE).clone()
    else:
        cond = uncond + 1e-20 * cond
    for tensor in (uncond, cond, negatives):
        tensor.requires_grad_()
    cosine, kept = alignment(uncond, cond, negatives)
    result = perp_neg(uncond, cond, negatives, [1.0, 1.0, 2.0], 7.5, joint=joint)
    (result.sum() + cosine.sum() + kept.sum()).backward()
    for tensor in (uncond, cond, negatives):
        assert tensor.grad is not None and tensor.grad.isfinite().all()
    assert uncond.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"uncond": torch.zeros(3)}, r"uncond must be \[B, \.\.\.\].*\(3,\)"),
        ({"cond": torch.zeros(2, 4, 5, 5)}, r"cond must have the shape of uncond.*\(2, 4, 5, 5\)"),
        ({"negatives": torch.zeros(3, 4, 5, 5)}, r"negatives must be \[K, B, \.\.\.\].*\(3, 4, 5, 5\)"),
        ({"negatives": torch.zeros(2, 3, 4, 5, 6)}, r"negatives must be.*\(2, 3, 4, 5, 6\)"),
        ({"weights": torch.ones(3)}, r"weights must be one a negative, \(2,\).*\(3,\)"),
        ({"weights": torch.ones(3, 2)}, r"weights must be.*\(2, 3\).*\(3, 2\)"),
        ({"weights": 1.0}, r"weights must be.*\(\)"),
        ({"masks": torch.ones(2, 3)}, r"masks must be broadcastable.*\(2, 3\)"),
        ({"masks": torch.ones(1, 2, 3, 4, 5, 5)}, r"masks must be broadcastable.*\(1, 2, 3, 4, 5, 5\)"),
        ({"guidance_scale": torch.ones(3)}, r"guidance_scale must be .*\(3, 1, 1, 1\).*\(3,\)"),
    ],
)
def test_a_wrong_shape_is_an_error_that_names_it(change, message):
    uncond, cond, negatives = predictions(2)
    arguments = {"uncond": uncond, "cond": cond, "negatives": negatives, "weights": [1.0, 1.0]}
    with pytest.raises(ValueError, match=message):
        perp_neg(**{**arguments, "guidance_scale": 2.0, **change})


def test_integer_predictions_are_a_type_error():
    whole = torch.ones(1, 4, dtype=torch.int64)
    with pytest.raises(TypeError, match="uncond must be a floating point tensor, got dtype torch"):
        perp_neg(whole, whole, whole[None], [1.0], 2.0)


@pytest.mark.parametrize(
    ("n", "p", "message"),
    [
        (torch.ones(2, 3), torch.ones(2, 4), "p must have the shape of n,"),
        (torch.ones(3), torch.ones(3), r"n must be \[B, \.\.\.\]"),
    ],
)
def test_perpendicular_refuses_shapes_that_do_not_fit(n, p, message):
    with pytest.raises(ValueError, match=message):
        perpendicular(n, p)
