"""Qwen-Image 2.1 with `negative_guidance=`, for diffusers' `custom_pipeline=`.

pipe = DiffusionPipeline.from_pretrained(model, custom_pipeline="negguide_qwen_image_21.py", trust_remote_code=True)
"""

from negguide.integration.pipelines import NegGuideQwenImage21Pipeline

__all__ = ["NegGuideQwenImage21Pipeline"]
