"""What accelerate does for a run: devices, processes, mixed precision and trackers."""

from __future__ import annotations

import logging
from datetime import timedelta
from pathlib import Path

from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import get_available_trackers
from accelerate.utils import InitProcessGroupKwargs

from negguide._utils.devices import fast_bfloat16
from negguide.vlm.training.config import PRECISIONS, Settings

logger = logging.getLogger(__name__)


def make_accelerator(settings: Settings, out: Path, report_to: str | None, cpu: bool) -> Accelerator:
    """The devices, the precision and the tracker of a run.

    Args:
        settings: of the run.
        out: its folder; what a tracker writes goes into `tracker` in it.
        report_to: the tracker's name, None = none.
        cpu: use no GPU.

    Raises:
        ValueError: a tracker that is not installed, or a precision that the device does not have.
    """
    if report_to is not None:
        known = [str(tracker) for tracker in get_available_trackers()]
        if report_to not in known:
            raise ValueError(
                f"report_to={report_to!r} is not installed or not known to accelerate; installed: "
                f"{', '.join(known) or 'none'} (pip install tensorboard, wandb or trackio)"
            )
    # an earlier run of this process may have had another precision
    AcceleratorState._reset_state()
    accelerator = Accelerator(
        cpu=cpu,
        mixed_precision=PRECISIONS[settings.precision],
        log_with=report_to,
        project_dir=out / "tracker",
        # the other processes wait while one evaluates
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=6))],
    )
    if settings.precision == "amp" and accelerator.device.type == "cpu":
        # accelerate would train in float32 and say nothing
        raise ValueError("precision='amp' (float16) needs a GPU, and this run has none; use amp_bf16 or fp32")
    if (
        settings.precision == "amp_bf16"
        and accelerator.is_main_process
        and not fast_bfloat16(accelerator.device)
    ):
        logger.warning(
            "precision='amp_bf16' on a CPU without bfloat16, which is emulated: many times slower than "
            "precision='fp32'"
        )
    return accelerator
