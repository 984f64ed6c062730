"""Names on the Hugging Face hub."""

from __future__ import annotations


def is_hub_id(name: str, *, owner: bool = True) -> bool:
    """Whether `name` is written as the hub writes its ids; nothing is looked up.

    Args:
        name: what may be one, such as "owner/name".
        owner: it must have one; without, "name" is an id too, as of some old sets.
    """
    # here, for it takes a while and few runs need it
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return "/" in name or not owner
