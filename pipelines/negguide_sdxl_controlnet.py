"""ControlNet on Stable Diffusion XL with `negative_guidance=`, for diffusers' `custom_pipeline=`.

pipe = DiffusionPipeline.from_pretrained(model, custom_pipeline="negguide_sdxl_controlnet.py", trust_remote_code=True)
"""

from negguide.integration.pipelines import NegGuideStableDiffusionXLControlNetPipeline

__all__ = ["NegGuideStableDiffusionXLControlNetPipeline"]
