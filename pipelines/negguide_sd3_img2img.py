"""Stable Diffusion 3 from an image with `negative_guidance=`, for diffusers' `custom_pipeline=`.

pipe = DiffusionPipeline.from_pretrained(model, custom_pipeline="negguide_sd3_img2img.py", trust_remote_code=True)
"""

from negguide.integration.pipelines import NegGuideStableDiffusion3Img2ImgPipeline

__all__ = ["NegGuideStableDiffusion3Img2ImgPipeline"]
