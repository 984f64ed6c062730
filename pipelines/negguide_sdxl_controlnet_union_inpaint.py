"""ControlNet Union on SDXL, inside a mask, with `negative_guidance=`, for diffusers' `custom_pipeline=`.

file = "negguide_sdxl_controlnet_union_inpaint.py"
pipe = DiffusionPipeline.from_pretrained(model, controlnet=controlnet, custom_pipeline=file, trust_remote_code=True)
"""

from negguide.integration.pipelines import NegGuideStableDiffusionXLControlNetUnionInpaintPipeline

__all__ = ["NegGuideStableDiffusionXLControlNetUnionInpaintPipeline"]
