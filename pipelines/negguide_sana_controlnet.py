"""Sana with a ControlNet with `negative_guidance=`, for diffusers' `custom_pipeline=`.

pipe = DiffusionPipeline.from_pretrained(model, custom_pipeline="negguide_sana_controlnet.py", trust_remote_code=True)
"""

from negguide.integration.pipelines import NegGuideSanaControlNetPipeline

__all__ = ["NegGuideSanaControlNetPipeline"]
