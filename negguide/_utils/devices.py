"""What a device computes fast."""

from __future__ import annotations

import torch


def fast_bfloat16(device: torch.device | str) -> bool:
    """Whether a device computes in bfloat16; a CPU that emulates it is many times slower than in float32."""
    if torch.device(device).type != "cpu":
        return True
    # torch has no public question of this kind
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
