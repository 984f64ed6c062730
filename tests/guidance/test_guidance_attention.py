"""NAG, NASA, ONG and VSF against their formulas written out."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from negguide.guidance import nag, nasa, ong, vsf


def features(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    scale=st.floats(0, 11),
    tau=st.floats(0.1, 5),
    alpha=st.floats(0, 1),
)
def test_nag_equals_its_formula_token_by_token(seed, scale, tau, alpha):
    positive, negative = features(2, 3, 7, seed=seed), features(2, 3, 7, seed=seed + 1)
    result = nag(positive, negative, scale, tau, alpha)
    for b in range(2):
        for i in range(3):
            wanted, unwanted = positive[b, i].tolist(), negative[b, i].tolist()
            z = [scale * p - (scale - 1) * n for p, n in zip(wanted, unwanted, strict=True)]
            ratio = sum(map(abs, z)) / sum(map(abs, wanted))
            if ratio > tau:
                z = [value * tau / ratio for value in z]
            expected = [alpha * value + (1 - alpha) * p for value, p in zip(z, wanted, strict=True)]
            torch.testing.assert_close(result[b, i], torch.tensor(expected), rtol=1e-4, atol=1e-4)


def test_nag_bounds_the_l1_norm_of_every_token():
    positive, negative = features(2, 5, 8), features(2, 5, 8, seed=1)
    result = nag(positive, negative, 20.0, 2.5, 1.0)
    ratio = result.abs().sum(-1) / positive.abs().sum(-1)
    torch.testing.assert_close(ratio, torch.full_like(ratio, 2.5))


def test_nag_returns_the_positive_for_scale_one_and_for_alpha_zero():
    positive, negative = features(2, 5, 8), features(2, 5, 8, seed=1)
    torch.testing.assert_close(nag(positive, negative, 1.0, 2.5, 0.4), positive)
    torch.testing.assert_close(nag(positive, negative, 5.0, 2.5, 0.0), positive)
    torch.testing.assert_close(nag(positive, positive, 5.0, 2.5, 0.4), positive)


def test_nag_of_a_zero_positive_is_zero():
    zero = torch.zeros(1, 2, 4)
    assert torch.equal(nag(zero, features(1, 2, 4), 5.0, 2.5, 0.5), zero)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_nasa_equals_its_formula_token_by_token(count):
    positive, negatives = features(2, 3, 7), features(count, 2, 3, 7, seed=1)
    result = nasa(positive, negatives, 0.7)
    for b in range(2):
        for i in range(3):
            expected = [
                p - 0.7 * sum(negatives[k, b, i, c].item() for k in range(count))
                for c, p in enumerate(positive[b, i].tolist())
            ]
            torch.testing.assert_close(result[b, i], torch.tensor(expected), rtol=1e-4, atol=1e-5)


def test_nasa_also_subtracts_what_both_share_which_ong_keeps():
    positive, negative = features(2, 3, 7), features(2, 3, 7, seed=1)
    assert torch.equal(nasa(positive, negative, 0.0), positive)
    assert torch.equal(nasa(positive, negative, 0.7), nasa(positive, negative[None], 0.7))
    torch.testing.assert_close(nasa(positive, positive, 0.4), 0.6 * positive)
    torch.testing.assert_close(ong(positive, positive, 0.4), positive)
    half = nasa(positive.bfloat16(), negative.bfloat16(), 0.7)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), nasa(positive, negative, 0.7), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("function", [nasa, ong])
def test_negatives_of_another_shape_are_refused(function):
    with pytest.raises(ValueError, match=r"\[K, B, N, C\], got \(2, 3, 7\) and \(2, 4, 7\)"):
        function(features(2, 3, 7), features(2, 4, 7), 1.0)
    with pytest.raises(TypeError, match="positive"):
        function(torch.ones(2, 3, 7, dtype=torch.int64), torch.ones(2, 3, 7, dtype=torch.int64), 1.0)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_ong_equals_its_formula_token_by_token(count):
    positive, negatives = features(2, 3, 7), features(count, 2, 3, 7, seed=1)
    result = ong(positive, negatives, 1.3)
    for b in range(2):
        for i in range(3):
            p = positive[b, i]
            expected = p.clone()
            for k in range(count):
                n = negatives[k, b, i]
                expected -= 1.3 * (n - torch.dot(n, p) / torch.dot(p, p) * p)
            torch.testing.assert_close(result[b, i], expected, rtol=1e-4, atol=1e-5)


def test_ong_takes_one_negative_without_the_axis_of_negatives():
    positive, negative = features(2, 3, 7), features(2, 3, 7, seed=1)
    assert torch.equal(ong(positive, negative, 0.7), ong(positive, negative[None], 0.7))


def test_ong_keeps_the_component_along_the_positive():
    positive, negatives = features(2, 3, 7), features(2, 2, 3, 7, seed=1)
    result = ong(positive, negatives + 3 * positive, 2.0)
    torch.testing.assert_close((result * positive).sum(-1), (positive**2).sum(-1), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(result, positive, atol=0.1)


def test_ong_with_a_negative_equal_to_the_positive_or_without_negatives_changes_nothing():
    positive = features(2, 3, 7)
    assert torch.equal(ong(positive, positive, 5.0), positive)
    assert torch.equal(ong(positive, features(0, 2, 3, 7), 5.0), positive)
    assert torch.equal(ong(positive, features(2, 2, 3, 7), 0.0), positive)


def attention_inputs(dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    shapes = [(2, 3, 6, 4), (2, 3, 5, 4), (2, 3, 5, 4), (2, 3, 7, 4), (2, 3, 7, 4)]
    return [features(*shape, seed=seed, dtype=dtype) for seed, shape in enumerate(shapes)]


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("bias", [0.0, -1.5, 0.7])
def test_vsf_equals_its_formula_written_out(scale, bias):
    query, key_pos, value_pos, key_neg, value_neg = attention_inputs()
    result = vsf(query, key_pos, value_pos, key_neg, value_neg, scale, bias)
    for b in range(2):
        for h in range(3):
            for i in range(6):
                q = query[b, h, i]
                positive = [math.exp(torch.dot(q, k).item() / 2) for k in key_pos[b, h]]
                negative = [math.exp(torch.dot(q, k).item() / 2 + bias) for k in key_neg[b, h]]
                total = sum(positive) + sum(negative)
                expected = torch.zeros(4)
                for weight, value in zip(positive, value_pos[b, h], strict=True):
                    expected += weight / total * value
                for weight, value in zip(negative, value_neg[b, h], strict=True):
                    expected -= scale * weight / total * value
                torch.testing.assert_close(result[b, h, i], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_orthogonal_vsf_takes_away_what_is_orthogonal_to_the_output_for_the_prompt(masked):
    query, key_pos, value_pos, key_neg, value_neg = attention_inputs()
    mask = torch.tensor([True, True, False, True, False, True, True]) if masked else None
    seen = None if mask is None else mask[None, None, None]
    result = vsf(query, key_pos, value_pos, key_neg, value_neg, 2.5, -0.7, mask_neg=seen, orthogonal=True)
    for b in range(2):
        for i in range(6):
            wanted, unwanted = torch.zeros(3, 4), torch.zeros(3, 4)
            for h in range(3):
                q = query[b, h, i]
                positive = [math.exp(torch.dot(q, k).item() / 2) for k in key_pos[b, h]]
                negative = [math.exp(torch.dot(q, k).item() / 2 - 0.7) for k in key_neg[b, h]]
                if mask is not None:
                    negative = [weight * open_ for weight, open_ in zip(negative, mask.tolist(), strict=True)]
                total = sum(positive) + sum(negative)
                for weight, value in zip(positive, value_pos[b, h], strict=True):
                    wanted[h] += weight / sum(positive) * value
                for weight, value in zip(negative, value_neg[b, h], strict=True):
                    unwanted[h] += weight / total * value
            along = (unwanted * wanted).sum() / (wanted * wanted).sum()
            expected = wanted - 2.5 * (unwanted - along * wanted)
            torch.testing.assert_close(result[b, :, i], expected, rtol=1e-4, atol=1e-5)


def test_orthogonal_vsf_changes_nothing_without_a_scale_and_with_the_prompt_as_its_own_negative():
    query, key, value, key_neg, value_neg = attention_inputs()
    plain = torch.softmax(query @ key.mT / 2, dim=-1) @ value
    torch.testing.assert_close(vsf(query, key, value, key, value, 3.0, orthogonal=True), plain)
    torch.testing.assert_close(vsf(query, key, value, key_neg, value_neg, 0.0, orthogonal=True), plain)
    closed = vsf(query, key, value, key_neg, value_neg, 3.0, bias=-1e4, orthogonal=True)
    torch.testing.assert_close(closed, plain)


def test_orthogonal_vsf_keeps_the_component_along_the_output_for_the_prompt():
    query, key, value, key_neg, value_neg = attention_inputs()
    plain = torch.softmax(query @ key.mT / 2, dim=-1) @ value
    result = vsf(query, key, value, key_neg, value_neg, 4.0, orthogonal=True)
    torch.testing.assert_close((result * plain).sum((1, 3)), (plain**2).sum((1, 3)), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(result, plain, atol=0.1)


@pytest.mark.parametrize("kind", ["bool", "float"])
def test_orthogonal_vsf_sees_what_the_masks_leave(kind):
    query, key_pos, value_pos, key_neg, value_neg = attention_inputs()
    pos = torch.tensor([True, True, True, False, False])[None, None, None]
    neg = torch.tensor([True, False, True, True, False, False, False])[None, None, None]
    masks = [m if kind == "bool" else torch.zeros(m.shape).masked_fill(~m, -torch.inf) for m in (pos, neg)]
    masked = vsf(query, key_pos, value_pos, key_neg, value_neg, 2.0, -0.4, *masks, orthogonal=True)
    cut = [
        t[:, :, m[0, 0, 0]] for t, m in ((key_pos, pos), (value_pos, pos), (key_neg, neg), (value_neg, neg))
    ]
    torch.testing.assert_close(masked, vsf(query, *cut, 2.0, -0.4, orthogonal=True))


def test_vsf_with_the_negative_keys_biased_away_is_plain_attention():
    query, key_pos, value_pos, key_neg, value_neg = attention_inputs()
    result = vsf(query, key_pos, value_pos, key_neg, value_neg, 3.0, bias=-1e4)
    plain = torch.softmax(query @ key_pos.mT / 2, dim=-1) @ value_pos
    torch.testing.assert_close(result, plain)


def test_vsf_with_the_prompt_as_its_own_negative_cancels_to_zero():
    query, key, value, _, _ = attention_inputs()
    result = vsf(query, key, value, key, value, 1.0)
    torch.testing.assert_close(result, torch.zeros_like(result), rtol=0, atol=1e-6)


def test_batch_mates_have_no_influence():
    positive, negatives = features(2, 3, 7), features(2, 2, 3, 7, seed=1)
    inputs = attention_inputs()
    before = (
        nag(positive, negatives[0], 5.0, 2.5, 0.5),
        ong(positive, negatives, 1.0),
        vsf(*inputs, 1.0, -0.5),
        vsf(*inputs, 1.0, -0.5, orthogonal=True),
    )
    positive[1], negatives[:, 1] = torch.nan, torch.nan
    for tensor in inputs:
        tensor[1] = torch.nan
    after = (
        nag(positive, negatives[0], 5.0, 2.5, 0.5),
        ong(positive, negatives, 1.0),
        vsf(*inputs, 1.0, -0.5),
        vsf(*inputs, 1.0, -0.5, orthogonal=True),
    )
    for first, second in zip(before, after, strict=True):
        assert torch.equal(first[0], second[0])


def test_derivatives_are_those_of_the_functions():
    positive = features(1, 2, 4, dtype=torch.float64).requires_grad_()
    negatives = features(2, 1, 2, 4, seed=1, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda p, n: nag(p, n[0], 4.0, 1.5, 0.6), (positive, negatives))
    assert torch.autograd.gradcheck(lambda p, n: ong(p, n, 1.2), (positive, negatives))
    inputs = [tensor[:1, :1, :3].clone().requires_grad_() for tensor in attention_inputs(torch.float64)]
    assert torch.autograd.gradcheck(lambda *tensors: vsf(*tensors, 1.5, -0.3), inputs)
    assert torch.autograd.gradcheck(lambda *tensors: vsf(*tensors, 1.5, -0.3, orthogonal=True), inputs)


def test_derivatives_are_finite_at_zero_features():
    positive = torch.zeros(1, 2, 4, requires_grad=True)
    negative = features(1, 2, 4).requires_grad_()
    (nag(positive, negative, 4.0, 1.5, 0.6).sum() + ong(positive, negative, 1.2).sum()).backward()
    assert positive.grad.isfinite().all() and negative.grad.isfinite().all()
    assert negative.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: nag(features(2, 3, 4), features(2, 3, 5), 2.0, 2.0, 0.5),
            "positive and negative must both be",
        ),
        (lambda: nag(features(3, 4), features(3, 4), 2.0, 2.0, 0.5), "positive and negative must both be"),
        (lambda: nag(features(2, 3, 4), features(2, 3, 4), 2.0, 0.0, 0.5), "tau must be > 0, got 0.0"),
        (lambda: ong(features(2, 3, 4), features(3, 3, 4), 1.0), r"negatives of that shape or.*\(3, 3, 4\)"),
        (lambda: ong(features(3, 4), features(3, 4), 1.0), r"positive must be \[B, N, C\]"),
        (
            lambda: vsf(*attention_inputs()[:3], features(2, 3, 7, 5), features(2, 3, 7, 5), 1.0),
            r"key_neg must be \[B, H, M, D\].*\(2, 3, 7, 5\)",
        ),
        (
            lambda: vsf(*attention_inputs()[:2], features(2, 3, 6, 4), *attention_inputs()[3:], 1.0),
            r"value_pos must have the shape of key_pos, \(2, 3, 5, 4\), got \(2, 3, 6, 4\)",
        ),
    ],
)
def test_wrong_input_is_an_error_that_names_it(call, message):
    with pytest.raises(ValueError, match=message):
        call()
