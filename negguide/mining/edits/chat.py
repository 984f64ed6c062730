"""Chat models that answer messages: one that runs here, and the memory of what one has answered."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from negguide.models import loaded_revision

Messages = list[dict[str, str]]
MAX_TOKENS = 4096
"""Of one answer; models that think before they answer need thousands."""


class NoAnswerError(Exception):
    """A model has answered, and with nothing; ``reason`` is short and stable ("empty answer")."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Chat(Protocol):
    """Answers a conversation."""

    @property
    def description(self) -> dict[str, Any]:
        """What its answers depend on besides the messages and the seed, as JSON."""
        ...

    def answer(self, messages: Messages, seed: int, schema: Mapping[str, Any]) -> str:
        """The model's words.

        Args:
            messages: the conversation so far.
            seed: of what is random in the answer, where the model samples.
            schema: JSON schema that the answer should follow; models are held to it where that is possible.

        Raises:
            NoAnswerError: the model has answered with nothing.
        """
        ...


class LocalChat:
    """A chat model of transformers.

    Args:
        model: a name on the hub, a folder, or a loaded ``(model, tokenizer)``.
        max_tokens: of one answer.
        temperature: 0 takes the likeliest token always.

    Raises:
        ValueError: the model cannot be loaded, or its tokenizer has no chat template.
    """

    def __init__(
        self,
        model: str | Path | tuple[Any, Any],
        *,
        revision: str | None = None,
        device: str = "cpu",
        max_tokens: int = MAX_TOKENS,
        temperature: float = 0.0,
    ) -> None:
        self._model, self._tokenizer = (
            model if isinstance(model, tuple) else _load(str(model), revision, device)
        )
        if not getattr(self._tokenizer, "chat_template", None):
            raise ValueError(
                "model: its tokenizer has no chat template; use a model that was trained to chat"
            )
        self._model.eval()
        config = self._model.config
        self.revision = revision or loaded_revision(config.name_or_path, config)
        self.max_tokens = max_tokens
        self.temperature = temperature

    @property
    def description(self) -> dict[str, Any]:
        """The model and what it is told, as JSON: it decides the answers."""
        config = self._model.config
        return {
            "model": config.name_or_path or type(self._model).__name__,
            "revision": self.revision,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
        }

    def answer(self, messages: Messages, seed: int, schema: Mapping[str, Any]) -> str:
        """What the model writes; see `Chat.answer`."""
        import torch

        inputs = self._tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        ).to(self._model.device)
        sampling = (
            {"do_sample": True, "temperature": self.temperature} if self.temperature else {"do_sample": False}
        )
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(seed)
            tokens = self._model.generate(
                **inputs,
                **sampling,
                max_new_tokens=self.max_tokens,
                pad_token_id=self._tokenizer.pad_token_id or self._tokenizer.eos_token_id,
            )
        return str(
            self._tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        )


class RememberedChat:
    """A chat that writes every answer to a file as it comes, and asks nothing that is answered there.

    What a run that broke off was told costs neither time nor money again.

    Args:
        chat: what answers.
        file: JSON lines; made when the first answer comes. One process writes it at a time, from several threads.

    Raises:
        OSError: the disk is full, or cannot be written.
    """

    def __init__(self, chat: Chat, file: Path) -> None:
        self._chat, self._file = chat, file
        self._lock = threading.Lock()
        self._answers = _answers(file)

    @property
    def description(self) -> dict[str, Any]:
        """That of the model."""
        return self._chat.description

    def answer(self, messages: Messages, seed: int, schema: Mapping[str, Any]) -> str:
        """What was answered before, else what the model answers now; see `Chat.answer`."""
        key = hashlib.sha256(json.dumps([messages, seed]).encode()).hexdigest()[:32]
        with self._lock:
            known = self._answers.get(key)
        if known is None:
            try:
                known = {"answer": self._chat.answer(messages, seed, schema)}
            except NoAnswerError as error:
                known = {"none": error.reason}
            self._write(key, known)
        if "none" in known:
            raise NoAnswerError(known["none"])
        return known["answer"]

    def _write(self, key: str, said: dict[str, str]) -> None:
        with self._lock:
            self._answers[key] = said
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a", encoding="utf-8") as lines:
                # a line that a kill has torn gets an end of its own
                lines.write(f"\n{json.dumps({'key': key, **said})}\n")


def _answers(file: Path) -> dict[str, dict[str, str]]:
    found = {}
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else ():
        try:
            said = json.loads(line)
            found[said.pop("key")] = said
        except ValueError:  # torn, or the empty line before each
            continue
    return found


def _load(model: str, revision: str | None, device: str) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model, revision=revision)
        network = AutoModelForCausalLM.from_pretrained(
            model, revision=revision, use_safetensors=True, dtype="auto"
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"model={model!r} cannot be loaded as a chat model: {reason}") from error
    return network.to(device), tokenizer
