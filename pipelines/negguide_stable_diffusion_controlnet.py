"""ControlNet on Stable Diffusion 1.x/2.x with `negative_guidance=`, for diffusers' `custom_pipeline=`.

file = "negguide_stable_diffusion_controlnet.py"
pipe = DiffusionPipeline.from_pretrained(model, controlnet=controlnet, custom_pipeline=file, trust_remote_code=True)
"""

from negguide.integration.pipelines import NegGuideStableDiffusionControlNetPipeline

__all__ = ["NegGuideStableDiffusionControlNetPipeline"]
