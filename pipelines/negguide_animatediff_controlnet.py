"""ControlNet on AnimateDiff with `negative_guidance=`, for diffusers' `custom_pipeline=`.

file = "negguide_animatediff_controlnet.py"
parts = {"motion_adapter": motion_adapter, "controlnet": controlnet, "custom_pipeline": file}
pipe = DiffusionPipeline.from_pretrained(model, **parts, trust_remote_code=True)
"""

from negguide.integration.pipelines import NegGuideAnimateDiffControlNetPipeline

__all__ = ["NegGuideAnimateDiffControlNetPipeline"]
