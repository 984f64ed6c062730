"""FLUX.2 klein inside a mask with `negative_guidance=`, for diffusers' `custom_pipeline=`.

file = "negguide_flux2_klein_inpaint.py"
pipe = DiffusionPipeline.from_pretrained(model, custom_pipeline=file, trust_remote_code=True)
"""

from negguide.integration.pipelines import NegGuideFlux2KleinInpaintPipeline

__all__ = ["NegGuideFlux2KleinInpaintPipeline"]
