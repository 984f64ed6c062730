"""LTX-Video from an image with `negative_guidance=`, for diffusers' `custom_pipeline=`.

pipe = DiffusionPipeline.from_pretrained(model, custom_pipeline="negguide_ltx_i2v.py", trust_remote_code=True)
"""

from negguide.integration.pipelines import NegGuideLTXImageToVideoPipeline

__all__ = ["NegGuideLTXImageToVideoPipeline"]
