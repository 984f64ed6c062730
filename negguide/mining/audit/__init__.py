"""Audit a hard-negative set: tells in captions and images, near-duplicates, and a rebalanced choice of its items."""

from negguide.mining.audit.audit import Audit, Findings, audit, large_enough
from negguide.mining.audit.pairs import Pair, read_pairs
from negguide.mining.audit.probes import LIMIT, OVERALL, Accuracy
from negguide.mining.audit.report import verdict_lines, write_report
from negguide.mining.audit.roles import REBALANCED, read_rebalanced, write_rebalanced

__all__ = [
    "LIMIT",
    "OVERALL",
    "REBALANCED",
    "Accuracy",
    "Audit",
    "Findings",
    "Pair",
    "audit",
    "large_enough",
    "read_pairs",
    "read_rebalanced",
    "verdict_lines",
    "write_rebalanced",
    "write_report",
]
