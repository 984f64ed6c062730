"""What looks at the pictures: a model that answers questions, a CLIP-like model, or the judge of a closed world."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from negguide.benchmark.suites import Check
from negguide.domain import registered_domains
from negguide.models import first_sentence

USUAL = "Salesforce/blip-vqa-base"
"""Judges models that are of no closed world unless told; small, so a larger one is worth its time."""


@dataclass(frozen=True)
class Verdict:
    """What a judge found: whether it is as it should be (None when it gave no clear answer), and what it said."""

    passed: bool | None
    said: str


class Judge(Protocol):
    """Looks at pictures.

    Attributes:
        name: as it was asked for.
        revision: of its weights; None where it is not known.
        remark: what a reader of its verdicts must know; "" = nothing.
    """

    name: str
    revision: str | None
    remark: str

    def verdicts(self, images: Sequence[Image.Image], checks: Sequence[Check]) -> list[Verdict]:
        """Verdict i is about image i and check i.

        Raises:
            ValueError: for a check that it cannot read.
        """
        ...


class QuestionJudge:
    """A visual question answering model of transformers: BLIP, or any chat model for images and text.

    It is asked the question of a check. An answer that begins with neither yes nor no is no clear answer.

    Raises:
        ValueError: the model cannot be loaded.
    """

    remark = ""

    def __init__(self, name: str, device: str = "cpu") -> None:
        from negguide.mining.verify.questions import VqaAsker

        try:
            self.asker = VqaAsker(name, device)
        except ValueError as error:
            raise ValueError(f"--judge {str(error).removeprefix('--vqa ')}") from error
        self.name = name
        self.revision = self.asker.revision

    def verdicts(self, images: Sequence[Image.Image], checks: Sequence[Check]) -> list[Verdict]:
        """What the model answers to the question of each check."""
        # a chat model answers in sentences unless it is told
        suffix = " Answer yes or no." if self.asker.chats else ""
        answers = self.asker.answers(images, [check.question + suffix for check in checks])
        return [_verdict(answer, check.yes) for answer, check in zip(answers, checks, strict=True)]


class PhraseJudge:
    """A CLIP or SigLIP: which of two phrases a picture is closer to, that of a check or that of its absence.

    Such models hardly read "without", so a check whose `absent` is not said is judged poorly; the remark says so.

    Raises:
        ValueError: the model cannot be loaded.
    """

    def __init__(self, name: str, device: str = "cpu") -> None:
        from negguide.vlm.models import load_model

        self.model = load_model(name, device=device)
        self.name = name
        self.revision = self.model.revision
        self.remark = ""

    def verdicts(self, images: Sequence[Image.Image], checks: Sequence[Check]) -> list[Verdict]:
        """Which of the two phrases of each check lies nearer to its image."""
        pixels = self.model.encode_images(images)
        scores = [
            (pixels * self.model.encode_texts(phrases)).sum(dim=-1).tolist()
            for phrases in ([check.present for check in checks], [self._absent(check) for check in checks])
        ]
        return [
            Verdict((present > absent) == check.shown, f"{present:.3f} against {absent:.3f}")
            for check, present, absent in zip(checks, *scores, strict=True)
        ]

    def _absent(self, check: Check) -> str:
        if check.absent:
            return check.absent
        self.remark = (
            f"{self.name} compares phrases, and some checks do not say what a picture without it shows (absent): they "
            "were compared with 'without', which such models hardly read"
        )
        return f"without {check.present}"


def check_judge(name: str) -> None:
    """Refuse a judge that cannot be one, before anything is drawn; of a hub model only the config is read.

    Raises:
        ValueError: the model cannot be found.
    """
    if name not in registered_domains():
        _model_type(name)


def load_judge(name: str, device: str = "cpu") -> Judge:
    """The judge of `--judge`: a domain's own, or a CLIP, a SigLIP or a question answering model by folder or id.

    Raises:
        ValueError: it cannot be loaded.
    """
    if domain := registered_domains().get(name):
        return domain.judge(device)
    return PhraseJudge(name, device) if is_two_towers(name) else QuestionJudge(name, device)


def is_two_towers(name: str) -> bool:
    """Whether a model compares images and phrases, rather than answering questions.

    Raises:
        ValueError: the model cannot be found.
    """
    from negguide.vlm.models import ARCHITECTURES

    return _model_type(name) in ARCHITECTURES


def _model_type(name: str) -> str:
    from transformers import AutoConfig

    try:
        return str(AutoConfig.from_pretrained(name).model_type)
    except Exception as error:
        # missing, unreachable and broken models fail in many ways
        raise ValueError(
            f"--judge {name!r} cannot be loaded: {first_sentence(error)}; give {', '.join(registered_domains())}, or a "
            "question answering model, a CLIP or a SigLIP of transformers by its folder or hub id"
        ) from error


def _verdict(answer: str, yes: bool) -> Verdict:
    from negguide.mining.verify.questions import yes_or_no

    said = yes_or_no(answer)
    return Verdict(None if said is None else said == yes, answer.strip())
