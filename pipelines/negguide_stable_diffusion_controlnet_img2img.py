"""ControlNet on Stable Diffusion, from image to image, with `negative_guidance=`, for diffusers' `custom_pipeline=`.

file = "negguide_stable_diffusion_controlnet_img2img.py"
pipe = DiffusionPipeline.from_pretrained(model, controlnet=controlnet, custom_pipeline=file, trust_remote_code=True)
"""

from negguide.integration.pipelines import NegGuideStableDiffusionControlNetImg2ImgPipeline

__all__ = ["NegGuideStableDiffusionControlNetImg2ImgPipeline"]
