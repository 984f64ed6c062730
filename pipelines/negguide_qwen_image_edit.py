"""Editing by Qwen-Image-Edit with `negative_guidance=`, for diffusers' `custom_pipeline=`.

pipe = DiffusionPipeline.from_pretrained(
    model, custom_pipeline="negguide_qwen_image_edit.py", trust_remote_code=True
)
"""

from negguide.integration.pipelines import NegGuideQwenImageEditPipeline

__all__ = ["NegGuideQwenImageEditPipeline"]
