"""HiDream-I1 with `negative_guidance=`, for diffusers' `custom_pipeline=`.

pipe = DiffusionPipeline.from_pretrained(model, custom_pipeline="negguide_hidream.py", trust_remote_code=True)
"""

from negguide.integration.pipelines import NegGuideHiDreamImagePipeline

__all__ = ["NegGuideHiDreamImagePipeline"]
