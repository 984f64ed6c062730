"""FLUX.1 Fill with `negative_guidance=`, for diffusers' `custom_pipeline=`.

pipe = DiffusionPipeline.from_pretrained(model, custom_pipeline="negguide_flux_fill.py", trust_remote_code=True)
"""

from negguide.integration.pipelines import NegGuideFluxFillPipeline

__all__ = ["NegGuideFluxFillPipeline"]
