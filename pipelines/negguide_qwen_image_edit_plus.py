"""Editing by Qwen-Image-Edit Plus (2509, 2511) with `negative_guidance=`, for diffusers' `custom_pipeline=`.

pipe = DiffusionPipeline.from_pretrained(
    model, custom_pipeline="negguide_qwen_image_edit_plus.py", trust_remote_code=True
)
"""

from negguide.integration.pipelines import NegGuideQwenImageEditPlusPipeline

__all__ = ["NegGuideQwenImageEditPlusPipeline"]
