"""The nodes on transformers, in ComfyUI's servers: tiny random models of each kind beside negguide on diffusers."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from comfyui_server import Graph, GraphError, Link, Server
from comfyui_toy import METHODS, SAME, in_attention, negtome, perp_neg, rms
from diffusers import FlowMatchEulerDiscreteScheduler, Flux2Transformer2DModel, SD3Transformer2DModel
from safetensors.torch import save_file

sys.path.append(str(Path(__file__).parents[1] / "families"))

import tiny_joint
import tiny_unet_and_cross
from tiny_parts import louder

from negguide import NAG, ONG, VSF, Negative, NegToMe, PerpNeg, from_pipe

STEPS, SIDE = 3, 8
PROMPT, NEGATIVE = "a bear wearing a hat", "a brown bear"
SAME_METHOD = {"NAG": NAG, "ONG": ONG, "VSF": VSF}
KINDS = ("flux", "flux2", "wan", "z_image", "sd3", "qwen_image")
MASK = torch.zeros(1, 16, 16)
MASK[:, :, :6] = 1
ENCODED = {"max_sequence_length": tiny_joint.CHAT_LENGTH, "text_encoder_out_layers": (1, 2, 3)}
# features are random: pushed at any likeness
PUSH = {"threshold": 0.0, "alpha": 0.5}


class Both:
    """A tiny model on both sides.

    Args:
        server: of ComfyUI.
        folder: a new one.
        kind: of the model, as the tests' loader knows it.
        frames: of a video.
    """

    def __init__(self, server: Server, folder: Path, kind: str, frames: int = 0) -> None:
        self.server, self.folder, self.kind = server, folder, kind
        build = {
            "flux": tiny_joint.flux,
            "flux2": tiny_joint.flux2_klein,
            "wan": tiny_unet_and_cross.wan,
            "z_image": tiny_joint.z_image,
            "sd3": tiny_unet_and_cross.sd3,
            "qwen_image": tiny_joint.qwen_image,
        }
        pipe = build[kind]()
        if kind == "flux2":
            # ComfyUI knows one number of channels for the timestep
            config = {**pipe.transformer.config, "timestep_guidance_channels": 256}
            torch.manual_seed(24)
            factors = {"modulation": 6, "context_embedder": 2, "attn.": 2, "proj_out": 2}
            pipe.register_modules(transformer=louder(Flux2Transformer2DModel.from_config(config), factors))
        elif kind == "sd3":
            # ComfyUI knows heads of 64 channels, and writes the last of as many blocks as there are heads
            width = {"num_attention_heads": 3, "attention_head_dim": 64, "caption_projection_dim": 3 * 64}
            config = {**pipe.transformer.config, **width}
            torch.manual_seed(8)
            factors = {"attn.": 2, "attn2.to_": 2, "norm1": 2, "context_embedder": 2}
            pipe.register_modules(transformer=louder(SD3Transformer2DModel.from_config(config), factors))
        self.pipe = from_pipe(pipe)
        self.pipe.set_progress_bar_config(disable=True)
        if kind == "wan":
            self.pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
        self.pipe.transformer.save_pretrained(folder, safe_serialization=True)
        self.frames = frames
        self.side = SIDE
        self.channels = {"flux": 4, "flux2": 16, "wan": 16, "z_image": 4, "sd3": 16, "qwen_image": 4}[kind]

    def noise(self, batch: int) -> torch.Tensor:
        size = (self.side, self.side) if not self.frames else (self.frames, self.side, self.side)
        return torch.randn(batch, self.channels, *size, generator=torch.manual_seed(5))

    def diffusers(self, *guidance: Any, batch: int = 1, cfg: float = 1.0) -> torch.Tensor:
        noise = self.noise(batch)
        last: dict[str, torch.Tensor] = {}

        def keep(
            pipe: Any, step: int, timestep: Any, tensors: dict[str, torch.Tensor]
        ) -> dict[str, torch.Tensor]:
            last.update(tensors)
            return tensors

        given: dict[str, Any] = {"num_inference_steps": STEPS, "output_type": "latent", "latents": noise}
        if self.kind == "flux":
            given |= {"latents": _packed(noise), "max_sequence_length": 16}
            given |= {"negative_prompt": "", "true_cfg_scale": cfg}
        elif self.kind == "qwen_image":
            given |= {"latents": _packed(noise[:, :, 0]), "negative_prompt": "", "true_cfg_scale": cfg}
        elif self.kind == "sd3":
            given |= {"max_sequence_length": 16, "negative_prompt": "", "guidance_scale": cfg}
        elif self.kind == "flux2":
            given |= {"guidance_scale": cfg, **ENCODED, "callback_on_step_end": keep}
        elif self.kind == "wan":
            given |= {
                "max_sequence_length": 16,
                "guidance_scale": cfg,
                "num_frames": 1 + 4 * (self.frames - 1),
            }
        else:
            # it counts g from 0
            given |= {"max_sequence_length": tiny_joint.CHAT_LENGTH, "guidance_scale": cfg - 1}
        count = "num_videos_per_prompt" if self.kind == "wan" else "num_images_per_prompt"
        # of pixels: 8 to a latent of FLUX and Wan in these tiny autoencoders
        scale = self.pipe.vae_scale_factor_spatial if self.kind == "wan" else self.pipe.vae_scale_factor
        scale *= 2 if self.kind == "flux2" else 1
        sizes = {"height": self.side * scale, "width": self.side * scale, count: batch}
        with without_rescaling() if self.kind == "qwen_image" else nullcontext():
            result = self.pipe(prompt=PROMPT, **given, **sizes, negative_guidance=list(guidance) or None)
        if self.kind == "flux2":
            # what the pipeline gives has been made ready for the autoencoder
            return last["latents"].transpose(1, 2).unflatten(2, (SIDE, SIDE))
        latents = result.frames if self.kind == "wan" else result.images
        if self.kind == "qwen_image":
            return _unpacked(latents)[:, :, None]
        return _unpacked(latents) if self.kind == "flux" else latents

    def text(self, graph: Graph, text: str) -> Link:
        pipe = self.pipe
        if self.kind == "flux":
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
        elif self.kind == "wan":
            tensors = {"text": pipe.encode_prompt(text, None, False, max_sequence_length=16)[0]}
        else:
            (embeds,), _ = pipe.encode_prompt(
                text, do_classifier_free_guidance=False, max_sequence_length=tiny_joint.CHAT_LENGTH
            )
            tensors = {"text": embeds[None]}
        return graph("TestText", file=self.file(**tensors))

    def file(self, **tensors: torch.Tensor) -> str:
        name = str(self.folder / f"{len(list(self.folder.iterdir()))}.safetensors")
        save_file({key: value.detach().float().contiguous() for key, value in tensors.items()}, name)
        return name

    def graph(self) -> tuple[Graph, Link]:
        graph = Graph()
        return graph, graph("TestLoadTransformer", folder=str(self.folder), kind=self.kind)

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
    patches = latents.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).permute(0, 2, 4, 1, 3, 5)
    return patches.flatten(3).flatten(1, 2)


def _unpacked(tokens: torch.Tensor) -> torch.Tensor:
    patches = tokens.unflatten(1, (SIDE // 2, SIDE // 2)).unflatten(3, (-1, 2, 2)).permute(0, 3, 1, 4, 2, 5)
    return patches.flatten(4).flatten(2, 3)


@pytest.fixture(scope="session")
def built() -> dict[tuple[str, str], Both]:
    return {}


@pytest.fixture
def both(
    comfyui: Server, tmp_path_factory: pytest.TempPathFactory, built: dict[tuple[str, str], Both]
) -> Callable[[str], Both]:
    def get(kind: str) -> Both:
        key = (comfyui.version, kind)
        if key not in built:
            frames = {"wan": 3, "qwen_image": 1}.get(kind, 0)
            built[key] = Both(comfyui, tmp_path_factory.mktemp(kind), kind, frames)
        return built[key]

    return get


@pytest.mark.parametrize("kind", KINDS)
def test_methods_in_attention_are_those_of_negguide(both: Callable[[str], Both], kind: str) -> None:
    tiny = both(kind)
    right = {"plain": tiny.diffusers(batch=2)}
    graph, model = tiny.graph()
    links = [tiny.sampled(graph, model, 2)]
    for name, options in METHODS.items():
        right[name] = tiny.diffusers(SAME_METHOD[name](NEGATIVE, **options), batch=2)
        patched = in_attention(graph, name, model, tiny.text(graph, NEGATIVE))
        links.append(tiny.sampled(graph, patched, 2))
    masked = Negative(NEGATIVE, 0.7, stop=1.0, mask=MASK[0])
    right["mask"] = tiny.diffusers(NAG(masked, **METHODS["NAG"]), batch=2)
    mask: Link = [graph("TestLoadTensor", file=tiny.file(mask=MASK))[0], 1]
    window = {"automatic": False, "start": 0.0, "stop": 1.0, "unit": "steps"}
    negatives = graph(
        "NegguideNegative", conditioning=tiny.text(graph, NEGATIVE), weight=0.7, mask=mask, **window
    )
    links.append(tiny.sampled(graph, in_attention(graph, "NAG", model, negatives), 2))
    found = tiny.server.latents(graph, *links)
    differences = {name: rms(one, right[name]) for name, one in zip(right, found, strict=True)}
    assert max(differences.values()) < SAME, differences
    for name in METHODS:
        assert rms(right[name], right["plain"]) > 10 * SAME, name


def test_texts_of_other_lengths_lie_as_far_from_the_image_as_alone(both: Callable[[str], Both]) -> None:
    """Z-Image fills captions up to 32 or 64 tokens; what fills the image up lies elsewhere, so it has none here."""
    tiny = both("z_image")
    longer = " ".join([NEGATIVE] * 10)
    tiny.side = 2 * SIDE
    try:
        right = tiny.diffusers(NAG(longer, **METHODS["NAG"]), batch=2)
        graph, model = tiny.graph()
        patched = in_attention(graph, "NAG", model, tiny.text(graph, longer))
        (found,) = tiny.server.latents(graph, tiny.sampled(graph, patched, 2))
    finally:
        tiny.side = SIDE
    assert rms(found, right) < SAME


@pytest.mark.parametrize("kind", KINDS)
def test_negtome_and_perp_neg_are_those_of_negguide(both: Callable[[str], Both], kind: str) -> None:
    tiny = both(kind)
    graph, model = tiny.graph()
    right = {
        "plain": tiny.diffusers(batch=2),
        "negtome": tiny.diffusers(NegToMe(stop=1.0, **PUSH), batch=2),
        "first": tiny.diffusers(NegToMe("first", stop=1.0, mask=MASK[0], **PUSH), batch=2),
        "perp_neg": tiny.diffusers(PerpNeg(Negative(NEGATIVE, stop=1.0)), batch=2, cfg=3.0),
    }
    steps = {"stop": 1.0, "unit": "steps", **PUSH}
    mask: Link = [graph("TestLoadTensor", file=tiny.file(mask=MASK))[0], 1]
    window = {"automatic": False, "start": 0.0, "stop": 1.0, "unit": "steps"}
    negatives = graph("NegguideNegative", conditioning=tiny.text(graph, NEGATIVE), weight=1.0, **window)
    found = tiny.server.latents(
        graph,
        tiny.sampled(graph, model, 2),
        tiny.sampled(graph, negtome(graph, model, **steps), 2),
        tiny.sampled(graph, negtome(graph, model, reference="first", mask=mask, **steps), 2),
        tiny.sampled(graph, perp_neg(graph, model, negatives), 2, cfg=3.0),
    )
    differences = {name: rms(one, right[name]) for name, one in zip(right, found, strict=True)}
    assert max(differences.values()) < SAME, differences
    for name in ("negtome", "first", "perp_neg"):
        assert rms(right[name], right["plain"]) > 10 * SAME, name


@pytest.mark.parametrize("kind", KINDS)
def test_methods_act_beside_one_another_in_any_order(both: Callable[[str], Both], kind: str) -> None:
    tiny = both(kind)
    guidance = (NAG(NEGATIVE, **METHODS["NAG"]), NegToMe(stop=1.0, **PUSH))
    right = tiny.diffusers(*guidance, batch=2)
    graph, model = tiny.graph()
    text, steps = tiny.text(graph, NEGATIVE), {"stop": 1.0, "unit": "steps", **PUSH}
    one = negtome(graph, in_attention(graph, "NAG", model, text), **steps)
    other = in_attention(graph, "NAG", negtome(graph, model, **steps), text)
    first, second = tiny.server.latents(graph, *(tiny.sampled(graph, it, 2) for it in (one, other)))
    assert rms(first, right) < SAME
    assert torch.equal(first, second)


def test_models_that_a_method_does_not_know_are_refused_by_name(both: Callable[[str], Both]) -> None:
    tiny = both("wan")
    tiny.diffusers()
    for name in ("NAG", "NegToMe"):
        graph = Graph()
        model = graph("TestLoadTransformer", folder=str(tiny.folder), kind=tiny.kind, other=True)
        if name == "NAG":
            patched = in_attention(graph, name, model, tiny.text(graph, NEGATIVE))
        else:
            patched = negtome(graph, model)
        said = f"{name} does not know models of the class OtherModel; it knows UNetModel, Flux"
        with pytest.raises(GraphError, match=said):
            tiny.server.latents(graph, tiny.sampled(graph, patched, 2))
