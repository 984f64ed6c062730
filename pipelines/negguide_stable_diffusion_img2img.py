"""Stable Diffusion 1.x/2.x from an image with `negative_guidance=`, for diffusers' `custom_pipeline=`.

pipe = DiffusionPipeline.from_pretrained(
    model, custom_pipeline="negguide_stable_diffusion_img2img.py", trust_remote_code=True
)
"""

from negguide.integration.pipelines import NegGuideStableDiffusionImg2ImgPipeline

__all__ = ["NegGuideStableDiffusionImg2ImgPipeline"]
