"""Stable Diffusion XL inside a mask with `negative_guidance=`, for diffusers' `custom_pipeline=`.

pipe = DiffusionPipeline.from_pretrained(model, custom_pipeline="negguide_sdxl_inpaint.py", trust_remote_code=True)
"""

from negguide.integration.pipelines import NegGuideStableDiffusionXLInpaintPipeline

__all__ = ["NegGuideStableDiffusionXLInpaintPipeline"]
