"""Settings of the methods that suit the embedded model, as keyword arguments; data only.

The token features of a small model are nearly parallel: every cosine lies above the published threshold and the
difference that is pushed is small, so the published alpha of .9 does almost nothing here. These values come from
`benchmarks/sweep_negtome.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NEGTOME: Mapping[str, Any] = {
    "alpha": 10.0,
    "threshold": 0.65,
    "start": 0.0,
    "stop": 0.5,
    "blocks": r"attn1$",
}
"""Batch mode: `NegToMe("others", **NEGTOME)`."""

NEGTOME_REFERENCE: Mapping[str, Any] = {
    "alpha": 10.0,
    "threshold": 0.65,
    "start": 0.0,
    "stop": 0.5,
    "blocks": r"attn1$",
}
"""Reference mode: `NegToMe(image, **NEGTOME_REFERENCE)`."""
