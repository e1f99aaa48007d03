"""Claims of the paper as they are tested, and what a measurement says of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..results import Estimate, FitReport

__all__ = ["Claim", "Decision", "decide", "decide_between", "decide_over"]

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
        models: the models of the zoo that it is about; by default all of its experiment.
    """

    name: str
    says: str
    estimand: str
    data: str
    whose: str = "The paper says"
    models: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What was found of a claim.

    Attributes:
        claim: the claim.
        mean: the mean of the estimand over the data, in nats, and over trainings of the models if there are several.
        se: its standard error with the data as a sample, Monte Carlo errors included.
        n: the number of data.
        ran_out: local fits behind it that were still gaining when their budget ended, and all of them.
        n_runs: the number of trainings of each model behind it.
        spread: the standard deviation between trainings of their means over the data; None for one training.
    """

    claim: Claim
    mean: float
    se: float
    n: int
    ran_out: tuple[int, int]
    n_runs: int = 1
    spread: float | None = None

    @property
    def errors(self) -> float:
        """The distance from zero in standard errors, those of the data and of the trainings together."""
        return self.mean / self._both if self._both else float("nan")

    @property
    def needed(self) -> float:
        """How many standard errors decide: two, or more where the spread of few trainings is a part of them.

        For that part it is the quantile of Student's t that two is of the normal distribution. A sum of squares of such
        limits errs no more often than each of them, by Banerjee, "Approximate confidence interval for linear functions
        of means of k populations" (1960).
        """
        if not self._of_trainings:
            return SURE
        from scipy.stats import norm, t

        of_trainings = float(t.isf(norm.sf(SURE), self.n_runs - 1))
        return math.hypot(SURE * self.se, of_trainings * self._of_trainings) / self._both

    @property
    def verdict(self) -> str:
        """Whether the claim holds: `needed` standard errors decide, of ten data or more."""
        if self.n < FEWEST or abs(self.errors) < self.needed or self.errors != self.errors:
            return "cannot tell"
        return "holds" if self.mean > 0 else "does not hold"

    @property
    def _of_trainings(self) -> float:
        return 0.0 if self.spread is None else self.spread / math.sqrt(self.n_runs)

    @property
    def _both(self) -> float:
        return math.hypot(self.se, self._of_trainings)


def decide(claim: Claim, estimand: Estimate, *fits: FitReport) -> Decision:
    """What an estimate of the estimand says of a claim.

    Args:
        estimand: its value for each datum.
        fits: how the local fits ended on which it depends.
    """
    n = len(estimand) - estimand.n_excluded
    return Decision(claim=claim, mean=estimand.mean, se=estimand.se, n=n, ran_out=_ran_out(fits))


def decide_between(claim: Claim, plus: Sequence[Estimate], minus: Sequence[Estimate], *fits: FitReport) -> Decision:
    """The same of the sum of the means of `plus` less those of `minus`, all of different data, so that errors add."""
    parts = [*plus, *minus]
    mean = sum(each.mean for each in plus) - sum(each.mean for each in minus)
    n = sum(len(each) - each.n_excluded for each in parts)
    return Decision(claim=claim, mean=mean, se=math.hypot(*(each.se for each in parts)), n=n, ran_out=_ran_out(fits))


def decide_over(decisions: Sequence[Decision]) -> Decision:
    """What several trainings of the same models say of a claim, each on the same data.

    The standard error of the data is the mean of theirs, as if their errors went together; the spread comes on top.
    """
    if len(decisions) == 1:
        return decisions[0]
    ran_out = [sum(counts) for counts in zip(*(each.ran_out for each in decisions), strict=True)]
    return replace(
        decisions[0],
        mean=float(np.mean([each.mean for each in decisions])),
        se=float(np.mean([each.se for each in decisions])),
        n=min(each.n for each in decisions),
        ran_out=(ran_out[0], ran_out[1]),
        n_runs=len(decisions),
        spread=float(np.std([each.mean for each in decisions], ddof=1)),
    )


def _ran_out(fits: Sequence[FitReport]) -> tuple[int, int]:
    counts = [fit.counts() for fit in fits]
    return sum(each.get("ran out", 0) for each in counts), sum(sum(each.values()) for each in counts)
