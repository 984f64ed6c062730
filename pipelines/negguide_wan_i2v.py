"""Wan from an image with `negative_guidance=`, for diffusers' `custom_pipeline=`.

pipe = DiffusionPipeline.from_pretrained(model, custom_pipeline="negguide_wan_i2v.py", trust_remote_code=True)
"""

from negguide.integration.pipelines import NegGuideWanImageToVideoPipeline

__all__ = ["NegGuideWanImageToVideoPipeline"]
