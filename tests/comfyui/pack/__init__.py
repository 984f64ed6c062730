"""Nodes that the tests bring into ComfyUI's server: the embedded model, texts and latents from and to files."""

import json
import sys
from pathlib import Path

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sampler_helpers
import comfy.samplers
import comfy.supported_models_base
import comfy.utils
import torch
from safetensors.torch import load_file, save_file

from . import beside
from .transformers import LoadTransformer, Sigmas, Vace

CHANGED = "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_v.weight"


class Operations(comfy.ops.disable_weight_init):
    """ComfyUI's, with the groups of the embedded model where ComfyUI says 32."""

    class GroupNorm(comfy.ops.disable_weight_init.GroupNorm):
        def __init__(self, num_groups, num_channels, **options):
            super().__init__(16, num_channels, **options)


class Latents(comfy.latent_formats.LatentFormat):
    latent_channels = 8


class LoadEmbedded:
    """The embedded text-to-image model in ComfyUI's own UNet.

    ComfyUI tells models by their layers and knows no UNet of 80 channels, so its config is made here; all the rest is
    as for any Stable Diffusion.
    """

    FUNCTION, CATEGORY, RETURN_TYPES = "load", "tests", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"folder": ("STRING", {})}}

    def load(self, folder):
        known = json.loads((Path(folder) / "unet" / "config.json").read_text())
        weights = load_file(Path(folder) / "unet" / "diffusion_pytorch_model.safetensors")
        levels = len(known["block_out_channels"])
        each = known["layers_per_block"]
        unet = {
            "image_size": known["sample_size"],
            "in_channels": known["in_channels"],
            "out_channels": known["out_channels"],
            "model_channels": known["block_out_channels"][0],
            "num_res_blocks": [each] * levels,
            "channel_mult": [c // known["block_out_channels"][0] for c in known["block_out_channels"]],
            "transformer_depth": [1] * (each * levels),
            "transformer_depth_output": [1] * ((each + 1) * levels),
            "transformer_depth_middle": 1,
            "use_spatial_transformer": True,
            "context_dim": known["cross_attention_dim"],
            "legacy": False,
            "dtype": torch.float32,
        }

        heads = {"num_heads": known["attention_head_dim"], "num_head_channels": -1}

        class Config(comfy.supported_models_base.BASE):
            unet_extra_config = heads
            latent_format = Latents
            custom_operations = Operations

        model = comfy.model_base.BaseModel(Config(unet), comfy.model_base.ModelType.V_PREDICTION)
        names = comfy.utils.unet_to_diffusers(unet)
        missing = set(weights) - set(names)
        if missing:
            raise ValueError(f"no place in ComfyUI's UNet for {sorted(missing)[:5]}")
        model.diffusion_model.load_state_dict({names[key]: value.float() for key, value in weights.items()})
        alphas = load_file(Path(folder) / "alphas_cumprod.safetensors")["alphas_cumprod"].double()
        model.model_sampling.set_sigmas(((1 - alphas) / alphas) ** 0.5)
        # while a patched copy is loaded, the model's own are changed
        model.weight_before = comfy.utils.get_attr(model, CHANGED).clone()
        device = comfy.model_management.get_torch_device()
        return (comfy.model_patcher.ModelPatcher(model, device, torch.device("cpu")),)


class Text:
    """A conditioning from a file, [1, tokens, channels]; `again` has ComfyUI compute anew what depends on it."""

    FUNCTION, CATEGORY, RETURN_TYPES = "load", "tests", ("CONDITIONING",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"file": ("STRING", {})}, "optional": {"again": ("INT", {"default": 0})}}

    def load(self, file, again=0):
        found = load_file(file)
        return ([[found.pop("text"), {"pooled_output": found.pop("pooled", None), **found}]],)


class NoText:
    """An empty conditioning."""

    FUNCTION, CATEGORY, RETURN_TYPES = "load", "tests", ("CONDITIONING",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def load(self):
        return ([],)


class LoadTensor:
    """A latent and a mask from a file."""

    FUNCTION, CATEGORY, RETURN_TYPES = "load", "tests", ("LATENT", "MASK")

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"file": ("STRING", {})}}

    def load(self, file):
        found = load_file(file)
        return {"samples": found.get("latent")}, found.get("mask")


class Noise:
    """Noise from a file."""

    FUNCTION, CATEGORY, RETURN_TYPES = "load", "tests", ("NOISE",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"file": ("STRING", {})}}

    def load(self, file):
        self.noise = load_file(file)["latent"]
        self.seed = 0
        return (self,)

    def generate_noise(self, latent):
        return self.noise


class SaveTensor:
    """A latent to a file."""

    FUNCTION, CATEGORY, RETURN_TYPES, OUTPUT_NODE = "save", "tests", (), True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"samples": ("LATENT",), "file": ("STRING", {}), "run": ("INT", {"default": 0})}}

    def save(self, samples, file, run):
        save_file({"latent": samples["samples"].contiguous()}, file)
        return {}


class ReplaceCrossAttention:
    """What nodes of image prompts do: the cross-attentions of the up blocks computed here, with something added."""

    FUNCTION, CATEGORY, RETURN_TYPES = "patch", "tests", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "added": ("FLOAT", {"default": 0.0})}}

    def patch(self, model, added):
        from comfy.ldm.modules.attention import optimized_attention

        patched = model.clone()

        def attend(q, k, v, extra_options):
            return optimized_attention(q, k, v, extra_options["n_heads"]) + added

        for block in range(4):
            patched.set_model_attn2_replace(attend, "output", block)
        return (patched,)


class ChangeWeights:
    """What a LoRA does: weights that ComfyUI patches when it loads the model."""

    FUNCTION, CATEGORY, RETURN_TYPES = "patch", "tests", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "strength": ("FLOAT", {"default": 1.0})}}

    def patch(self, model, strength):
        patched = model.clone()
        patched.add_patches({CHANGED: ("diff", (0.3 * model.model.weight_before,))}, strength)
        return (patched,)


class Predictions:
    """What a node does that computes the predictions of prompt and negative prompt itself."""

    FUNCTION, CATEGORY, RETURN_TYPES = "patch", "tests", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",)}}

    def patch(self, model):
        patched = model.clone()

        def evaluate(args):
            given = (args[name] for name in ("model", "conds", "input", "sigma", "model_options"))
            return comfy.samplers.calc_cond_batch(*given)

        patched.set_model_sampler_calc_cond_batch_function(evaluate)
        return (patched,)


class Added:
    """What ComfyUI asks of a ControlNet; it adds a number in the middle of the UNet."""

    extra_hooks = None
    previous_controlnet = None

    def __init__(self, value):
        self.value = value
        self.multigpu_clones = {}

    def get_models(self):
        return []

    def get_extra_hooks(self):
        return []

    def inference_memory_requirements(self, dtype):
        return 0

    def pre_run(self, model, percent_to_timestep_function):
        pass

    def get_control(self, x, *_):
        return {"middle": [torch.tensor(self.value).to(x)], "input": [], "output": []}

    def cleanup(self):
        pass


class Control:
    """A conditioning with a ControlNet, as Apply ControlNet makes it."""

    FUNCTION, CATEGORY, RETURN_TYPES = "set", "tests", ("CONDITIONING",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"conditioning": ("CONDITIONING",), "value": ("FLOAT", {"default": 1.0})}}

    def set(self, conditioning, value):
        more = {"control": Added(value), "control_apply_to_uncond": False}
        return ([[text, {**options, **more}] for text, options in conditioning],)


class Imported:
    """Refuses a server in which any of these packages was imported."""

    FUNCTION, CATEGORY, RETURN_TYPES, OUTPUT_NODE = "look", "tests", (), True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"packages": ("STRING", {})}}

    def look(self, packages):
        found = [name for name in packages.split(",") if name in sys.modules]
        if found:
            raise ValueError(f"imported: {found}")
        return {}


NODE_CLASS_MAPPINGS = {
    f"Test{kind.__name__}": kind
    for kind in (
        LoadEmbedded,
        Text,
        NoText,
        LoadTensor,
        Noise,
        SaveTensor,
        ReplaceCrossAttention,
        ChangeWeights,
        Predictions,
        Control,
        Imported,
        LoadTransformer,
        Sigmas,
        Vace,
        *beside.KINDS,
    )
}
