"""Half precision: no NaN, no infinity, the input's dtype, for vectors at the edges of the format."""

import pytest
import torch

from negguide.guidance import alignment, best_match, nag, negtome, ong, perp_neg_shift, perpendicular, vsf
from negguide.guidance.precision import norm_floor, reduction_dtype
from negguide.guidance.tokens import negtome_others

HALF = [torch.float16, torch.bfloat16]
# The smallest subnormal of float16 is 6e-8, with a square of 0 there; the squares of 5e3 and more overflow.
VECTORS = {
    "zero": lambda: torch.zeros(2, 6, 8),
    "tiny": lambda: 6e-8 * torch.randint(-2, 3, (2, 6, 8)),
    "small": lambda: 1e-4 * torch.randn(2, 6, 8),
    "ordinary": lambda: torch.randn(2, 6, 8),
    "equal": lambda: torch.ones(2, 6, 8),
    "large": lambda: 5e3 * torch.randn(2, 6, 8).clamp(-2, 2),
}


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("first", VECTORS)
@pytest.mark.parametrize("second", VECTORS)
def test_every_function_stays_finite_and_keeps_the_dtype(dtype, first, second):
    a, b = VECTORS[first]().to(dtype), VECTORS[second]().to(dtype)
    zero = torch.zeros_like(a)
    results = {
        "perpendicular": perpendicular(a, b),
        "shift": perp_neg_shift(zero, b, torch.stack([a, a, b]), [1.0, 0.5, 1.0]),
        "joint shift": perp_neg_shift(zero, b, torch.stack([a, a, b]), [1.0, 0.5, 1.0], joint=True),
        "cosine": alignment(zero, b, a[None])[0],
        "kept": alignment(zero, b, a[None])[1],
        "match": best_match(a, b)[0],
        "negtome": negtome(a, b, 0.9, -1.0),
        "negtome, bounded": negtome(a, b, 0.9, -1.0, center=True, max_push=0.5),
        "nag": nag(a, b, 2.0, 2.5, 0.5),
        "ong": ong(a, b, 1.0),
        "vsf": vsf(a[None], b[None], b[None], a[None], a[None], 1.0),
        "vsf, biased": vsf(a[None], b[None], b[None], a[None], a[None], 1.0, -1.0),
    }
    for name, result in results.items():
        assert result.dtype == dtype, name
        assert result.isfinite().all(), name


@pytest.mark.parametrize("dtype", HALF)
def test_equal_vectors_have_no_perpendicular_part_even_where_their_squares_overflow(dtype):
    for name in ("ordinary", "large"):
        vector = VECTORS[name]().to(dtype)
        assert torch.equal(perpendicular(vector, vector), torch.zeros_like(vector))


@pytest.mark.parametrize("dtype", HALF)
def test_the_perpendicular_part_is_never_longer_than_the_vector(dtype):
    for first in VECTORS.values():
        for second in VECTORS.values():
            n, p = first().to(dtype), second().to(dtype)
            limit = n.double().flatten(1).norm(dim=1) * (1 + 2 * torch.finfo(dtype).eps)
            assert (perpendicular(n, p).double().flatten(1).norm(dim=1) <= limit).all()


@pytest.mark.parametrize("dtype", HALF)
def test_derivatives_by_a_tiny_direction_stay_finite(dtype):
    n = torch.randn(2, 16).to(dtype).requires_grad_()
    p = (1e-6 * torch.randn(2, 16)).to(dtype).requires_grad_()
    perpendicular(n, p).square().sum().backward()
    assert n.grad.isfinite().all() and p.grad.isfinite().all()
    assert n.grad.abs().max() > 0


@pytest.mark.parametrize("dtype", HALF)
def test_matching_in_half_precision_finds_what_single_precision_finds(dtype):
    source, reference = torch.randn(2, 20, 16).to(dtype), torch.randn(2, 64, 16).to(dtype)
    cosine, index = best_match(source, reference)
    expected_cosine, expected_index = best_match(source.float(), reference.float())
    assert torch.equal(index, expected_index)
    assert torch.equal(cosine, expected_cosine.to(dtype))


def test_negtome_meets_the_threshold_before_the_cosine_is_rounded_to_half():
    # cos = 0.6; in bfloat16 the cosine and both thresholds would be one number, and nothing would be pushed.
    tokens = torch.tensor([[[3.0, 4.0]]], dtype=torch.bfloat16)
    reference = torch.tensor([[[1.0, 0.0]]], dtype=torch.bfloat16)
    assert len(torch.tensor([0.6, 0.5998, 0.6002]).bfloat16().unique()) == 1
    assert torch.equal(negtome(tokens, reference, 0.9, 0.6002), tokens)
    assert not torch.equal(negtome(tokens, reference, 0.9, 0.5998), tokens)


def test_float64_is_reduced_in_float64():
    n = torch.tensor([[1.0, 1e-12]], dtype=torch.float64)
    p = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    assert torch.equal(perpendicular(n, p), torch.tensor([[0.0, 1e-12]], dtype=torch.float64))
    assert reduction_dtype("n", n) == torch.float64
    assert reduction_dtype("n", n.half()) == torch.float32


def test_a_direction_shorter_than_the_floor_fades_out_instead_of_switching_off():
    floor = norm_floor(torch.float32)
    n = torch.tensor([[3.0, 4.0]])
    lengths = [4 * floor, floor, 0.5 * floor, 0.1 * floor, 0.0]
    along = [perpendicular(n, torch.tensor([[length, 0.0]]))[0, 0].item() for length in lengths]
    assert along == pytest.approx([0.0, 0.0, 3 * 0.75, 3 * 0.99, 3.0], abs=1e-5)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("others", [False, True], ids=["a reference", "the other images"])
def test_autocast_changes_no_match_and_no_push(dtype, others):
    """It computes matrix products in 16 bit, which a cosine, a mean over many tokens and a threshold cannot have."""
    generator = torch.Generator().manual_seed(0)
    # a common part of 20, which the mean over 4095 unmasked tokens has to take away
    tokens, reference = (20 + torch.randn(1, 4096, 16, generator=generator) for _ in range(2))
    mask = torch.arange(4096)[None] > 0
    options = {"alpha": 0.9, "threshold": 0.7, "center": True, "max_push": 0.5}

    def pushed():
        if others:
            groups = torch.stack([tokens[:, :512], reference[:, :512]], dim=1)
            return negtome_others(groups, **options)[0]
        return negtome(tokens[:, :512], reference, reference_mask=mask, **options)

    expected = pushed()
    cosine, index = best_match(tokens[:, :512], reference)
    with torch.autocast("cpu", dtype):
        assert torch.equal(pushed(), expected)
        again = best_match(tokens[:, :512], reference)
    assert torch.equal(again[0], cosine) and torch.equal(again[1], index)
