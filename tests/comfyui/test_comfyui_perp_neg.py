"""Perp-Neg in ComfyUI's servers: the numbers of negguide on diffusers, beside ComfyUI's own nodes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from comfyui_server import Graph, GraphError, Link
from comfyui_toy import NEGATIVES, PROMPT, SAME, SCALE, SEED, STEPS, Toy, negative, perp_neg, rms

from negguide import Negative, PerpNeg, Timestep

Diffusers = Callable[..., torch.Tensor]
MASK = torch.zeros(1, 32, 32)
MASK[:, :, :14] = 1

# as the node has it, and as negguide has it
SETTINGS: dict[str, tuple[list[dict[str, Any]], dict[str, Any], list[Negative], dict[str, Any]]] = {
    "two with weights and windows": (
        [{"weight": 1.5, "start": 0.25, "stop": 1.0}, {"weight": 0.75, "stop": 0.6}],
        {},
        [Negative(NEGATIVES[0], 1.5, 0.25, 1.0), Negative(NEGATIVES[1], 0.75, 0.0, 0.6)],
        {},
    ),
    "windows over the noise": (
        [{"start": 0.1, "stop": 0.4, "unit": "noise"}, {"stop": 0.25, "unit": "noise"}],
        {},
        [
            Negative(NEGATIVES[0], start=Timestep(900), stop=Timestep(600)),
            Negative(NEGATIVES[1], stop=Timestep(750)),
        ],
        {},
    ),
    "joint": ([{}, {}], {"joint": "on"}, [*map(Negative, NEGATIVES)], {"joint": True}),
    "overlap": ([{}, {}], {"joint": "overlap"}, [*map(Negative, NEGATIVES)], {"joint": "overlap"}),
    "automatic": (
        [{"automatic": True, "stop": 0.75}, {"stop": 0.75}],
        {"auto_weight": 3.0},
        [Negative(NEGATIVES[0], "auto", stop=0.75), Negative(NEGATIVES[1], stop=0.75)],
        {"auto_weight": 3.0},
    ),
    "refreshed every third step": (
        [{"stop": 1.0}, {"start": 0.25, "stop": 1.0}],
        {"refresh_every": 3},
        [Negative(NEGATIVES[0], stop=1.0), Negative(NEGATIVES[1], start=0.25, stop=1.0)],
        {"refresh_every": 3},
    ),
    "off": ([{"weight": 0.0}, {}], {}, [Negative(NEGATIVES[0], 0.0), Negative(NEGATIVES[1])], {}),
}


def chain(graph: Graph, toy: Toy, settings: list[dict[str, Any]]) -> Link:
    """Negatives one behind the other."""
    last: Link | None = None
    for text, options in zip(NEGATIVES, settings, strict=False):
        before = {} if last is None else {"negatives": last}
        last = negative(graph, toy, text, **options, **before)
    assert last is not None
    return last


def test_the_embedded_model_is_the_same_in_comfyui(toy: Toy, diffusers_latents: Diffusers) -> None:
    graph, model = toy.graph()
    (plain,) = toy.server.latents(graph, toy.sampled(graph, model))
    assert rms(plain, diffusers_latents()) < SAME


def test_the_nodes_need_neither_negguide_nor_diffusers(toy: Toy) -> None:
    graph = Graph()
    graph("TestImported", packages="negguide,diffusers")
    toy.server.run(graph)


def test_a_conditioning_acts_in_the_first_half_and_in_its_branch_of_the_graph(
    toy: Toy, diffusers_latents: Diffusers
) -> None:
    graph, model = toy.graph()
    patched = perp_neg(graph, model, toy.text(graph, NEGATIVES[0]))
    acted, plain = toy.server.latents(graph, toy.sampled(graph, patched), toy.sampled(graph, model))
    assert rms(acted, diffusers_latents(PerpNeg(NEGATIVES[0]))) < SAME
    assert rms(plain, diffusers_latents()) < SAME
    assert rms(acted, plain) > 20 * SAME


@pytest.mark.parametrize("name", SETTINGS)
def test_options_are_those_of_negguide(toy: Toy, diffusers_latents: Diffusers, name: str) -> None:
    nodes, options, negatives, same = SETTINGS[name]
    graph, model = toy.graph()
    patched = perp_neg(graph, model, chain(graph, toy, nodes), **options)
    (acted,) = toy.server.latents(graph, toy.sampled(graph, patched))
    assert rms(acted, diffusers_latents(PerpNeg(*negatives, **same))) < SAME
    assert rms(acted, diffusers_latents()) > 20 * SAME


def test_a_mask_says_where(toy: Toy, diffusers_latents: Diffusers) -> None:
    graph, model = toy.graph()
    masked = negative(graph, toy, NEGATIVES[0], stop=1.0, mask=toy.mask(graph, MASK))
    (acted,) = toy.server.latents(graph, toy.sampled(graph, perp_neg(graph, model, masked)))
    guidance = PerpNeg(Negative(NEGATIVES[0], stop=1.0, mask=MASK[0]))
    assert rms(acted, diffusers_latents(guidance)) < SAME
    assert rms(acted, diffusers_latents(PerpNeg(Negative(NEGATIVES[0], stop=1.0)))) > 20 * SAME


# of a run of 10 steps: as the node has it, and as negguide has it
LEFT_OUT: dict[str, tuple[list[dict[str, Any]], dict[str, Any], list[Negative], dict[str, Any]]] = {
    "adaptive": (
        [{"stop": 1.0}, {"weight": 2.0, "stop": 1.0}],
        {"adaptive": True},
        [Negative(NEGATIVES[0], stop=1.0), Negative(NEGATIVES[1], 2.0, stop=1.0)],
        {"adaptive": True},
    ),
    "economy": (
        [{"stop": 0.75}, {"start": 0.25, "stop": 1.0}],
        {"economy": True},
        [Negative(NEGATIVES[0], stop=0.75), Negative(NEGATIVES[1], start=0.25, stop=1.0)],
        {"economy": True},
    ),
    "automatic economy": (
        [{"automatic": True, "stop": 1.0}, {"automatic": True, "stop": 0.75}],
        {"economy": True},
        [Negative(NEGATIVES[0], "auto", stop=1.0), Negative(NEGATIVES[1], "auto", stop=0.75)],
        {"economy": True},
    ),
    "an end of guidance": (
        [{"stop": 1.0}],
        {"guidance_stop": 0.6},
        [Negative(NEGATIVES[0], stop=1.0)],
        {"guidance_stop": 0.6},
    ),
}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_is_left_out_is_what_negguide_leaves_out(
    toy: Toy, diffusers_latents: Diffusers, name: str
) -> None:
    nodes, options, negatives, same = LEFT_OUT[name]
    graph, model = toy.graph()
    chained = chain(graph, toy, nodes)
    found, every = toy.server.latents(
        graph,
        *(
            toy.sampled(graph, perp_neg(graph, model, chained, **given), batch=2, steps=10)
            for given in (options, {})
        ),
    )
    right = diffusers_latents(PerpNeg(*negatives, **same), batch=2, num_inference_steps=10)
    assert rms(found, right) < SAME
    assert rms(found, every) > 10 * SAME


def test_leaving_predictions_out_is_refused_beside_another_node_that_makes_them(toy: Toy) -> None:
    graph, model = toy.graph()
    text = toy.text(graph, NEGATIVES[0])
    before = perp_neg(graph, graph("TestPredictions", model=model), text, economy=True)
    behind = graph("TestPredictions", model=perp_neg(graph, model, text, guidance_stop=0.6))
    for patched in (before, behind):
        with pytest.raises(GraphError, match="economy and guidance_stop leave predictions out"):
            toy.server.latents(graph, toy.sampled(graph, patched))


def test_each_image_may_have_a_mask_of_its_own(toy: Toy, diffusers_latents: Diffusers) -> None:
    graph, model = toy.graph()
    masks = torch.cat([MASK, torch.ones_like(MASK), MASK.flip(2)])
    noise = torch.randn(3, 8, 16, 16, generator=torch.manual_seed(SEED))
    both = negative(graph, toy, NEGATIVES[1])

    def patched(mask: torch.Tensor) -> Link:
        first = negative(graph, toy, NEGATIVES[0], mask=toy.mask(graph, mask), negatives=both)
        return perp_neg(graph, model, first)

    alone = []
    for i in range(3):
        own = patched(masks[i : i + 1])
        alone.append(toy.sampled_by(graph, toy.guider(graph, own), own, noise=noise[i : i + 1]))
    batch, *images = toy.server.latents(graph, toy.sampled(graph, patched(masks), batch=3), *alone)
    assert rms(batch, torch.cat(images)) < SAME
    assert rms(batch[:1], images[2]) > 20 * SAME


def test_a_batch_is_what_its_images_are_alone(toy: Toy, diffusers_latents: Diffusers) -> None:
    graph, model = toy.graph()
    patched = perp_neg(graph, model, chain(graph, toy, [{}, {"automatic": True}]), joint="on")
    noise = torch.randn(3, 8, 16, 16, generator=torch.manual_seed(SEED))
    together = toy.sampled(graph, patched, batch=3)
    guider = toy.guider(graph, patched)
    alone = [toy.sampled_by(graph, guider, patched, noise=noise[i : i + 1]) for i in range(3)]
    batch, *images = toy.server.latents(graph, together, *alone)
    assert rms(batch, torch.cat(images)) < SAME
    guidance = PerpNeg(Negative(NEGATIVES[0]), Negative(NEGATIVES[1], "auto", stop=0.5), joint=True)
    assert rms(batch, diffusers_latents(guidance, batch=3)) < SAME


def test_comfyuis_own_guider_agrees_on_one_image_and_not_on_a_batch(
    toy: Toy, diffusers_latents: Diffusers
) -> None:
    for batch, agrees in ((1, True), (3, False)):
        graph, model = toy.graph()
        guider = graph(
            "PerpNegGuider",
            model=model,
            positive=toy.text(graph, PROMPT),
            negative=toy.text(graph, NEGATIVES[0]),
            empty_conditioning=toy.text(graph, ""),
            cfg=SCALE,
            neg_scale=1.0,
        )
        own = toy.sampled_by(graph, guider, model, batch)
        (found,) = toy.server.latents(graph, own)
        right = diffusers_latents(PerpNeg(Negative(NEGATIVES[0], stop=1.0)), batch=batch)
        assert (rms(found, right) < SAME) == agrees


def test_it_acts_under_other_samplers_guiders_and_cfg_functions(
    toy: Toy, diffusers_latents: Diffusers
) -> None:
    graph, model = toy.graph()
    patched = perp_neg(graph, model, toy.text(graph, NEGATIVES[0]))
    rescaled = graph("RescaleCFG", model=patched, multiplier=0.7)
    # Perp-Neg is in front of guidance, whichever node comes first
    before = perp_neg(graph, graph("RescaleCFG", model=model, multiplier=0.7), toy.text(graph, NEGATIVES[0]))
    by_guider, one, other, heun, plain_heun = toy.server.latents(
        graph,
        toy.sampled_by(graph, toy.guider(graph, patched), patched),
        toy.sampled(graph, rescaled),
        toy.sampled(graph, before),
        toy.sampled(graph, patched, sampler_name="heun"),
        toy.sampled(graph, model, sampler_name="heun"),
    )
    assert rms(by_guider, diffusers_latents(PerpNeg(NEGATIVES[0]))) < SAME
    assert rms(one, diffusers_latents(PerpNeg(NEGATIVES[0]), guidance_rescale=0.7)) < SAME
    assert torch.equal(one, other)
    assert rms(heun, plain_heun) > 20 * SAME


def test_it_acts_beside_changed_weights(toy: Toy, diffusers_latents: Diffusers, embedded: Any) -> None:
    graph, model = toy.graph()
    negatives = toy.text(graph, NEGATIVES[0])
    behind = perp_neg(graph, graph("TestChangeWeights", model=model, strength=1.0), negatives)
    before = graph("TestChangeWeights", model=perp_neg(graph, model, negatives), strength=1.0)
    one, other, plain = toy.server.latents(
        graph, toy.sampled(graph, behind), toy.sampled(graph, before), toy.sampled(graph, model)
    )
    weight = embedded.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_v.weight
    kept = weight.detach().clone()
    try:
        weight.data.mul_(1.3)
        changed = diffusers_latents(PerpNeg(NEGATIVES[0]))
    finally:
        weight.data.copy_(kept)
    assert rms(one, changed) < SAME and torch.equal(one, other)
    assert rms(plain, diffusers_latents()) < SAME


def test_a_second_run_with_the_same_model_is_the_first(toy: Toy) -> None:
    results = []
    for again in range(2):
        graph, model = toy.graph()
        patched = perp_neg(graph, model, negative(graph, toy, NEGATIVES[0], automatic=True), refresh_every=2)
        # otherwise ComfyUI would hand out what it kept
        prompt = graph("TestText", file=toy.files(PROMPT), again=again)
        results += toy.server.latents(graph, toy.sampled(graph, patched, positive=prompt))
    assert torch.equal(*results)


def test_a_negative_has_the_controlnet_of_the_prompt(toy: Toy) -> None:
    graph, model = toy.graph()
    prompt = graph("TestControl", conditioning=toy.text(graph, PROMPT), value=1.0)
    text = toy.text(graph, NEGATIVES[0])
    links = [
        toy.sampled(graph, perp_neg(graph, model, negatives), positive=prompt)
        for negatives in (
            text,
            graph("TestControl", conditioning=text, value=1.0),
            # one of its own is kept
            graph("TestControl", conditioning=text, value=0.0),
        )
    ]
    taken, same, other = toy.server.latents(graph, *links)
    assert torch.equal(taken, same)
    assert rms(taken, other) > 20 * SAME


def test_a_prompt_of_several_areas_keeps_its_negative(toy: Toy) -> None:
    graph, model = toy.graph()
    left = graph(
        "ConditioningSetArea",
        conditioning=toy.text(graph, "a cat"),
        width=64,
        height=128,
        x=0,
        y=0,
        strength=1.0,
    )
    both = graph("ConditioningCombine", conditioning_1=toy.text(graph, PROMPT), conditioning_2=left)
    patched = perp_neg(graph, model, toy.text(graph, NEGATIVES[0]))
    acted, plain = toy.server.latents(
        graph, toy.sampled(graph, patched, positive=both), toy.sampled(graph, model, positive=both)
    )
    assert rms(acted, plain) > 20 * SAME and bool(acted.isfinite().all())


def test_steps_are_told_by_their_noise(toy: Toy) -> None:
    """Half of the run as a run of its own: windows are of its own steps."""
    graph, model = toy.graph()
    patched = perp_neg(graph, model, negative(graph, toy, NEGATIVES[0], stop=0.34))
    options = {
        "noise_seed": SEED,
        "steps": STEPS,
        "cfg": SCALE,
        "sampler_name": "euler",
        "scheduler": "simple",
        "positive": toy.text(graph, PROMPT),
        "negative": toy.text(graph, ""),
    }

    def part(model: Link, latent: Link, start: int, end: int) -> Link:
        more = {"add_noise": "enable" if start == 0 else "disable"}
        more["return_with_leftover_noise"] = "enable" if end < STEPS else "disable"
        return graph(
            "KSamplerAdvanced",
            model=model,
            latent_image=latent,
            start_at_step=start,
            end_at_step=end,
            **options,
            **more,
        )

    empty = graph("EmptyLatentImage", width=128, height=128, batch_size=1)
    # a third of the last three steps is the third of the run
    parts = part(patched, part(model, empty, 0, 2), 2, STEPS)
    third = negative(graph, toy, NEGATIVES[0], start=0.4, stop=0.6)
    whole = toy.sampled(graph, perp_neg(graph, model, third))
    one, other, plain = toy.server.latents(graph, parts, whole, toy.sampled(graph, model))
    assert rms(one, other) < SAME < rms(other, plain)
