r"""Log evidence of each datum: the best of several lower bounds, and the sandwich that certifies it on simulated data.

    IWAE from a heavy-tailed version of the best local Gaussian, AIS from the same, IWAE from the encoder's q, and
    from the prior in few dimensions

A maximum of noisy bounds is biased upward, so the estimator is chosen on a pilot's draws and reported on others. One
choice looks at the reported draws: importance weights whose tail is too heavy (k-hat) give way to annealing. What is
thrown away there are runs that one large weight dominates, and the annealed draws know nothing of them, so this can
only lower a bound. Disagreement between bases is a flag: a lower bound from one base that lies above another by more
than their errors shows missed mass.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntFlag
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .ais import RELAX_LEAPFROG, Path, Schedule, ais_of, anneal, tune
from .bases import Base, PriorBase, base_of
from .blocks import Block
from .bounds import GROUP, block_log_weights, iwae_of
from .estimate import (
    Array,
    Estimate,
    concatenate,
    effective_sample_size,
    grouped_noise,
    k_hat,
    k_hat_threshold,
    log_mean_exp,
)
from .families import Params
from .model import can_sample_prior, latent_size
from .proposals import Defended, HeavyTailed

__all__ = ["Evidence", "EvidencePlan", "Flag", "block_evidence", "reverse_bound"]

Z_DISAGREE = 4.0  # errors by which another base must exceed the chosen bound to be believed against it
SLACK = 0.05  # nats: disagreement smaller than this is not worth a flag
NEGLIGIBLE = 1e-3  # nats: an error this small needs no diagnosis, weights that are equal up to rounding have no tail
BOUNDED = 0.2  # nats: the same for bounded weights, whose variance is finite whatever k-hat says: 25 effective draws
ORDER = ["iwae", "ais", "flow", "encoder"]
N_RELAX = 20  # moves within the posterior before a reverse run; without, 1% of a MNIST VAE's widths are 1 to 18 nats
MAX_PRIOR_SIZE = 20  # latents above which draws from the prior find nothing


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


@dataclass(frozen=True)
class EvidencePlan:
    """Budgets of the log-evidence estimators.

    Attributes:
        n_importance: importance samples reported, and n_pilot those in the pilot. annealing: the schedule of AIS.
        n_others: samples of each further distribution, and as many in its pilot.
        target: an error in nats. Pilots then give each datum 2, 4, ... times n_importance samples, up to
            `max_importance`, as they foresee to need, and where those do not do, as many times the chains, up to
            `max_chains`; a datum whose run misses the target all the same is flagged.
        base: where AIS starts: "local", the Gaussian fitted to each datum, or "prior", as in the literature.
    """

    n_importance: int = 2000
    n_pilot: int = 512
    annealing: Schedule | None = field(default_factory=Schedule)
    n_others: int = 128
    target: float | None = None
    max_importance: int = 32_000
    max_chains: int = 512
    base: str = "local"

    def __post_init__(self) -> None:
        if self.base not in ("local", "prior"):
            raise ValueError(f'base must be "local" or "prior"; got {self.base!r}')


@dataclass(frozen=True)
class Evidence:
    """Log evidence of a block.

    `estimate` is what each datum's chosen estimator gave, `chosen` (B,) its name; `candidates` are all of them on the
    reported draws; `k_hat` (B,) is that of the reported importance weights; `work` units per datum by stage; `base` and
    `path` where annealing started and its frozen kernels.
    """

    estimate: Estimate
    chosen: NDArray[np.str_]
    candidates: dict[str, Estimate]
    k_hat: Array
    flags: NDArray[np.int64]
    work: dict[str, float]
    base: Base | None
    path: Path | None


@dataclass(frozen=True)
class _Candidate:
    """One estimator: what the pilot said of it, what the run reported, and where its error can be believed.

    `expected` is the error that the pilot foresees for the run, infinite where the pilot's own tail is too heavy to
    tell. `replaceable`: where the run itself turned out too poor to be reported.
    """

    pilot: Array
    pilot_error: Array
    expected: Array
    estimate: Estimate
    reliable: NDArray[np.bool_]
    k_hat: Array
    replaceable: NDArray[np.bool_] | None = None


def block_evidence(
    model: Any, block: Block, base: Params, plan: EvidencePlan, seed: int, others: Mapping[str, Any] | None = None
) -> Evidence:
    """Log p(x) of one block.

    Args:
        base: parameters (B, ...) of a local Gaussian. others: further distributions to draw from, by name ("encoder",
            "flow"); those without a density take no part. plan: budgets.
        seed: of the reported draws and of their pilots.
    """
    ids, work = block.index.numpy(), {}
    found: dict[str, _Candidate] = {}
    heavy = HeavyTailed(base)
    defended = can_sample_prior(model) and latent_size(model) <= MAX_PRIOR_SIZE
    proposals: dict[str, tuple[Any, int, int]] = {
        "iwae": (Defended(heavy, model, block.x) if defended else heavy, plan.n_pilot, plan.n_importance)
    }
    for name, dist in (others or {}).items():
        if dist.has_density:
            proposals[name] = (dist, plan.n_others, plan.n_others)
    for name, (dist, n_pilot, n_run) in proposals.items():
        strata = 2 if isinstance(dist, Defended) else 1
        n_pilot, n_run = (strata * -(-number // strata) for number in (n_pilot, n_run))  # whole rounds of the strata
        pilot = block_log_weights(model, dist, block, n_pilot, seed, f"{name}-pilot")
        budget = np.full(len(ids), n_run)
        if name == "iwae" and plan.target is not None:
            _, error = _value_and_error(pilot, strata)
            budget = _budgets(error, n_pilot, n_run, plan.target, plan.max_importance)
        runs = [
            (rows, block_log_weights(model, dist, block, n, seed, f"{name}-run", _index(rows, block)))
            for n, rows in _by(budget)
        ]
        found[name] = _importance_candidate(name, pilot, runs, ids, seed, strata)
        work[name] = 0.5 * (n_pilot + float(budget.mean()))
    start, path = None, None
    if plan.annealing is not None:
        poor = ~found["iwae"].reliable | (found["iwae"].estimate.mc_errors > (plan.target or np.inf))
        found["iwae"] = replace(found["iwae"], replaceable=poor)
        found["ais"], start, path, n_chains = _annealed_candidate(model, block, base, plan, seed, poor)
        gradients = plan.annealing.n_leapfrog * (plan.annealing.n_temperatures - 1) + 1
        work["ais"] = gradients * (GROUP * (plan.annealing.n_pilots + 1.0) + n_chains)
    chosen = _choose(found, defended)
    estimates = {name: candidate.estimate for name, candidate in found.items()}
    reported, flags = _pick(found, chosen, ids), _flags(found, chosen, defended)
    if plan.target is not None:
        flags |= np.where(reported.mc_errors > plan.target, int(Flag.TARGET_MISSED), 0)
    return Evidence(reported, chosen, estimates, found["iwae"].k_hat, flags, work, start, path)


def reverse_bound(
    block: Block, base: Base, path: Path, z: Tensor, n_chains: int, seed: int
) -> tuple[Estimate, float]:
    """An upper bound of log p(x) per datum from the z (B, D) that simulated x, on the forward run's frozen kernels; and
    its work units per datum.

    E[1/w] = 1/p(x), so -log mean(1/w) errs upward. Each chain first makes N_RELAX moves within the posterior. All of a
    datum's chains start at its one exact draw: its single value has no error of its own (NaN); a mean over data does.
    """
    run = anneal(base, path, n_chains, seed, ("reverse", block.number), z, N_RELAX)
    value, deviations = log_mean_exp(-run.log_w)
    noise: dict[object, Array] = {("reverse", seed): np.full_like(grouped_noise(deviations), np.nan)}
    gradients = path.n_leapfrog * (len(path.betas) - 2) + RELAX_LEAPFROG * N_RELAX + 2
    estimate = Estimate("log p(x), reverse AIS", -value.cpu().numpy(), "upper", noise, block.index.numpy())
    return estimate, float(n_chains * gradients)


def _budgets(error: Array, n_pilot: int, n_run: int, target: float, most: int) -> NDArray[np.int64]:
    """(B,) draws, n_run times a power of 2, for half the target by the error that n_pilot draws had: they may have been
    lucky.
    """
    needed = n_pilot * (2 * error / target) ** 2 / n_run
    doublings = np.ceil(np.log2(np.nan_to_num(needed, nan=1.0, posinf=1e9).clip(1)))
    return np.minimum(n_run * 2**doublings, max(most, n_run)).astype(np.int64)


def _by(budget: NDArray[np.int64]) -> list[tuple[int, NDArray[np.int64]]]:
    """The rows that have each budget."""
    return [(int(n), np.flatnonzero(budget == n)) for n in np.unique(budget)]


def _importance_candidate(
    name: str, pilot: Tensor, runs: list[tuple[NDArray[np.int64], Tensor]], ids: Any, seed: int, strata: int
) -> _Candidate:
    """Importance sampling; `runs` are log weights (K, R) of rows (R,) that together are all. A pilot whose tail is too
    heavy foresees nothing unless the run says otherwise; a run's error is believed by its own k-hat, or where it is
    small enough to need none.
    """
    value, error = _value_and_error(pilot, strata)
    enough = BOUNDED if strata > 1 else NEGLIGIBLE
    expected, tail, threshold = np.empty(len(ids)), np.empty(len(ids)), np.empty(len(ids))
    for rows, run in runs:
        expected[rows] = error[rows] * math.sqrt(len(pilot) / len(run))
        tail[rows], threshold[rows] = k_hat(run), k_hat_threshold(len(run))
    label = f"IWAE_{max(len(run) for _, run in runs)} ({name})"
    estimate = _joined([(rows, iwae_of(run, ids[rows], label, (name, seed), strata)) for rows, run in runs])
    reliable = (tail <= threshold) | (estimate.mc_errors < enough)
    foreseen = (k_hat(pilot) <= threshold) | (expected < enough) | reliable
    return _Candidate(value, error, np.where(foreseen, expected, np.inf), estimate, reliable, tail)


def _annealed_candidate(
    model: Any, block: Block, params: Params, plan: EvidencePlan, seed: int, wanted: NDArray[np.bool_]
) -> tuple[_Candidate, Base, Path, float]:
    """AIS, its base and path, and the chains that a datum had on average. Its error is believed where the chains still
    share the weight: ESS of 40% or more. Under a target, data where it is `wanted` (B,) get as many chains as the pilot
    foresees to need.
    """
    schedule, ids = plan.annealing, block.index.numpy()
    assert schedule is not None
    base: Base = base_of(model, block.x, params)
    if plan.base == "prior":
        base = PriorBase(model, block.x, len(ids))
    path, pilot = tune(base, schedule, len(ids), params["mean"], ("ais", block.number))
    value, error = _value_and_error(pilot.log_w)
    budget = np.full(len(ids), schedule.n_chains)
    if plan.target is not None:
        enough = _budgets(error, len(pilot.log_w), schedule.n_chains, plan.target, plan.max_chains)
        budget = np.where(wanted, enough, budget)
    parts, shared = [], np.zeros(len(ids), dtype=bool)
    for n, rows in _by(budget):
        run = anneal(base, path, n, seed, ("ais", "run", block.number), rows=_index(rows, block))
        shared[rows] = (effective_sample_size(run.log_w) >= 0.4 * n).cpu().numpy()
        parts.append((rows, ais_of(run, ids[rows], "AIS", ("ais", seed))))
    expected = error * np.sqrt(len(pilot.log_w) / budget)
    candidate = _Candidate(value, error, expected, _joined(parts), shared, np.full(len(ids), np.nan))
    return candidate, base, path, float(budget.mean())


def _index(rows: NDArray[np.int64], block: Block) -> Tensor | None:
    """`rows` on the block's device; None where they are all."""
    return None if len(rows) == len(block.index) else torch.from_numpy(rows).to(block.like.device)


def _joined(parts: list[tuple[NDArray[np.int64], Estimate]]) -> Estimate:
    """Estimates of rows (R,) that together are all, in order."""
    return concatenate([part for _, part in parts])[np.argsort(np.concatenate([rows for rows, _ in parts]))]


def _value_and_error(log_w: Tensor, strata: int = 1) -> tuple[Array, Array]:
    value, deviations = log_mean_exp(log_w, strata)
    return value.cpu().numpy(), np.sqrt((grouped_noise(deviations) ** 2).sum(0))


def _choose(found: dict[str, _Candidate], defended: bool) -> NDArray[np.str_]:
    """The estimator of each datum: the one whose pilot foresees the smallest error; or one that the pilot puts clearly
    higher; or annealing where the importance weights that were to be reported turn out too heavy. Where draws of the
    prior defend the importance samples, those are taken unless their tail forbids it.
    """
    names = sorted(found, key=ORDER.index)
    n = len(found["iwae"].pilot)
    contradicted = {name: np.full(n, name == "encoder") for name in names}  # its light tails foresee too much of it
    if "ais" in found:  # few chains that all missed the mass agree with each other: only another base can tell
        others = [found[name] for name in names if name != "ais"]
        ais = found["ais"]
        contradicted["ais"] = np.logical_or.reduce(
            [_exceeds(other.pilot, other.pilot_error, ais.pilot, ais.pilot_error) for other in others]
        )
    if defended:  # what a local Gaussian cannot see it cannot foresee: draws that cover the prior come first
        for name in names:
            contradicted[name] |= (name != "iwae") & np.isfinite(found["iwae"].expected)
    foreseen = np.stack([np.where(contradicted[name], np.inf, found[name].expected) for name in names])
    spread = np.stack([np.where(contradicted[name], np.inf, found[name].pilot_error) for name in names])
    best = np.where(np.isfinite(foreseen).any(axis=0), _argmin(foreseen), _argmin(spread))
    chosen = np.array(names)[best].astype("<U8")
    for name in names:
        other = found[name]
        value, error = _gather(found, chosen, "pilot"), _gather(found, chosen, "pilot_error")
        higher = _exceeds(other.pilot, other.pilot_error, value, error) & np.isfinite(other.expected)
        chosen = np.where(higher | (~np.isfinite(value) & np.isfinite(other.pilot)), name, chosen)
    if "ais" in found:
        iwae, ais = found["iwae"], found["ais"]
        agree = ~_exceeds(iwae.estimate.values, iwae.estimate.mc_errors, ais.estimate.values, ais.estimate.mc_errors)
        chosen = np.where((chosen == "iwae") & iwae.replaceable & ais.reliable & agree, "ais", chosen)
    return chosen


def _exceeds(value: Array, error: Array, other: Array, other_error: Array) -> NDArray[np.bool_]:
    """Where `value` lies above `other` by more than their errors and SLACK allow."""
    return value - other > Z_DISAGREE * np.hypot(error, other_error) + SLACK


def _argmin(values: Array) -> NDArray[np.int64]:
    return np.where(np.isnan(values), np.inf, values).argmin(axis=0)


def _gather(found: dict[str, _Candidate], chosen: NDArray[np.str_], attribute: str) -> Any:
    return np.select([chosen == name for name in found], [getattr(found[name], attribute) for name in found])


def _pick(found: dict[str, _Candidate], chosen: NDArray[np.str_], ids: Any) -> Estimate:
    """Each datum's value and noise from its chosen estimator."""
    values = np.select([chosen == name for name in found], [found[name].estimate.values for name in found])
    noise: dict[object, Array] = {}
    for name, candidate in found.items():
        for key, part in candidate.estimate.noise.items():
            noise[key] = np.where(chosen == name, part, 0.0)
    return Estimate("log p(x)", values, "lower", noise, ids)


def _flags(found: dict[str, _Candidate], chosen: NDArray[np.str_], defended: bool) -> NDArray[np.int64]:
    """What to doubt: an error that its own diagnostics distrust, or mass that the local Gaussian did not reach."""
    reliable = _gather(found, chosen, "reliable").astype(bool)
    if defended:  # what covers the prior could not confirm what was chosen: a missed mode would go unseen
        reliable = reliable & found["iwae"].reliable
    flags = np.where(reliable, 0, int(Flag.ERROR_UNRELIABLE))
    gaussian = [found[name].estimate for name in ("iwae", "ais") if name in found and not (defended and name == "iwae")]
    for base in [*gaussian, _pick(found, chosen, np.arange(len(chosen)))]:
        for candidate in found.values():
            seen = candidate.estimate
            missed = _exceeds(seen.values, seen.mc_errors, base.values, base.mc_errors)
            flags = flags | np.where(missed, int(Flag.BASES_DISAGREE), 0)
    flags = flags | np.where(_pick(found, chosen, np.arange(len(chosen))).finite, 0, int(Flag.NOT_FINITE))
    return flags.astype(np.int64)
