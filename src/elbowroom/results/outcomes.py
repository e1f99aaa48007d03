"""Flags of a datum and the words printed for them, and how a local fit ended."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag

import numpy as np
from numpy.typing import NDArray

__all__ = ["FLAG_WORDS", "OUTCOME_WORDS", "FitReport", "Flag", "Outcome"]


class Flag(IntFlag):
    """Why a datum's numbers should not be trusted; 0 where they are fine. Only NOT_FINITE and FIT_DIVERGED exclude it.

    WIDE is the sandwich's: its two bounds are more than a nat apart. TARGET_MISSED is that of a plan with a target.
    """

    NOT_FINITE = 1
    FIT_DIVERGED = 2
    FIT_RAN_OUT = 4
    ERROR_UNRELIABLE = 8
    BASES_DISAGREE = 16
    WIDE = 32
    TARGET_MISSED = 64


class Outcome(IntEnum):
    """How a local fit ended, for one datum; SKIPPED where a two-phase run predicts the rung instead."""

    CONVERGED = 0
    RAN_OUT = 1
    DIVERGED = 2
    SKIPPED = 3


FLAG_WORDS = {
    Flag.NOT_FINITE: "not finite (left out)",
    Flag.FIT_DIVERGED: "local fit diverged (left out)",
    Flag.FIT_RAN_OUT: "local fit still gaining when its budget ended",
    Flag.ERROR_UNRELIABLE: "error of log p(x) unreliable (heavy-tailed weights)",
    Flag.BASES_DISAGREE: "another base found more mass (several modes?)",
    Flag.WIDE: "bounds more than a nat apart",
    Flag.TARGET_MISSED: "error of log p(x) above what the plan promises",
}
OUTCOME_WORDS = {
    Outcome.CONVERGED: "converged",
    Outcome.RAN_OUT: "ran out",
    Outcome.DIVERGED: "diverged",
    Outcome.SKIPPED: "not refined",
}


@dataclass(frozen=True)
class FitReport:
    """How each datum's local fit ended: outcome (N,) as of `Outcome`, steps (N,), work units per datum (N,)."""

    outcome: NDArray[np.int64]
    steps: NDArray[np.int64]
    work: NDArray[np.float64]

    def __getitem__(self, index: NDArray[np.generic] | slice) -> "FitReport":
        """The report on some of the data."""
        return FitReport(self.outcome[index], self.steps[index], self.work[index])

    @staticmethod
    def concatenated(parts: "Sequence[FitReport]") -> "FitReport":
        """Reports on consecutive blocks as one."""
        columns = zip(*((part.outcome, part.steps, part.work) for part in parts), strict=True)
        return FitReport(*(np.concatenate(column) for column in columns))
