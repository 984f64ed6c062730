"""A model stored as its difference from another comes back as it was, up to the rank."""

from dataclasses import replace
from types import MappingProxyType

import diffusers
import pytest
import torch
from safetensors.torch import load_file

from negguide import domain, models
from negguide.toyworld import deltas
from negguide.toyworld import models as toyworld_models
from negguide.toyworld.domain import DOMAIN, EMBEDDED
from negguide.toyworld.models import load_pipeline

BASE, STUDENT = "toyworld-tiny", "toyworld-tiny-student"


def weights(seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"wide.weight": (12, 8), "wide.bias": (12,), "small.weight": (2, 8)}
    return {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}


def test_a_difference_of_low_rank_is_stored_exactly_and_in_fewer_bytes(tmp_path):
    base = weights()
    change = torch.randn(12, 2) @ torch.randn(2, 8)
    model = {**base, "wide.weight": base["wide.weight"] + change, "wide.bias": base["wide.bias"] + 1}
    path = deltas.save(tmp_path, model, base, rank=2)
    found = deltas.load(tmp_path, base)
    for key, value in model.items():
        torch.testing.assert_close(found[key], value, rtol=0, atol=5e-3)
    stored = load_file(path)
    assert {key: tuple(value.shape) for key, value in stored.items() if "wide.weight" in key} == {
        "left.wide.weight": (12, 2),
        "right.wide.weight": (2, 8),
    }
    assert {value.dtype for value in stored.values()} == {torch.float16}


def test_of_a_full_difference_the_best_part_of_that_rank_is_kept(tmp_path):
    base = weights()
    model = {**base, "wide.weight": weights(1)["wide.weight"]}
    change = model["wide.weight"] - base["wide.weight"]
    errors = []
    for rank in (1, 3, 6):
        deltas.save(tmp_path, model, base, rank)
        errors.append((deltas.load(tmp_path, base)["wide.weight"] - model["wide.weight"]).norm())
        # what no approximation of this rank can do better (Eckart-Young)
        best = torch.linalg.svdvals(change)[rank:].norm()
        assert errors[-1] == pytest.approx(best.item(), abs=1e-2)
    assert errors[0] > errors[1] > errors[2]


def test_weights_that_only_the_model_has_are_stored_whole(tmp_path):
    base = weights()
    new = torch.randn(8, 8)
    deltas.save(tmp_path, {**base, "guidance.weight": new}, base, rank=1)
    torch.testing.assert_close(deltas.load(tmp_path, base)["guidance.weight"], new, rtol=0, atol=2e-3)


def test_another_base_and_a_wrong_rank_are_refused(tmp_path):
    base = weights()
    with pytest.raises(ValueError, match="rank must be at least 1, got 0"):
        deltas.save(tmp_path, base, base, 0)
    with pytest.raises(ValueError, match=r"model lacks, or has in another shape, wide\.bias"):
        deltas.save(tmp_path, {"wide.weight": base["wide.weight"]}, base, 1)
    deltas.save(tmp_path, base, base, 2)
    others = (
        {**base, "wide.weight": torch.zeros(8, 12)},
        {**base, "other.weight": torch.zeros(1)},
        # the same shapes: nothing else would tell that the sum is nobody's model
        {**base, "wide.bias": base["wide.bias"] + 0.01},
        {key: base[key] for key in base if key != "wide.bias"},
    )
    for other in others:
        with pytest.raises(ValueError, match=r"delta\.safetensors is the difference from another model"):
            deltas.load(tmp_path, other)
    # what is loaded in another precision, or in another order, is the same base
    deltas.load(tmp_path, {key: base[key].half() for key in reversed(base)})


@pytest.fixture
def student(trained, tmp_path, monkeypatch):
    """An embedded model that is stored as the difference from another, as `EMBEDDED` knows them."""
    monkeypatch.setattr(toyworld_models, "WEIGHTS", tmp_path)
    (tmp_path / "flow").symlink_to(trained / "weights" / "flow")
    parts = [
        load_file(trained / "weights" / name / "transformer" / "diffusion_pytorch_model.safetensors")
        for name in ("flow-distilled", "flow")
    ]
    deltas.save(tmp_path / "tiny-student", *parts, rank=4)
    flow = EMBEDDED["toyworld-flow"]
    rows = {
        BASE: replace(flow, name=BASE),
        STUDENT: replace(flow, name=STUDENT, folder="tiny-student", always_guided=False, base=BASE),
    }
    registry = MappingProxyType({**EMBEDDED, **rows})
    monkeypatch.setattr(toyworld_models, "EMBEDDED", registry)
    monkeypatch.setitem(domain._domains, "toyworld", replace(DOMAIN, models=registry))
    return parts[0]


def test_a_model_stored_as_a_difference_is_a_plain_pipeline(student, tmp_path):
    pipe = load_pipeline(STUDENT)
    assert type(pipe) is diffusers.FluxPipeline
    assert pipe.transformer.config.guidance_embeds
    own = pipe.transformer.state_dict()
    for key, value in student.items():
        # rank 4 holds next to all of what two steps of training changed
        torch.testing.assert_close(own[key], value.float(), rtol=0, atol=2e-2)
    pipe.save_pretrained(tmp_path / "plain")
    again = diffusers.FluxPipeline.from_pretrained(tmp_path / "plain", dtype=torch.float32)
    assert all(torch.equal(value, own[key]) for key, value in again.transformer.state_dict().items())


def test_a_model_stored_as_a_difference_is_told_from_its_base(student):
    guided = models.load_pipeline(STUDENT)
    assert models.embedded_of(guided).name == STUDENT
    assert models.embedded_of(models.load_pipeline(BASE)).name in (BASE, "toyworld-flow")
    assert models.revision(STUDENT) != models.revision(BASE)
    assert models.own_guidance_scale(guided, guided=False) == 1.0
    assert models.own_guidance_scale(models.load_pipeline(BASE), guided=False) == 4.0
