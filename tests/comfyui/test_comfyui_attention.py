"""NAG, ONG and VSF in ComfyUI's servers: the numbers of negguide on diffusers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from comfyui_server import Graph, Link
from comfyui_toy import (
    METHODS,
    NEGATIVES,
    PROMPT,
    SAME,
    SEED,
    Toy,
    assert_told_and_the_queue_goes_on,
    in_attention,
    negative,
    perp_neg,
    rms,
)

from negguide import NAG, ONG, VSF, Negative, PerpNeg

Diffusers = Callable[..., torch.Tensor]
MASK = torch.zeros(1, 32, 32)
MASK[:, :, :14] = 1
SAME_METHOD = {"NAG": NAG, "ONG": ONG, "VSF": VSF}
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "NAG": [{}, {"scale": 8.0, "tau": 1.2, "alpha": 0.6}],
    "ONG": [{}, {"scale": 2.5}],
    "VSF": [{}, {"scale": 1.5, "bias": -0.5}, {"orthogonal": True}],
}
EACH = [(name, options) for name, several in OPTIONS.items() for options in several]


@pytest.mark.parametrize(("name", "options"), EACH)
def test_options_are_those_of_negguide(
    toy: Toy, diffusers_latents: Diffusers, name: str, options: dict[str, Any]
) -> None:
    graph, model = toy.graph()
    patched = in_attention(graph, name, model, toy.text(graph, NEGATIVES[0]), **options)
    unguided, guided, plain = toy.server.latents(
        graph,
        toy.sampled(graph, patched, cfg=1.0),
        toy.sampled(graph, patched),
        toy.sampled(graph, model, cfg=1.0),
    )
    method = SAME_METHOD[name](NEGATIVES[0], **{**METHODS[name], **options})
    assert rms(unguided, diffusers_latents(method, cfg=1.0)) < SAME
    assert rms(guided, diffusers_latents(method)) < SAME
    assert rms(plain, diffusers_latents(cfg=1.0)) < SAME
    assert rms(unguided, plain) > 20 * SAME


@pytest.mark.parametrize("name", METHODS)
def test_several_negatives_have_weights_windows_and_masks(
    toy: Toy, diffusers_latents: Diffusers, name: str
) -> None:
    graph, model = toy.graph()
    first = negative(graph, toy, NEGATIVES[0], weight=0.7, stop=1.0, mask=toy.mask(graph, MASK))
    both = negative(graph, toy, NEGATIVES[1], weight=1.5, start=0.25, stop=0.75, negatives=first)
    (acted,) = toy.server.latents(
        graph, toy.sampled(graph, in_attention(graph, name, model, both), cfg=1.0, batch=2)
    )
    negatives = (Negative(NEGATIVES[0], 0.7, stop=1.0, mask=MASK[0]), Negative(NEGATIVES[1], 1.5, 0.25, 0.75))
    method = SAME_METHOD[name](*negatives, **METHODS[name])
    assert rms(acted, diffusers_latents(method, cfg=1.0, batch=2)) < SAME


@pytest.mark.parametrize("name", METHODS)
def test_each_image_may_have_a_mask_of_its_own(toy: Toy, name: str) -> None:
    graph, model = toy.graph()
    masks = torch.cat([MASK, torch.ones_like(MASK), MASK.flip(2)])
    noise = torch.randn(3, 8, 16, 16, generator=torch.manual_seed(SEED))
    before = negative(graph, toy, NEGATIVES[1], stop=1.0)

    def patched(mask: torch.Tensor) -> Link:
        both = negative(graph, toy, NEGATIVES[0], stop=1.0, mask=toy.mask(graph, mask), negatives=before)
        return in_attention(graph, name, model, both)

    alone = []
    for i in range(3):
        own = patched(masks[i : i + 1])
        alone.append(toy.sampled_by(graph, toy.guider(graph, own), own, noise=noise[i : i + 1]))
    batch, *images = toy.server.latents(graph, toy.sampled(graph, patched(masks), batch=3), *alone)
    assert rms(batch, torch.cat(images)) < SAME
    assert rms(batch[:1], images[2]) > 20 * SAME


@pytest.mark.parametrize("name", METHODS)
def test_a_batch_is_what_its_images_are_alone(toy: Toy, name: str) -> None:
    graph, model = toy.graph()
    patched = in_attention(graph, name, model, toy.text(graph, NEGATIVES[0]))
    noise = torch.randn(3, 8, 16, 16, generator=torch.manual_seed(SEED))
    guider = toy.guider(graph, patched)
    alone = [toy.sampled_by(graph, guider, patched, noise=noise[i : i + 1]) for i in range(3)]
    batch, *images = toy.server.latents(graph, toy.sampled(graph, patched, batch=3), *alone)
    assert rms(batch, torch.cat(images)) < SAME


def test_a_second_run_is_the_first_and_other_branches_are_plain(
    toy: Toy, diffusers_latents: Diffusers
) -> None:
    results = []
    for again in range(2):
        graph, model = toy.graph()
        patched = in_attention(graph, "NAG", model, toy.text(graph, NEGATIVES[0]))
        # otherwise ComfyUI would hand out what it kept
        options = {"cfg": 1.0, "positive": graph("TestText", file=toy.files(PROMPT), again=again)}
        acted, plain = toy.server.latents(
            graph, toy.sampled(graph, patched, **options), toy.sampled(graph, model, **options)
        )
        results.append(acted)
        assert rms(plain, diffusers_latents(cfg=1.0)) < SAME
    assert torch.equal(*results)


def test_beside_perp_neg_only_the_prompts_prediction_has_it(toy: Toy, diffusers_latents: Diffusers) -> None:
    graph, model = toy.graph()
    nag = in_attention(graph, "NAG", model, toy.text(graph, NEGATIVES[0]))
    both = perp_neg(graph, nag, toy.text(graph, NEGATIVES[1]))
    (acted,) = toy.server.latents(graph, toy.sampled(graph, both))
    guidance = (NAG(NEGATIVES[0], **METHODS["NAG"]), PerpNeg(NEGATIVES[1]))
    assert rms(acted, diffusers_latents(*guidance)) < SAME


@pytest.mark.parametrize("name", ["NAG", "ONG"])
def test_it_acts_on_what_a_node_of_image_prompts_attends(
    toy: Toy, diffusers_latents: Diffusers, name: str
) -> None:
    graph, model = toy.graph()
    text = toy.text(graph, NEGATIVES[0])
    nothing = graph("TestReplaceCrossAttention", model=in_attention(graph, name, model, text), added=0.0)
    added = {
        "behind": graph("TestReplaceCrossAttention", model=in_attention(graph, name, model, text), added=0.2),
        "before": in_attention(graph, name, graph("TestReplaceCrossAttention", model=model, added=0.2), text),
        "alone": graph("TestReplaceCrossAttention", model=model, added=0.2),
    }
    same, behind, before, alone = toy.server.latents(
        graph, *(toy.sampled(graph, one, cfg=1.0) for one in (nothing, *added.values()))
    )
    method = SAME_METHOD[name](NEGATIVES[0], **METHODS[name])
    assert rms(same, diffusers_latents(method, cfg=1.0)) < SAME
    assert torch.equal(behind, before)
    assert rms(behind, same) > 20 * SAME and rms(behind, alone) > 20 * SAME


def bad_replaced(graph: Graph, toy: Toy, model: Link) -> Link:
    replaced = graph("TestReplaceCrossAttention", model=model, added=0.2)
    return toy.sampled(graph, in_attention(graph, "VSF", replaced, toy.text(graph, NEGATIVES[0])))


def bad_automatic(graph: Graph, toy: Toy, model: Link) -> Link:
    negatives = negative(graph, toy, NEGATIVES[0], automatic=True)
    return toy.sampled(graph, in_attention(graph, "NAG", model, negatives))


def bad_combined(graph: Graph, toy: Toy, model: Link) -> Link:
    texts = [toy.text(graph, text) for text in NEGATIVES]
    both = graph("ConditioningCombine", conditioning_1=texts[0], conditioning_2=texts[1])
    return toy.sampled(graph, in_attention(graph, "ONG", model, both))


def bad_text(graph: Graph, toy: Toy, model: Link) -> Link:
    other = graph("TestText", file=toy.files(text=torch.ones(1, 7, 64)))
    return toy.sampled(graph, in_attention(graph, "NAG", model, other))


def bad_window(graph: Graph, toy: Toy, model: Link) -> Link:
    negatives = negative(graph, toy, NEGATIVES[0], start=0.0, stop=0.05)
    return toy.sampled(graph, in_attention(graph, "ONG", model, negatives))


def bad_twice(graph: Graph, toy: Toy, model: Link) -> Link:
    text = toy.text(graph, NEGATIVES[0])
    once = in_attention(graph, "NAG", model, text)
    return toy.sampled(graph, in_attention(graph, "ONG", once, text))


def bad_batch(graph: Graph, toy: Toy, model: Link) -> Link:
    texts = graph("TestText", file=toy.files(text=torch.ones(2, 7, 192)))
    return toy.sampled(graph, in_attention(graph, "NAG", model, texts))


BAD = {
    bad_twice: "this model has NAG, ONG or VSF already",
    bad_batch: "negative 1 is a batch of 2 texts",
    bad_replaced: "VSF attends to prompt and negatives at once, and another node",
    bad_automatic: "weight of a negative is automatic, which only Perp-Neg can",
    bad_combined: "negative has 2 combined conditionings",
    bad_text: r"negative 1 has a text of shape \[1, 7, 64\]",
    bad_window: "negative 1: no step lies from start=0 to stop=0.05",
}


def test_bad_input_is_told_and_the_queue_goes_on(toy: Toy, diffusers_latents: Diffusers) -> None:
    assert_told_and_the_queue_goes_on(toy, BAD, diffusers_latents())
