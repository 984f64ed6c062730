"""FLUX.1 Control inside a mask with `negative_guidance=`, for diffusers' `custom_pipeline=`.

file = "negguide_flux_control_inpaint.py"
pipe = DiffusionPipeline.from_pretrained(model, custom_pipeline=file, trust_remote_code=True)
"""

from negguide.integration.pipelines import NegGuideFluxControlInpaintPipeline

__all__ = ["NegGuideFluxControlInpaintPipeline"]
