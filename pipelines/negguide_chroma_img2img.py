"""Chroma from an image with `negative_guidance=`, for diffusers' `custom_pipeline=`.

pipe = DiffusionPipeline.from_pretrained(model, custom_pipeline="negguide_chroma_img2img.py", trust_remote_code=True)
"""

from negguide.integration.pipelines import NegGuideChromaImg2ImgPipeline

__all__ = ["NegGuideChromaImg2ImgPipeline"]
