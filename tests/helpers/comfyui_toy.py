"""Graphs with the embedded model."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from comfyui_server import Graph, GraphError, Link, Server

# as many as divide 1000: the timesteps of both sides are the same
STEPS, SCALE, SEED = 5, 4.0, 3
PROMPT = "a bear wearing a hat"
NEGATIVES = ("a brown bear", "a black hat")
SAME = 1e-4
"""rms up to which latents count as the same: ComfyUI's float32 sums come in another order."""


class Toy:
    """Graphs with the embedded model."""

    def __init__(self, server: Server, files: Callable[..., str], folder: str) -> None:
        self.server, self.files, self.folder = server, files, folder

    def graph(self) -> tuple[Graph, Link]:
        """A new graph, and the model in it."""
        graph = Graph()
        return graph, graph("TestLoadEmbedded", folder=self.folder)

    def text(self, graph: Graph, text: str) -> Link:
        return graph("TestText", file=self.files(text))

    def mask(self, graph: Graph, mask: torch.Tensor) -> Link:
        return [graph("TestLoadTensor", file=self.files(mask=mask))[0], 1]

    def sampled(self, graph: Graph, model: Link, batch: int = 1, cfg: float = SCALE, **options: Any) -> Link:
        """KSampler as the embedded pipeline samples."""
        given = {
            "positive": self.text(graph, PROMPT),
            "negative": self.text(graph, ""),
            "latent_image": graph("EmptyLatentImage", width=128, height=128, batch_size=batch),
            "seed": SEED,
            "steps": STEPS,
            "sampler_name": "euler",
            # the timesteps of the pipeline's "trailing" where the steps divide 1000
            "scheduler": "simple",
            "denoise": 1.0,
        }
        return graph("KSampler", model=model, cfg=cfg, **{**given, **options})

    def guider(self, graph: Graph, model: Link) -> Link:
        """ComfyUI's own for guidance."""
        texts = {"positive": self.text(graph, PROMPT), "negative": self.text(graph, "")}
        return graph("CFGGuider", model=model, cfg=SCALE, **texts)

    def sampled_by(
        self, graph: Graph, guider: Link, model: Link, batch: int = 1, noise: torch.Tensor | None = None
    ) -> Link:
        """The same with a guider, and if need be with this noise."""
        random = graph("RandomNoise", noise_seed=SEED) if noise is None else None
        return graph(
            "SamplerCustomAdvanced",
            noise=random or graph("TestNoise", file=self.files(latent=noise)),
            guider=guider,
            sampler=graph("KSamplerSelect", sampler_name="euler"),
            sigmas=graph("BasicScheduler", model=model, scheduler="simple", steps=STEPS, denoise=1.0),
            latent_image=graph("EmptyLatentImage", width=128, height=128, batch_size=batch),
        )


def rms(one: torch.Tensor, other: torch.Tensor) -> float:
    """Root of the mean square of the difference."""
    assert one.shape == other.shape, (one.shape, other.shape)
    return float((one.double() - other.double()).square().mean().sqrt())


def negative(graph: Graph, toy: Toy, text: str, **options: Any) -> Link:
    """The node Negative with its defaults."""
    given = {"weight": 1.0, "automatic": False, "start": 0.0, "stop": 0.5, "unit": "steps", **options}
    return graph("NegguideNegative", conditioning=toy.text(graph, text), **given)


def perp_neg(graph: Graph, model: Link, negatives: Link, **options: Any) -> Link:
    """The node Perp-Neg with its defaults."""
    given = {
        "joint": "automatic",
        "refresh_every": 1,
        "auto_weight": 4.5,
        "adaptive": False,
        "economy": False,
    }
    given |= {"guidance_stop": 1.0, **options}
    return graph("NegguidePerpNeg", model=model, negative=negatives, **given)


def negtome(graph: Graph, model: Link, **options: Any) -> Link:
    """The node NegToMe with its defaults."""
    given = {
        "reference": "others",
        "alpha": 0.9,
        "threshold": 0.65,
        "start": 0.0,
        "stop": 0.2,
        "unit": "noise",
        "max_push": 0.0,
        "perpendicular": False,
        **options,
    }
    return graph("NegguideNegToMe", model=model, **given)


METHODS: dict[str, dict[str, Any]] = {
    "NAG": {"scale": 5.0, "tau": 2.5, "alpha": 0.25},
    "ONG": {"scale": 1.0},
    "VSF": {"scale": 3.0, "bias": 0.0, "orthogonal": False},
}


def in_attention(graph: Graph, name: str, model: Link, negatives: Link, **options: Any) -> Link:
    """The node of a method in attention with its defaults."""
    return graph(f"Negguide{name}", model=model, negative=negatives, **{**METHODS[name], **options})


def assert_told_and_the_queue_goes_on(
    toy: Toy, bad: Mapping[Callable[[Graph, Toy, Link], Link], str], plain: torch.Tensor
) -> None:
    """Each graph is refused with its words, and the server then still makes the plain latents."""
    for make, said in bad.items():
        graph, model = toy.graph()
        with pytest.raises(GraphError, match=said):
            toy.server.latents(graph, make(graph, toy, model))
    graph, model = toy.graph()
    (found,) = toy.server.latents(graph, toy.sampled(graph, model))
    assert rms(found, plain) < SAME
