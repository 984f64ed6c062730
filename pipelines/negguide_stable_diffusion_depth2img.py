"""Stable Diffusion 2 from an image and its depth with `negative_guidance=`, for diffusers' `custom_pipeline=`.

file = "negguide_stable_diffusion_depth2img.py"
pipe = DiffusionPipeline.from_pretrained(model, custom_pipeline=file, trust_remote_code=True)
"""

from negguide.integration.pipelines import NegGuideStableDiffusionDepth2ImgPipeline

__all__ = ["NegGuideStableDiffusionDepth2ImgPipeline"]
