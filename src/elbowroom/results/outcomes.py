"""Flags of a datum with the words that are printed for them, and how a local fit ended."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from .display import Row, Shown

__all__ = ["FLAG_WORDS", "OUTCOME_WORDS", "FitReport", "Flag", "Outcome"]


SECOND_OPINION = "second opinion"  # the name under which that estimate of log p(x) is kept among the candidates


class Flag(IntFlag):
    """Why the numbers of a datum should not be trusted; 0 where they are fine.

    Only NOT_FINITE and FIT_DIVERGED exclude the datum from means.

    Attributes:
        NOT_FINITE: the ELBO, or another estimate, is not finite.
        FIT_DIVERGED: the local fit of a rung diverged.
        FIT_RAN_OUT: a local fit was still gaining when its budget ended.
        ERROR_UNRELIABLE: the error of log p(x) cannot be trusted, because importance weights are heavy-tailed.
        BASES_DISAGREE: annealing or sampling from another base found more mass; there may be several modes.
        WIDE: the two bounds of a sandwich are more than one nat apart.
        TARGET_MISSED: the error of log p(x) is above what the plan promises.
        SECOND_OPINION: reverse annealing from the ends of the chains lies above log p(x), which may have missed mass.
    """

    NOT_FINITE = 1
    FIT_DIVERGED = 2
    FIT_RAN_OUT = 4
    ERROR_UNRELIABLE = 8
    BASES_DISAGREE = 16
    WIDE = 32
    TARGET_MISSED = 64
    SECOND_OPINION = 128

    def __str__(self) -> str:
        return self.name or "0"


class Outcome(IntEnum):
    """How the local fit of one datum ended. SKIPPED marks a rung that a two-phase run predicts instead of fitting."""

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
    Flag.SECOND_OPINION: "a second opinion lies above log p(x)",
}
OUTCOME_WORDS = {
    Outcome.CONVERGED: "converged",
    Outcome.RAN_OUT: "ran out",
    Outcome.DIVERGED: "diverged",
    Outcome.SKIPPED: "not refined",
}


@dataclass(frozen=True, eq=False, repr=False)
class FitReport(Shown):
    """How the local fit of each of N data ended.

    Attributes:
        outcome: (N,) values of `Outcome`.
        steps: (N,) steps taken.
        work: (N,) work per datum, in gradients of the decoder.
    """

    header: ClassVar[Row] = (*OUTCOME_WORDS.values(), "steps", "work")

    outcome: NDArray[np.int64]
    steps: NDArray[np.int64]
    work: NDArray[np.float64]

    def __getitem__(self, index: NDArray[np.generic] | slice) -> "FitReport":
        """The report on some of the data."""
        return FitReport(self.outcome[index], self.steps[index], self.work[index])

    def counts(self) -> dict[str, int]:
        """Number of fits that ended in each way, by the words for it; outcomes that did not occur are left out."""
        counts = {words: int((self.outcome == outcome).sum()) for outcome, words in OUTCOME_WORDS.items()}
        return {words: n for words, n in counts.items() if n}

    def row(self) -> Row:
        """The cells of a table row: the counts, and the mean steps and work per datum."""
        counts = self.counts()
        ended = (str(counts.get(words, 0)) for words in OUTCOME_WORDS.values())
        return (*ended, f"{self.steps.mean():,.0f}", f"{self.work.mean():,.0f}")

    def __repr__(self) -> str:
        ended = ", ".join(f"{n} {words}" for words, n in self.counts().items())
        return f"{len(self.outcome)} fits: {ended}; {self.work.mean():,.0f} decoder gradients per datum"

    @staticmethod
    def concatenated(parts: "Sequence[FitReport]") -> "FitReport":
        """Join the reports on consecutive blocks into one."""
        columns = zip(*((part.outcome, part.steps, part.work) for part in parts), strict=True)
        return FitReport(*(np.concatenate(column) for column in columns))
