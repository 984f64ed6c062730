"""Where each row's image stands behind its own text: a longer or shorter negative is as far from the image as alone.

The right values come from models in which all images stand in one place: a rotary position tells by distances alone, so
that each row may be moved as a whole.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_pipelines import PROMPT, assert_same, denoiser, differ

from negguide import NAG, VSF, Negative
from negguide.integration.runtime.places import Places

Run = Callable[..., Any]
pytestmark = pytest.mark.families("z-image", "lumina2")
LONG = " ".join(["a cat in the snow"] * 5)
"""With the words of a chat more than 32 tokens, as which Z-Image fills up a short text."""
SHORT = "a hat"
PLACE = 64
"""Where the images are moved to: behind the longest of the texts."""


@pytest.fixture
def sized(tiny: Any) -> dict[str, Any]:
    """A size at which nothing fills up the image: what does so in Z-Image stands still when the rest is moved."""
    return {"max_sequence_length": 40, **({"width": 128} if tiny.name == "z-image" else {})}


@pytest.fixture
def in_one_place(tiny: Any, base: Any, monkeypatch: Any) -> Callable[[], None]:
    """Move every row, so that its image is at PLACE, and leave all keys as they are."""
    model = denoiser(base)

    def move() -> None:
        monkeypatch.setattr(Places, "moved", lambda self, keys, own, seen_from: keys)
        if tiny.name == "lumina2":
            frequencies = model.rope_embedder._get_freqs_cis

            def moved(ids: torch.Tensor) -> Any:
                ids = ids.clone()
                ids[:, :, 0] += PLACE - 1 - ids[:, :, :1].amax(dim=1)
                return frequencies(ids)

            monkeypatch.setattr(model.rope_embedder, "_get_freqs_cis", moved)
            return
        embed = model.patchify_and_embed

        def embedded(*args: Any, **kwargs: Any) -> Any:
            *found, image_places, text_places, image_pad, text_pad = embed(*args, **kwargs)
            for image, text in zip(image_places, text_places, strict=True):
                by = PLACE - image[0, 0].clone()
                image[:, 0] += by
                text[:, 0] += by
            return *found, image_places, text_places, image_pad, text_pad

        monkeypatch.setattr(model, "patchify_and_embed", embedded)

    return move


CASES = {
    "a longer negative": (PROMPT, [LONG]),
    "a shorter one": (LONG, [SHORT]),
    "two, one of each": (PROMPT, [LONG, SHORT]),
    "two prompts": ([PROMPT, LONG], [SHORT]),
    "a prompt's own": ([PROMPT, LONG], [Negative(LONG, prompt_index=0), Negative(SHORT, prompt_index=1)]),
}


@pytest.mark.parametrize("case", CASES)
def test_a_negative_is_as_far_from_the_image_as_alone(
    case: str, base: Any, pipe: Any, run: Run, sized: Any, in_one_place: Any, monkeypatch: Any
) -> None:
    prompt, negatives = CASES[case]
    method = VSF(*negatives, scale=2.0)
    found = run(pipe, prompt, negative_guidance=method, **sized)
    plain = run(base, prompt, **sized)
    with monkeypatch.context() as change:
        change.setattr(Places, "moved", lambda self, keys, own, seen_from: keys)
        unmoved = run(pipe, prompt, negative_guidance=method, **sized)
    in_one_place()
    # the rows may be moved
    assert_same(run(base, prompt, **sized), plain)
    assert_same(run(pipe, prompt, negative_guidance=method, **sized), found)
    assert differ(found, plain) > 1e-2
    assert differ(found, unmoved) > 1e-3


def test_what_attends_in_rows_of_its_own_needs_nothing(
    pipe: Any, run: Run, sized: Any, in_one_place: Any
) -> None:
    found = run(pipe, negative_guidance=NAG(LONG, scale=3.0), **sized)
    in_one_place()
    assert_same(run(pipe, negative_guidance=NAG(LONG, scale=3.0), **sized), found)


def test_keys_turn_by_the_distance_between_their_images() -> None:
    keys = torch.randn(2, 3, 5, 8, generator=torch.Generator().manual_seed(0))
    places = Places((10, 4, 7, 4), theta=100.0, channels=4)
    moved = places.moved(keys, slice(2, 4), slice(0, 2))
    assert torch.equal(places.moved(keys, slice(2, 4), slice(2, 4)), keys)
    # the first row by 3 positions, the second by none; the second axis of the positions stays
    assert torch.equal(moved[1], keys[1]) and torch.equal(moved[0, ..., 4:], keys[0, ..., 4:])
    pairs = torch.view_as_complex(keys[0, ..., :4].unflatten(2, (2, 2)))
    turned = pairs * torch.exp(1j * 3 * torch.tensor([1.0, 0.1]))
    assert_same(moved[0, ..., :4], torch.view_as_real(turned).flatten(2))
    assert places.moved(keys.bfloat16(), slice(2, 4), slice(0, 2)).dtype == torch.bfloat16
