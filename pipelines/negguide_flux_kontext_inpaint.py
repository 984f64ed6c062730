"""FLUX.1 Kontext inside a mask with `negative_guidance=`, for diffusers' `custom_pipeline=`.

file = "negguide_flux_kontext_inpaint.py"
pipe = DiffusionPipeline.from_pretrained(model, custom_pipeline=file, trust_remote_code=True)
"""

from negguide.integration.pipelines import NegGuideFluxKontextInpaintPipeline

__all__ = ["NegGuideFluxKontextInpaintPipeline"]
