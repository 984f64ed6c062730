"""Latent Consistency Models, from image to image, with `negative_guidance=`, for diffusers' `custom_pipeline=`.

file = "negguide_latent_consistency_img2img.py"
pipe = DiffusionPipeline.from_pretrained(model, custom_pipeline=file, trust_remote_code=True)
"""

from negguide.integration.pipelines import NegGuideLatentConsistencyModelImg2ImgPipeline

__all__ = ["NegGuideLatentConsistencyModelImg2ImgPipeline"]
