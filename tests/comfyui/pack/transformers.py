"""Tiny random transformers of diffusers in ComfyUI's own classes."""

import dataclasses
import json
import re
from pathlib import Path

import comfy.latent_formats
import comfy.ldm.flux.model
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.supported_models_base
import comfy.utils
import torch
from safetensors.torch import load_file

FLUX2 = (
    (r"^transformer_blocks\.(\d+)\.ff\.linear_in", r"double_blocks.\1.img_mlp.0"),
    (r"^transformer_blocks\.(\d+)\.ff\.linear_out", r"double_blocks.\1.img_mlp.2"),
    (r"^transformer_blocks\.(\d+)\.ff_context\.linear_in", r"double_blocks.\1.txt_mlp.0"),
    (r"^transformer_blocks\.(\d+)\.ff_context\.linear_out", r"double_blocks.\1.txt_mlp.2"),
    (r"^single_transformer_blocks\.(\d+)\.attn\.to_qkv_mlp_proj", r"single_blocks.\1.linear1"),
    (r"^single_transformer_blocks\.(\d+)\.attn\.to_out", r"single_blocks.\1.linear2"),
    (r"stream_modulation(.*)\.linear\.", r"stream_modulation\1.lin."),
)
WAN = (
    (r"vace_blocks\.(\d+)\.proj_in", r"vace_blocks.\1.before_proj"),
    (r"vace_blocks\.(\d+)\.proj_out", r"vace_blocks.\1.after_proj"),
    (r"condition_embedder\.time_embedder\.linear_1", "time_embedding.0"),
    (r"condition_embedder\.time_embedder\.linear_2", "time_embedding.2"),
    (r"condition_embedder\.time_proj", "time_projection.1"),
    (r"condition_embedder\.text_embedder\.linear_1", "text_embedding.0"),
    (r"condition_embedder\.text_embedder\.linear_2", "text_embedding.2"),
    (r"attn1\.", "self_attn."),
    (r"attn2\.", "cross_attn."),
    (r"attn\.to_([qkv])\.", r"attn.\1."),
    (r"attn\.to_out\.0\.", "attn.o."),
    (r"norm2\.", "norm3."),
    (r"ffn\.net\.0\.proj", "ffn.0"),
    (r"ffn\.net\.2", "ffn.2"),
    (r"^proj_out\.", "head.head."),
    (r"^scale_shift_table", "head.modulation"),
    (r"scale_shift_table", "modulation"),
)


LUMINA2 = (
    (r"time_caption_embed\.timestep_embedder\.linear_1", "t_embedder.mlp.0"),
    (r"time_caption_embed\.timestep_embedder\.linear_2", "t_embedder.mlp.2"),
    (r"time_caption_embed\.caption_embedder", "cap_embedder"),
    (r"attn\.norm_([qk])\.", r"attention.\1_norm."),
    (r"attn\.to_out\.0\.", "attention.out."),
    (r"feed_forward\.linear_", "feed_forward.w"),
    (r"\.norm1\.linear\.", ".adaLN_modulation.1."),
    (r"\.norm1\.(norm\.)?", ".attention_norm1."),
    (r"\.norm2\.", ".attention_norm2."),
    (r"^norm_out\.linear_1", "final_layer.adaLN_modulation.1"),
    (r"^norm_out\.linear_2", "final_layer.linear"),
)


def flux(known):
    width = known["num_attention_heads"] * known["attention_head_dim"]
    unet = {
        "in_channels": known["in_channels"] // 4,
        "out_channels": known["in_channels"] // 4,
        "vec_in_dim": known["pooled_projection_dim"],
        "context_in_dim": known["joint_attention_dim"],
        "hidden_size": width,
        "mlp_ratio": 4.0,
        "num_heads": known["num_attention_heads"],
        "depth": known["num_layers"],
        "depth_single_blocks": known["num_single_layers"],
        "axes_dim": known["axes_dims_rope"],
        "theta": 10000,
        "patch_size": 2,
        "qkv_bias": True,
        "guidance_embed": known["guidance_embeds"],
    }
    if "txt_ids_dims" in {field.name for field in dataclasses.fields(comfy.ldm.flux.model.FluxParams)}:
        unet["txt_ids_dims"] = []
    return unet, comfy.model_base.Flux, {}, unet["in_channels"]


def wan(known):
    unet = {
        "model_type": "t2v",
        "patch_size": tuple(known["patch_size"]),
        "in_dim": known["in_channels"],
        "out_dim": known["out_channels"],
        "dim": known["num_attention_heads"] * known["attention_head_dim"],
        "ffn_dim": known["ffn_dim"],
        "freq_dim": known["freq_dim"],
        "text_dim": known["text_dim"],
        "num_heads": known["num_attention_heads"],
        "num_layers": known["num_layers"],
    }
    return unet, comfy.model_base.WAN21, {"shift": 3.0}, known["in_channels"]


def vace(known):
    unet, _, *rest = wan(known)
    unet |= {
        "model_type": "vace",
        "vace_layers": len(known["vace_layers"]),
        "vace_in_dim": known["vace_in_channels"],
    }
    return unet, comfy.model_base.WAN21_Vace, *rest


def lumina2(known):
    unet = {
        "patch_size": known["patch_size"],
        "in_channels": known["in_channels"],
        "dim": known["hidden_size"],
        "n_layers": known["num_layers"],
        "n_refiner_layers": known["num_refiner_layers"],
        "n_heads": known["num_attention_heads"],
        "n_kv_heads": known["num_kv_heads"],
        "multiple_of": known["multiple_of"],
        "ffn_dim_multiplier": 4.0,
        "norm_eps": known["norm_eps"],
        "qk_norm": True,
        "cap_feat_dim": known["cap_feat_dim"],
        "axes_dims": known["axes_dim_rope"],
        "axes_lens": known["axes_lens"],
        "rope_theta": 10000.0,
    }
    return unet, comfy.model_base.Lumina2, {"multiplier": 1.0, "shift": 3.0}, known["in_channels"]


def z_image(known):
    unet = {
        "patch_size": 2,
        "in_channels": known["in_channels"],
        "dim": known["dim"],
        "n_layers": known["n_layers"],
        "n_refiner_layers": known["n_refiner_layers"],
        "n_heads": known["n_heads"],
        "n_kv_heads": known["n_kv_heads"],
        "multiple_of": 1,
        # of the width of the feed-forward to that of the model, as in diffusers
        "ffn_dim_multiplier": 8.0 / 3.0,
        "norm_eps": known["norm_eps"],
        "qk_norm": True,
        "cap_feat_dim": known["cap_feat_dim"],
        "axes_dims": known["axes_dims"],
        "axes_lens": known["axes_lens"],
        "rope_theta": known["rope_theta"],
        "z_image_modulation": True,
        "time_scale": known["t_scale"],
        "pad_tokens_multiple": 32,
    }
    return unet, comfy.model_base.Lumina2, {"multiplier": 1.0, "shift": 3.0}, known["in_channels"]


def sd3(known):
    width = known["num_attention_heads"] * known["attention_head_dim"]
    unet = {
        "input_size": None,
        "patch_size": known["patch_size"],
        "in_channels": known["in_channels"],
        # heads, and 64 channels for each
        "depth": known["num_attention_heads"],
        "num_blocks": known["num_layers"],
        "adm_in_channels": known["pooled_projection_dim"],
        "context_embedder_config": {
            "target": "torch.nn.Linear",
            "params": {"in_features": known["joint_attention_dim"], "out_features": width},
        },
        "pos_embed_max_size": known["pos_embed_max_size"],
        "num_patches": known["pos_embed_max_size"] ** 2,
        "qk_norm": {"rms_norm": "rms", None: None}[known["qk_norm"]],
        "x_block_self_attn_layers": list(known["dual_attention_layers"]),
        "context_size": known["joint_attention_dim"],
    }
    return unet, comfy.model_base.SD3, {"shift": 3.0}, known["in_channels"]


def qwen_image(known):
    unet = {
        "in_channels": known["in_channels"],
        "out_channels": known["out_channels"],
        "num_layers": known["num_layers"],
        "attention_head_dim": known["attention_head_dim"],
        "num_attention_heads": known["num_attention_heads"],
        "joint_attention_dim": known["joint_attention_dim"],
        "axes_dims_rope": tuple(known["axes_dims_rope"]),
    }
    return unet, comfy.model_base.QwenImage, {"multiplier": 1.0, "shift": 3.0}, known["out_channels"]


def flux2(known):
    unet, *rest = flux({**known, "pooled_projection_dim": None})
    unet |= {
        "in_channels": known["in_channels"],
        "out_channels": known["in_channels"],
        "mlp_ratio": known["mlp_ratio"],
        "theta": known["rope_theta"],
        "patch_size": 1,
        "qkv_bias": False,
        "global_modulation": True,
        "mlp_silu_act": True,
        "ops_bias": False,
    }
    if "txt_ids_dims" in unet:
        unet["txt_ids_dims"] = [3]
    # not ComfyUI's Flux2, which fills texts up to 512 tokens
    return unet, *rest[:-1], known["in_channels"]


KINDS = {
    "flux": flux,
    "flux2": flux2,
    "wan": wan,
    "z_image": z_image,
    "sd3": sd3,
    "qwen_image": qwen_image,
    "lumina2": lumina2,
    "vace": vace,
}


def renamed(keys, patterns):
    names = {}
    for key in keys:
        name = key
        for pattern, replacement in patterns:
            name = re.sub(pattern, replacement, name)
        names[key] = name
    return names


def names_of(kind, weights, known):
    """{diffusers' name of a weight: its place in ComfyUI's model}."""
    if kind == "z_image":
        return comfy.utils.z_image_to_diffusers(known)
    if kind in ("wan", "vace"):
        return renamed(weights, WAN)
    if kind == "lumina2":
        names = renamed(weights, LUMINA2)
        for key in names:
            # one weight for all three, and fewer keys and values than queries
            if at := re.search(r"^(.*)attn\.to_([qkv])\.weight", key):
                names[key] = (f"{at[1]}attention.qkv.weight", ("qkv".index(at[2]),) * 2)
        return names
    if kind == "qwen_image":
        # ComfyUI took them over as they are
        return {key: key for key in weights}
    if kind == "sd3":
        return comfy.utils.mmdit_to_diffusers(
            {"depth": known["num_attention_heads"], "num_blocks": known["num_layers"]}
        )
    width = known["num_attention_heads"] * known["attention_head_dim"]
    layers = {"depth": known["num_layers"], "depth_single_blocks": known["num_single_layers"]}
    names = comfy.utils.flux_to_diffusers({**layers, "hidden_size": width})
    if kind == "flux2":
        names |= {k.replace("time_text_embed", "time_guidance_embed"): place for k, place in names.items()}
        # an older ComfyUI does not know all of them
        names |= renamed(weights.keys() - names.keys(), FLUX2)
    return names


def placed(weights, names):
    """Weights where ComfyUI's model has them, some of which hold several."""
    found, parts = {}, {}
    for key, value in weights.items():
        place = names[key]
        name, span, *change = (place, None) if isinstance(place, str) else place
        value = change[0](value) if change else value
        if span is None:
            found[name] = value
        else:
            parts.setdefault(name, {})[span[1]] = value
    return found | {name: torch.cat([part[at] for at in sorted(part)]) for name, part in parts.items()}


class LoadTransformer:
    """A tiny transformer that diffusers has saved."""

    FUNCTION, CATEGORY, RETURN_TYPES = "load", "tests", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):
        other = ("BOOLEAN", {"default": False})
        return {"required": {"folder": ("STRING", {}), "kind": ("STRING", {})}, "optional": {"other": other}}

    def load(self, folder, kind, other=False):
        known = json.loads((Path(folder) / "config.json").read_text())
        weights = load_file(Path(folder) / "diffusion_pytorch_model.safetensors")
        unet, base, sampling, channels = KINDS[kind](known)

        class Latents(comfy.latent_formats.LatentFormat):
            latent_channels = channels
            latent_dimensions = 3 if kind in ("wan", "vace", "qwen_image") else 2

        nothing_more = {}

        class Config(comfy.supported_models_base.BASE):
            unet_extra_config = nothing_more
            sampling_settings = sampling
            latent_format = Latents
            custom_operations = comfy.ops.disable_weight_init

        model = base(Config({**unet, "dtype": torch.float32}))
        names = names_of(kind, weights, known)
        weights = {key: value.float() for key, value in placed(weights, names).items()}
        if kind in ("z_image", "lumina2"):
            # an older ComfyUI has a norm that nothing goes through
            unused = {
                key: value for key, value in model.diffusion_model.state_dict().items() if "norm_final" in key
            }
            weights |= {
                key: value for key, value in unused.items() if key not in weights and "layer" not in key
            }
            # sizes that ComfyUI takes from the width of the trained model
            for layer in (0, 2):
                out, width = weights[f"t_embedder.mlp.{layer}.weight"].shape
                model.diffusion_model.t_embedder.mlp[layer] = torch.nn.Linear(width, out)
        model.diffusion_model.load_state_dict(weights)
        if other:
            # what a model is that builds on one of these
            model.diffusion_model.__class__ = type("OtherModel", (type(model.diffusion_model),), {})
        device = comfy.model_management.get_torch_device()
        return (comfy.model_patcher.ModelPatcher(model, device, torch.device("cpu")),)


class Vace:
    """A conditioning with what Wan VACE is given, as its node makes it: frames of a video, and their mask."""

    FUNCTION, CATEGORY, RETURN_TYPES = "set", "tests", ("CONDITIONING",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"conditioning": ("CONDITIONING",), "file": ("STRING", {})}}

    def set(self, conditioning, file):
        found = load_file(file)
        more = {"vace_frames": [found["frames"]], "vace_mask": [found["mask"]], "vace_strength": [1.0]}
        return ([[text, {**options, **more}] for text, options in conditioning],)


class Sigmas:
    """A noise schedule from a file."""

    FUNCTION, CATEGORY, RETURN_TYPES = "load", "tests", ("SIGMAS",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"file": ("STRING", {})}}

    def load(self, file):
        return (load_file(file)["sigmas"],)
