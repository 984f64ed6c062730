"""Inpainting by a ControlNet on Z-Image with `negative_guidance=`, for diffusers' `custom_pipeline=`.

pipe = DiffusionPipeline.from_pretrained(
    model, custom_pipeline="negguide_z_image_controlnet_inpaint.py", trust_remote_code=True
)
"""

from negguide.integration.pipelines import NegGuideZImageControlNetInpaintPipeline

__all__ = ["NegGuideZImageControlNetInpaintPipeline"]
