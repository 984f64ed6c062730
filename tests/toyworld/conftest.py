import pytest
from diffusers import FluxTransformer2DModel

from negguide.toyworld.train import distill, flow, recipe, record
from negguide.toyworld.train.recipe import run


def _tiny_transformer(guidance=False):
    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=32,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=192,
        pooled_projection_dim=192,
        axes_dims_rope=(2, 2, 4),
        guidance_embeds=guidance,
    )


@pytest.fixture
def tiny_transformer(monkeypatch):
    """A constructor of flow-matching transformers, which the trainings use in place of theirs."""
    for module in (flow, recipe, distill):
        monkeypatch.setattr(module, "new_transformer", _tiny_transformer)
    return _tiny_transformer


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A folder in which every flow-matching model was trained for two steps with a tiny transformer."""
    out = tmp_path_factory.mktemp("flow")
    with pytest.MonkeyPatch.context() as patch:
        for module in (flow, recipe, distill):
            patch.setattr(module, "new_transformer", _tiny_transformer)
        patch.setattr(recipe, "SAMPLE_EVERY_SECONDS", 0.0)
        patch.setattr(record, "SAMPLES", ("a bear",))
        run("flow-text-encoder", out, steps=2, batch_size=4)
        run("flow", out, steps=2, batch_size=4)
        run("flow-distilled", out, steps=2, batch_size=2)
        run("flow-turbo", out, steps=2, batch_size=2)
    return out
