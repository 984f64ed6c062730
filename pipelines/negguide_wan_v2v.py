"""Wan from a video with `negative_guidance=`, for diffusers' `custom_pipeline=`.

pipe = DiffusionPipeline.from_pretrained(model, custom_pipeline="negguide_wan_v2v.py", trust_remote_code=True)
"""

from negguide.integration.pipelines import NegGuideWanVideoToVideoPipeline

__all__ = ["NegGuideWanVideoToVideoPipeline"]
