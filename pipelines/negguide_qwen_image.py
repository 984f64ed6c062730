"""Qwen-Image with `negative_guidance=`, for diffusers' `custom_pipeline=`.

pipe = DiffusionPipeline.from_pretrained(model, custom_pipeline="negguide_qwen_image.py", trust_remote_code=True)
"""

from negguide.integration.pipelines import NegGuideQwenImagePipeline

__all__ = ["NegGuideQwenImagePipeline"]
