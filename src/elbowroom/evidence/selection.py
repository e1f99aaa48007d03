r"""The choice of the estimate of log p(x) that is reported for each datum, and the flags that question it.

Every estimator has a pilot, on draws of its own, and a run that is reported. The maximum of noisy bounds is biased
upward, so the choice is made on the pilots. Each rule is a function in this module, and applies to the data that the
table describes:

    | rule             | looks at | where it applies, and what it does                                                 |
    |------------------|----------|------------------------------------------------------------------------------------|
    | `light_tails`    |          | everywhere: the error that q's own pilot predicts does not count, since the tails  |
    |                  |          | of q are light and the predicted error can be too small                            |
    | `missed_mass`    | pilots   | another pilot lies above that of annealing, which then does not count: chains that |
    |                  |          | all missed the mass agree with each other, and only another base can tell          |
    | `defended_first` | pilots   | importance samples that include the prior predict an error: nothing else counts,   |
    |                  |          | since a local Gaussian cannot predict the effect of what it cannot see             |
    | `smallest_error` | pilots   | everywhere: of what counts, the smallest predicted error is chosen                 |
    | `lies_higher`    | pilots   | another pilot lies clearly above that of the choice, and replaces it               |
    | `fills_gap`      | pilots   | another pilot is finite where that of the choice is not, and replaces it           |
    | `too_heavy`      | runs     | the chosen importance samples turn out too poor to report: annealing replaces them |
    | `not_believed`   | runs     | flag: the diagnostics of the chosen error fail, or draws of the prior cannot       |
    |                  |          | confirm it                                                                         |
    | `bases_disagree` | runs     | flag: another estimate lies higher, so mass was missed                             |
    | `not_finite`     | runs     | flag: the chosen estimate is not finite                                            |
    | `lies_above`     | runs     | flag: reverse annealing from the ends of the chains lies above the chosen estimate |

`too_heavy` is the only choice that looks at the reported draws. It discards runs that one large weight dominates. The
annealed draws are independent of those, so this can only lower a bound.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..posteriors import CouplingFlow
from ..results import Array, Estimate, Flag

__all__ = ["ESTIMATOR_WORDS", "Candidate", "Candidates", "Estimator", "choose", "flags_of", "lies_above", "picked"]

Z_DISAGREE = 4.0  # errors by which another base must exceed the chosen bound to be believed against it
SLACK = 0.05  # nats: disagreement smaller than this is not worth a flag

Mask: TypeAlias = NDArray[np.bool_]
Chosen: TypeAlias = NDArray[np.str_]


class Estimator(StrEnum):
    """The estimators of log p(x). Of two that are equally good, the first is chosen."""

    IWAE = "iwae"
    AIS = "ais"
    FLOW = CouplingFlow.name
    ENCODER = "encoder"


ESTIMATOR_WORDS = {
    Estimator.IWAE: "importance sampling from the local Gaussian",
    Estimator.AIS: "annealed importance sampling",
    Estimator.FLOW: "importance sampling from the local flow",
    Estimator.ENCODER: "importance sampling from q",
}


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """The results of one estimator for N data.

    Attributes:
        pilot, pilot_error: the pilot's log p(x) and its error, each (N,) in nats.
        expected: the error (N,) in nats that the pilot predicts for the run, infinite if the pilot's tail is too heavy.
        estimate: what the run reports.
        reliable: where (N,) the error of the run can be believed.
        certified: where (N,) draws of the prior, if there are any, do not carry the error without knowing it: k-hat is
            small, or they know their own mean.
        k_hat: Pareto k-hat (N,) of the run, NaN for AIS.
        replaceable: where (N,) the run turned out too poor to be reported, or None.
    """

    pilot: Array
    pilot_error: Array
    expected: Array
    estimate: Estimate
    reliable: Mask
    certified: Mask
    k_hat: Array
    replaceable: Mask | None = None


Candidates: TypeAlias = Mapping[Estimator, Candidate]


def choose(candidates: Candidates, defended: bool) -> Chosen:
    """The name of the estimator chosen for each datum, (N,).

    `defended` says whether the importance samples include draws of the prior.
    """
    ruled_out = {
        name: light_tails(candidates, name) | missed_mass(candidates, name) | defended_first(candidates, name, defended)
        for name in candidates
    }
    chosen = smallest_error(candidates, ruled_out)
    for name in _in_order(candidates):
        replaced = lies_higher(candidates, chosen, name) | fills_gap(candidates, chosen, name)
        chosen = np.where(replaced, name.value, chosen)
    return np.where(too_heavy(candidates, chosen), Estimator.AIS.value, chosen)


def flags_of(candidates: Candidates, chosen: Chosen, defended: bool) -> NDArray[np.int64]:
    """The `Flag` of each chosen estimate, (N,); `defended` is as in `choose`."""
    masks = {
        Flag.ERROR_UNRELIABLE: not_believed(candidates, chosen, defended),
        Flag.BASES_DISAGREE: bases_disagree(candidates, chosen, defended),
        Flag.NOT_FINITE: not_finite(candidates, chosen),
    }
    return sum((np.where(mask, int(flag), 0) for flag, mask in masks.items()), np.zeros(len(chosen), dtype=np.int64))


def picked(candidates: Candidates, chosen: Chosen, ids: NDArray[np.int64]) -> Estimate:
    """The estimate that takes the value and noise of each datum from its chosen estimator."""
    values = np.select([chosen == name for name in candidates], [c.estimate.values for c in candidates.values()])
    noise: dict[object, Array] = {}
    for name, candidate in candidates.items():
        for key, part in candidate.estimate.noise.items():
            noise[key] = np.where(chosen == name, part, 0.0)
    return Estimate("log p(x)", values, side="lower", noise=noise, ids=ids)


# ---- the rules: where (N,) each applies


def light_tails(candidates: Candidates, name: Estimator) -> Mask:
    """The estimator is importance sampling from q, whose predicted error is never believed."""
    return np.full(len(candidates[name].pilot), name is Estimator.ENCODER)


def missed_mass(candidates: Candidates, name: Estimator) -> Mask:
    """Another pilot lies above that of annealing."""
    ais = candidates[name]
    if name is not Estimator.AIS:
        return np.zeros(len(ais.pilot), dtype=bool)
    others = [candidate for other, candidate in candidates.items() if other is not Estimator.AIS]
    above = [_exceeds(other.pilot, other.pilot_error, ais.pilot, ais.pilot_error) for other in others]
    return np.logical_or.reduce(above)


def defended_first(candidates: Candidates, name: Estimator, defended: bool) -> Mask:
    """Importance samples that include the prior predict an error, and the estimator is another one."""
    return np.isfinite(candidates[Estimator.IWAE].expected) & (defended and name is not Estimator.IWAE)


def smallest_error(candidates: Candidates, ruled_out: Mapping[Estimator, Mask]) -> Chosen:
    """The name of the smallest predicted error, or of the smallest error of a pilot where none is predicted."""
    names = _in_order(candidates)
    foreseen = np.stack([np.where(ruled_out[name], np.inf, candidates[name].expected) for name in names])
    errors = np.stack([np.where(ruled_out[name], np.inf, candidates[name].pilot_error) for name in names])
    best = np.where(np.isfinite(foreseen).any(axis=0), _argmin(foreseen), _argmin(errors))
    return np.array([name.value for name in names])[best].astype("<U8")


def lies_higher(candidates: Candidates, chosen: Chosen, name: Estimator) -> Mask:
    """The pilot of `name` lies above that of the choice, and predicts an error."""
    value, error = _of_chosen(candidates, chosen, "pilot"), _of_chosen(candidates, chosen, "pilot_error")
    other = candidates[name]
    return _exceeds(other.pilot, other.pilot_error, value, error) & np.isfinite(other.expected)


def fills_gap(candidates: Candidates, chosen: Chosen, name: Estimator) -> Mask:
    """The pilot of `name` is finite where that of the choice is not."""
    return ~np.isfinite(_of_chosen(candidates, chosen, "pilot")) & np.isfinite(candidates[name].pilot)


def too_heavy(candidates: Candidates, chosen: Chosen) -> Mask:
    """The importance samples that were to be reported are too poor, and annealing is reliable and lies no lower."""
    if Estimator.AIS not in candidates:
        return np.zeros(len(chosen), dtype=bool)
    iwae, ais = candidates[Estimator.IWAE], candidates[Estimator.AIS]
    lower = _exceeds(iwae.estimate.values, iwae.estimate.mc_errors, ais.estimate.values, ais.estimate.mc_errors)
    assert iwae.replaceable is not None
    return (chosen == Estimator.IWAE) & iwae.replaceable & ais.reliable & ~lower


def not_believed(candidates: Candidates, chosen: Chosen, defended: bool) -> Mask:
    """The diagnostics of the chosen error fail; or importance samples that include the prior are not reliable, or the
    prior's draws do not know their own mean, and a missed mode would go unnoticed.
    """
    reliable = _of_chosen(candidates, chosen, "reliable").astype(bool)
    iwae = candidates[Estimator.IWAE]
    return ~(reliable & iwae.reliable & iwae.certified) if defended else ~reliable


def bases_disagree(candidates: Candidates, chosen: Chosen, defended: bool) -> Mask:
    """An estimate lies above the chosen one, or above one that starts at the local Gaussian alone."""
    ids = np.arange(len(chosen))
    gaussian = [Estimator.AIS] if defended else [Estimator.IWAE, Estimator.AIS]
    bases = [candidates[name].estimate for name in gaussian if name in candidates]
    missed = np.zeros(len(chosen), dtype=bool)
    for base in [*bases, picked(candidates, chosen, ids)]:
        for other in (candidate.estimate for candidate in candidates.values()):
            missed |= _exceeds(other.values, other.mc_errors, base.values, base.mc_errors)
    return missed


def not_finite(candidates: Candidates, chosen: Chosen) -> Mask:
    """The chosen estimate has no finite value."""
    return ~picked(candidates, chosen, np.arange(len(chosen))).finite


def lies_above(opinion: Estimate, chosen: Estimate) -> Mask:
    """The second opinion lies above the chosen estimate."""
    return _exceeds(opinion.values, opinion.mc_errors, chosen.values, chosen.mc_errors)


def _in_order(candidates: Candidates) -> list[Estimator]:
    """The estimators that there are, in the order of `Estimator`."""
    return [name for name in Estimator if name in candidates]


def _exceeds(value: Array, error: Array, other: Array, other_error: Array) -> Mask:
    """Where `value` lies above `other` by more than their errors and SLACK allow; not where both are infinite."""
    with np.errstate(invalid="ignore"):
        return value - other > Z_DISAGREE * np.hypot(error, other_error) + SLACK


def _argmin(values: Array) -> NDArray[np.int64]:
    return np.where(np.isnan(values), np.inf, values).argmin(axis=0)


def _of_chosen(candidates: Candidates, chosen: Chosen, attribute: str) -> Array:
    """An attribute of each datum's chosen candidate."""
    return np.select([chosen == name for name in candidates], [getattr(c, attribute) for c in candidates.values()])
