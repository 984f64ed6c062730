"""What other nodes, and ComfyUI itself, do to a model while ours are on it."""

import comfy.model_management
import comfy.model_patcher
import latent_preview
from comfy_api.torch_helpers import set_torch_compile_wrapper


class Interrupt:
    """Presses the button in the middle of the model, once: in so many attentions from the beginning."""

    FUNCTION, CATEGORY, RETURN_TYPES = "patch", "tests", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "after": ("INT", {})}}

    def patch(self, model, after):
        patched = model.clone()
        seen = [0]

        def attend(function, *args, **kwargs):
            seen[0] += 1
            if seen[0] == after:
                comfy.model_management.interrupt_current_processing()
            comfy.model_management.throw_exception_if_processing_interrupted()
            return function(*args, **kwargs)

        patched.model_options["transformer_options"]["optimized_attention_override"] = attend
        return (patched,)


GIVEN = []
"""What the previews of the last run were given."""


class Previewer(latent_preview.LatentPreviewer):
    """Keeps what it is given, and shows nothing."""

    def decode_latent_to_preview_image(self, preview_format, x0):
        GIVEN.append(x0.detach().clone().cpu())
        return


class Preview:
    """The latents of the last preview of the run before, and how many there were in the upper left corner."""

    FUNCTION, CATEGORY, RETURN_TYPES = "look", "tests", ("LATENT",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"samples": ("LATENT",)}}

    def look(self, samples):
        last = GIVEN[-1].clone()
        last[..., 0, 0] = len(GIVEN)
        return ({"samples": last},)


class Previewed:
    """A model whose runs are previewed."""

    FUNCTION, CATEGORY, RETURN_TYPES = "set", "tests", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",)}}

    def set(self, model):
        GIVEN.clear()
        latent_preview.get_previewer = lambda device, latent_format: Previewer()
        return (model,)


class Partly(comfy.model_patcher.ModelPatcher):
    """Loads none of the weights that can stay where they are: what a card does that is too small."""

    def partially_load(self, device_to, extra_memory=0, force_patch_weights=False):
        return super().partially_load(device_to, 1, force_patch_weights)


class PartlyLoaded:
    """A model of which ComfyUI loads a part."""

    FUNCTION, CATEGORY, RETURN_TYPES = "patch", "tests", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",)}}

    def patch(self, model):
        # one that is loaded whole stays so
        comfy.model_management.unload_all_models()
        patched = model.clone()
        patched.__class__ = Partly
        return (patched,)


class Loaded:
    """Refuses a model that is loaded whole."""

    FUNCTION, CATEGORY, RETURN_TYPES = "look", "tests", ("LATENT",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "samples": ("LATENT",)}}

    def look(self, model, samples):
        offloaded = [m for m in model.model.modules() if hasattr(m, "prev_comfy_cast_weights")]
        if not model.model.model_lowvram or not offloaded:
            raise ValueError("the model is loaded whole")
        return (samples,)


class PatchCrossAttention:
    """What nodes do that change what the cross-attentions get: the text's tokens times a number."""

    FUNCTION, CATEGORY, RETURN_TYPES = "patch", "tests", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "factor": ("FLOAT", {"default": 1.0})}}

    def patch(self, model, factor):
        patched = model.clone()

        def change(n, context, value, extra_options):
            return n, context * factor, (context if value is None else value) * factor

        patched.set_model_attn2_patch(change)
        return (patched,)


class Compile:
    """TorchCompileModel with a backend that compiles in no time."""

    FUNCTION, CATEGORY, RETURN_TYPES = "patch", "tests", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",)}}

    def patch(self, model):
        patched = model.clone()
        set_torch_compile_wrapper(model=patched, backend="eager")
        return (patched,)


KINDS = (Interrupt, Preview, Previewed, PartlyLoaded, Loaded, PatchCrossAttention, Compile)
