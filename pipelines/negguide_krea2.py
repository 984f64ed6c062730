"""Krea 2 with `negative_guidance=`, for diffusers' `custom_pipeline=`.

pipe = DiffusionPipeline.from_pretrained(model, custom_pipeline="negguide_krea2.py", trust_remote_code=True)
"""

from negguide.integration.pipelines import NegGuideKrea2Pipeline

__all__ = ["NegGuideKrea2Pipeline"]
