# Written by scripts/comfyui_guidance.py from negguide/guidance/tokens.py; change that.
"""NegToMe: push tokens away from their best match, in token space."""

from typing import NamedTuple

import torch
from torch import Tensor

from .matching import check_tokens, match_others
from .matching import match as best_matches
from .precision import as_given, norm_floor, reduction_dtype
from .projection import without_component


class Match(NamedTuple):
    """The best match of each of N tokens among reference tokens.

    Attributes:
        cosine: [..., N] to the best match, in the reduction dtype.
        indices: [..., N] int64, which reference token that is.
    """

    cosine: Tensor
    indices: Tensor


def negtome(
    tokens: Tensor,
    reference: Tensor,
    alpha: float,
    threshold: float,
    source_mask: Tensor | None = None,
    reference_mask: Tensor | None = None,
    center: bool = False,
    max_push: float | None = None,
    perpendicular: bool = False,
) -> Tensor:
    """Push each token away from the reference token that resembles it most.

    Formula: x_i <- x_i + push_i, where push_i = m_i alpha (x_i - r_j*(i)) if cos(x_i, r_j*(i)) > threshold
    and 0 otherwise; j*(i) is the best match of `best_match` and m_i the source mask, 1 without one. Tokens
    that are not pushed come back bit for bit.

    Args:
        tokens: [B, N, C].
        reference: [B, M, C], or [1, M, C] shared by all samples.
        alpha: strength, >= 0. Published: 0.9.
        threshold: cosine in [-1, 1] above which a token is pushed; lower pushes more tokens. Published: 0.65
            (FLUX), 0.7 (SDXL).
        source_mask: [B, N] or [1, N], bool or floating in [0, 1]: how strongly each token takes part.
        reference_mask: bool, [B, M] or [1, M]: which reference tokens may be matched; the others have no
            influence.
        center: match after subtracting the mean token (of tokens and unmasked reference together, per
            sample). For models whose features share a large common part, so that every cosine is near 1. The
            push stays the difference of the tokens themselves, which the mean does not change.
        max_push: bound on |push_i| / |x_i|, both L2 over the channels, > 0; keeps a large alpha safe. None:
            no bound.
        perpendicular: push without the component along the token itself, so that a token changes by what its match
            has and it has not, and not by being longer or shorter than its match:
            push_i = -m_i alpha (r_j - (<r_j, x_i> / max(|x_i|^2, eps^2)) x_i), eps the rounding unit of the dtype.
            What Perp-Neg does to whole predictions, for each token.

    Returns:
        [B, N, C] in the dtype of `tokens`. Gradients flow through x_i and r_j*(i), not through the matching.

    Raises:
        ValueError: a shape does not fit; alpha, threshold or max_push out of range.
        TypeError: integer tokens, or a reference_mask that is not bool.

    Source: NegToMe, arXiv 2412.01339; `center`, `max_push` and `perpendicular` are this project's.
    """
    return negtome_and_share(
        tokens, reference, alpha, threshold, source_mask, reference_mask, center, max_push, perpendicular
    )[0]


def negtome_and_share(
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
    """`negtome`, and the share of each sample's N tokens that it pushed.

    A token counts as pushed where its cosine is above the threshold and its source mask is not 0.

    Returns:
        (tokens, share): [B, N, C] in the dtype of `tokens`, and [B] float32 in [0, 1].
    """
    match = negtome_match(tokens, reference, reference_mask, center)
    return negtome_push(tokens, reference, match, alpha, threshold, source_mask, max_push, perpendicular)


def negtome_match(
    tokens: Tensor, reference: Tensor, reference_mask: Tensor | None = None, center: bool = False
) -> Match:
    """The matching of `negtome` alone: what costs most of it, and what blocks of a model can share.

    Args:
        tokens, reference, reference_mask, center: as in `negtome`.

    Returns:
        Match of [B, N].

    Raises:
        ValueError, TypeError: as `negtome`.
    """
    dtype = check_tokens(tokens, reference, reference_mask, "tokens")
    # The choice of a match has no gradient, so no similarities need to be kept for a backward pass.
    source, target = tokens.detach(), reference.detach()
    if center:
        # In the reduction dtype, for the difference from the mean may be small beside the mean.
        source, target = source.to(dtype), target.to(dtype)
        mean = _mean_token(source, target, reference_mask)
        source, target = source - mean, target - mean
    # The cosine meets the threshold unrounded, in the reduction dtype.
    return Match(*best_matches(source, target, reference_mask))


def negtome_push(
    tokens: Tensor,
    reference: Tensor,
    match: Match,
    alpha: float,
    threshold: float,
    source_mask: Tensor | None = None,
    max_push: float | None = None,
    perpendicular: bool = False,
) -> tuple[Tensor, Tensor]:
    """The push of `negtome` alone, with a match that may be of other tokens, as many as these.

    Formula: x_i <- x_i + push_i as in `negtome`, with j*(i) and the cosine of `match`.

    Args:
        tokens, reference, alpha, threshold, source_mask, max_push, perpendicular: as in `negtome`.
        match: of [B, N], with indices below M.

    Returns:
        (tokens, share) as `negtome_and_share`.

    Raises:
        ValueError: a shape does not fit; alpha, threshold or max_push out of range.
        TypeError: integer tokens.
    """
    check_tokens(tokens, reference, None, "tokens")
    _check_match(match, tokens)
    if source_mask is not None and source_mask.shape not in (tokens.shape[:2], (1, tokens.shape[1])):
        raise ValueError(
            f"source_mask must be [{tokens.shape[0]} or 1, {tokens.shape[1]}], one entry a token, "
            f"got {tuple(source_mask.shape)}"
        )
    _check_strength(alpha, threshold, max_push)
    matched = _rows(reference, match.indices)
    result, pushed = _push(
        tokens, matched, match.cosine, alpha, threshold, source_mask, max_push, perpendicular
    )
    return result, pushed.to(torch.float32).mean(dim=1)


def negtome_others(
    groups: Tensor,
    alpha: float,
    threshold: float,
    source_mask: Tensor | None = None,
    center: bool = False,
    max_push: float | None = None,
    perpendicular: bool = False,
) -> tuple[Tensor, Tensor]:
    """`negtome_and_share` of every image of a group, with the tokens of all other images of the group as reference.

    Args:
        groups: [G, I, N, C]: G groups of I >= 2 images of N tokens.
        alpha, threshold, center, max_push, perpendicular: as in `negtome`.
        source_mask: [1, N], as in `negtome`, the same for all images.

    Returns:
        (tokens, share): [G, I, N, C] in the dtype of `groups`, and [G, I] float32 in [0, 1].

    Raises:
        ValueError: fewer than two images; alpha, threshold or max_push out of range.
        TypeError: integer tokens.
    """
    match = negtome_match_others(groups, center)
    return negtome_push_others(groups, match, alpha, threshold, source_mask, max_push, perpendicular)


def negtome_match_others(groups: Tensor, center: bool = False) -> Match:
    """The matching of `negtome_others` alone.

    Args:
        groups, center: as in `negtome_others`.

    Returns:
        Match of [G, I, N], with indices into the I * N tokens of the group.

    Raises:
        ValueError, TypeError: as `negtome_others`.
    """
    _check_groups(groups)
    source = groups.detach()
    if center:
        source = source.to(reduction_dtype("groups", groups))
        source = source - source.mean(dim=(1, 2), keepdim=True)
    return Match(*match_others(source))


def negtome_push_others(
    groups: Tensor,
    match: Match,
    alpha: float,
    threshold: float,
    source_mask: Tensor | None = None,
    max_push: float | None = None,
    perpendicular: bool = False,
) -> tuple[Tensor, Tensor]:
    """The push of `negtome_others` alone, with a match that may be of other tokens, as many as these.

    Args:
        groups, alpha, threshold, source_mask, max_push, perpendicular: as in `negtome_others`.
        match: of [G, I, N], with indices into the I * N tokens of the group.

    Returns:
        (tokens, share) as `negtome_others`.

    Raises:
        ValueError, TypeError: as `negtome_others`; a match of another shape.
    """
    _check_groups(groups)
    images, tokens = groups.shape[1:3]
    if source_mask is not None and source_mask.shape != (1, tokens):
        raise ValueError(
            f"source_mask must be [1, {tokens}], one entry a token, got {tuple(source_mask.shape)}"
        )
    _check_strength(alpha, threshold, max_push)
    _check_match(match, groups)
    table = groups.flatten(1, 2)
    mask = None if source_mask is None else source_mask.repeat(1, images)
    matched = _rows(table, match.indices.flatten(1))
    result, pushed = _push(
        table, matched, match.cosine.flatten(1), alpha, threshold, mask, max_push, perpendicular
    )
    share = pushed.to(torch.float32).unflatten(1, (images, tokens)).mean(dim=2)
    return result.unflatten(1, (images, tokens)), share


def _check_groups(groups: Tensor) -> None:
    if groups.ndim != 4 or 0 in groups.shape or groups.shape[1] < 2:
        raise ValueError(
            f"groups must be [G, I, N, C] with at least two images each, got {tuple(groups.shape)}"
        )


def _check_match(match: Match, tokens: Tensor) -> None:
    expected = list(tokens.shape[:-1])
    shapes = [list(part.shape) for part in match]
    if shapes != [expected, expected]:
        raise ValueError(
            f"match must have cosine and indices of {expected}, one entry a token, got {shapes[0]} and {shapes[1]}"
        )


def _check_strength(alpha: float, threshold: float, max_push: float | None) -> None:
    # Written so that NaN fails too.
    if not alpha >= 0:
        raise ValueError(f"alpha must be >= 0, got {alpha}")
    if not -1 <= threshold <= 1:
        raise ValueError(f"threshold must be a cosine in [-1, 1], got {threshold}")
    if max_push is not None and not max_push > 0:
        raise ValueError(f"max_push must be > 0, or None for no bound, got {max_push}")


def _push(
    tokens: Tensor,
    matched: Tensor,
    cosine: Tensor,
    alpha: float,
    threshold: float,
    source_mask: Tensor | None,
    max_push: float | None,
    perpendicular: bool,
) -> tuple[Tensor, Tensor]:
    """Tokens [B, N, C] away from their matches, and which of them were pushed, bool [B, N]."""
    dtype = cosine.dtype
    pushed = cosine > threshold
    if source_mask is not None:
        pushed = pushed & (source_mask != 0)

    matched = matched.to(tokens.dtype)
    strength = alpha * pushed.to(dtype)
    if source_mask is not None:
        strength = strength * source_mask
    if perpendicular:
        floor = norm_floor(tokens.dtype)
        matched = without_component(matched.to(dtype), tokens.to(dtype), (-1,), floor).to(tokens.dtype)
    if max_push is not None:
        push = matched if perpendicular else tokens - matched
        distance = torch.linalg.vector_norm(push, dim=-1, dtype=dtype)
        length = torch.linalg.vector_norm(tokens, dim=-1, dtype=dtype)
        strength = torch.minimum(strength, max_push * length / distance.clamp_min(norm_floor(dtype)))
    weight = -strength.to(tokens.dtype).unsqueeze(-1)
    # x + s (x - r) is the interpolation from x to r by -s: one pass, no copy of the difference.
    result = torch.addcmul(tokens, matched, weight) if perpendicular else torch.lerp(tokens, matched, weight)
    return result, pushed


def _mean_token(source: Tensor, reference: Tensor, reference_mask: Tensor | None) -> Tensor:
    """[B, 1, C]: the mean over the source tokens and the unmasked reference tokens of each sample."""
    if reference_mask is None:
        total = source.sum(dim=1, keepdim=True) + reference.sum(dim=1, keepdim=True)
        return total / (source.shape[1] + reference.shape[1])
    taking_part = reference_mask.to(reference.dtype).unsqueeze(1)
    with as_given(reference):
        total = source.sum(dim=1, keepdim=True) + torch.matmul(taking_part, reference)
    return total / (source.shape[1] + taking_part.sum(dim=-1, keepdim=True))


def _rows(reference: Tensor, index: Tensor) -> Tensor:
    """reference[b, index[b, i]] as [B, N, C]: rows of one flat table, several times faster than a gather."""
    tokens = reference.shape[1]
    if reference.shape[0] > 1:
        index = index + tokens * torch.arange(len(index), device=index.device).unsqueeze(1)
    table = reference.reshape(-1, reference.shape[2])
    return table.index_select(0, index.reshape(-1)).reshape(*index.shape, -1)
