"""Stable Diffusion 1.x/2.x inside a mask with `negative_guidance=`, for diffusers' `custom_pipeline=`.

file = "negguide_stable_diffusion_inpaint.py"
pipe = DiffusionPipeline.from_pretrained(model, custom_pipeline=file, trust_remote_code=True)
"""

from negguide.integration.pipelines import NegGuideStableDiffusionInpaintPipeline

__all__ = ["NegGuideStableDiffusionInpaintPipeline"]
