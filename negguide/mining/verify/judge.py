"""Judges: how well an image and a caption fit, by a model that is not the one to be trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from negguide.domain import clip_of, registered_domains
from negguide.mining.verify.margins import Margins, PairJudge

KINDS = ("clip", "itm")


class ClipJudge:
    """CLIP or SigLIP through transformers; "clip:toyworld" is the embedded CLIP.

    Score: of CLIP (1 + cosine) / 2; of SigLIP, which is trained to tell pairs from non-pairs, its own probability
    sigmoid(scale cosine + bias). NaN for a caption with words that the tokenizer does not know.

    Raises:
        ValueError: when the model cannot be loaded, or is neither.
    """

    margins = Margins()

    def __init__(self, model: str, device: str = "cpu", batch_size: int = 32) -> None:
        from negguide.vlm.models import load_model

        self.name, self.model, self.batch_size = f"clip:{model}", model, batch_size
        try:
            self.towers = load_model(model, device=device)
        except ValueError as error:
            raise ValueError(f"--judge clip:{model}: {error}") from error

    @torch.no_grad()
    def score(self, images: Sequence[Image.Image], captions: Sequence[str]) -> Tensor:
        """How well each image and its caption fit, [N] in [0, 1] on the CPU."""
        scores = torch.full((len(images),), float("nan"))
        places = self._readable(captions)
        pixels = self.towers.encode_images([images[place] for place in places], self.batch_size)
        words = self.towers.encode_texts([captions[place] for place in places], self.batch_size)
        cosines = (pixels * words).sum(dim=-1)
        if self.towers.kind == "siglip":
            scale, bias = (
                x.float().cpu() for x in (self.towers.model.logit_scale, self.towers.model.logit_bias)
            )
            scores[places] = (scale.exp() * cosines + bias).sigmoid()
        else:
            scores[places] = (1 + cosines) / 2
        return scores

    def _readable(self, captions: Sequence[str]) -> list[int]:
        """The places of the captions whose words the tokenizer knows; that of the toy world knows no others."""

        def known(texts: list[str]) -> bool:
            try:
                self.towers.processor.tokenizer(texts)
            except Exception as error:
                # the tokenizers package raises nothing narrower
                if type(error) is not Exception:
                    raise
                return False
            return True

        if known(list(captions)):
            return list(range(len(captions)))
        return [place for place, caption in enumerate(captions) if known([caption])]


class ItmJudge:
    """BLIP's image-text matching head through transformers: the probability that the pair matches (arXiv 2201.12086).

    Raises:
        ValueError: when the model cannot be loaded, or has no such head.
    """

    # a probability: what the judge itself calls undecided is not kept
    margins = Margins(absolute_margin=0.2)

    def __init__(self, model: str, device: str = "cpu", batch_size: int = 16) -> None:
        from transformers import AutoProcessor, BlipForImageTextRetrieval

        self.name, self.model, self.device, self.batch_size = f"itm:{model}", model, device, batch_size
        self.net, self.processor = loaded(model, "--judge itm", BlipForImageTextRetrieval, AutoProcessor)
        self.net.to(device)

    @torch.no_grad()
    def score(self, images: Sequence[Image.Image], captions: Sequence[str]) -> Tensor:
        """The probability that each image and its caption match, [N] on the CPU."""
        parts = []
        for start in range(0, len(images), self.batch_size):
            chosen = slice(start, start + self.batch_size)
            inputs = self.processor(
                images=[image.convert("RGB") for image in images[chosen]],
                text=list(captions[chosen]),
                padding=True,
                truncation=True,
                return_tensors="pt",
            ).to(self.device)
            logits = self.net(**inputs, use_itm_head=True).itm_score
            parts.append(logits.float().softmax(dim=-1)[:, 1])
        return torch.cat(parts).cpu()


def loaded(model: str, what: str, net: Any, processor: Any) -> tuple[Any, Any]:
    """A transformers model and its processor by id or folder, safetensors only.

    Raises:
        ValueError: when either cannot be loaded.
    """
    try:
        found = net.from_pretrained(model, use_safetensors=True).eval()
        return found, processor.from_pretrained(model)
    except Exception as error:
        # a model that is missing, unreachable or broken fails in many ways, with pages of text; the cause stays
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(
            f"{what}: {model!r} cannot be loaded: {reason}; give a folder or a hub id (owner/name)"
        ) from error


def load_judge(name: str, device: str = "cpu") -> PairJudge:
    """The judge that ``name`` says: a domain such as "toyworld", "clip:MODEL" or "itm:MODEL".

    Raises:
        ValueError: another name, or a model that cannot be loaded.
    """
    if domain := registered_domains().get(name):
        return domain.pair_judge(device)
    kind, _, model = name.partition(":")
    if kind not in KINDS or not model:
        raise ValueError(
            f"--judge {name!r} is not known; use {', '.join(registered_domains())}, clip:MODEL (CLIP or SigLIP) or "
            "itm:MODEL (BLIP), with MODEL a folder or a hub id"
        )
    return ClipJudge(model, device) if kind == "clip" else ItmJudge(model, device)


def check_independent(judge: str, train_model: str | None) -> None:
    """Refuse a judge whose weights are those that the set is to train: it would pass on its own mistakes.

    Args:
        judge: ``PairJudge.model``.
        train_model: "toyworld" (the embedded CLIP), a folder or a hub id; None = not known.

    Raises:
        ValueError: when they are the same.
    """
    if train_model is None:
        return
    if _place(judge) == _place(train_model) or (
        (print_ := _weights(judge)) is not None and print_ == _weights(train_model)
    ):
        raise ValueError(
            f"--judge {judge!r} has the weights of --train-model {train_model!r}: a model cannot check the data "
            "that it is to learn from; use another judge"
        )


def _place(model: str) -> str:
    folder = Path(model).expanduser()
    return str(folder.resolve()) if folder.is_dir() else model.lower()


def _weights(model: str) -> str | None:
    """A fingerprint of the weights; None where they are not on this machine."""
    from hashlib import sha256

    clip = clip_of(model)
    folder = Path(model).expanduser() if clip is None else clip.folder
    if not folder.is_dir():
        return None
    digest = sha256()
    for path in sorted(folder.rglob("*.safetensors")):
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    return digest.hexdigest()
