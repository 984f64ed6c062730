"""LoRAs of a run: found before the model loads, loaded into its pipeline, and the same ones again at a replay."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from negguide._utils.hub import is_hub_id

_FILE = re.compile(r"(?:[\w. -]+/)*[\w. -]+\.safetensors")
_RIGHT = (
    "a .safetensors file, a folder with one, a hub id (owner/name), or one with the file's name behind it"
)


@dataclass(frozen=True)
class Lora:
    """Low-rank weights that are added to a model's.

    Attributes:
        source: the full path of a file or folder, or a hub id, perhaps with a file behind it
            (owner/name/x.safetensors).
        scale: how strongly, 1 = as it was trained.
        sha256: of a file's content; None of a folder or a hub id.
    """

    source: str
    scale: float = 1.0
    sha256: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Any) -> Lora:
        """The inverse of `to_dict`.

        Raises:
            TypeError, ValueError: it is no such data, the file is gone, or it is another one by now.
        """
        names = {field.name for field in fields(cls)}
        if not isinstance(data, Mapping) or set(data) != names:
            raise TypeError(f"loras must hold JSON objects of {', '.join(sorted(names))}, got {data!r}")
        if isinstance(data["scale"], bool) or not isinstance(data["scale"], int | float):
            raise TypeError(f"the scale of a LoRA must be a number, got {data['scale']!r}")
        found = find_lora(str(data["source"]), float(data["scale"]))
        if found.sha256 != data["sha256"]:
            raise ValueError(
                f"{found.source} has changed since the images were made (sha256 {str(found.sha256)[:12]}, it was "
                f"{str(data['sha256'])[:12]}); put the original back"
            )
        return found


def find_lora(place: str, scale: float) -> Lora:
    """The LoRA of a file, a folder or a hub id. Nothing is downloaded.

    Raises:
        ValueError: there is no such file or folder, and it is no hub id; or it is no safetensors file.
    """
    path = Path(place).expanduser()
    if place and path.is_file():
        if path.suffix != ".safetensors":
            raise ValueError(f"{path} is no .safetensors file, and others may run code when they are loaded")
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return Lora(str(path.resolve()), scale, sha256)
    if place and path.is_dir():
        return Lora(str(path.resolve()), scale)
    if _on_hub(place) is None:
        raise ValueError(f"there is no file {place!r}; give {_RIGHT}")
    return Lora(place, scale)


def load_loras(pipe: Any, loras: Sequence[Lora]) -> None:
    """Put LoRAs on a pipeline, with their scales.

    Raises:
        ValueError: the pipeline takes none, one cannot be loaded, or it has nothing for this model.
    """
    if not loras:
        return
    kind = type(pipe).__name__
    if not hasattr(pipe, "load_lora_weights"):
        raise ValueError(f"--lora: {kind} takes none; leave it out")
    names = [f"lora_{i}" for i in range(len(loras))]
    for name, lora in zip(names, loras, strict=True):
        place, file = _place(lora.source)
        weights = {} if file is None else {"weight_name": file}
        try:
            pipe.load_lora_weights(place, adapter_name=name, use_safetensors=True, **weights)
        except Exception as error:
            # a LoRA of another model, a missing file, peft that is not installed: it fails in many ways
            from negguide.models import first_sentence

            hint = "; pip install peft" if "PEFT" in str(error) else ""
            raise ValueError(
                f"--lora {lora.source} cannot be loaded into {kind}: {first_sentence(error)}{hint}"
            ) from error
        if not any(name in adapters for adapters in pipe.get_list_adapters().values()):
            # diffusers only logs it, and would draw the picture without the LoRA
            raise ValueError(f"--lora {lora.source} holds no weights for {kind}; it is of another model")
    pipe.set_adapters(names, [lora.scale for lora in loras])


def _place(source: str) -> tuple[str, str | None]:
    """What diffusers looks in, and the file that it takes there; None = the one that there is."""
    path = Path(source)
    if path.is_file():
        return str(path.parent), path.name
    return (None if path.is_dir() else _on_hub(source)) or (source, None)


def _on_hub(source: str) -> tuple[str, str | None] | None:
    """A hub id and the file behind it, None = no file; None for what is neither."""
    owner, _, rest = source.partition("/")
    name, behind, file = rest.partition("/")
    if not is_hub_id(f"{owner}/{name}") or (behind and not _FILE.fullmatch(file)):
        return None
    return f"{owner}/{name}", file or None
