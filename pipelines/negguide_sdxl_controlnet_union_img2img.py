"""ControlNet Union on SDXL, from image to image, with `negative_guidance=`, for diffusers' `custom_pipeline=`.

file = "negguide_sdxl_controlnet_union_img2img.py"
pipe = DiffusionPipeline.from_pretrained(model, controlnet=controlnet, custom_pipeline=file, trust_remote_code=True)
"""

from negguide.integration.pipelines import NegGuideStableDiffusionXLControlNetUnionImg2ImgPipeline

__all__ = ["NegGuideStableDiffusionXLControlNetUnionImg2ImgPipeline"]
