"""NegToMe against its formula written out, and its bounds."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from negguide.guidance import negtome
from negguide.guidance.tokens import (
    negtome_and_share,
    negtome_match,
    negtome_match_others,
    negtome_others,
    negtome_push,
    negtome_push_others,
)


def written_out(
    tokens: Tensor,
    reference: Tensor,
    alpha: float,
    threshold: float,
    source_mask: Tensor | None = None,
    reference_mask: Tensor | None = None,
    center: bool = False,
    max_push: float | None = None,
    perpendicular: bool = False,
) -> tuple[Tensor, Tensor]:
    """Token by token: best match, threshold, push. In float64."""
    result = tokens.double().clone()
    pushed = torch.zeros(tokens.shape[:2], dtype=torch.bool)
    for b in range(tokens.shape[0]):
        x, r = tokens[b].double(), reference[b % len(reference)].double()
        allowed = range(len(r)) if reference_mask is None else reference_mask[b].nonzero().flatten().tolist()
        taking_part = torch.cat([x, r[list(allowed)]])
        mean = taking_part.mean(0) if center else torch.zeros(x.shape[1], dtype=torch.float64)
        for i in range(len(x)):
            best, match = -2.0, 0
            for j in allowed:
                cosine = torch.cosine_similarity(x[i] - mean, r[j] - mean, dim=0).item()
                if cosine > best:
                    best, match = cosine, j
            share = 1.0 if source_mask is None else float(source_mask[b, i])
            if best > threshold and share != 0:
                push = share * alpha * (x[i] - r[match])
                if perpendicular:
                    push = push - (push @ x[i]) / (x[i] @ x[i]) * x[i]
                if max_push is not None and push.norm() > max_push * x[i].norm():
                    push = push * (max_push * x[i].norm() / push.norm())
                result[b, i] = x[i] + push
                pushed[b, i] = True
    return result, pushed.double().mean(1)


def tokens_and_reference(seed: int = 0, n: int = 12, m: int = 20, channels: int = 5):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, n, channels, generator=generator), torch.randn(2, m, channels, generator=generator)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    alpha=st.sampled_from([0.0, 0.3, 0.9, 10.0]),
    threshold=st.sampled_from([-1.0, 0.3, 0.65, 0.9, 1.0]),
    masks=st.sampled_from(["none", "source", "soft", "reference", "both"]),
    center=st.booleans(),
    max_push=st.sampled_from([None, 0.1, 1.0]),
    perpendicular=st.booleans(),
    m=st.sampled_from([1, 7, 32]),
)
def test_it_equals_the_formula_written_out(seed, alpha, threshold, masks, center, max_push, perpendicular, m):
    tokens, reference = tokens_and_reference(seed, n=6, m=m)
    generator = torch.Generator().manual_seed(seed + 1)
    source_mask = reference_mask = None
    if masks in ("source", "both"):
        source_mask = torch.rand(2, 6, generator=generator) > 0.5
    if masks == "soft":
        source_mask = (torch.rand(2, 6, generator=generator) - 0.2).clamp_min(0)
    if masks in ("reference", "both"):
        reference_mask = torch.rand(2, m, generator=generator) > 0.5
    arguments = (alpha, threshold, source_mask, reference_mask, center, max_push, perpendicular)
    result, share = negtome_and_share(tokens, reference, *arguments)
    expected, expected_share = written_out(tokens, reference, *arguments)
    torch.testing.assert_close(result.double(), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(share.double(), expected_share, rtol=0, atol=1e-6)
    assert torch.equal(negtome(tokens, reference, *arguments), result)


@pytest.mark.parametrize("max_push", [None, 0.3])
def test_a_perpendicular_push_has_nothing_along_the_token_and_ignores_the_length_of_its_match(max_push):
    tokens, reference = tokens_and_reference()
    arguments = {"center": False, "max_push": max_push, "perpendicular": True}
    result = negtome(tokens, reference, 3.0, -1.0, **arguments)
    push = result - tokens
    assert (push.norm(dim=-1) > 0.1).all()
    along = (push * tokens).sum(-1) / (push.norm(dim=-1) * tokens.norm(dim=-1))
    assert along.abs().max() < 1e-5
    # a match along the token itself has nothing to push from
    torch.testing.assert_close(negtome(tokens, 4 * tokens, 3.0, -1.0, **arguments), tokens)
    nothing = negtome(torch.zeros_like(tokens), reference, 3.0, -1.0, **arguments)
    assert nothing.isfinite().all()


def test_tokens_below_the_threshold_come_back_bit_for_bit():
    tokens, reference = tokens_and_reference()
    result, share = negtome_and_share(tokens, reference, 0.9, 0.8)
    unchanged = (result == tokens).all(-1)
    assert share.min() > 0 and share.max() < 1
    torch.testing.assert_close(1 - unchanged.float().mean(1), share)


def test_nothing_passes_a_threshold_of_one():
    tokens, _ = tokens_and_reference()
    result, share = negtome_and_share(tokens, 3 * tokens, 0.9, 1.0)
    assert torch.equal(result, tokens)
    assert torch.equal(share, torch.zeros(2))


def test_a_token_equal_to_its_match_stays_where_it_is():
    tokens, _ = tokens_and_reference()
    result, share = negtome_and_share(tokens, tokens.clone(), 0.9, 0.65)
    assert torch.equal(result, tokens)
    assert torch.equal(share, torch.ones(2))


def test_a_pushed_token_is_farther_from_its_match():
    tokens = torch.tensor([[[1.0, 0.0]]])
    reference = torch.tensor([[[0.0, -1.0], [1.0, 1.0]]])
    result = negtome(tokens, reference, 0.5, 0.0)
    torch.testing.assert_close(result, torch.tensor([[[1.0, -0.5]]]))


def test_a_push_is_never_longer_than_its_bound():
    tokens, reference = tokens_and_reference()
    result = negtome(tokens, reference, 50.0, -1.0, max_push=0.25)
    ratio = (result - tokens).norm(dim=-1) / tokens.norm(dim=-1)
    torch.testing.assert_close(ratio, torch.full_like(ratio, 0.25))
    gentle = negtome(tokens, reference, 1e-3, -1.0, max_push=0.25)
    torch.testing.assert_close(gentle, negtome(tokens, reference, 1e-3, -1.0))


def test_a_common_part_of_all_features_hides_the_best_match_unless_features_are_centred():
    tokens, reference = tokens_and_reference()
    common = 1e3 * torch.ones(5)
    crowded = negtome_and_share(tokens + common, reference + common, 0.9, 0.65)[1]
    assert torch.equal(crowded, torch.ones(2))
    _, share = negtome_and_share(tokens, reference, 0.9, 0.65, center=True)
    moved, moved_share = negtome_and_share(tokens + common, reference + common, 0.9, 0.65, center=True)
    assert share.max() < 1
    torch.testing.assert_close(moved_share, share)
    torch.testing.assert_close(
        moved - common, negtome(tokens, reference, 0.9, 0.65, center=True), rtol=0, atol=1e-2
    )


@pytest.mark.parametrize("center", [False, True])
def test_masked_reference_tokens_have_no_influence(center):
    tokens, reference = tokens_and_reference()
    mask = torch.rand(2, 20) > 0.5
    expected = negtome(tokens, reference, 0.9, 0.0, reference_mask=mask, center=center)
    reference[~mask] = 1e4
    result = negtome(tokens, reference, 0.9, 0.0, reference_mask=mask, center=center)
    torch.testing.assert_close(result, expected)


def test_a_sample_whose_reference_is_all_masked_is_left_alone():
    tokens, reference = tokens_and_reference()
    mask = torch.ones(2, 20, dtype=torch.bool)
    mask[0] = False
    result, share = negtome_and_share(tokens, reference, 0.9, -1.0, reference_mask=mask)
    assert torch.equal(result[0], tokens[0])
    assert share.tolist() == [0.0, 1.0]
    assert not torch.equal(result[1], tokens[1])


@pytest.mark.parametrize("center", [False, True])
def test_batch_mates_have_no_influence(center):
    tokens, reference = tokens_and_reference()
    together, share = negtome_and_share(tokens, reference, 0.9, 0.3, center=center, max_push=0.5)
    for b in range(2):
        alone, alone_share = negtome_and_share(
            tokens[b : b + 1], reference[b : b + 1], 0.9, 0.3, center=center, max_push=0.5
        )
        torch.testing.assert_close(together[b : b + 1], alone)
        assert alone_share[0] == share[b]
    tokens[1], reference[1] = torch.nan, torch.nan
    assert torch.equal(negtome(tokens, reference, 0.9, 0.3, center=center, max_push=0.5)[0], together[0])


def test_a_shared_reference_equals_one_copy_a_sample():
    tokens, reference = tokens_and_reference()
    shared, mask = reference[:1], torch.rand(2, 20) > 0.4
    for arguments in ({}, {"center": True}, {"reference_mask": mask, "center": True}, {"max_push": 0.1}):
        result = negtome(tokens, shared, 0.9, 0.0, **arguments)
        torch.testing.assert_close(result, negtome(tokens, shared.repeat(2, 1, 1), 0.9, 0.0, **arguments))


def test_the_input_is_not_changed():
    tokens, reference = tokens_and_reference()
    before = tokens.clone(), reference.clone()
    negtome(tokens, reference, 5.0, -1.0, center=True, max_push=2.0)
    assert torch.equal(tokens, before[0]) and torch.equal(reference, before[1])


@pytest.mark.parametrize("perpendicular", [False, True])
@pytest.mark.parametrize("max_push", [None, 0.3])
def test_derivatives_are_those_of_the_function(max_push, perpendicular):
    tokens, reference = (t.double().requires_grad_() for t in tokens_and_reference(n=4, m=6))
    assert torch.autograd.gradcheck(
        lambda x, r: negtome(x, r, 0.9, 0.2, center=True, max_push=max_push, perpendicular=perpendicular),
        (tokens, reference),
    )


def test_derivatives_are_finite_at_zero_and_equal_tokens():
    tokens = torch.zeros(1, 3, 4)
    tokens[0, 0] = 1.0
    reference = tokens.clone().requires_grad_()
    tokens.requires_grad_()
    negtome(tokens, reference, 0.9, -1.0, center=True, max_push=0.5).sum().backward()
    assert tokens.grad.isfinite().all() and reference.grad.isfinite().all()
    assert tokens.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": torch.ones(6, 4)}, r"tokens must be \[B, N, C\].*\(6, 4\)"),
        ({"reference": torch.ones(2, 5, 3)}, r"reference must be \[2 or 1, M, 4\].*\(2, 5, 3\)"),
        ({"source_mask": torch.ones(2, 5)}, r"source_mask must be \[2 or 1, 6\].*\(2, 5\)"),
        ({"reference_mask": torch.ones(5).bool()}, r"reference_mask must be \[2 or 1, 5\].*\(5,\)"),
        ({"alpha": -0.1}, "alpha must be >= 0, got -0.1"),
        ({"alpha": float("nan")}, "alpha must be >= 0, got nan"),
        ({"threshold": 1.5}, r"threshold must be a cosine in \[-1, 1\], got 1.5"),
        ({"max_push": 0.0}, "max_push must be > 0, or None for no bound, got 0.0"),
    ],
)
def test_wrong_input_is_an_error_that_names_it(change, message):
    arguments = {
        "tokens": torch.ones(2, 6, 4),
        "reference": torch.ones(2, 5, 4),
        "alpha": 0.9,
        "threshold": 0.6,
    }
    with pytest.raises(ValueError, match=message):
        negtome(**{**arguments, **change})


@pytest.mark.parametrize(
    "options", [{}, {"center": True, "threshold": 0.65}, {"max_push": 0.3}, {"perpendicular": True}]
)
@pytest.mark.parametrize("masked", [False, True])
def test_all_images_at_once_are_pushed_as_each_from_the_others(options, masked):
    groups = torch.randn(2, 3, 16, 8, generator=torch.Generator().manual_seed(1))
    mask = torch.rand(1, 16, generator=torch.Generator().manual_seed(2)) if masked else None
    options = {"threshold": 0.7, **options}
    result, share = negtome_others(groups, 0.9, source_mask=mask, **options)
    assert share.shape == (2, 3) and 0 < share.mean() < 1
    for image in range(3):
        rest = torch.cat([groups[:, :image], groups[:, image + 1 :]], dim=1).flatten(1, 2)
        alone, alone_share = negtome_and_share(groups[:, image], rest, 0.9, source_mask=mask, **options)
        assert torch.allclose(result[:, image], alone, atol=1e-5)
        assert torch.equal(share[:, image], alone_share)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"groups": torch.randn(2, 1, 4, 3)}, "at least two images"),
        ({"groups": torch.randn(2, 4, 3)}, r"groups must be \[G, I, N, C\]"),
        ({"alpha": -1.0}, "alpha must be >= 0, got -1.0"),
        ({"threshold": 2.0}, "threshold must be a cosine"),
        ({"source_mask": torch.ones(1, 5)}, r"source_mask must be \[1, 4\]"),
    ],
)
def test_wrong_groups_are_refused(arguments, message):
    given = {"groups": torch.randn(1, 2, 4, 3), "alpha": 0.9, "threshold": 0.5, **arguments}
    with pytest.raises(ValueError, match=message):
        negtome_others(**given)


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("max_push", [None, 0.4])
def test_a_match_of_other_tokens_decides_what_is_pushed_from_where(masks, max_push):
    """x_i + m_i alpha (x_i - r_j(i)) where the other tokens' cosine is above the threshold."""
    tokens, reference = tokens_and_reference()
    found_in, found_among = tokens_and_reference(seed=1)
    allowed = torch.arange(20).expand(2, 20) % 3 != 0 if masks else None
    mask = torch.linspace(0, 1, 12).expand(2, 12) if masks else None
    match = negtome_match(found_in, found_among, allowed, center=True)
    result, share = negtome_push(tokens, reference, match, 2.0, 0.7, mask, max_push)
    expected = tokens.clone()
    for b in range(2):
        chosen = (match.cosine[b] > 0.7) & (torch.ones(12) if mask is None else mask[b]).bool()
        assert 0 < chosen.sum() < 12 and share[b] == chosen.float().mean()
        for i in chosen.nonzero().flatten().tolist():
            push = (
                2.0
                * (1.0 if mask is None else mask[b, i])
                * (tokens[b, i] - reference[b, match.indices[b, i]])
            )
            if max_push is not None:
                push = push * min(1.0, float(max_push * tokens[b, i].norm() / push.norm()))
            expected[b, i] += push
    torch.testing.assert_close(result, expected)


@pytest.mark.parametrize("center", [False, True])
def test_match_and_push_in_turn_are_the_whole_method(center):
    tokens, reference = tokens_and_reference()
    match = negtome_match(tokens, reference, center=center)
    halves = negtome_push(tokens, reference, match, 0.9, 0.3)
    for half, whole in zip(
        halves, negtome_and_share(tokens, reference, 0.9, 0.3, center=center), strict=True
    ):
        assert torch.equal(half, whole)
    groups = torch.stack([tokens, reference[:, :12]], dim=1)
    match = negtome_match_others(groups, center)
    halves = negtome_push_others(groups, match, 0.9, 0.3)
    for half, whole in zip(halves, negtome_others(groups, 0.9, 0.3, center=center), strict=True):
        assert torch.equal(half, whole)


def test_a_match_of_another_number_of_tokens_is_refused():
    tokens, reference = tokens_and_reference()
    match = negtome_match(tokens[:, 1:], reference)
    with pytest.raises(
        ValueError, match=r"match must have cosine and indices of \[2, 12\], .* got \[2, 11\]"
    ):
        negtome_push(tokens, reference, match, 0.9, 0.3)
    match = negtome_match_others(torch.randn(2, 3, 12, 5))
    with pytest.raises(ValueError, match=r"match must have cosine and indices of \[2, 2, 12\]"):
        negtome_push_others(torch.randn(2, 2, 12, 5), match, 0.9, 0.3)
