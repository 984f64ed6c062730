"""FLUX.2 klein with `negative_guidance=`, for diffusers' `custom_pipeline=`.

pipe = DiffusionPipeline.from_pretrained(model, custom_pipeline="negguide_flux2_klein.py", trust_remote_code=True)
"""

from negguide.integration.pipelines import NegGuideFlux2KleinPipeline

__all__ = ["NegGuideFlux2KleinPipeline"]
