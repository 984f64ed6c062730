"""A chat model behind an OpenAI-compatible endpoint: what is asked again, how long it waits, and when it gives up."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from negguide.mining.edits.chat import MAX_TOKENS, Messages, NoAnswerError

START_TIMEOUT = 10.0
"""Seconds in which an endpoint must answer at the start."""
LONGEST_PAUSE = 60.0
"""Seconds between two tries at most, whatever ``Retry-After`` says."""
_RESUMABLE = "Nothing that was answered is lost: the same command goes on from there"


class EndpointChat:
    """A chat model behind an OpenAI-compatible endpoint (``POST base_url/chat/completions``), by the package openai.

    What may pass is tried again: HTTP 408, 409, 429 and 5xx, a timeout, a lost connection, an answer that is no chat
    completion. The pause doubles with each try and is at least what ``Retry-After`` says, but never longer than
    ``LONGEST_PAUSE``. Any other refusal ends the run at once, for the same request will be refused again.

    Answers are asked for by a JSON schema (``response_format``). A server that refuses the first such request with
    HTTP 400 and takes it without the schema is not sent one again. One that wants ``max_completion_tokens`` in the
    place of ``max_tokens`` gets that.

    Calls from several threads are fine.

    Args:
        base_url: like "http://localhost:8000/v1".
        model: the name that the endpoint knows.
        key_variable: the environment variable that holds the key; without such a variable no key is sent.
        timeout: seconds to wait for an answer.
        max_failures: of one request, in a row; after so many the run ends.
        pause: seconds after the first of them.
        max_tokens: of one answer.
        temperature: 0 takes the likeliest token always.
        say: is told what the user should know: pauses, and what the server does not take.

    Raises:
        ConnectionError: the endpoint does not answer at the start, or fails ``max_failures`` times in a row; the
            message has the server's own words.
        ValueError: the endpoint refuses the key, the model or a request, in its own words.
        ImportError: the package openai is missing.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        key_variable: str = "OPENAI_API_KEY",
        timeout: float = 120.0,
        max_failures: int = 8,
        pause: float = 1.0,
        max_tokens: int = MAX_TOKENS,
        temperature: float = 0.0,
        say: Callable[[str], None] = warnings.warn,
    ) -> None:
        if not base_url.startswith(("http://", "https://")):
            raise ValueError(f"base_url={base_url!r} is no address; use one like http://localhost:8000/v1")
        for name, value in (("max_failures", max_failures), ("max_tokens", max_tokens)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}={value!r} must be a whole number of 1 or more")
        if not timeout > 0:
            raise ValueError(f"timeout={timeout!r} must be a number of seconds above 0")
        if not 0 <= temperature < float("inf"):
            raise ValueError(f"temperature={temperature!r} must be a number of 0 or more")
        self.base_url = base_url.rstrip("/")
        self.model = model
        self.key_variable = key_variable
        self.timeout = timeout
        self.max_failures = max_failures
        self.pause = pause
        self.max_tokens = max_tokens
        self.temperature = temperature
        self.say = say
        self._openai = _openai()
        # retries are made here: the package's own do not wait for a Retry-After of more than a minute, and do not tell
        key = os.environ.get(key_variable)
        # the package wants a key; without one, no header is sent
        self._headers = {} if key else {"Authorization": self._openai.Omit()}
        self._client = self._openai.OpenAI(
            base_url=self.base_url, api_key=key or "none", max_retries=0, timeout=timeout
        )
        self._limit_name = "max_tokens"
        # None until the server has taken it or not
        self._takes_schema: bool | None = None
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._check()

    @property
    def description(self) -> dict[str, Any]:
        """The model and what it is told, as JSON: it decides the answers."""
        # the same model may move to another address
        return {"model": self.model, "max_tokens": self.max_tokens, "temperature": self.temperature}

    def answer(self, messages: Messages, seed: int, schema: Mapping[str, Any]) -> str:
        """What the server answers; asked again where that may help. See `Chat.answer`."""
        failures = 0
        refusal: str | None = None
        while True:
            sent = schema if self._takes_schema is not False and refusal is None else None
            limit = self._limit_name
            try:
                content = self._ask(messages, seed, sent, limit)
            except _FailedError as failed:
                failures += 1
                self._wait(failed, failures)
            except self._openai.APIStatusError as error:
                words = server_words(error.response.text)
                if limit == "max_tokens" and "max_completion_tokens" in words:
                    self._limit_name = "max_completion_tokens"
                elif error.status_code == 400 and sent is not None and not self._takes_schema:
                    # that it was the schema is known when the same request is taken without it
                    refusal = words
                else:
                    raise self._refused(error.status_code, words) from error
            else:
                self._learn(sent is not None, refusal)
                if content is None:
                    raise NoAnswerError("cut off at max_tokens")
                if not content.strip():
                    raise NoAnswerError("empty answer")
                return content

    def _ask(self, messages: Messages, seed: int, schema: Mapping[str, Any] | None, limit: str) -> str | None:
        """The content of one answer; None when the limit cut it off.

        Raises:
            _FailedError: nothing was answered, and asking again may help.
            openai.APIStatusError: the server refuses the request.
        """
        body: dict[str, Any] = {
            "model": self.model,
            "messages": messages,
            "temperature": self.temperature,
            limit: self.max_tokens,
            "seed": seed,
        }
        if schema is not None:
            named = {"name": "edits", "strict": True, "schema": schema}
            body["response_format"] = {"type": "json_schema", "json_schema": named}
        try:
            completions = self._client.chat.completions.with_raw_response
            response = completions.create(**body, extra_headers=self._headers).http_response
        except self._openai.APITimeoutError as error:
            raise _FailedError(f"no answer in {self.timeout:g} s") from error
        except self._openai.APIConnectionError as error:
            raise _FailedError(f"no connection: {error.__cause__ or error}") from error
        except self._openai.APIStatusError as error:
            status = error.status_code
            if status not in (408, 409, 429) and status < 500:
                raise
            told = error.response.headers.get("Retry-After")
            raise _FailedError(
                f"HTTP {status}: {server_words(error.response.text)}", retry_after(told, time.time())
            ) from error
        return _content(response.text)

    def _wait(self, failed: _FailedError, failures: int) -> None:
        """Pause after a failure, or end the run."""
        said = f"{failed} ({failures} failures in a row)"
        if failures < self.max_failures:
            seconds = min(max(self.pause * 2 ** (failures - 1), failed.retry_after), LONGEST_PAUSE)
            self.say(f"{self.base_url}: {said}; asking again in {seconds:.3g} s")
            # when another thread has given up, there is nothing to wait for
            if not self._ended.wait(seconds):
                return
        self._ended.set()
        raise ConnectionError(f"base_url={self.base_url!r}: {said}. {_RESUMABLE}") from failed

    def _learn(self, with_schema: bool, refusal: str | None) -> None:
        with self._lock:
            if with_schema:
                self._takes_schema = True
            elif refusal is not None and self._takes_schema is None:
                self._takes_schema = False
                self.say(
                    f"{self.base_url} does not take a JSON schema (response_format): {refusal}; from now on it is "
                    "asked without"
                )

    def _check(self) -> None:
        try:
            self._client.with_options(timeout=START_TIMEOUT).models.with_raw_response.list(
                extra_headers=self._headers
            )
        except self._openai.APIConnectionError as error:
            raise ConnectionError(
                f"base_url={self.base_url!r} does not answer: {error.__cause__ or error}; is the server running?"
            ) from error
        except self._openai.APIStatusError as error:
            # not every server has a list of models
            if error.status_code in (401, 403):
                raise self._refused(error.status_code, server_words(error.response.text)) from error

    def _refused(self, status: int, words: str) -> ValueError:
        """What to raise when the same request would be refused again."""
        self._ended.set()
        said = f"HTTP {status}: {words}"
        if status in (401, 403):
            there = "refused" if os.environ.get(self.key_variable) else "missing"
            return ValueError(
                f"base_url={self.base_url!r} wants a key, and the one in the environment variable "
                f"{self.key_variable} is {there} ({said})"
            )
        if status == 404:
            return ValueError(
                f"base_url={self.base_url!r} does not know model={self.model!r}, or has no chat/completions ({said})"
            )
        return ValueError(f"base_url={self.base_url!r} refuses a request: {said}. {_RESUMABLE}")


class _FailedError(Exception):
    """A try that may be made again; ``retry_after`` is what the server asks for, in seconds, 0 = nothing."""

    def __init__(self, said: str, retry_after: float = 0.0) -> None:
        super().__init__(said)
        self.retry_after = retry_after


def retry_after(header: str | None, now: float) -> float:
    """The seconds that a ``Retry-After`` asks for: a number of them, or a date of HTTP; 0 for anything else.

    Args:
        header: its value; None = there is none.
        now: seconds since 1970.
    """
    if header is None:
        return 0.0
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(header).timestamp() - now
        except ValueError:
            return 0.0
    return seconds if 0 < seconds < float("inf") else 0.0


def server_words(text: str) -> str:
    """What a server says is wrong, on one line of 300 characters at most, out of the usual forms of an error's body."""
    said: Any = text
    with contextlib.suppress(ValueError, RecursionError):
        said = json.loads(text)
    for name in ("error", "message", "detail"):
        if isinstance(said, dict) and said.get(name):
            said = said[name]
    line = " ".join((said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)).split())
    return line[:300] or "no words"


def _content(text: str) -> str | None:
    """The words of a chat completion; None when the limit of tokens cut them off.

    Raises:
        _FailedError: it is none.
    """
    try:
        choice = json.loads(text)["choices"][0]
        content = choice["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
        raise _FailedError(f"no chat completion: {server_words(text)}") from error
    if choice.get("finish_reason") == "length":
        return None
    if isinstance(content, list):
        # what a model thinks comes as a part of its own
        content = "".join(part.get("text") or "" for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _openai() -> Any:
    try:
        import openai
    except ImportError as error:
        raise ImportError("an endpoint needs the package openai: pip install openai") from error
    return openai
