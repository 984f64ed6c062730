"""Inpainting by a ControlNet on Qwen-Image with `negative_guidance=`, for diffusers' `custom_pipeline=`.

pipe = DiffusionPipeline.from_pretrained(
    model, custom_pipeline="negguide_qwen_image_controlnet_inpaint.py", trust_remote_code=True
)
"""

from negguide.integration.pipelines import NegGuideQwenImageControlNetInpaintPipeline

__all__ = ["NegGuideQwenImageControlNetInpaintPipeline"]
