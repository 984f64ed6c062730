"""ControlNet on FLUX.1 with `negative_guidance=`, for diffusers' `custom_pipeline=`.

file = "negguide_flux_controlnet.py"
pipe = DiffusionPipeline.from_pretrained(model, controlnet=controlnet, custom_pipeline=file, trust_remote_code=True)
"""

from negguide.integration.pipelines import NegGuideFluxControlNetPipeline

__all__ = ["NegGuideFluxControlNetPipeline"]
