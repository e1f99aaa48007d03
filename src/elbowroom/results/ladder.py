"""The ladder as data: the rungs of each datum, the steps between them, and the name of every step.

    L[q] | amortization | L[q*_1] | step of rung 1 | L[q*_2] | step of rung 2 | ... | remainder | log p(x)

The record itself says what each rung is called and which step leads up from it (`Rung`). A saved ladder can therefore
be read and judged without knowing the families that were fitted.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .display import ByValue, Listing
from .estimate import Array, Estimate
from .outcomes import FitReport, Flag

__all__ = ["REMAINDER", "TEMPERED", "Ladder", "Rung", "suggestion"]

REMAINDER = "remainder"  # the step to log p(x) from the highest rung that there is
TEMPERED = "tempered"  # the rung of the best q for p(z) p(x|z)^(1/b), of a q that was trained with kl_weight b
HOW_TO_MEASURE = {
    "factorization": 'plan="standard"',
    "gaussianity": 'plan="flow"',
    REMAINDER: 'plan="flow"',
    "encoder": "kl_weight=",
    "mismatch": "kl_weight=",
}


@dataclass(frozen=True, kw_only=True)
class Rung:
    """The place of a family in the ladder, and the words for it.

    Attributes:
        name: name of the family.
        place: order of the family in the ladder; None for one that stands beside it.
        step: the step that leads up from this rung, such as "factorization"; `REMAINDER` for the highest rung.
        members: what the members of the family are, such as "a diagonal Gaussian".
        assumption: the assumption whose cost the step measures, such as "independent latents".
        remedy: the posterior that does without that assumption.
    """

    name: str
    place: int | None
    step: str
    members: str
    assumption: str
    remedy: str


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Ladder(ByValue):
    """The measured ladder of N data. Estimates are per datum, in nats.

    A datum without a finite value of `elbo`, of `log_evidence` or of any fitted rung is NaN in all of them.

    Attributes:
        elbo: L[q].
        local: the ELBO of each fitted rung, by the name of its family or `TEMPERED`.
        log_evidence: the best lower bound of log p(x).
        shortfall: what the fit of a Gaussian rung still lacks, in nats: the best member of the family lies about that
            much above its ELBO in `local`. Under the names of `local`.
        fits: how the local fits of each rung ended, under the names of `local`.
        flags: (N,) combination of the `Flag` values of each datum; 0 where there is none.
        chosen: (N,) name of the estimator that gave the log evidence of each datum.
        estimators: what the names in `chosen` mean.
        candidates: the estimates of log p(x) by all estimators.
        k_hat: (N,) Pareto k-hat of the importance weights (Vehtari et al. 2024).
        rungs: all rungs that exist, fitted or not, from the lowest up.
        family: name of q's family; None where it is unknown.
        work: work by stage, in gradients of the decoder per datum.
        plan: name of the plan.
        seed: seed of the draws.
        kl_weight: the beta that q was trained with, as declared.
        groups: (N,) labels, or None.
        notes: what a reader of the table must know.
        fingerprint: (N,) hash of each datum, or None.
        refined: (N,) mask of the data that the second phase of a two-phase run measured; None for a run of one plan.
        provenance: hashes of weights and data, the plan with all its settings, arguments and seconds; `==` ignores it.
    """

    elbo: Estimate
    local: Mapping[str, Estimate]
    log_evidence: Estimate
    shortfall: Mapping[str, Estimate]
    fits: Mapping[str, FitReport]
    flags: NDArray[np.int64]
    chosen: NDArray[np.str_]
    estimators: Mapping[str, str]
    candidates: Mapping[str, Estimate]
    k_hat: Array
    rungs: tuple[Rung, ...]
    family: str | None
    work: Mapping[str, float]
    plan: str
    seed: int
    kl_weight: float = 1.0
    groups: NDArray[Any] | None = None
    notes: tuple[str, ...] = ()
    fingerprint: NDArray[np.int64] | None = None
    refined: NDArray[np.bool_] | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        for name in ("local", "shortfall", "fits", "candidates"):
            object.__setattr__(self, name, Listing(getattr(self, name)))

    @property
    def ladder(self) -> tuple[str, ...]:
        """Names of the fitted rungs that form the ladder, from q's own family upwards."""
        return tuple(rung.name for rung in self.possible_rungs if rung.name in self.local)

    @property
    def possible_rungs(self) -> tuple[Rung, ...]:
        """The rungs from q's own family upwards, fitted or not; none where that family is unknown."""
        own = next((rung for rung in self.rungs if rung.name == self.family), None)
        if own is None or own.place is None:
            return () if own is None else (own,)
        return tuple(rung for rung in self.rungs if rung.place is not None and rung.place >= own.place)

    @property
    def inference(self) -> Estimate:
        """The inference gap log p(x) - L[q]: all that the ELBO loses."""
        return (self.log_evidence - self.elbo).named("inference")

    @property
    def amortization(self) -> Estimate:
        """L[q*] - L[q] in q's own family: the cost of one network for all data. TypeError if it is not fitted."""
        return (self.local[self._own()] - self.elbo).named("amortization")

    @property
    def approximation(self) -> Estimate:
        """log p(x) - L[q*] in q's own family: the cost of the family. TypeError if its best is not fitted."""
        return (self.log_evidence - self.local[self._own()]).named("approximation")

    @property
    def factorization(self) -> Estimate:
        """L[q*_full] - L[q*_diagonal]: the cost of independent latents. Raises as `step` does."""
        return self.step("factorization")

    @property
    def gaussianity(self) -> Estimate:
        """L[q*_flow] - L[q*_full]: the cost of a Gaussian shape. Raises as `step` does."""
        return self.step("gaussianity")

    @property
    def remainder(self) -> Estimate:
        """log p(x) - L[q*] of the highest rung: what no fitted family reached. Raises as `step` does."""
        return self.step(REMAINDER)

    @property
    def encoder(self) -> Estimate:
        """L[q*_b] - L[q] for a q trained with kl_weight b: how far the encoder is from its own optimum."""
        return self.step("encoder")

    @property
    def mismatch(self) -> Estimate:
        """L[q*] - L[q*_b]: how far that optimum is from the optimum of the ELBO."""
        return self.step("mismatch")

    @property
    def steps(self) -> Listing[Estimate]:
        """The steps of the ladder from the lowest up; they add up to the inference gap, datum by datum."""
        if not self.ladder:
            return Listing(inference=self.inference)
        own = self.ladder[0]
        steps: Listing[Estimate] = Listing()
        if TEMPERED in self.local:
            steps["encoder"] = (self.local[TEMPERED] - self.elbo).named("encoder")
            steps["mismatch"] = (self.local[own] - self.local[TEMPERED]).named("mismatch")
        else:
            steps["amortization"] = self.amortization
        for assumed, (lower, upper) in zip(self.merged_rungs, self._pairs(), strict=True):
            name = step_name(assumed, to_evidence=upper is None)
            top = self.log_evidence if upper is None else self.local[upper]
            steps[name] = (top - self.local[lower]).named(name)
        return steps

    @property
    def merged_rungs(self) -> tuple[tuple[Rung, ...], ...]:
        """For each step above q's own family, the rungs that it leaves: several where some were not fitted."""
        names = [rung.name for rung in self.possible_rungs]
        ends = [(names.index(low), len(names) if up is None else names.index(up)) for low, up in self._pairs()]
        return tuple(self.possible_rungs[start:stop] for start, stop in ends)

    def step(self, name: str) -> Estimate:
        """A step by its name.

        Raises:
            AttributeError: the name is none of `steps`; the message says how to measure it.
        """
        if name in self.steps:
            return self.steps[name]
        how = HOW_TO_MEASURE.get(name)
        ask = f" Ask for it with {how}." if how else suggestion(name, self.steps)
        raise AttributeError(f"{name} was not measured on its own; steps are {list(self.steps)}.{ask}")

    @property
    def ids(self) -> NDArray[np.int64]:
        """(N,) identity of each datum."""
        return self.elbo.ids

    @property
    def is_doubtful(self) -> NDArray[np.bool_]:
        """(N,) mask of the data whose error of log p(x) is not to be believed; of a two-phase run, among those refined.

        Where there are any, the Monte Carlo error of the mean of log p(x) is not to be believed either.
        """
        doubtful = self.flags & (Flag.ERROR_UNRELIABLE | Flag.BASES_DISAGREE | Flag.SECOND_OPINION) > 0
        return (doubtful if self.refined is None else doubtful & self.refined) & self.log_evidence.finite

    @property
    def n_excluded(self) -> int:
        """Number of data that are left out of every mean."""
        return self.log_evidence.n_excluded

    def __len__(self) -> int:
        return len(self.elbo)

    def _own(self) -> str:
        """The rung of q's own family."""
        if not self.ladder and self.family is None:
            raise TypeError("this needs a q whose family is known (a Gaussian, a flow); only `inference` was measured")
        if not self.ladder:
            raise TypeError(
                f"this needs the best member of q's own family ({self.family}), which was not fitted; only `inference` "
                "was measured"
            )
        return self.ladder[0]

    def _pairs(self) -> list[tuple[str, str | None]]:
        """Each fitted rung with the next one, the last with None for log p(x)."""
        return list(zip(self.ladder, (*self.ladder[1:], None), strict=True)) if self.ladder else []

    if not TYPE_CHECKING:  # a type checker is to refuse what is misspelled

        def __getattr__(self, name: str) -> Estimate:
            if name.startswith("_") or "local" not in self.__dict__:
                raise AttributeError(name)
            if name in self.steps or name in HOW_TO_MEASURE:
                return self.step(name)
            known = [*self.steps, *(entry for entry in dir(self) if not entry.startswith("_"))]
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}.{suggestion(name, known)}")


def step_name(rungs: Sequence[Rung], to_evidence: bool) -> str:
    """The name of the step that leaves these rungs, joined by plus signs where rungs in between were not fitted.

    A step that leads to log p(x) ends in `REMAINDER`, because no single assumption accounts for its last part.
    """
    names = [rung.step for rung in rungs]
    return " + ".join([*names[:-1], REMAINDER] if to_evidence else names)


def suggestion(name: str, known: Iterable[str]) -> str:
    """' Did you mean "..."?' for a misspelled name, '' where nothing is like it.

    >>> suggestion("quik", ["quick", "standard"])
    ' Did you mean "quick"?'
    """
    close = get_close_matches(name, list(known), n=1)
    return f' Did you mean "{close[0]}"?' if close else ""
