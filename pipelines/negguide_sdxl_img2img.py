"""Stable Diffusion XL from an image with `negative_guidance=`, for diffusers' `custom_pipeline=`.

pipe = DiffusionPipeline.from_pretrained(model, custom_pipeline="negguide_sdxl_img2img.py", trust_remote_code=True)
"""

from negguide.integration.pipelines import NegGuideStableDiffusionXLImg2ImgPipeline

__all__ = ["NegGuideStableDiffusionXLImg2ImgPipeline"]
