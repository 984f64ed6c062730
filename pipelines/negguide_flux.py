"""FLUX.1 with `negative_guidance=`, for diffusers' `custom_pipeline=`.

pipe = DiffusionPipeline.from_pretrained(model, custom_pipeline="negguide_flux.py", trust_remote_code=True)
"""

from negguide.integration.pipelines import NegGuideFluxPipeline

__all__ = ["NegGuideFluxPipeline"]
