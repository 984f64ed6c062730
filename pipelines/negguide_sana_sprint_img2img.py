"""Sana Sprint from an image with `negative_guidance=`, for diffusers' `custom_pipeline=`.

pipe = DiffusionPipeline.from_pretrained(
    model, custom_pipeline="negguide_sana_sprint_img2img.py", trust_remote_code=True
)
"""

from negguide.integration.pipelines import NegGuideSanaSprintImg2ImgPipeline

__all__ = ["NegGuideSanaSprintImg2ImgPipeline"]
