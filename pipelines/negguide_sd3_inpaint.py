"""Stable Diffusion 3 inside a mask with `negative_guidance=`, for diffusers' `custom_pipeline=`.

pipe = DiffusionPipeline.from_pretrained(model, custom_pipeline="negguide_sd3_inpaint.py", trust_remote_code=True)
"""

from negguide.integration.pipelines import NegGuideStableDiffusion3InpaintPipeline

__all__ = ["NegGuideStableDiffusion3InpaintPipeline"]
