"""FLUX.1 from an image with `negative_guidance=`, for diffusers' `custom_pipeline=`.

pipe = DiffusionPipeline.from_pretrained(model, custom_pipeline="negguide_flux_img2img.py", trust_remote_code=True)
"""

from negguide.integration.pipelines import NegGuideFluxImg2ImgPipeline

__all__ = ["NegGuideFluxImg2ImgPipeline"]
