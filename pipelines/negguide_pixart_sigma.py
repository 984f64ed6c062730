"""PixArt-Sigma with `negative_guidance=`, for diffusers' `custom_pipeline=`.

pipe = DiffusionPipeline.from_pretrained(model, custom_pipeline="negguide_pixart_sigma.py", trust_remote_code=True)
"""

from negguide.integration.pipelines import NegGuidePixArtSigmaPipeline

__all__ = ["NegGuidePixArtSigmaPipeline"]
