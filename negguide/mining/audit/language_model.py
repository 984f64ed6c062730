"""What a language model finds plausible, and how a tokenizer cuts captions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from negguide.domain import clip_of

if TYPE_CHECKING:
    import torch


def load_tokenizer(name: str) -> Callable[[str], Sequence[object]]:
    """The tokens of a caption by the tokenizer ``name``: "toyworld", a folder, or a hub id.

    Raises:
        ValueError: it cannot be loaded.
    """
    tokenizer = _load_tokenizer(name, "tokenizer")
    return lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]


def _load_tokenizer(name: str, argument: str) -> Any:
    from transformers import AutoTokenizer

    clip = clip_of(name)
    try:
        return AutoTokenizer.from_pretrained(name if clip is None else clip.folder)
    except (OSError, ValueError) as error:
        raise ValueError(f"{argument}={name!r} cannot be loaded: {str(error).splitlines()[0]}") from error


def plausibilities(
    texts: Sequence[str], name: str, *, device: str | torch.device = "cpu", batch_size: int = 64
) -> dict[str, tuple[float, float]]:
    """For each text, log p(text) and log p(text) / tokens in nats by the causal language model ``name``.

    Args:
        name: a folder or a hub id of a transformers causal language model with its tokenizer.

    Raises:
        ValueError: the model cannot be loaded, or its tokenizer has no token to begin or to end a text with.
    """
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = _load_tokenizer(name, "language_model")
    try:
        # sums of many small logarithms: half precision, in which many models are stored, would round them
        model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32, use_safetensors=True)
        model = model.to(device).eval()
    except (OSError, ValueError) as error:
        raise ValueError(f"language_model={name!r} cannot be loaded: {str(error).splitlines()[0]}") from error
    ids = (tokenizer.bos_token_id, tokenizer.eos_token_id)
    begin = next((token for token in ids if token is not None), None)
    if begin is None:
        raise ValueError(f"language_model={name!r}: its tokenizer has no token to begin a text with")

    result: dict[str, tuple[float, float]] = {}
    unique = sorted(set(texts), key=lambda text: (len(text), text))
    for start in range(0, len(unique), batch_size):
        batch = unique[start : start + batch_size]
        rows = [[begin, *tokenizer(text, add_special_tokens=False)["input_ids"]] for text in batch]
        longest = max(len(row) for row in rows)
        # padding follows the text, so a causal model never sees it
        tokens = torch.tensor([row + [begin] * (longest - len(row)) for row in rows], device=device)
        lengths = torch.tensor([len(row) - 1 for row in rows], device=device)
        with torch.inference_mode():
            logits = model(input_ids=tokens).logits[:, :-1].float()
            chosen = logits.log_softmax(dim=-1).gather(2, tokens[:, 1:, None])[..., 0]
            counted = torch.arange(longest - 1, device=device) < lengths[:, None]
            sums = chosen.masked_fill(~counted, 0.0).sum(dim=1)
        for text, total, length in zip(batch, sums.tolist(), lengths.tolist(), strict=True):
            result[text] = (total, total / max(1, length))
    return result
