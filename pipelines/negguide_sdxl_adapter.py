"""T2I-Adapter on Stable Diffusion XL with `negative_guidance=`, for diffusers' `custom_pipeline=`.

file = "negguide_sdxl_adapter.py"
pipe = DiffusionPipeline.from_pretrained(model, adapter=adapter, custom_pipeline=file, trust_remote_code=True)
"""

from negguide.integration.pipelines import NegGuideStableDiffusionXLAdapterPipeline

__all__ = ["NegGuideStableDiffusionXLAdapterPipeline"]
