"""FLUX.1 inside a mask with `negative_guidance=`, for diffusers' `custom_pipeline=`.

pipe = DiffusionPipeline.from_pretrained(model, custom_pipeline="negguide_flux_inpaint.py", trust_remote_code=True)
"""

from negguide.integration.pipelines import NegGuideFluxInpaintPipeline

__all__ = ["NegGuideFluxInpaintPipeline"]
