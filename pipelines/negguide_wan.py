"""Wan with `negative_guidance=`, for diffusers' `custom_pipeline=`.

pipe = DiffusionPipeline.from_pretrained(model, custom_pipeline="negguide_wan.py", trust_remote_code=True)
"""

from negguide.integration.pipelines import NegGuideWanPipeline

__all__ = ["NegGuideWanPipeline"]
