"""Load a CLIP-like model by its name, and turn images and texts into features of unit length."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
import transformers
from PIL import Image
from torch import Tensor
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer

from negguide._utils.hub import is_hub_id
from negguide.domain import clip_of, registered_domains
from negguide.models import revision

Kind = Literal["clip", "siglip"]


@dataclass(frozen=True)
class Architecture:
    """One row per model type of transformers: its classes, and how its texts are padded.

    ``padding`` is what the model was trained with. SigLIP attends to its padding, so all its texts have the full
    length and come without an attention mask; CLIP's texts are causal, and nothing after their end is seen.
    """

    kind: Kind
    model: str
    processor: str
    padding: Literal["longest", "max_length"]


ARCHITECTURES: Mapping[str, Architecture] = {
    "clip": Architecture("clip", "CLIPModel", "CLIPProcessor", "longest"),
    "siglip": Architecture("siglip", "SiglipModel", "SiglipProcessor", "max_length"),
    "siglip2": Architecture("siglip", "Siglip2Model", "Siglip2Processor", "max_length"),
}
"""By ``config.model_type``. Most SigLIP 2 checkpoints (all but NaFlex) are of type "siglip"."""


@dataclass(frozen=True, eq=False)
class VisionLanguageModel:
    """A model of two towers with its processor.

    Attributes:
        model: a `CLIPModel`, `SiglipModel` or `Siglip2Model` of transformers.
        processor: its tokenizer and image processor (the PIL one, so that results do not hang on torchvision).
        kind: "clip" (softmax over the batch) or "siglip" (sigmoid per pair, with a bias).
        name: as it was asked for.
        revision: a hub model's commit, or a fingerprint of a folder's files.
    """

    model: Any
    processor: Any
    kind: Kind
    name: str
    revision: str | None

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        device: torch.device = self.model.device
        return device

    @property
    def max_tokens(self) -> int:
        """The longest text in tokens, start and end included."""
        positions: int = self.model.config.text_config.max_position_embeddings
        longest: int = self.processor.tokenizer.model_max_length
        return min(positions, longest)

    def image_inputs(self, images: Sequence[Image.Image]) -> dict[str, Tensor]:
        """What the image tower takes, float32, on the CPU (``pixel_values`` [N, 3, H, W], and more for NaFlex)."""
        rgb = [image.convert("RGB") for image in images]
        return dict(self.processor.image_processor(rgb, return_tensors="pt"))

    def text_inputs(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """What the text tower takes: ``input_ids``, int64 [N, T], and for CLIP ``attention_mask``; on the CPU.

        Raises:
            ValueError: the tokenizer cannot read a text (the embedded model knows a closed vocabulary).
        """
        encoded = self._tokenize(
            texts,
            padding=_architecture(self.model.config).padding,
            truncation=True,
            max_length=self.max_tokens,
            return_tensors="pt",
        )
        names = ("input_ids", "attention_mask") if self.kind == "clip" else ("input_ids",)
        return {name: encoded[name] for name in names}

    def image_features(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Unit length, float32 [N, D], with gradient, from `image_inputs` that are on the model's device."""
        moved = {
            name: value.to(self.model.dtype) if name == "pixel_values" else value
            for name, value in inputs.items()
        }
        return F.normalize(self.model.get_image_features(**moved).pooler_output.float(), dim=-1)

    def text_features(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Unit length, float32 [N, D], with gradient, from `text_inputs` that are on the model's device."""
        return F.normalize(self.model.get_text_features(**inputs).pooler_output.float(), dim=-1)

    @torch.no_grad()
    def encode_images(self, images: Sequence[Image.Image], batch_size: int = 64) -> Tensor:
        """Features of unit length, float32 [len(images), D] on the CPU, without gradient.

        A lazy sequence is opened batch by batch.
        """
        features = [
            self.image_features(self._moved(self.image_inputs([images[i] for i in batch])))
            for batch in _batches(len(images), batch_size)
        ]
        return torch.cat(features).cpu() if features else self._empty()

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str], batch_size: int = 256) -> Tensor:
        """Features of unit length, float32 [len(texts), D] on the CPU, without gradient; long texts are cut.

        Raises:
            ValueError: the tokenizer cannot read a text.
        """
        features = [
            self.text_features(self._moved(self.text_inputs([texts[i] for i in batch])))
            for batch in _batches(len(texts), batch_size)
        ]
        return torch.cat(features).cpu() if features else self._empty()

    def truncated(self, texts: Sequence[str]) -> list[bool]:
        """Which texts are longer than `max_tokens`, so that `text_inputs` cuts their end off.

        Raises:
            ValueError: the tokenizer cannot read a text.
        """
        if not texts:
            return []
        # verbose=False: no warning about the very length that is asked about
        encoded = self._tokenize(texts, padding=False, truncation=False, verbose=False)
        return [len(ids) > self.max_tokens for ids in encoded["input_ids"]]

    def _tokenize(self, texts: Sequence[str], **options: Any) -> Any:
        try:
            return self.processor.tokenizer(list(texts), **options)
        except Exception:  # the tokenizers package raises nothing narrower; find the text it stumbled over
            for text in texts:
                try:
                    self.processor.tokenizer(text)
                except Exception as cause:
                    raise ValueError(
                        f"text={text!r} cannot be read by the tokenizer of model={self.name!r} ({cause})"
                        + self._closed()
                    ) from cause
            raise

    def _closed(self) -> str:
        """That it knows the words of a closed world alone, where it does."""
        domain = registered_domains().get(self.name)
        return "" if domain is None else f"; it knows the words of {domain.title} only"

    def _moved(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: value.to(self.device) for name, value in inputs.items()}

    def _empty(self) -> Tensor:
        config = self.model.config
        return torch.empty(
            0, config.projection_dim if self.kind == "clip" else config.text_config.hidden_size
        )


def load_model(
    name: str, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> VisionLanguageModel:
    """The CLIP-like model that `name` means, in evaluation mode.

    Args:
        name: "toyworld", a folder that save_pretrained wrote, or a hub id. Only safetensors are loaded.
        device: where the model goes.
        dtype: of its weights; features are float32 always.

    Raises:
        TypeError, ValueError: no such model, an architecture other than those of `ARCHITECTURES`, or a checkpoint
            that lacks weights or a processor.
    """
    source = _source(name)
    local = Path(source).is_dir()
    config = _loaded(name, AutoConfig, source, local_files_only=local)
    row = _architecture(config, name)
    processor = getattr(transformers, row.processor)(
        _loaded(name, AutoImageProcessor, source, local_files_only=local, backend="pil"),
        _loaded(name, AutoTokenizer, source, local_files_only=local),
    )
    model, report = _loaded(
        name,
        getattr(transformers, row.model),
        source,
        dtype=dtype,
        use_safetensors=True,
        local_files_only=local,
        output_loading_info=True,
    )
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise ValueError(
            f"model={name!r} lacks {len(missing)} weights ({', '.join(missing[:3])}, ...); a part of a model, or "
            f"one that was saved by half, cannot be used"
        )
    known = revision(source) if local else getattr(config, "_commit_hash", None)
    return VisionLanguageModel(model.to(device).eval(), processor, row.kind, name, known)


def _right() -> str:
    """What a model can be, for messages."""
    names = [repr(name) for name, domain in registered_domains().items() if domain.clip is not None]
    return f"{', '.join(names)}, a folder that save_pretrained wrote, or a hub id (owner/name)"


def _source(name: str) -> str:
    if not isinstance(name, str):
        raise TypeError(f"model must be {_right()} (a string), got {name!r}")
    clip = clip_of(name)
    if clip is not None:
        return str(clip.folder)
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ValueError(
                f"model={name!r} is a folder without config.json; give one that save_pretrained wrote"
            )
        return str(folder.resolve())
    if not is_hub_id(name):
        raise ValueError(f"model={name!r} is unknown: no such folder, and no hub id; use {_right()}")
    return name


def _architecture(config: Any, name: str = "") -> Architecture:
    if config.model_type not in ARCHITECTURES:
        known = ", ".join(f"{row.model} ({kind})" for kind, row in ARCHITECTURES.items())
        raise ValueError(
            f"model={name!r} is of type {config.model_type!r}, which is not supported; use one of {known}"
        )
    return ARCHITECTURES[config.model_type]


def _loaded(name: str, loader: Any, source: str, **options: Any) -> Any:
    try:
        return loader.from_pretrained(source, **options)
    except Exception as error:
        # A model that is missing, unreachable or broken fails in many ways, with pages of text; the cause stays.
        reason = str(error).strip().partition("\n")[0].partition(". ")[0]
        raise ValueError(
            f"model={name!r} cannot be loaded ({loader.__name__}): {reason or type(error).__name__}; use {_right()}"
        ) from error


def _batches(count: int, size: int) -> Iterator[range]:
    if size < 1:
        raise ValueError(f"batch_size={size} must be at least 1")
    for start in range(0, count, size):
        yield range(start, min(start + size, count))
