"""The nodes on transformers, in ComfyUI's servers: tiny random models of each kind beside negguide on diffusers."""

from collections.abc import Callable

import pytest
import torch
from comfyui_both import NEGATIVE, SIDE, STEPS, Both
from comfyui_server import Graph, GraphError, Link
from comfyui_toy import METHODS, SAME, in_attention, negtome, perp_neg, rms

from negguide import NAG, ONG, VSF, Negative, NegToMe, PerpNeg

SAME_METHOD = {"NAG": NAG, "ONG": ONG, "VSF": VSF}
# Lumina 2 is for Perp-Neg and NegToMe alone
ATTENDED = ("flux", "flux2", "wan", "z_image", "sd3", "qwen_image", "kontext", "qwen_edit", "vace")
PUSHED = (*(kind for kind in ATTENDED if kind != "vace"), "lumina2")
MASK = torch.zeros(1, 16, 16)
MASK[:, :, :6] = 1
# features are random: pushed at any likeness
PUSH = {"threshold": 0.0, "alpha": 0.5}


@pytest.mark.parametrize("kind", ATTENDED)
def test_methods_in_attention_are_those_of_negguide(both: Callable[[str], Both], kind: str) -> None:
    tiny = both(kind)
    # diffusers' pipeline of VACE makes one video at a time
    batch = 1 if kind == "vace" else 2
    right = {"plain": tiny.diffusers(batch=batch)}
    graph, model = tiny.graph()
    links = [tiny.sampled(graph, model, batch)]
    for name, options in METHODS.items():
        right[name] = tiny.diffusers(SAME_METHOD[name](NEGATIVE, **options), batch=batch)
        patched = in_attention(graph, name, model, tiny.text(graph, NEGATIVE))
        links.append(tiny.sampled(graph, patched, batch))
    masked = Negative(NEGATIVE, 0.7, stop=1.0, mask=MASK[0])
    right["mask"] = tiny.diffusers(NAG(masked, **METHODS["NAG"]), batch=batch)
    mask: Link = [graph("TestLoadTensor", file=tiny.file(mask=MASK))[0], 1]
    window = {"automatic": False, "start": 0.0, "stop": 1.0, "unit": "steps"}
    negatives = graph(
        "NegguideNegative", conditioning=tiny.text(graph, NEGATIVE), weight=0.7, mask=mask, **window
    )
    links.append(tiny.sampled(graph, in_attention(graph, "NAG", model, negatives), batch))
    found = tiny.server.latents(graph, *links)
    differences = {name: rms(one, right[name]) for name, one in zip(right, found, strict=True)}
    assert max(differences.values()) < SAME, differences
    for name in METHODS:
        assert rms(right[name], right["plain"]) > 10 * SAME, name


@pytest.mark.parametrize("name", ["NAG", "VSF"])
def test_texts_of_other_lengths_lie_as_far_from_the_image_as_alone(
    both: Callable[[str], Both], name: str
) -> None:
    """Z-Image fills captions up to 32 or 64 tokens; here nothing fills up the image."""
    tiny = both("z_image")
    longer = " ".join([NEGATIVE] * 10)
    tiny.side = 2 * SIDE
    try:
        right = tiny.diffusers(SAME_METHOD[name](longer, **METHODS[name]), batch=2)
        graph, model = tiny.graph()
        patched = in_attention(graph, name, model, tiny.text(graph, longer))
        (found,) = tiny.server.latents(graph, tiny.sampled(graph, patched, 2))
    finally:
        tiny.side = SIDE
    assert rms(found, right) < SAME


@pytest.mark.parametrize("name", ["NAG", "ONG", "VSF"])
def test_what_fills_an_image_up_lies_as_far_from_each_text_as_alone(
    both: Callable[[str], Both], name: str
) -> None:
    """Where the image is refined it lies there as the prompt has it, which is as far as the two can be the same."""
    longer = " ".join([NEGATIVE] * 10)
    for kind, same in (("z_image_unrefined", SAME), ("z_image", 1e-2)):
        tiny = both(kind)
        right = tiny.diffusers(SAME_METHOD[name](longer, **METHODS[name]), batch=2)
        graph, model = tiny.graph()
        patched = in_attention(graph, name, model, tiny.text(graph, longer))
        (found,) = tiny.server.latents(graph, tiny.sampled(graph, patched, 2))
        assert rms(found, right) < same


@pytest.mark.parametrize("kind", PUSHED)
def test_negtome_and_perp_neg_are_those_of_negguide(both: Callable[[str], Both], kind: str) -> None:
    tiny = both(kind)
    graph, model = tiny.graph()
    right = {
        "plain": tiny.diffusers(batch=2),
        "negtome": tiny.diffusers(NegToMe(stop=1.0, **PUSH), batch=2),
        "first": tiny.diffusers(NegToMe("first", stop=1.0, mask=MASK[0], **PUSH), batch=2),
        "perp_neg": tiny.diffusers(PerpNeg(Negative(NEGATIVE, stop=1.0)), batch=2, cfg=3.0),
    }
    steps = {"stop": 1.0, "unit": "steps", **PUSH}
    mask: Link = [graph("TestLoadTensor", file=tiny.file(mask=MASK))[0], 1]
    window = {"automatic": False, "start": 0.0, "stop": 1.0, "unit": "steps"}
    negatives = graph("NegguideNegative", conditioning=tiny.text(graph, NEGATIVE), weight=1.0, **window)
    found = tiny.server.latents(
        graph,
        tiny.sampled(graph, model, 2),
        tiny.sampled(graph, negtome(graph, model, **steps), 2),
        tiny.sampled(graph, negtome(graph, model, reference="first", mask=mask, **steps), 2),
        tiny.sampled(graph, perp_neg(graph, model, negatives), 2, cfg=3.0),
    )
    differences = {name: rms(one, right[name]) for name, one in zip(right, found, strict=True)}
    assert max(differences.values()) < SAME, differences
    for name in ("negtome", "first", "perp_neg"):
        assert rms(right[name], right["plain"]) > 10 * SAME, name


@pytest.mark.parametrize("kind", ["sd3", "qwen_image"])
def test_perp_neg_leaves_out_predictions_of_flows_too(both: Callable[[str], Both], kind: str) -> None:
    tiny = both(kind)
    tiny.steps = 10
    try:
        negative = Negative(NEGATIVE, stop=1.0)
        right = tiny.diffusers(PerpNeg(negative, economy=True, guidance_stop=0.8), batch=2, cfg=3.0)
        every = tiny.diffusers(PerpNeg(negative), batch=2, cfg=3.0)
        graph, model = tiny.graph()
        window = {"automatic": False, "start": 0.0, "stop": 1.0, "unit": "steps"}
        negatives = graph("NegguideNegative", conditioning=tiny.text(graph, NEGATIVE), weight=1.0, **window)
        patched = perp_neg(graph, model, negatives, economy=True, guidance_stop=0.8)
        (found,) = tiny.server.latents(graph, tiny.sampled(graph, patched, 2, cfg=3.0))
    finally:
        tiny.steps = STEPS
    assert rms(found, right) < SAME
    assert rms(right, every) > 10 * SAME


@pytest.mark.parametrize("kind", ["flux", "wan", "z_image", "sd3", "qwen_image"])
def test_methods_act_beside_one_another_in_any_order(both: Callable[[str], Both], kind: str) -> None:
    tiny = both(kind)
    guidance = (NAG(NEGATIVE, **METHODS["NAG"]), NegToMe(stop=1.0, **PUSH))
    right = tiny.diffusers(*guidance, batch=2)
    graph, model = tiny.graph()
    text, steps = tiny.text(graph, NEGATIVE), {"stop": 1.0, "unit": "steps", **PUSH}
    one = negtome(graph, in_attention(graph, "NAG", model, text), **steps)
    other = in_attention(graph, "NAG", negtome(graph, model, **steps), text)
    first, second = tiny.server.latents(graph, *(tiny.sampled(graph, it, 2) for it in (one, other)))
    assert rms(first, right) < SAME
    assert torch.equal(first, second)


def test_models_that_a_method_does_not_know_are_refused_by_name(both: Callable[[str], Both]) -> None:
    tiny = both("wan")
    tiny.diffusers()
    for name in ("NAG", "NegToMe"):
        graph = Graph()
        model = graph("TestLoadTransformer", folder=str(tiny.folder), kind=tiny.kind, other=True)
        if name == "NAG":
            patched = in_attention(graph, name, model, tiny.text(graph, NEGATIVE))
        else:
            patched = negtome(graph, model)
        said = f"{name} does not know models of the class OtherModel; it knows UNetModel, .*Flux, "
        with pytest.raises(GraphError, match=said):
            tiny.server.latents(graph, tiny.sampled(graph, patched, 2))
