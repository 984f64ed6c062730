"""LTX-Video with `negative_guidance=`, for diffusers' `custom_pipeline=`.

pipe = DiffusionPipeline.from_pretrained(model, custom_pipeline="negguide_ltx.py", trust_remote_code=True)
"""

from negguide.integration.pipelines import NegGuideLTXPipeline

__all__ = ["NegGuideLTXPipeline"]
