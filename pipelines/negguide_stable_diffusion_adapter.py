"""T2I-Adapter on Stable Diffusion 1.x with `negative_guidance=`, for diffusers' `custom_pipeline=`.

file = "negguide_stable_diffusion_adapter.py"
pipe = DiffusionPipeline.from_pretrained(model, adapter=adapter, custom_pipeline=file, trust_remote_code=True)
"""

from negguide.integration.pipelines import NegGuideStableDiffusionAdapterPipeline

__all__ = ["NegGuideStableDiffusionAdapterPipeline"]
