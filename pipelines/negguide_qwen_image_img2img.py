"""Image to image on Qwen-Image with `negative_guidance=`, for diffusers' `custom_pipeline=`.

pipe = DiffusionPipeline.from_pretrained(
    model, custom_pipeline="negguide_qwen_image_img2img.py", trust_remote_code=True
)
"""

from negguide.integration.pipelines import NegGuideQwenImageImg2ImgPipeline

__all__ = ["NegGuideQwenImageImg2ImgPipeline"]
