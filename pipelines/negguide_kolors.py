"""Kolors with `negative_guidance=`, for diffusers' `custom_pipeline=`.

pipe = DiffusionPipeline.from_pretrained(model, custom_pipeline="negguide_kolors.py", trust_remote_code=True)
"""

from negguide.integration.pipelines import NegGuideKolorsPipeline

__all__ = ["NegGuideKolorsPipeline"]
