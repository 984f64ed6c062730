"""The nodes beside what else happens to a model in ComfyUI's servers: interrupts, previews, offloading, other nodes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from comfyui_both import NEGATIVE, Both
from comfyui_server import Graph, GraphError, Link
from comfyui_toy import METHODS, NEGATIVES, PROMPT, SAME, STEPS, Toy, in_attention, negtome, perp_neg, rms

from negguide import NAG, ONG, VSF, NegToMe, PerpNeg, Timestep

Diffusers = Callable[..., torch.Tensor]
SAME_METHOD = {"NAG": NAG, "ONG": ONG, "VSF": VSF}
# rounding may make another token the best match of one
SAME_PUSHED = 5e-4


def all_of_ours(graph: Graph, toy: Toy, model: Link) -> Link:
    """Perp-Neg, NAG and NegToMe on one model."""
    nag = in_attention(graph, "NAG", model, toy.text(graph, NEGATIVES[0]))
    return perp_neg(graph, negtome(graph, nag), toy.text(graph, NEGATIVES[1]))


@pytest.fixture(scope="module")
def right(diffusers_latents: Diffusers) -> torch.Tensor:
    """The same three on diffusers, for two images."""
    guidance = (
        PerpNeg(NEGATIVES[1]),
        NAG(NEGATIVES[0], **METHODS["NAG"]),
        NegToMe(alpha=0.9, threshold=0.65, stop=Timestep(800)),
    )
    return diffusers_latents(*guidance, batch=2)


def test_all_act_together(toy: Toy, right: torch.Tensor) -> None:
    graph, model = toy.graph()
    (found,) = toy.server.latents(graph, toy.sampled(graph, all_of_ours(graph, toy, model), batch=2))
    assert rms(found, right) < SAME_PUSHED


@pytest.mark.parametrize("after", [1, 5, 40])
def test_an_interrupt_leaves_the_model_as_it_was(
    toy: Toy, diffusers_latents: Diffusers, right: torch.Tensor, after: int
) -> None:
    graph, model = toy.graph()
    stopped = graph("TestInterrupt", model=all_of_ours(graph, toy, model), after=after)
    with pytest.raises(GraphError, match="interrupted"):
        toy.server.latents(graph, toy.sampled(graph, stopped, batch=2))
    # the very model, which ComfyUI keeps
    graph, model = toy.graph()
    ours = all_of_ours(graph, toy, model)
    plain, found = toy.server.latents(graph, toy.sampled(graph, model), toy.sampled(graph, ours, batch=2))
    assert rms(plain, diffusers_latents()) < SAME
    assert rms(found, right) < SAME_PUSHED


@pytest.mark.parametrize("kind", ["flux", "sd3", "qwen_image", "z_image", "wan"])
def test_an_interrupt_leaves_a_transformer_as_it_was(both: Callable[[str], Both], kind: str) -> None:
    tiny = both(kind)
    plain = tiny.diffusers(batch=2)
    for after in (2, 7):
        graph, model = tiny.graph()
        patched = in_attention(graph, "NAG", model, tiny.text(graph, NEGATIVE))
        patched = negtome(graph, patched, threshold=0.0, stop=1.0, unit="steps")
        stopped = graph("TestInterrupt", model=patched, after=after)
        with pytest.raises(GraphError, match="interrupted"):
            tiny.server.latents(graph, tiny.sampled(graph, stopped, 2))
        # the very model, which ComfyUI keeps
        graph, model = tiny.graph()
        (found,) = tiny.server.latents(graph, tiny.sampled(graph, model, 2))
        assert rms(found, plain) < SAME


def test_previews_show_the_guided_image(toy: Toy, right: torch.Tensor) -> None:
    graph, model = toy.graph()
    previewed = graph("TestPreviewed", model=all_of_ours(graph, toy, model))
    samples = toy.sampled(graph, previewed, batch=2)
    found, shown = toy.server.latents(graph, samples, graph("TestPreview", samples=samples))
    assert rms(found, right) < SAME_PUSHED
    assert float(shown[0, 0, 0, 0]) == STEPS
    # the last step's denoised image is the result
    assert rms(shown[..., 1:, :], found[..., 1:, :]) < SAME


@pytest.mark.parametrize("changed", [False, True])
def test_a_model_that_is_loaded_in_part(
    toy: Toy, right: torch.Tensor, embedded: Any, diffusers_latents: Diffusers, changed: bool
) -> None:
    """With changed weights, too, as a LoRA changes them: those of what is not loaded are changed in each call."""
    graph, model = toy.graph()
    given = graph("TestChangeWeights", model=model, strength=1.0) if changed else model
    ours = graph("TestPartlyLoaded", model=all_of_ours(graph, toy, given))
    samples = toy.sampled(graph, ours, batch=2)
    (found,) = toy.server.latents(graph, graph("TestLoaded", model=ours, samples=samples))
    if changed:
        whole = all_of_ours(graph, toy, given)
        (right,) = toy.server.latents(graph, toy.sampled(graph, whole, batch=2))
    assert rms(found, right) < SAME_PUSHED
    graph, model = toy.graph()
    (plain,) = toy.server.latents(graph, toy.sampled(graph, model))
    assert rms(plain, diffusers_latents()) < SAME


@pytest.mark.parametrize("name", METHODS)
def test_beside_a_lora(toy: Toy, diffusers_latents: Diffusers, embedded: Any, name: str) -> None:
    graph, model = toy.graph()
    text = toy.text(graph, NEGATIVES[0])
    behind = in_attention(graph, name, graph("TestChangeWeights", model=model, strength=1.0), text)
    before = graph("TestChangeWeights", model=in_attention(graph, name, model, text), strength=1.0)
    one, other = toy.server.latents(graph, *(toy.sampled(graph, it, cfg=1.0) for it in (behind, before)))
    weight = embedded.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_v.weight
    kept = weight.detach().clone()
    try:
        weight.data.mul_(1.3)
        changed = diffusers_latents(SAME_METHOD[name](NEGATIVES[0], **METHODS[name]), cfg=1.0)
    finally:
        weight.data.copy_(kept)
    assert rms(one, changed) < SAME and torch.equal(one, other)


@pytest.mark.parametrize("name", METHODS)
def test_beside_a_node_that_changes_what_cross_attentions_get(
    toy: Toy, diffusers_latents: Diffusers, embedded: Any, name: str
) -> None:
    """It changes the prompt's tokens, and not the negative's, on whichever side it stands."""
    graph, model = toy.graph()
    text = toy.text(graph, NEGATIVES[0])
    behind = in_attention(graph, name, graph("TestPatchCrossAttention", model=model, factor=1.2), text)
    before = graph("TestPatchCrossAttention", model=in_attention(graph, name, model, text), factor=1.2)
    one, other = toy.server.latents(graph, *(toy.sampled(graph, it, cfg=1.0) for it in (behind, before)))
    embeds, _ = embedded.encode_prompt([PROMPT], "cpu", 1, False)
    changed = diffusers_latents(
        SAME_METHOD[name](NEGATIVES[0], **METHODS[name]),
        cfg=1.0,
        prompt=None,
        prompt_embeds=1.2 * embeds,
        negative_prompt=None,
    )
    assert rms(one, changed) < SAME and torch.equal(one, other)


@pytest.mark.parametrize("name", ["NAG", "NegToMe"])
def test_a_compiled_model_is_refused_inside_it(toy: Toy, diffusers_latents: Diffusers, name: str) -> None:
    """Compiled it would go on to do what it did in its first run."""
    for first in (True, False):
        graph, model = toy.graph()
        given = graph("TestCompile", model=model) if first else model
        if name == "NAG":
            ours = in_attention(graph, name, given, toy.text(graph, NEGATIVES[0]))
        else:
            ours = negtome(graph, given)
        compiled = ours if first else graph("TestCompile", model=ours)
        with pytest.raises(GraphError, match="acts inside the model, and this one is compiled"):
            toy.server.latents(graph, toy.sampled(graph, compiled, batch=2))
    graph, model = toy.graph()
    (plain,) = toy.server.latents(graph, toy.sampled(graph, model))
    assert rms(plain, diffusers_latents()) < SAME


def test_perp_neg_leaves_a_model_compiled(both: Callable[[str], Both]) -> None:
    tiny = both("flux")
    right = tiny.diffusers(PerpNeg(NEGATIVE), cfg=3.0)
    plain = tiny.diffusers(cfg=3.0)
    graph, model = tiny.graph()
    compiled = graph("TestCompile", model=model)
    text = tiny.text(graph, NEGATIVE)
    behind = perp_neg(graph, compiled, text)
    before = graph("TestCompile", model=perp_neg(graph, model, text))
    one, other, without = tiny.server.latents(
        graph, *(tiny.sampled(graph, it, cfg=3.0) for it in (behind, before, compiled))
    )
    assert rms(one, right) < SAME and rms(other, right) < SAME
    assert rms(without, plain) < SAME < rms(right, plain)
