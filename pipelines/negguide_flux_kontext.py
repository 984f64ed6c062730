"""FLUX.1 Kontext with `negative_guidance=`, for diffusers' `custom_pipeline=`.

pipe = DiffusionPipeline.from_pretrained(model, custom_pipeline="negguide_flux_kontext.py", trust_remote_code=True)
"""

from negguide.integration.pipelines import NegGuideFluxKontextPipeline

__all__ = ["NegGuideFluxKontextPipeline"]
