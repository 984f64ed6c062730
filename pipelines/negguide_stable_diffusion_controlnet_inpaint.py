"""ControlNet on Stable Diffusion, inside a mask, with `negative_guidance=`, for diffusers' `custom_pipeline=`.

file = "negguide_stable_diffusion_controlnet_inpaint.py"
pipe = DiffusionPipeline.from_pretrained(model, controlnet=controlnet, custom_pipeline=file, trust_remote_code=True)
"""

from negguide.integration.pipelines import NegGuideStableDiffusionControlNetInpaintPipeline

__all__ = ["NegGuideStableDiffusionControlNetInpaintPipeline"]
