"""What `negguide mine` makes a set by: built in this process, or in each actor of a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from negguide.mining.build_text import Built


def make_text(*, device: str, local: int, backend: str, **options: Any) -> Built:
    """The parts of a set of text alone; ``options`` as of `build_text`."""
    from negguide.mining.build_text import build_text

    # rules run on no device, and need no library that could say which there are
    if backend == "rules":
        device = "cpu"
    else:
        from negguide.cli.errors import quiet_libraries

        device = place_of(device, local)
        quiet_libraries()
    with packages():
        return build_text(device=device, backend=backend, **options)


def make_images(
    *, device: str, dtype: str, local: int, model: str, steps: int | None, **options: Any
) -> Built:
    """The parts of a set with images; ``options`` as of `build`."""
    from negguide.cli.errors import quiet_libraries
    from negguide.models import usual_steps

    device, dtype = _where(device, dtype, model, local)
    quiet_libraries()
    if steps is None:
        steps = usual_steps(model, draft=True)
    with packages():
        from negguide.mining.build import build

        return build(device=device, dtype=dtype, model=model, steps=steps, **options)


def place_of(device: str, local: int) -> str:
    """The device of the process of this local rank."""
    import torch

    from negguide.cli.job import choose_device

    chosen = choose_device(device)
    return f"cuda:{local % torch.cuda.device_count()}" if chosen == "cuda" else chosen


def _where(device: str, dtype: str, model: str, local: int) -> tuple[str, str]:
    import torch

    from negguide.cli.job import choose_dtype
    from negguide.domain import domain_models

    chosen = place_of(device, local)
    embedded = domain_models().get(model)
    as_well = embedded is not None and embedded.bfloat16
    if dtype == "auto" and chosen == "cpu" and as_well and torch.cpu._is_avx512_bf16_supported():
        # twice as fast where the processor has it
        return chosen, "bfloat16"
    return chosen, choose_dtype(dtype, chosen, model)


@contextmanager
def packages() -> Iterator[None]:
    """A package of the extra that is missing is wrong input: the message says how to install it."""
    try:
        yield
    except ImportError as error:
        raise ValueError(str(error)) from error
