"""What Perp-Neg refuses in ComfyUI's servers: the queue says why, and goes on."""

from collections.abc import Callable

import torch
from comfyui_server import Graph, Link
from comfyui_toy import (
    NEGATIVES,
    PROMPT,
    SCALE,
    Toy,
    assert_told_and_the_queue_goes_on,
    negative,
    perp_neg,
)

Diffusers = Callable[..., torch.Tensor]


def bad_cfg(graph: Graph, toy: Toy, model: Link) -> Link:
    return toy.sampled(graph, perp_neg(graph, model, toy.text(graph, NEGATIVES[0])), cfg=1.0)


def bad_guider(graph: Graph, toy: Toy, model: Link) -> Link:
    patched = perp_neg(graph, model, toy.text(graph, NEGATIVES[0]))
    guider = graph("BasicGuider", model=patched, conditioning=toy.text(graph, PROMPT))
    return toy.sampled_by(graph, guider, patched)


def bad_dual(graph: Graph, toy: Toy, model: Link) -> Link:
    patched = perp_neg(graph, model, toy.text(graph, NEGATIVES[0]))
    guider = graph(
        "DualCFGGuider",
        model=patched,
        cond1=toy.text(graph, PROMPT),
        cond2=toy.text(graph, "a cat"),
        negative=toy.text(graph, ""),
        cfg_conds=SCALE,
        cfg_cond2_negative=SCALE,
        style="regular",
    )
    return toy.sampled_by(graph, guider, patched)


def bad_chain(graph: Graph, toy: Toy, model: Link) -> Link:
    return toy.sampled(graph, perp_neg(graph, model, graph("TestNoText")))


def bad_mask(graph: Graph, toy: Toy, model: Link) -> Link:
    masked = negative(graph, toy, NEGATIVES[0], mask=toy.mask(graph, torch.ones(1, 32, 64)))
    return toy.sampled(graph, perp_neg(graph, model, masked))


def bad_window(graph: Graph, toy: Toy, model: Link) -> Link:
    return toy.sampled(graph, perp_neg(graph, model, negative(graph, toy, NEGATIVES[0], stop=0.1)))


def bad_order(graph: Graph, toy: Toy, model: Link) -> Link:
    return toy.sampled(graph, perp_neg(graph, model, negative(graph, toy, NEGATIVES[0], start=0.6)))


def bad_area(graph: Graph, toy: Toy, model: Link) -> Link:
    area = {"width": 64, "height": 64, "x": 0, "y": 0, "strength": 1.0}
    conditioning = graph("ConditioningSetArea", conditioning=toy.text(graph, NEGATIVES[0]), **area)
    return toy.sampled(graph, perp_neg(graph, model, conditioning))


def bad_range(graph: Graph, toy: Toy, model: Link) -> Link:
    conditioning = graph(
        "ConditioningSetTimestepRange", conditioning=toy.text(graph, NEGATIVES[0]), start=0.0, end=0.5
    )
    return toy.sampled(graph, perp_neg(graph, model, conditioning))


def bad_twice(graph: Graph, toy: Toy, model: Link) -> Link:
    once = perp_neg(graph, model, toy.text(graph, NEGATIVES[0]))
    return toy.sampled(graph, perp_neg(graph, once, toy.text(graph, NEGATIVES[1])))


def bad_economy(graph: Graph, toy: Toy, model: Link) -> Link:
    text = toy.text(graph, NEGATIVES[0])
    return toy.sampled(graph, perp_neg(graph, model, text, economy=True, refresh_every=2))


def bad_end(graph: Graph, toy: Toy, model: Link) -> Link:
    late = negative(graph, toy, NEGATIVES[0], start=0.6, stop=1.0)
    return toy.sampled(graph, perp_neg(graph, model, late, guidance_stop=0.5))


def bad_masks(graph: Graph, toy: Toy, model: Link) -> Link:
    masked = negative(graph, toy, NEGATIVES[0], mask=toy.mask(graph, torch.ones(2, 16, 16)))
    return toy.sampled(graph, perp_neg(graph, model, masked), batch=3)


BAD = {
    bad_economy: "refresh_every=2 cannot be given beside economy",
    bad_end: "negative 1 acts from 0.6 on, and guidance_stop=0.5 ends guidance before that",
    bad_masks: "mask of negative 1 must be one mask for all images, or one for each of the 3, got a batch of 2",
    bad_cfg: "Perp-Neg needs guidance and cfg is 1",
    bad_guider: "Perp-Neg needs guidance and cfg is 1",
    bad_dual: "Perp-Neg never acted: this guider",
    bad_chain: "conditioning of a negative is empty",
    bad_mask: "mask of negative 1 is 64x32 .* and the latents are 16x16",
    bad_window: "negative 1: no step lies from start=0 to stop=0.1",
    bad_order: "negative 1: start and stop must satisfy 0 <= start < stop <= 1, got start=0.6, stop=0.5",
    bad_area: "conditioning of a negative has area",
    bad_range: "conditioning of a negative has start_percent",
    bad_twice: "this model has Perp-Neg already",
}


def test_bad_input_is_told_and_the_queue_goes_on(toy: Toy, diffusers_latents: Diffusers) -> None:
    assert_told_and_the_queue_goes_on(toy, BAD, diffusers_latents())
