"""Tiny random transformers on both sides: negguide on diffusers, and graphs for ComfyUI's servers."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import tiny_joint
import tiny_lumina2
import tiny_qwen_siblings
import tiny_unet_and_cross
import tiny_wan_siblings
import torch
from comfyui_server import Graph, Link, Server
from diffusers import FlowMatchEulerDiscreteScheduler, Flux2Transformer2DModel, SD3Transformer2DModel
from safetensors.torch import save_file
from tiny_parts import louder, picture

from negguide import from_pipe

STEPS, SIDE = 3, 8
PROMPT, NEGATIVE = "a bear wearing a hat", "a brown bear"
LOADED = {"kontext": "flux", "qwen_edit": "qwen_image", "z_image_unrefined": "z_image"}
"""The kind of model that a kind of pipeline has, where the tests' loader knows it under another name."""
WITH_REFERENCE = ("kontext", "qwen_edit")
FRAMES = {"wan": 3, "vace": 3, "qwen_image": 1, "qwen_edit": 1}
ENCODED = {"max_sequence_length": tiny_joint.CHAT_LENGTH, "text_encoder_out_layers": (1, 2, 3)}


class Both:
    """A tiny model on both sides.

    Args:
        server: of ComfyUI.
        folder: a new one.
        kind: of the pipeline.
    """

    def __init__(self, server: Server, folder: Path, kind: str) -> None:
        self.server, self.folder, self.kind = server, folder, kind
        build = {
            "flux": tiny_joint.flux,
            "flux2": tiny_joint.flux2_klein,
            "wan": tiny_unet_and_cross.wan,
            "z_image": tiny_joint.z_image,
            "sd3": tiny_unet_and_cross.sd3,
            "qwen_image": tiny_joint.qwen_image,
            "kontext": tiny_joint.flux_kontext,
            "qwen_edit": tiny_qwen_siblings.qwen_image_edit,
            "lumina2": tiny_lumina2.lumina2,
            "vace": tiny_wan_siblings.wan_vace,
            "z_image_unrefined": unrefined,
        }
        pipe = build[kind]()
        if kind == "flux2":
            # ComfyUI knows one number of channels for the timestep
            config = {**pipe.transformer.config, "timestep_guidance_channels": 256}
            torch.manual_seed(24)
            factors = {"modulation": 6, "context_embedder": 2, "attn.": 2, "proj_out": 2}
            pipe.register_modules(transformer=louder(Flux2Transformer2DModel.from_config(config), factors))
        elif kind == "sd3":
            # ComfyUI knows heads of 64 channels, and its names of weights as many blocks as there are heads
            width = {"num_attention_heads": 3, "attention_head_dim": 64, "caption_projection_dim": 3 * 64}
            config = {**pipe.transformer.config, **width}
            torch.manual_seed(8)
            factors = {"attn.": 2, "attn2.to_": 2, "norm1": 2, "context_embedder": 2}
            pipe.register_modules(transformer=louder(SD3Transformer2DModel.from_config(config), factors))
        self.pipe = from_pipe(pipe)
        self.pipe.set_progress_bar_config(disable=True)
        if kind in ("wan", "vace"):
            self.pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
        self.pipe.transformer.save_pretrained(folder, safe_serialization=True)
        self.frames = FRAMES.get(kind, 0)
        self.side = SIDE
        self.steps = STEPS
        # what the denoiser got in the last run on diffusers
        self.inputs: dict[str, Any] = {}
        self.pipe.transformer.register_forward_pre_hook(self._keep, with_kwargs=True)

    @property
    def channels(self) -> int:
        config = self.pipe.transformer.config
        packed = LOADED.get(self.kind, self.kind) in ("flux", "qwen_image")
        return int(config.in_channels) // (4 if packed else 1)

    def _keep(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        self.inputs = dict(kwargs)

    def noise(self, batch: int) -> torch.Tensor:
        size = (self.side, self.side) if not self.frames else (self.frames, self.side, self.side)
        return torch.randn(batch, self.channels, *size, generator=torch.manual_seed(5))

    def diffusers(
        self, *guidance: Any, batch: int = 1, cfg: float = 1.0, prompt: str = PROMPT
    ) -> torch.Tensor:
        noise = self.noise(batch)
        last: dict[str, torch.Tensor] = {}

        def keep(
            pipe: Any, step: int, timestep: Any, tensors: dict[str, torch.Tensor]
        ) -> dict[str, torch.Tensor]:
            last.update(tensors)
            return tensors

        given: dict[str, Any] = {"num_inference_steps": self.steps, "output_type": "latent", "latents": noise}
        kind = self.kind
        if kind in ("flux", "kontext"):
            given |= {"latents": _packed(noise), "max_sequence_length": 16}
            given |= {"negative_prompt": "", "true_cfg_scale": cfg}
            if kind == "kontext":
                given |= {"image": picture(), **tiny_joint.AS_ASKED}
        elif kind in ("qwen_image", "qwen_edit"):
            given |= {"latents": _packed(noise[:, :, 0]), "negative_prompt": "", "true_cfg_scale": cfg}
            if kind == "qwen_edit":
                given["image"] = tiny_joint.pil_picture()
        elif kind == "sd3":
            given |= {"max_sequence_length": 16, "negative_prompt": "", "guidance_scale": cfg}
        elif kind == "flux2":
            given |= {"guidance_scale": cfg, **ENCODED, "callback_on_step_end": keep}
        elif kind in ("wan", "vace"):
            given |= {"max_sequence_length": 16, "guidance_scale": cfg}
            given["num_frames"] = 1 + 4 * (self.frames - 1)
        elif kind == "lumina2":
            given |= {"max_sequence_length": 10, "guidance_scale": cfg, "negative_prompt": ""}
            given |= {"system_prompt": "", "cfg_normalization": False}
        else:
            # it counts g from 0
            given |= {"max_sequence_length": tiny_joint.CHAT_LENGTH, "guidance_scale": cfg - 1}
        videos = kind in ("wan", "vace")
        count = "num_videos_per_prompt" if videos else "num_images_per_prompt"
        # of pixels: 8 to a latent of FLUX and Wan in these tiny autoencoders
        scale = self.pipe.vae_scale_factor_spatial if videos else self.pipe.vae_scale_factor
        scale *= 2 if kind == "flux2" else 1
        sizes = {"height": self.side * scale, "width": self.side * scale, count: batch}
        with without_rescaling() if LOADED.get(kind, kind) == "qwen_image" else nullcontext():
            result = self.pipe(prompt=prompt, **given, **sizes, negative_guidance=list(guidance) or None)
        if kind == "flux2":
            # what the pipeline gives has been made ready for the autoencoder
            return torch.unflatten(last["latents"].transpose(1, 2), 2, (SIDE, SIDE))
        latents: Any = result.frames if videos else result.images
        if LOADED.get(kind, kind) == "qwen_image":
            return _unpacked(latents)[:, :, None]
        unpacked: torch.Tensor = _unpacked(latents) if LOADED.get(kind, kind) == "flux" else latents
        return unpacked

    def text(self, graph: Graph, text: str) -> Link:
        """A conditioning from the pipeline's text encoders, with what else it gives the denoiser."""
        pipe = self.pipe
        if self.kind in ("flux", "kontext"):
            embeds, pooled, _ = pipe.encode_prompt(text, None, max_sequence_length=16)
            tensors = {"text": embeds, "pooled": pooled}
        elif self.kind == "qwen_image":
            tensors = {"text": pipe.encode_prompt(text)[0]}
        elif self.kind == "sd3":
            embeds, _, pooled, _ = pipe.encode_prompt(
                text, None, None, do_classifier_free_guidance=False, max_sequence_length=16
            )
            tensors = {"text": embeds, "pooled": pooled}
        elif self.kind == "flux2":
            tensors = {"text": pipe.encode_prompt(text, **ENCODED)[0]}
        elif self.kind in ("wan", "vace"):
            tensors = {"text": pipe.encode_prompt(text, None, False, max_sequence_length=16)[0]}
        elif self.kind in ("qwen_edit", "lumina2"):
            # with the image, or without what fills it up
            self.diffusers(prompt=text)
            tensors = {"text": self.inputs["encoder_hidden_states"]}
            if self.kind == "lumina2":
                tensors["text"] = tensors["text"][:, self.inputs["encoder_attention_mask"][0].bool()]
        else:
            (embeds,), _ = pipe.encode_prompt(
                text, do_classifier_free_guidance=False, max_sequence_length=tiny_joint.CHAT_LENGTH
            )
            tensors = {"text": embeds[None]}
        conditioning = graph("TestText", file=self.file(**tensors))
        if self.kind in WITH_REFERENCE:
            self.diffusers()
            own = (self.side // 2) ** 2
            reference = _unpacked(self.inputs["hidden_states"][:1, own:])
            reference = reference[:, :, None] if self.frames else reference
            latent = graph("TestLoadTensor", file=self.file(latent=reference))
            conditioning = graph("ReferenceLatent", conditioning=conditioning, latent=latent)
        if self.kind == "vace":
            self.diffusers()
            control = self.inputs["control_hidden_states"][:1]
            file = self.file(frames=control[:, :32], mask=control[:, 32:])
            conditioning = graph("TestVace", conditioning=conditioning, file=file)
        return conditioning

    def file(self, **tensors: torch.Tensor) -> str:
        name = str(self.folder / f"{len(list(self.folder.iterdir()))}.safetensors")
        save_file({key: value.detach().float().contiguous() for key, value in tensors.items()}, name)
        return name

    def graph(self) -> tuple[Graph, Link]:
        graph = Graph()
        return graph, graph(
            "TestLoadTransformer", folder=str(self.folder), kind=LOADED.get(self.kind, self.kind)
        )

    def sampled(self, graph: Graph, model: Link, batch: int = 1, cfg: float = 1.0) -> Link:
        noise = self.noise(batch)
        texts = {"positive": self.text(graph, PROMPT), "negative": self.text(graph, "")}
        return graph(
            "SamplerCustomAdvanced",
            noise=graph("TestNoise", file=self.file(latent=noise)),
            guider=graph("CFGGuider", model=model, cfg=cfg, **texts),
            sampler=graph("KSamplerSelect", sampler_name="euler"),
            # of the last run on diffusers
            sigmas=graph("TestSigmas", file=self.file(sigmas=self.pipe.scheduler.sigmas)),
            latent_image=graph("TestLoadTensor", file=self.file(latent=torch.zeros_like(noise))),
        )


def unrefined() -> Any:
    """Z-Image without attention of the image alone: what fills its tokens up is met in the joint blocks only."""
    pipe = tiny_joint.z_image()
    for block in pipe.transformer.noise_refiner:
        block.attention.to_out[0].weight.data.zero_()
    return pipe


@contextmanager
def without_rescaling() -> Iterator[None]:
    """Guidance as ComfyUI has it: Qwen-Image's pipeline brings each token back to the length that it has without."""
    norm = torch.norm

    def one(tokens: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        # torch's own calls say which norm
        return norm(tokens, *args, **kwargs) if args else torch.ones_like(tokens[..., :1])

    with patch("torch.norm", one):
        yield


def _packed(latents: torch.Tensor) -> torch.Tensor:
    patches = torch.unflatten(torch.unflatten(latents, 3, (-1, 2)), 2, (-1, 2)).permute(0, 2, 4, 1, 3, 5)
    return patches.flatten(3).flatten(1, 2)


def _unpacked(tokens: torch.Tensor) -> torch.Tensor:
    patches = torch.unflatten(torch.unflatten(tokens, 1, (SIDE // 2, SIDE // 2)), 3, (-1, 2, 2))
    patches = patches.permute(0, 3, 1, 4, 2, 5)
    return patches.flatten(4).flatten(2, 3)
