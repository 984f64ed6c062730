"""How alike two pictures are: DreamSim where it is installed, else the features of a CLIP-like model."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from PIL import Image
from torch import Tensor

from negguide.benchmark.judges import Judge, PhraseJudge, is_two_towers
from negguide.domain import registered_domains

if TYPE_CHECKING:
    from negguide.vlm.models import VisionLanguageModel

AUTO, DREAMSIM = "auto", "dreamsim"
USUAL = "openai/clip-vit-base-patch32"
"""Where DreamSim is not installed and the judge has no features of images."""


class Similarity(Protocol):
    """Gives pictures features whose cosine says how alike they are.

    Attributes:
        name: as it was asked for.
        revision: of its weights; None where it is not known.
    """

    name: str
    revision: str | None

    def features(self, images: Sequence[Image.Image]) -> Tensor:
        """Unit length, float32 [len(images), D] on the CPU."""
        ...


class DreamSim:
    """DreamSim (arXiv 2306.09344), which was fitted to what people find alike; 1 - its distance.

    Raises:
        ValueError: the package is not installed, or its weights cannot be fetched.
    """

    name = DREAMSIM

    def __init__(self, device: str = "cpu") -> None:
        if find_spec(DREAMSIM) is None:
            raise ValueError("--similarity dreamsim: the package is not installed; pip install dreamsim")
        load = import_module(DREAMSIM).dreamsim
        folder = Path(torch.hub.get_dir(), DREAMSIM)
        # the package makes the last folder alone
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.net, self.preprocess = load(pretrained=True, device=device, cache_dir=str(folder))
        except OSError as error:
            raise ValueError(
                f"--similarity dreamsim: its weights cannot be fetched ({error}); give a CLIP instead"
            ) from error
        self.device = device
        self.revision: str | None = version(DREAMSIM)

    @torch.no_grad()
    def features(self, images: Sequence[Image.Image]) -> Tensor:
        """Unit length, float32 [len(images), D] on the CPU."""
        # one by one: its embed() squeezes, and a batch of one would lose its axis
        rows = [self.net.embed(self.preprocess(image).to(self.device)).reshape(1, -1) for image in images]
        return torch.nn.functional.normalize(torch.cat(rows).float().cpu(), dim=-1)


class ClipSimilarity:
    """The image features of a CLIP or SigLIP, which `negguide.vlm.models.load_model` loaded."""

    def __init__(self, model: VisionLanguageModel) -> None:
        self.model = model
        self.name = model.name
        self.revision = model.revision

    def features(self, images: Sequence[Image.Image]) -> Tensor:
        """Unit length, float32 [len(images), D] on the CPU."""
        return self.model.encode_images(images)


def choose_similarity(name: str, judge: str) -> str:
    """What `--similarity` means: "auto" is DreamSim where it is installed, else the judge where it has features.

    Raises:
        ValueError: it can be none, before anything is drawn.
    """
    domains = registered_domains()
    if name == AUTO:
        if judge in domains:
            return judge
        if find_spec(DREAMSIM) is not None:
            return DREAMSIM
        return judge if is_two_towers(judge) else USUAL
    if name == DREAMSIM and find_spec(DREAMSIM) is None:
        raise ValueError("--similarity dreamsim: the package is not installed; pip install dreamsim")
    if name not in (DREAMSIM, *domains) and not is_two_towers(name):
        raise ValueError(
            f"--similarity must be {AUTO}, {DREAMSIM}, {', '.join(domains)}, or a CLIP or SigLIP, got {name!r}"
        )
    return name


def load_similarity(name: str, device: str = "cpu", judge: Judge | None = None) -> Similarity:
    """The model that `choose_similarity` chose.

    Args:
        judge: one that is loaded already, whose model is used where it is the same.

    Raises:
        ValueError: it cannot be loaded.
    """
    if name == DREAMSIM:
        return DreamSim(device)
    if domain := registered_domains().get(name):
        return domain.judge(device)
    if isinstance(judge, PhraseJudge) and judge.name == name:
        return ClipSimilarity(judge.model)
    from negguide.vlm.models import load_model

    return ClipSimilarity(load_model(name, device=device))
