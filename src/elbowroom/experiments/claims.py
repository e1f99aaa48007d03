"""Claims of the paper as they are tested, and what a measurement says of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..results import Estimate, FitReport

__all__ = ["Claim", "Decision", "decide", "decide_between"]

SURE = 2.0  # standard errors by which a difference must be away from zero
FEWEST = 10  # data, since the standard error of fewer is too uncertain itself


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim, in the form in which it can turn out to be wrong.

    Attributes:
        name: a short name, unique among all claims.
        says: what is claimed.
        estimand: the quantity in nats, a mean over data, that is greater than zero if the claim holds.
        data: the data of which it is the mean.
        whose: whose claim it is, in words that "that" may follow.
    """

    name: str
    says: str
    estimand: str
    data: str
    whose: str = "The paper says"


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What was found of a claim.

    Attributes:
        claim: the claim.
        mean: the mean of the estimand over the data, in nats.
        se: its standard error with the data as a sample, Monte Carlo errors included.
        n: the number of data.
        n_runs: the number of trainings of each model behind it.
        ran_out: local fits behind it that were still gaining when their budget ended, and all of them.
    """

    claim: Claim
    mean: float
    se: float
    n: int
    n_runs: int
    ran_out: tuple[int, int]

    @property
    def errors(self) -> float:
        """The distance from zero in standard errors."""
        return self.mean / self.se if self.se else float("nan")

    @property
    def verdict(self) -> str:
        """Whether the claim holds: a distance of two standard errors decides, of ten data or more."""
        if self.n < FEWEST or abs(self.errors) < SURE or self.errors != self.errors:
            return "cannot tell"
        return "holds" if self.mean > 0 else "does not hold"


def decide(claim: Claim, estimand: Estimate, *fits: FitReport, n_runs: int = 1) -> Decision:
    """What an estimate of the estimand says of a claim.

    Args:
        estimand: its value for each datum.
        fits: how the local fits ended on which it depends.
        n_runs: the number of trainings behind it.
    """
    n = len(estimand) - estimand.n_excluded
    return Decision(claim=claim, mean=estimand.mean, se=estimand.se, n=n, n_runs=n_runs, ran_out=_ran_out(fits))


def decide_between(claim: Claim, one: Estimate, other: Estimate, *fits: FitReport, n_runs: int = 1) -> Decision:
    """The same of the mean of `one` minus that of `other`, which are of different data, so that their errors add."""
    n = len(one) + len(other) - one.n_excluded - other.n_excluded
    se = math.hypot(one.se, other.se)
    return Decision(claim=claim, mean=one.mean - other.mean, se=se, n=n, n_runs=n_runs, ran_out=_ran_out(fits))


def _ran_out(fits: Sequence[FitReport]) -> tuple[int, int]:
    counts = [fit.counts() for fit in fits]
    return sum(each.get("ran out", 0) for each in counts), sum(sum(each.values()) for each in counts)
