"""Yes or no, by a model that answers questions about pictures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from PIL import Image

from negguide.mining.item import Edit
from negguide.mining.verify.judge import loaded
from negguide.models import loaded_revision


class Asker(Protocol):
    """Answers questions about images."""

    name: str

    def answers(self, images: Sequence[Image.Image], questions: Sequence[str]) -> list[str]:
        """What the model says to the question about each image."""
        ...


def questions(edit: Edit) -> list[tuple[str, bool]]:
    """What to ask about a negative image, and whether the answer should be yes: the edited phrases, each by itself."""
    asked = []
    if edit.avoid:
        asked.append((f"Is there {edit.avoid} in the picture? Answer yes or no.", False))
    if edit.category in ("object", "add") and edit.after.strip():
        asked.append((f"Is there {edit.after.strip()} in the picture? Answer yes or no.", True))
    else:
        asked.append((f"Does the picture show {edit.prompt.rstrip('.')}? Answer yes or no.", True))
    return asked


def objection(edit: Edit, answers: Sequence[str]) -> str | None:
    """What is wrong by these answers to ``questions(edit)``; None when nothing is."""
    for (question, wanted), answer in zip(questions(edit), answers, strict=True):
        said = yes_or_no(answer)
        if said is None:
            return "the answer about the edited phrase is neither yes nor no"
        if said != wanted:
            about = (
                "what was edited out"
                if question.startswith("Is there") and not wanted
                else "the edited phrase"
            )
            return f"the answer is {'no' if wanted else 'yes'} to {about}"
    return None


def yes_or_no(answer: str) -> bool | None:
    """Whether the first word of an answer is yes; None where it is neither yes nor no ("not sure", "nothing")."""
    first = re.match(r"(yes|no)\b", answer.strip().lower())
    return None if first is None else first[1] == "yes"


class VqaAsker:
    """A BLIP question answering model, or any transformers chat model for images and text.

    Its ``revision`` tells its weights from others of the same name.

    Raises:
        ValueError: when the model cannot be loaded.
    """

    def __init__(self, model: str, device: str = "cpu", batch_size: int = 16) -> None:
        from transformers import (
            AutoConfig,
            AutoModelForImageTextToText,
            AutoProcessor,
            BlipForQuestionAnswering,
        )

        self.name, self.device, self.batch_size = model, device, batch_size
        try:
            kind = AutoConfig.from_pretrained(model).model_type
        except (OSError, ValueError) as error:
            raise ValueError(
                f"--vqa {model!r} cannot be loaded: {str(error).partition(chr(10))[0]}; give a folder or a hub id"
            ) from error
        self.chats = kind != "blip"
        net = AutoModelForImageTextToText if self.chats else BlipForQuestionAnswering
        self.net, self.processor = loaded(model, "--vqa", net, AutoProcessor)
        self.revision = loaded_revision(model, self.net.config)
        self.net.to(device)

    @torch.no_grad()
    def answers(self, images: Sequence[Image.Image], questions: Sequence[str]) -> list[str]:
        """What the model says to the question about each image."""
        found: list[str] = []
        for start in range(0, len(images), self.batch_size):
            chosen = slice(start, start + self.batch_size)
            found += self._batch([image.convert("RGB") for image in images[chosen]], list(questions[chosen]))
        return found

    def _batch(self, images: list[Image.Image], questions: list[str]) -> list[str]:
        texts, nested = questions, images
        tokenizer: Any = self.processor.tokenizer
        if self.chats:
            # answers follow the prompt, so prompts of one batch must end together
            tokenizer.padding_side = "left"
            texts = [
                self.processor.apply_chat_template(
                    [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}],
                    add_generation_prompt=True,
                )
                for question in questions
            ]
            nested = [[image] for image in images]  # type: ignore[misc]
        inputs = self.processor(images=nested, text=texts, padding=True, return_tensors="pt").to(self.device)
        tokens = self.net.generate(**inputs, max_new_tokens=8, do_sample=False)
        if self.chats:
            tokens = tokens[:, inputs["input_ids"].shape[1] :]
        return list(tokenizer.batch_decode(tokens, skip_special_tokens=True))
