"""FLUX.2 dev with `negative_guidance=`, for diffusers' `custom_pipeline=`.

pipe = DiffusionPipeline.from_pretrained(model, custom_pipeline="negguide_flux2.py", trust_remote_code=True)
"""

from negguide.integration.pipelines import NegGuideFlux2Pipeline

__all__ = ["NegGuideFlux2Pipeline"]
