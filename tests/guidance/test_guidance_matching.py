"""best_match against a dense search, and the memory it takes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from negguide.guidance import best_match
from negguide.guidance.matching import match, match_others


def dense(source: Tensor, reference: Tensor, mask: Tensor | None = None) -> Tensor:
    """All N x M cosines in float64, -inf where masked."""
    source, reference = source.double(), reference.double()
    lengths = source.norm(dim=-1)[:, :, None] * reference.norm(dim=-1)[:, None, :]
    cosine = torch.einsum("bnc,bmc->bnm", source, reference) / lengths.clamp_min(1e-300)
    return cosine if mask is None else cosine.masked_fill(~mask[:, None], -torch.inf)


class LargestAllocation(TorchDispatchMode):
    """Records the largest storage, in elements, that any operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                size = tensor.untyped_storage().nbytes() // tensor.element_size()
                self.elements = max(self.elements, size)
        return result


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    batch=st.integers(1, 3),
    n=st.integers(1, 40),
    m=st.one_of(st.integers(1, 100), st.sampled_from([32, 64, 96])),
    channels=st.integers(1, 12),
    tile=st.sampled_from([1, 5, 32, 64, 1024]),
    masked=st.booleans(),
)
def test_it_equals_a_dense_search(seed, batch, n, m, channels, tile, masked):
    generator = torch.Generator().manual_seed(seed)
    source = torch.randn(batch, n, channels, generator=generator)
    reference = torch.randn(batch, m, channels, generator=generator)
    mask = torch.rand(batch, m, generator=generator) > 0.6 if masked else None
    cosine, index = best_match(source, reference, mask, tile=tile)
    everything = dense(source, reference, mask)
    assert cosine.shape == index.shape == (batch, n) and index.dtype == torch.int64
    torch.testing.assert_close(cosine.double(), everything.amax(-1), rtol=0, atol=1e-5)
    # The index is that of a best token; which one of several that differ by rounding is open.
    chosen = everything.gather(-1, index[..., None]).squeeze(-1)
    torch.testing.assert_close(chosen, everything.amax(-1), rtol=0, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    n=st.integers(1, 20),
    m=st.one_of(st.integers(1, 100), st.sampled_from([32, 64, 96])),
    tile=st.sampled_from([1, 7, 32, 64, 1024]),
    distinct=st.integers(1, 6),
    masked=st.booleans(),
)
def test_among_equal_matches_the_lowest_index_wins(seed, n, m, tile, distinct, masked):
    # Tokens of sixteen +-1 have length 4: every cosine is exact in binary, so equal means equal.
    generator = torch.Generator().manual_seed(seed)
    vocabulary = torch.randint(0, 2, (distinct, 16), generator=generator) * 2.0 - 1.0
    source = vocabulary[torch.randint(0, distinct, (2, n), generator=generator)]
    reference = vocabulary[torch.randint(0, distinct, (2, m), generator=generator)]
    mask = torch.rand(2, m, generator=generator) > 0.5 if masked else None
    cosine, index = best_match(source, reference, mask, tile=tile)
    everything = dense(source, reference, mask)
    for b in range(2):
        for i in range(n):
            row = everything[b, i].tolist()
            assert cosine[b, i].item() == max(row)
            assert index[b, i].item() == row.index(max(row))


@pytest.mark.parametrize("tile", [4, 1024])
def test_a_sample_whose_reference_is_all_masked_matches_nothing(tile):
    source, reference = torch.randn(2, 3, 4), torch.randn(2, 32, 4)
    mask = torch.ones(2, 32, dtype=torch.bool)
    mask[1] = False
    cosine, index = best_match(source, reference, mask, tile=tile)
    assert torch.equal(cosine[1], torch.full((3,), -torch.inf))
    assert torch.equal(index[1], torch.zeros(3, dtype=torch.int64))
    assert cosine[0].isfinite().all()


def test_zero_tokens_have_cosine_zero_to_everything():
    source, reference = torch.randn(1, 3, 4), torch.randn(1, 5, 4)
    source[0, 1] = 0
    cosine, index = best_match(source, reference)
    assert cosine[0, 1] == 0 and index[0, 1] == 0
    cosine, _ = best_match(source, torch.zeros_like(reference))
    assert torch.equal(cosine, torch.zeros(1, 3))


def test_no_cosine_exceeds_one():
    tokens = torch.randn(2, 200, 37)
    cosine, index = best_match(tokens, tokens)
    assert cosine.max() <= 1
    assert torch.equal(index, torch.arange(200).expand(2, 200))


def test_the_length_of_tokens_does_not_matter():
    source, reference = torch.randn(2, 9, 6), torch.randn(2, 40, 6)
    cosine, index = best_match(source, reference)
    lengths = torch.rand(2, 40, 1) * 100 + 0.01
    scaled_cosine, scaled_index = best_match(0.01 * source, lengths * reference)
    torch.testing.assert_close(scaled_cosine, cosine)
    assert torch.equal(scaled_index, index)


def test_batch_mates_have_no_influence():
    source, reference = torch.randn(3, 20, 8), torch.randn(3, 64, 8)
    cosine, index = best_match(source, reference)
    source[1:], reference[1:] = torch.nan, torch.nan
    spoiled_cosine, spoiled_index = best_match(source, reference)
    assert torch.equal(spoiled_cosine[0], cosine[0])
    assert torch.equal(spoiled_index[0], index[0])


def test_one_reference_may_be_shared_by_all_samples():
    source, reference = torch.randn(3, 7, 5), torch.randn(1, 70, 5)
    mask = torch.rand(3, 70) > 0.5
    shared = best_match(source, reference, mask, tile=33)
    repeated = best_match(source, reference.repeat(3, 1, 1), mask, tile=33)
    torch.testing.assert_close(shared[0], repeated[0])
    assert torch.equal(shared[1], repeated[1])
    one_mask = best_match(source, reference, mask[:1])
    assert torch.equal(one_mask[1], best_match(source, reference, mask[:1].repeat(3, 1))[1])


def test_memory_is_bounded_by_one_tile_and_the_inputs():
    batch, channels, tile = 2, 4, 64
    for n, m in ((64, 64), (256, 256), (512, 1024), (1024, 2048)):
        source, reference = torch.randn(batch, n, channels), torch.randn(batch, m, channels)
        mask = torch.rand(batch, m) > 0.5
        with LargestAllocation() as recorded:
            best_match(source, reference, mask, tile=tile)
        block, inputs = batch * tile * tile, batch * max(n, m) * channels
        assert recorded.elements <= max(block, inputs), (n, m, recorded.elements)


def test_the_default_tile_bounds_memory_too_and_leaves_a_small_problem_whole():
    with LargestAllocation() as small:
        best_match(torch.randn(1, 256, 2), torch.randn(1, 768, 2))
    assert small.elements == 256 * 768
    with LargestAllocation() as large:
        best_match(torch.randn(1, 2100, 2), torch.randn(1, 3100, 2))
    assert large.elements == 1024 * 1024


def test_the_derivative_of_the_cosine_is_that_of_the_best_pair():
    source = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    reference = torch.randn(2, 32, 4, dtype=torch.float64, requires_grad=True)
    for tile in (5, 1024):
        assert torch.autograd.gradcheck(
            lambda s, r, tile=tile: best_match(s, r, tile=tile)[0], (source, reference)
        )


def test_derivatives_are_finite_at_zero_tokens_and_under_a_full_mask():
    source = torch.zeros(2, 3, 4, requires_grad=True)
    reference = torch.zeros(2, 5, 4, requires_grad=True)
    mask = torch.tensor([[True] * 5, [False] * 5])
    cosine, _ = best_match(source, reference, mask)
    cosine.masked_fill(cosine == -torch.inf, 0.0).sum().backward()
    assert source.grad.isfinite().all() and reference.grad.isfinite().all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"source": torch.ones(3, 4)}, ValueError, r"source must be \[B, N, C\].*\(3, 4\)"),
        ({"source": torch.ones(2, 0, 4)}, ValueError, r"source must be .*not empty.*\(2, 0, 4\)"),
        ({"reference": torch.ones(2, 0, 4)}, ValueError, r"reference must be .*not empty.*\(2, 0, 4\)"),
        ({"reference": torch.ones(2, 5, 3)}, ValueError, r"reference must be \[2 or 1, M, 4\].*\(2, 5, 3\)"),
        ({"reference": torch.ones(3, 5, 4)}, ValueError, r"reference must be \[2 or 1, M, 4\].*\(3, 5, 4\)"),
        ({"reference_mask": torch.ones(2, 4).bool()}, ValueError, r"reference_mask must be \[2 or 1, 5\]"),
        ({"reference_mask": torch.ones(2, 5)}, TypeError, "reference_mask must be a bool tensor.*float32"),
        ({"source": torch.ones(2, 3, 4).long()}, TypeError, "source must be a floating point tensor"),
        ({"reference": torch.ones(2, 5, 4).long()}, TypeError, "reference must be a floating point tensor"),
        ({"tile": 0}, ValueError, "tile must be at least 1 token, got 0"),
    ],
)
def test_wrong_input_is_an_error_that_names_it(change, error, message):
    arguments = {"source": torch.ones(2, 3, 4), "reference": torch.ones(2, 5, 4)}
    with pytest.raises(error, match=message):
        best_match(**{**arguments, **change})


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    images=st.integers(2, 4),
    n=st.sampled_from([1, 5, 32, 40, 64]),
    tile=st.sampled_from([7, 32, 1024]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    few_values=st.booleans(),
)
def test_matching_all_images_at_once_is_matching_each_with_the_others(
    seed, images, n, tile, dtype, few_values
):
    generator = torch.Generator().manual_seed(seed)
    groups = torch.randn(2, images, n, 6, generator=generator)
    if few_values:  # many exact ties, zero tokens among them
        groups = groups.round().clamp(-1, 1)
    groups = groups.to(dtype)
    cosine, index = match_others(groups, tile)
    for image in range(images):
        rest = [i for i in range(images) if i != image]
        value, position = match(groups[:, image], groups[:, rest].flatten(1, 2), None)
        # where a token of the rest lies in the whole group
        place = torch.cat([torch.arange(i * n, (i + 1) * n) for i in rest])
        assert torch.allclose(cosine[:, image], value, atol=1e-6)
        if few_values:
            # products of sums in another order may split a tie: what was found must still be a best match
            table = dense(groups[:, image], groups.flatten(1, 2))
            found = table.gather(2, index[:, image, :, None]).squeeze(2)
            assert torch.allclose(found, value.double(), atol=1e-5)
        else:
            assert torch.equal(index[:, image], place[position])


def test_among_equals_the_first_image_is_matched():
    groups = torch.ones(1, 3, 32, 4)
    cosine, index = match_others(groups, 16)
    assert index[0, 0].unique().tolist() == [32]
    assert index[0, 1].unique().tolist() == index[0, 2].unique().tolist() == [0]
    assert torch.allclose(cosine, torch.ones(1))


def test_matching_all_images_at_once_keeps_no_more_than_a_tile():
    groups = torch.randn(1, 3, 512, 4)
    with LargestAllocation() as seen:
        match_others(groups, 64)
    assert seen.elements <= max(64 * 64, groups.numel())
