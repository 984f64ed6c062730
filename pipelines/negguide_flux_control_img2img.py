"""FLUX.1 Control from an image with `negative_guidance=`, for diffusers' `custom_pipeline=`.

file = "negguide_flux_control_img2img.py"
pipe = DiffusionPipeline.from_pretrained(model, custom_pipeline=file, trust_remote_code=True)
"""

from negguide.integration.pipelines import NegGuideFluxControlImg2ImgPipeline

__all__ = ["NegGuideFluxControlImg2ImgPipeline"]
