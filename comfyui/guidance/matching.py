# Written by scripts/comfyui_guidance.py from negguide/guidance/matching.py; change that.
"""The best match of every source token among reference tokens."""

from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn.functional import normalize

from .precision import as_given, norm_floor, reduction_dtype

# How many neighbouring similarities _first_maximum reduces together before it looks for an index.
_GROUP = 32
# Builds of torch for NVIDIA GPUs on Linux bring triton with them.
_TRITON = find_spec("triton") is not None and torch.version.cuda is not None
# Of the kernel; float64 stays with PyTorch.
_FUSED_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def check_tokens(
    source: Tensor, reference: Tensor, reference_mask: Tensor | None, source_name: str
) -> torch.dtype:
    """Raise what `best_match` promises to raise; the dtype to reduce in otherwise."""
    if source.ndim != 3 or 0 in source.shape:
        raise ValueError(f"{source_name} must be [B, N, C] and not empty, got {tuple(source.shape)}")
    batch, _, channels = source.shape
    if (
        reference.ndim != 3
        or 0 in reference.shape
        or reference.shape[0] not in (1, batch)
        or reference.shape[2] != channels
    ):
        raise ValueError(
            f"reference must be [{batch} or 1, M, {channels}] and not empty, to go with {source_name} of "
            f"shape {tuple(source.shape)}, got {tuple(reference.shape)}"
        )
    if reference_mask is not None:
        if reference_mask.dtype != torch.bool:
            raise TypeError(f"reference_mask must be a bool tensor, got dtype {reference_mask.dtype}")
        tokens = reference.shape[1]
        if reference_mask.shape not in ((batch, tokens), (1, tokens)):
            raise ValueError(
                f"reference_mask must be [{batch} or 1, {tokens}], one entry a reference token, "
                f"got {tuple(reference_mask.shape)}"
            )
    reduction_dtype("reference", reference)
    return reduction_dtype(source_name, source)


def best_match(
    source: Tensor, reference: Tensor, reference_mask: Tensor | None = None, tile: int = 1024
) -> tuple[Tensor, Tensor]:
    """For every source token, the highest cosine to a reference token and the index of that token.

    Formula: cosine_i = max_j <s_i,r_j> / (max(|s_i|, eps) max(|r_j|, eps)), index_i = the lowest j that
    reaches it, eps the rounding unit of the dtype; a zero token has cosine 0 to everything.

    The maximum is over the *reference* for each source token, as in the text of the paper; the code published
    with it takes it over the source.

    Memory: one [B, tile, tile] block of similarities at a time, beside copies of the size of the inputs; on an NVIDIA
    GPU with triton none of them, but numbers for each token.

    Args:
        source: [B, N, C].
        reference: [B, M, C], or [1, M, C] for one set of tokens that all samples share.
        reference_mask: bool, [B, M] or [1, M]; only tokens marked True can be matched.
        tile: side of a block, in tokens, >= 1.

    Returns:
        (cosine, index): [B, N] in the dtype of `source`, and [B, N] int64. A sample whose every reference
        token is masked has cosine -inf and index 0.

    Raises:
        ValueError: a shape does not fit, or tile < 1.
        TypeError: integer tokens, or a mask that is not bool.

    Source: NegToMe, arXiv 2412.01339.
    """
    check_tokens(source, reference, reference_mask, "source")
    if tile < 1:
        raise ValueError(f"tile must be at least 1 token, got {tile}")
    cosine, index = match(source, reference, reference_mask, tile)
    return cosine.to(source.dtype), index


def match(
    source: Tensor, reference: Tensor, reference_mask: Tensor | None, tile: int = 1024
) -> tuple[Tensor, Tensor]:
    """`best_match` without its checks, and with the cosine as it was summed: float64 for float64, else float32.

    On an NVIDIA GPU that triton supports, one kernel does it, and `tile` has no meaning; where a derivative is
    wanted or the kernel does not take the dtype, and everywhere else, PyTorch does it.
    """
    if _fused(source, reference):
        from .matching_triton import match_fused

        # triton launches on the current device, which need not be that of the tensors
        with torch.cuda.device(source.device):
            return match_fused(source, reference, reference_mask)
    return match_tiled(source, reference, reference_mask, tile)


def _fused(source: Tensor, reference: Tensor) -> bool:
    if not (_TRITON and source.is_cuda and reference.dtype == source.dtype in _FUSED_DTYPES):
        return False
    if torch.is_grad_enabled() and (source.requires_grad or reference.requires_grad):
        return False
    return torch.cuda.get_device_properties(source.device).major >= 8


def match_tiled(
    source: Tensor, reference: Tensor, reference_mask: Tensor | None, tile: int
) -> tuple[Tensor, Tensor]:
    """`match` in PyTorch, one [B, tile, tile] block of similarities at a time: what the kernel has to agree with."""
    dtype = reduction_dtype("source", source)
    floor = norm_floor(source.dtype)
    rows = normalize(source.to(dtype), dim=-1, eps=floor)
    columns = normalize(reference.to(dtype), dim=-1, eps=floor).transpose(1, 2)
    penalty = None
    if reference_mask is not None:
        # Added, not filled in: a broadcast addition costs a tenth of a masked_fill of the block on CPU.
        penalty = torch.zeros_like(reference_mask, dtype=dtype)
        penalty = penalty.masked_fill(~reference_mask, -torch.inf).unsqueeze(1)

    cosines, indices = [], []
    for top in range(0, rows.shape[1], tile):
        block = rows[:, top : top + tile]
        cosine, index = _first_maximum(block, columns, penalty, 0, tile)
        for left in range(tile, columns.shape[2], tile):
            value, position = _first_maximum(block, columns, penalty, left, tile)
            # Strictly greater, so that among equals the lowest index stays.
            better = value > cosine
            cosine = torch.where(better, value, cosine)
            index = torch.where(better, position, index)
        cosines.append(cosine)
        indices.append(index)
    # Rounding may lift the cosine of a token with itself above 1, and over a threshold of 1.
    return torch.cat(cosines, dim=1).clamp_max(1.0), torch.cat(indices, dim=1)


def match_others(groups: Tensor, tile: int = 1024) -> tuple[Tensor, Tensor]:
    """For every token of every image, its best match among the other images of its group.

    What `match` gives for each image with all others as its reference, at half the products: a block of similarities
    between two images serves both, by its rows and by its columns.

    Args:
        groups: [G, I, N, C] with I >= 2 images of N tokens.
        tile: side of a block, in tokens.

    Returns:
        (cosine, index): [G, I, N] as `match` sums them, and [G, I, N] int64 into the I * N tokens of the group.
    """
    count, images, tokens, _ = groups.shape
    if _fused(groups, groups):
        # the kernel reads every block from fast memory; it has no need to share them
        return match_each(groups, match)
    dtype = reduction_dtype("source", groups)
    rows = normalize(groups.to(dtype), dim=-1, eps=norm_floor(groups.dtype)).flatten(1, 2)
    cosine = rows.new_full((count, images * tokens), -torch.inf)
    index = torch.zeros(count, images * tokens, dtype=torch.int64, device=groups.device)

    def keep(span: slice, value: Tensor, position: Tensor) -> None:
        # Strictly greater, and blocks come in the order of what they are matched with: the lowest index stays.
        better = value > cosine[:, span]
        cosine[:, span] = torch.where(better, value, cosine[:, span])
        index[:, span] = torch.where(better, position, index[:, span])

    for first in range(images - 1):
        end = (first + 1) * tokens
        for top in range(first * tokens, end, tile):
            above = slice(top, min(top + tile, end))
            # from the next image on, so that no block holds two tokens of one image
            for left in range(end, images * tokens, tile):
                beside = slice(left, min(left + tile, images * tokens))
                with as_given(rows):
                    similarity = torch.matmul(rows[:, above], rows[:, beside].transpose(1, 2))
                value, position = _maximum_of_rows(similarity)
                keep(above, value, position + left)
                value, position = _maximum_of_columns(similarity)
                keep(beside, value, position + top)
    return cosine.clamp_max(1.0).unflatten(1, (images, tokens)), index.unflatten(1, (images, tokens))


def match_each(
    groups: Tensor, one: Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """`match_others` with the matching `one`, image by image."""
    images, tokens = groups.shape[1:3]
    cosines, indices = [], []
    for image in range(images):
        rest = torch.cat([groups[:, :image], groups[:, image + 1 :]], dim=1).flatten(1, 2)
        cosine, index = one(groups[:, image], rest, None)
        cosines.append(cosine)
        # what lies behind the image itself is further back in the whole group
        indices.append(index + tokens * (index >= image * tokens))
    return torch.stack(cosines, dim=1), torch.stack(indices, dim=1)


def _first_maximum(
    block: Tensor, columns: Tensor, penalty: Tensor | None, left: int, tile: int
) -> tuple[Tensor, Tensor]:
    """Highest similarity of each row of `block` to the `tile` columns from `left` on, and its first index."""
    with as_given(block):
        similarity = torch.matmul(block, columns[:, :, left : left + tile])
    if penalty is not None:
        similarity += penalty[:, :, left : left + tile]
    value, position = _maximum_of_rows(similarity)
    return value, position + left


def _maximum_of_rows(similarity: Tensor) -> tuple[Tensor, Tensor]:
    """Highest value of each row of [B, N, M], and the first column that has it: both [B, N]."""
    if similarity.shape[-1] % _GROUP:
        return similarity.max(dim=-1)
    # On CPU amax is vectorised and a maximum with its index is not: find the best group by amax, then
    # look for the index inside that group only. First group, first member: the lowest index wins a tie.
    groups = similarity.unflatten(-1, (-1, _GROUP))
    best = groups.amax(dim=-1).argmax(dim=-1)
    members = groups.gather(2, best[..., None, None].expand(-1, -1, 1, _GROUP)).squeeze(2)
    value, position = members.max(dim=-1)
    return value, best * _GROUP + position


def _maximum_of_columns(similarity: Tensor) -> tuple[Tensor, Tensor]:
    """Highest value of each column of [B, N, M], and the first row that has it: both [B, M]."""
    if similarity.shape[1] % _GROUP:
        return similarity.max(dim=1)
    groups = similarity.unflatten(1, (-1, _GROUP))
    best = groups.amax(dim=2).argmax(dim=1)
    members = groups.gather(1, best[:, None, None].expand(-1, 1, _GROUP, -1)).squeeze(1)
    value, position = members.max(dim=1)
    return value, best * _GROUP + position
