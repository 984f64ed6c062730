"""Chat models that answer messages: one that runs here, or one behind an OpenAI-compatible endpoint."""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path
from typing import Any, Protocol

Messages = list[dict[str, str]]
START_TIMEOUT = 10.0
"""Seconds in which an endpoint must answer at the start."""


class NoAnswer(Exception):
    """A model gave no answer; ``reason`` is short and stable ("timeout", "HTTP 500")."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Chat(Protocol):
    """Answers a conversation; every failed try is counted in ``failures`` by its reason."""

    failures: Counter[str]

    @property
    def description(self) -> dict[str, Any]: ...

    def answer(self, messages: Messages, seed: int) -> str: ...


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
        max_tokens: int = 1024,
        temperature: float = 0.0,
    ) -> None:
        self.failures: Counter[str] = Counter()
        self._model, self._tokenizer = (
            model if isinstance(model, tuple) else _load(str(model), revision, device)
        )
        if not getattr(self._tokenizer, "chat_template", None):
            raise ValueError(
                "model: its tokenizer has no chat template; use a model that was trained to chat"
            )
        self._model.eval()
        self.revision = revision
        self.max_tokens = max_tokens
        self.temperature = temperature

    @property
    def description(self) -> dict[str, Any]:
        config = self._model.config
        return {
            "model": config.name_or_path or type(self._model).__name__,
            "revision": self.revision or getattr(config, "_commit_hash", None),
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
        }

    def answer(self, messages: Messages, seed: int) -> str:
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


class EndpointChat:
    """A chat model behind an OpenAI-compatible endpoint (``POST base_url/chat/completions``).

    A busy or broken server (HTTP 429 and 5xx), a timeout and a lost connection are tried again, with twice the pause
    each time.

    Args:
        base_url: like "http://localhost:8000/v1".
        model: the name that the endpoint knows.
        key_variable: the environment variable that holds the key; without such a variable no key is sent.
        timeout: seconds to wait for an answer.
        retries: how many more tries after the first.
        pause: seconds before the first of them.

    Raises:
        ConnectionError: the endpoint does not answer: at the start, or later after all tries. Nothing is lost then;
            the same command goes on where it was.
        ValueError: the endpoint refuses the key, or does not know the model.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        key_variable: str = "OPENAI_API_KEY",
        timeout: float = 120.0,
        retries: int = 3,
        pause: float = 1.0,
        max_tokens: int = 1024,
        temperature: float = 0.0,
    ) -> None:
        if not base_url.startswith(("http://", "https://")):
            raise ValueError(f"base_url={base_url!r} is no address; use one like http://localhost:8000/v1")
        self.failures: Counter[str] = Counter()
        self.base_url = base_url.rstrip("/")
        self.model = model
        self.key_variable = key_variable
        self.timeout = timeout
        self.retries = retries
        self.pause = pause
        self.max_tokens = max_tokens
        self.temperature = temperature
        self._check()

    @property
    def description(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "base_url": self.base_url,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
        }

    def answer(self, messages: Messages, seed: int) -> str:
        requests = _requests()
        body: dict[str, Any] = {
            "model": self.model,
            "messages": messages,
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "seed": seed,
        }
        reason, lost = "", None
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(self.pause * 2 ** (attempt - 1))
            try:
                response = requests.post(
                    f"{self.base_url}/chat/completions",
                    json=body,
                    headers=self._headers(),
                    timeout=self.timeout,
                )
            except requests.Timeout:
                reason, lost = "timeout", None
            except requests.ConnectionError as error:
                reason, lost = "no connection", error
            else:
                if response.status_code == 200:
                    return self._content(response)
                self._refused(response)
                reason, lost = f"HTTP {response.status_code}", None
            self.failures[reason] += 1
            if reason.startswith("HTTP 4") and reason != "HTTP 429":
                break  # asking the same again gives the same
        if lost is not None:
            raise ConnectionError(f"base_url={self.base_url!r} does not answer any more: {lost}") from lost
        raise NoAnswer(reason)

    def _content(self, response: Any) -> str:
        try:
            content = response.json()["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError):
            content = None
        if not isinstance(content, str):
            self.failures["no chat completion"] += 1
            raise NoAnswer("no chat completion")
        return content

    def _check(self) -> None:
        requests = _requests()
        try:
            response = requests.get(f"{self.base_url}/models", headers=self._headers(), timeout=START_TIMEOUT)
        except requests.RequestException as error:
            raise ConnectionError(
                f"base_url={self.base_url!r} does not answer: {error}; is the server running?"
            ) from error
        if response.status_code in (401, 403):
            self._refused(response)

    def _refused(self, response: Any) -> None:
        """Stop at once when no caption will ever be answered."""
        if response.status_code in (401, 403):
            there = "refused" if os.environ.get(self.key_variable) else "missing"
            raise ValueError(
                f"base_url={self.base_url!r} wants a key, and the one in the environment variable "
                f"{self.key_variable} is {there}"
            )
        if response.status_code == 404:
            raise ValueError(
                f"base_url={self.base_url!r} does not know model={self.model!r}, or has no chat/completions: "
                f"{response.text[:200]}"
            )

    def _headers(self) -> dict[str, str]:
        key = os.environ.get(self.key_variable)
        return {"Authorization": f"Bearer {key}"} if key else {}


def _requests() -> Any:
    try:
        import requests
    except ImportError as error:
        raise ImportError("an endpoint needs the package requests: pip install requests") from error
    return requests


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
