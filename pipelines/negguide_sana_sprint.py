"""Sana Sprint with `negative_guidance=`, for diffusers' `custom_pipeline=`.

pipe = DiffusionPipeline.from_pretrained(model, custom_pipeline="negguide_sana_sprint.py", trust_remote_code=True)
"""

from negguide.integration.pipelines import NegGuideSanaSprintPipeline

__all__ = ["NegGuideSanaSprintPipeline"]
