"""Kolors from image to image with `negative_guidance=`, for diffusers' `custom_pipeline=`.

pipe = DiffusionPipeline.from_pretrained(model, custom_pipeline="negguide_kolors_img2img.py", trust_remote_code=True)
"""

from negguide.integration.pipelines import NegGuideKolorsImg2ImgPipeline

__all__ = ["NegGuideKolorsImg2ImgPipeline"]
