"""AnimateDiff with `negative_guidance=`, for diffusers' `custom_pipeline=`.

file = "negguide_animatediff.py"
parts = {"motion_adapter": motion_adapter, "custom_pipeline": file}
pipe = DiffusionPipeline.from_pretrained(model, **parts, trust_remote_code=True)
"""

from negguide.integration.pipelines import NegGuideAnimateDiffPipeline

__all__ = ["NegGuideAnimateDiffPipeline"]
