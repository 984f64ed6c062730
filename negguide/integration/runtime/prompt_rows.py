"""Which images of a call a negative belongs to: those of all prompts, or of one."""

from negguide.methods import Negative


def prompt_rows(negative: Negative, images_per_prompt: int, batch: int) -> slice:
    """The images, of `batch`, that a negative belongs to; consecutive images are of one prompt.

    Raises:
        ValueError: it belongs to a prompt that is not there.
    """
    index = negative.prompt_index
    if index is None:
        return slice(0, batch)
    check_prompt_index(negative, batch // images_per_prompt)
    return slice(index * images_per_prompt, (index + 1) * images_per_prompt)


def check_prompt_index(negative: Negative, prompts: int) -> None:
    """Refuse a negative of a prompt that is not there.

    Raises:
        ValueError: naming it and the number of prompts.
    """
    if negative.prompt_index is not None and negative.prompt_index >= prompts:
        raise ValueError(
            f"prompt_index of Negative({negative.prompt!r}) is {negative.prompt_index}, and the call has {prompts} "
            f"prompt{'' if prompts == 1 else 's'}; count from 0"
        )
