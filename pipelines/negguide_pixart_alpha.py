"""PixArt-alpha with `negative_guidance=`, for diffusers' `custom_pipeline=`.

pipe = DiffusionPipeline.from_pretrained(model, custom_pipeline="negguide_pixart_alpha.py", trust_remote_code=True)
"""

from negguide.integration.pipelines import NegGuidePixArtAlphaPipeline

__all__ = ["NegGuidePixArtAlphaPipeline"]
