"""The tokenizer of the toy world: one token a word, nothing else."""

from __future__ import annotations

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase, Replace, Sequence
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from negguide.toyworld.language import vocabulary

MAX_TOKENS = 44
"""The longest caption has 39 words; start and end come with it."""


def new_tokenizer(*, negation: bool = False) -> PreTrainedTokenizerFast:
    """A tokenizer without an unknown token: a word outside the vocabulary is an error, never silently dropped.

    With ``negation=True`` it has "without" as its last word, for models that are to learn it.
    """
    # CLIPTextModel treats eos_token_id 2 as a legacy marker and pools elsewhere, so the end has another number.
    tokens = {"<pad>": 0, "<start>": 1, "<unused>": 2, "<end>": 3}
    tokens |= {word: len(tokens) + i for i, word in enumerate(vocabulary(negation=negation))}
    tokenizer = Tokenizer(WordLevel(tokens))
    tokenizer.normalizer = Sequence([Lowercase(), Replace(",", " "), Replace(".", " ")])
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.post_processor = TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", tokens["<start>"]), ("<end>", tokens["<end>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<start>",
        eos_token="<end>",
        pad_token="<pad>",
        model_max_length=MAX_TOKENS,
    )


def token_ids(tokenizer: PreTrainedTokenizerFast, captions: list[str]) -> Tensor:
    """Token numbers, int64 [len(captions), MAX_TOKENS], padded as the pipeline pads them."""
    ids: Tensor = tokenizer(
        captions, padding="max_length", max_length=MAX_TOKENS, return_tensors="pt"
    ).input_ids
    return ids
