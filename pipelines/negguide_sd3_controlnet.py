"""ControlNet on Stable Diffusion 3 with `negative_guidance=`, for diffusers' `custom_pipeline=`.

file = "negguide_sd3_controlnet.py"
pipe = DiffusionPipeline.from_pretrained(model, controlnet=controlnet, custom_pipeline=file, trust_remote_code=True)
"""

from negguide.integration.pipelines import NegGuideStableDiffusion3ControlNetPipeline

__all__ = ["NegGuideStableDiffusion3ControlNetPipeline"]
