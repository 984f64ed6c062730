"""Stable Diffusion XL with `negative_guidance=`, for diffusers' `custom_pipeline=`.

pipe = DiffusionPipeline.from_pretrained(model, custom_pipeline="negguide_sdxl.py", trust_remote_code=True)
"""

from negguide.integration.pipelines import NegGuideStableDiffusionXLPipeline

__all__ = ["NegGuideStableDiffusionXLPipeline"]
