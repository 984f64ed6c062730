"""ControlNet Union on SDXL with `negative_guidance=`, for diffusers' `custom_pipeline=`.

file = "negguide_sdxl_controlnet_union.py"
pipe = DiffusionPipeline.from_pretrained(model, controlnet=controlnet, custom_pipeline=file, trust_remote_code=True)
"""

from negguide.integration.pipelines import NegGuideStableDiffusionXLControlNetUnionPipeline

__all__ = ["NegGuideStableDiffusionXLControlNetUnionPipeline"]
