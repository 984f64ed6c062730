"""The kernel against a dense search in float64, on a GPU or in Triton's interpreter, and that it compiles."""

import os
import subprocess
import sys
from unittest import mock

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="triton is not there; builds of torch without CUDA come without it")

from negguide.guidance import best_match, matching, matching_triton, tokens
from negguide.guidance.matching_triton import match_fused
from negguide.guidance.tokens import negtome_and_share

GPU = torch.cuda.is_available()
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"

# Triton is interpreted from its import on or not at all, so the interpreter has a process of its own.
runs = pytest.mark.skipif(not (GPU or INTERPRETED), reason="run by test_it_is_right_in_the_interpreter")
without_gpu = pytest.mark.skipif(GPU or INTERPRETED, reason="on a GPU the kernel itself runs")
on_gpu = pytest.mark.skipif(not GPU or INTERPRETED, reason="needs an NVIDIA GPU")

# 128 tokens, or 64 in float32, are one block.
SHAPES = [(1, 1, 1, 4), (2, 1, 70, 16), (2, 70, 1, 33), (1, 129, 131, 64), (3, 64, 128, 70), (1, 9, 700, 8)]
# With few programs one searches many blocks of the reference, with many each searches one.
programs = pytest.mark.parametrize("programs", [1, 6, 256])
TOLERANCE = {torch.float16: 1e-5, torch.bfloat16: 1e-5, torch.float32: 2e-6}


@pytest.fixture(autouse=True, scope="module")
def bfloat16_in_the_interpreter():
    """Its matrix product takes the bits of bfloat16 for whole numbers; give it their values."""
    if not INTERPRETED:
        yield
        return
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    dot = InterpreterBuilder.create_dot

    def widened(handle):
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        return TensorHandle((handle.data.astype("uint32") << 16).view("float32"), tl.float32)

    def create_dot(self, a, b, *rest):
        return dot(self, widened(a), widened(b), *rest)

    with mock.patch.object(InterpreterBuilder, "create_dot", create_dot):
        yield


def draw(seed: int, shape: tuple[int, int, int, int], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    batch, n, m, channels = shape
    generator = torch.Generator().manual_seed(seed)
    source = torch.randn(batch, n, channels, generator=generator)
    reference = 0.1 * torch.randn(batch, m, channels, generator=generator)
    mask = torch.rand(batch, m, generator=generator) > 0.5
    return source.to(DEVICE, dtype), reference.to(DEVICE, dtype), mask.to(DEVICE)


def dense(source: Tensor, reference: Tensor, mask: Tensor | None = None) -> Tensor:
    """All N x M cosines in float64, -inf where masked."""
    source, reference = source.double(), reference.double()
    lengths = source.norm(dim=-1)[:, :, None] * reference.norm(dim=-1)[:, None, :]
    cosine = torch.matmul(source, reference.transpose(1, 2)) / lengths.clamp_min(1e-300)
    return cosine if mask is None else cosine.masked_fill(~mask[:, None], -torch.inf)


def check(source: Tensor, reference: Tensor, mask: Tensor | None) -> None:
    cosine, index = match_fused(source, reference, mask)
    everything = dense(source, reference, mask)
    highest = everything.amax(-1)
    assert cosine.shape == index.shape == source.shape[:2]
    assert (cosine.dtype, index.dtype) == (torch.float32, torch.int64)
    tolerance = TOLERANCE[source.dtype]
    torch.testing.assert_close(cosine.double(), highest, rtol=0, atol=tolerance)
    # The index is that of a best token; which one of several that differ by rounding is open.
    chosen = everything.gather(-1, index[..., None]).squeeze(-1)
    torch.testing.assert_close(chosen, highest, rtol=0, atol=tolerance)
    assert (index[highest == -torch.inf] == 0).all()


@runs
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", SHAPES)
@programs
def test_it_equals_a_dense_search(shape, dtype, programs, monkeypatch):
    monkeypatch.setattr(matching_triton, "_PROGRAMS", programs)
    source, reference, mask = draw(sum(shape), shape, dtype)
    check(source, reference, None)
    check(source, reference[:1], mask)
    check(source, reference, mask[:1])


@runs
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("m", [7, 150, 700])
@programs
def test_among_equal_matches_the_lowest_index_wins(m, dtype, programs, monkeypatch):
    monkeypatch.setattr(matching_triton, "_PROGRAMS", programs)
    # Tokens of sixteen +-1 have length 4: every cosine is exact in binary, so equal means equal.
    generator = torch.Generator().manual_seed(m)
    vocabulary = torch.randint(0, 2, (5, 16), generator=generator) * 2.0 - 1.0
    source = vocabulary[torch.randint(0, 5, (2, 9), generator=generator)].to(DEVICE, dtype)
    reference = vocabulary[torch.randint(0, 5, (2, m), generator=generator)].to(DEVICE, dtype)
    mask = (torch.rand(2, m, generator=generator) > 0.5).to(DEVICE)
    for allowed in (None, mask):
        cosine, index = match_fused(source, reference, allowed)
        everything = dense(source, reference, allowed).tolist()
        for b in range(2):
            for i, row in enumerate(everything[b]):
                assert cosine[b, i].item() == max(row)
                assert index[b, i].item() == row.index(max(row))


@runs
@pytest.mark.parametrize("dtype", TOLERANCE)
@programs
def test_a_sample_whose_reference_is_all_masked_matches_nothing(dtype, programs, monkeypatch):
    monkeypatch.setattr(matching_triton, "_PROGRAMS", programs)
    source, reference, mask = draw(1, (2, 3, 700, 8), dtype)
    mask[1] = False
    mask[0, :600] = False
    cosine, index = match_fused(source, reference, mask)
    assert torch.equal(cosine[1].cpu(), torch.full((3,), -torch.inf)) and not index[1].any()
    assert cosine[0].isfinite().all() and (index[0] >= 600).all()


@runs
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_zero_tiny_and_large_tokens_give_what_pytorch_gives(dtype):
    lengths = torch.tensor([0.0, 1e-6, 1e-3, 1.0, 1e4]).to(DEVICE, dtype)
    source, reference, _ = draw(2, (1, 5, 5, 16), dtype)
    source, reference = source * lengths[:, None], reference * lengths.flip(0)[:, None]
    for j in range(5):
        expected, _ = matching.match_tiled(source, reference[:, j : j + 1], None, 1024)
        cosine, _ = match_fused(source, reference[:, j : j + 1], None)
        torch.testing.assert_close(cosine, expected, rtol=1e-5, atol=1e-6)


@runs
def test_no_cosine_exceeds_one_and_every_token_finds_itself():
    source, _, _ = draw(3, (2, 200, 1, 37), torch.float32)
    cosine, index = match_fused(source, source, None)
    assert cosine.max() <= 1
    assert torch.equal(index.cpu(), torch.arange(200).expand(2, 200))


@runs
def test_tokens_need_not_lie_next_to_each_other():
    source, reference, _ = draw(4, (2, 40, 90, 24), torch.float16)
    expected = match_fused(source[:, 5:30].contiguous(), reference[..., ::2].repeat_interleave(2, 2), None)
    strided = reference.transpose(1, 2).contiguous().transpose(1, 2)
    strided = (
        torch.stack([strided[..., ::2]] * 2, dim=-1).flatten(2).transpose(0, 1).contiguous().transpose(0, 1)
    )
    cosine, index = match_fused(source[:, 5:30], strided, None)
    assert torch.equal(cosine, expected[0]) and torch.equal(index, expected[1])


@runs
def test_batch_mates_and_masked_tokens_have_no_influence():
    source, reference, mask = draw(5, (2, 20, 90, 8), torch.float32)
    cosine, index = match_fused(source, reference, mask)
    source[1], reference[1] = torch.nan, torch.nan
    reference[0][~mask[0]] = torch.nan
    spoiled_cosine, spoiled_index = match_fused(source, reference, mask)
    assert torch.equal(spoiled_cosine[0], cosine[0]) and torch.equal(spoiled_index[0], index[0])


@runs
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_negtome_pushes_the_same_with_it(dtype, monkeypatch):
    source, reference, mask = draw(6, (2, 40, 90, 6), dtype)
    source_mask = torch.linspace(0, 1, 40).to(DEVICE, dtype).expand(2, 40)

    def push(center):
        return negtome_and_share(source, reference, 0.9, 0.7, source_mask, mask, center=center, max_push=0.5)

    for center in (False, True):
        monkeypatch.setattr(tokens, "best_matches", lambda s, r, m: matching.match_tiled(s, r, m, 1024))
        expected, expected_share = push(center)
        monkeypatch.setattr(tokens, "best_matches", match_fused)
        pushed, share = push(center)
        assert 0 < expected_share.mean() < 1
        assert torch.equal(pushed, expected) and torch.equal(share, expected_share)


@without_gpu
def test_it_is_right_in_the_interpreter():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
    assert " passed" in result.stdout


@without_gpu
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_it_compiles_for_gpus_and_fits_their_shared_memory(dtype, capability):
    # The interpreter runs what the compiler refuses.
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    config = matching_triton._SINGLE if dtype == torch.float32 else matching_triton._HALF
    element = {torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.float32: "*fp32"}[dtype]
    kinds = {
        "source": element,
        "reference": element,
        "inverse_norms": "*fp32",
        "values": "*fp32",
        "indices": "*i64",
        "source_channel_stride": "constexpr",
        "reference_channel_stride": "constexpr",
    }
    kernel = matching_triton._best_of_blocks
    blocks = {name: size for name, size in config.items() if name.endswith("_BLOCK")}
    signature = {name: kinds.get(name, "constexpr" if name in blocks else "i32") for name in kernel.arg_names}
    aligned = {
        (i,): [["tt.divisibility", 16]] for i, kind in enumerate(signature.values()) if kind != "constexpr"
    }
    constants = {**blocks, "source_channel_stride": 1, "reference_channel_stride": 1}
    built = compile(
        ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned),
        target=GPUTarget("cuda", capability, 32),
        options={name: config[name] for name in ("num_warps", "num_stages")},
    )
    # 99 KiB a program in capability 8.6 and 8.9, the least from 8.0 on
    assert 0 < built.metadata.shared <= 99 * 1024
    tensor_cores = "wgmma.mma_async" if capability == 90 else "mma.sync"
    assert (tensor_cores in built.asm["ptx"]) == (dtype != torch.float32)


@without_gpu
def test_torch_compile_takes_the_launch_into_one_graph():
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph)
        raise KeyboardInterrupt

    source, reference, mask = torch.randn(2, 9, 4), torch.randn(1, 64, 4), torch.ones(2, 64, dtype=torch.bool)
    torch.compiler.reset()
    # Without a GPU it would take the kernel for an ordinary function.
    with mock.patch("torch.utils._triton.has_triton", return_value=True), pytest.raises(KeyboardInterrupt):
        torch.compile(match_fused, fullgraph=True, backend=keep)(source, reference, mask)
    assert "triton_kernel_wrapper_mutation" in graphs[0].code


@on_gpu
@pytest.mark.parametrize("dtype", [*TOLERANCE, torch.float64])
def test_best_match_on_a_gpu_is_that_of_the_cpu(dtype):
    source, reference, mask = draw(7, (2, 300, 700, 40), dtype)
    cosine, index = best_match(source, reference, mask)
    expected, expected_index = best_match(source.cpu(), reference.cpu(), mask.cpu())
    torch.testing.assert_close(cosine.cpu(), expected)
    assert (index.cpu() == expected_index).double().mean() > 0.99
    compiled = torch.compile(best_match, fullgraph=True)(source, reference, mask)
    torch.testing.assert_close(compiled[0], cosine)
    assert (compiled[1] == index).double().mean() > 0.99


@on_gpu
def test_a_derivative_is_that_of_the_best_pair():
    source, reference, _ = draw(8, (1, 20, 30, 8), torch.float32)
    source.requires_grad_()
    cosine, index = best_match(source, reference)
    cosine.sum().backward()
    other = source.detach().requires_grad_()
    torch.nn.functional.cosine_similarity(other, reference[0][index], dim=-1).sum().backward()
    torch.testing.assert_close(source.grad, other.grad)
