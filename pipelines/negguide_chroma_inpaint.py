"""Chroma inside a mask with `negative_guidance=`, for diffusers' `custom_pipeline=`.

pipe = DiffusionPipeline.from_pretrained(model, custom_pipeline="negguide_chroma_inpaint.py", trust_remote_code=True)
"""

from negguide.integration.pipelines import NegGuideChromaInpaintPipeline

__all__ = ["NegGuideChromaInpaintPipeline"]
