"""Stable Diffusion 1.x/2.x with `negative_guidance=`, for diffusers' `custom_pipeline=`.

pipe = DiffusionPipeline.from_pretrained(model, custom_pipeline="negguide_stable_diffusion.py", trust_remote_code=True)
"""

from negguide.integration.pipelines import NegGuideStableDiffusionPipeline

__all__ = ["NegGuideStableDiffusionPipeline"]
