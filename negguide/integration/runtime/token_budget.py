"""The token budget: how much text a pipeline reads. What it would cut off is refused."""

from typing import Any

from negguide.integration.families.base import Arguments, Family
from negguide.methods import AttentionMethod, Negative

_PROMPTS = ("prompt", "prompt_2", "prompt_3", "prompt_4")
_NEGATIVE_PROMPTS = tuple(f"negative_{name}" for name in _PROMPTS)


def check_prompts(pipe: Any, family: Family, arguments: Arguments, guided: bool) -> None:
    """Refuse prompts of a call that would be cut off; without guidance a negative prompt is not read at all.

    Raises:
        ValueError: naming the prompt and the words that would be lost.
    """
    for name in (*_PROMPTS, *_NEGATIVE_PROMPTS) if guided else _PROMPTS:
        prompt = arguments.get(name)
        if isinstance(prompt, str):
            _check(pipe, family, arguments, name, prompt, "shorten it")
        elif isinstance(prompt, list):
            for i, one in enumerate(prompt):
                _check(pipe, family, arguments, f"{name}[{i}]", one, "shorten it")


def check_negative(pipe: Any, family: Family, arguments: Arguments, negative: Negative) -> None:
    """Refuse a negative that would be cut off.

    Raises:
        ValueError: naming the negative and the words that would be lost.
    """
    if negative.embeds is not None:
        return
    name = f"prompt of Negative({negative.prompt!r})"
    shorter = "shorten it, or make several negatives of it"
    _check(pipe, family, arguments, name, negative.prompt, shorter)


def arguments_of_negatives(family: Family, method: AttentionMethod, arguments: Arguments) -> Arguments:
    """The call's arguments as the negatives of a method are encoded with them: with its own `max_sequence_length`.

    Raises:
        ValueError: the method has one, and it would do nothing: a text of this family is not filled up to it, or there
            are no negatives in words.
    """
    tokens = method.max_sequence_length
    if tokens is None:
        return arguments
    said = f"max_sequence_length of {type(method).__name__} is {tokens}"
    if not family.padded_text:
        raise ValueError(
            f"{said}, and the negatives of {family.name} have the tokens that it gives them, whatever is said; "
            "leave it out"
        )
    if all(negative.embeds is not None for negative in method.negatives):
        raise ValueError(
            f"{said}, and its negatives are given as embeddings, which have theirs; leave it out"
        )
    return {**arguments, "max_sequence_length": tokens}


def _check(pipe: Any, family: Family, arguments: Arguments, name: str, text: str, shorter: str) -> None:
    budget = family.token_budget(pipe, text, arguments)
    if budget.tokens <= budget.limit:
        return
    own = budget.tokenizer(text, add_special_tokens=False).input_ids
    lost = budget.tokenizer.decode(own[budget.limit - budget.tokens :])
    longer = ", or raise max_sequence_length" if "max_sequence_length" in arguments else ""
    raise ValueError(
        f"{name} is {budget.tokens} tokens long, with those that the pipeline puts around it, and {family.name} reads "
        f"{budget.limit}: {lost!r} would be cut off; {shorter}{longer}"
    )
