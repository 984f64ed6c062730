"""Wan VACE with `negative_guidance=`, for diffusers' `custom_pipeline=`.

pipe = DiffusionPipeline.from_pretrained(model, custom_pipeline="negguide_wan_vace.py", trust_remote_code=True)
"""

from negguide.integration.pipelines import NegGuideWanVACEPipeline

__all__ = ["NegGuideWanVACEPipeline"]
