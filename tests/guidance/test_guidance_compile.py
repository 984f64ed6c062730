"""Every function compiles to one graph and computes the same compiled."""

from collections.abc import Callable

import pytest
import torch

from negguide.guidance import alignment, best_match, nag, negtome, ong, perp_neg, perpendicular, vsf
from negguide.guidance.tokens import negtome_and_share


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


IMAGES = (random(2, 3, 4), random(2, 3, 4) + 0.1, random(2, 2, 3, 4))
TOKENS = (random(2, 9, 4), random(2, 64, 4))
MASK = torch.arange(64).expand(2, 64) % 3 > 0

CASES: dict[str, tuple[Callable, tuple[torch.Tensor, ...]]] = {
    "perpendicular": (perpendicular, IMAGES[:2]),
    "perp_neg": (lambda u, c, n: perp_neg(u, c, n, [1.0, 2.0], 7.5), IMAGES),
    "perp_neg with tensors": (
        lambda u, c, n: perp_neg(u, c, n, torch.ones(2, 2), torch.tensor(7.5), masks=torch.ones(3, 4)),
        IMAGES,
    ),
    "perp_neg, joint": (lambda u, c, n: perp_neg(u, c, n, [1.0, 2.0], 7.5, joint=True), IMAGES),
    "perp_neg without negatives": (lambda u, c, n: perp_neg(u, c, n[:0], [], 7.5), IMAGES),
    "alignment": (alignment, IMAGES),
    "best_match": (best_match, TOKENS),
    "best_match in tiles": (lambda s, r: best_match(s, r, MASK, tile=5), TOKENS),
    "negtome": (lambda x, r: negtome(x, r, 0.9, 0.3), TOKENS),
    "negtome, everything on": (
        lambda x, r: negtome_and_share(x, r, 9.0, 0.3, torch.ones(2, 9), MASK, center=True, max_push=0.5),
        TOKENS,
    ),
    "nag": (lambda p, n: nag(p, n, 5.0, 2.5, 0.25), IMAGES[:2]),
    "ong": (lambda p, n: ong(p, n, 1.0), IMAGES[1:]),
    "vsf": (lambda q, k: vsf(q, k, k, k, k, 1.0), (random(2, 1, 9, 4), random(2, 1, 5, 4))),
    "vsf, biased": (lambda q, k: vsf(q, k, k, k, k, 1.0, -1.0), (random(2, 1, 9, 4), random(2, 1, 5, 4))),
}


@pytest.mark.parametrize("name", CASES)
def test_it_compiles_to_one_graph_and_computes_the_same(name):
    function, inputs = CASES[name]
    torch.compiler.reset()
    compiled = torch.compile(function, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(*inputs), function(*inputs))
