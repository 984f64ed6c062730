"""FLUX.1 Control with `negative_guidance=`, for diffusers' `custom_pipeline=`.

pipe = DiffusionPipeline.from_pretrained(model, custom_pipeline="negguide_flux_control.py", trust_remote_code=True)
"""

from negguide.integration.pipelines import NegGuideFluxControlPipeline

__all__ = ["NegGuideFluxControlPipeline"]
