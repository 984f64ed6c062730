"""Stable Diffusion 3 and 3.5 with `negative_guidance=`, for diffusers' `custom_pipeline=`.

pipe = DiffusionPipeline.from_pretrained(model, custom_pipeline="negguide_sd3.py", trust_remote_code=True)
"""

from negguide.integration.pipelines import NegGuideStableDiffusion3Pipeline

__all__ = ["NegGuideStableDiffusion3Pipeline"]
