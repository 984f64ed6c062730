"""ControlNet on FLUX.1 from an image with `negative_guidance=`, for diffusers' `custom_pipeline=`.

file = "negguide_flux_controlnet_img2img.py"
pipe = DiffusionPipeline.from_pretrained(model, controlnet=controlnet, custom_pipeline=file, trust_remote_code=True)
"""

from negguide.integration.pipelines import NegGuideFluxControlNetImg2ImgPipeline

__all__ = ["NegGuideFluxControlNetImg2ImgPipeline"]
