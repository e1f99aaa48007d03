r"""Log evidence of each datum: several lower bounds, one of which `selection` chooses, and an upper bound.

The lower bounds are IWAE from a Student t around the best local Gaussian, AIS from that Gaussian (or from the prior),
and IWAE from the encoder's q and from a local flow. In few dimensions half of the draws of the first one come from the
prior. The estimator is chosen on the draws of a pilot and reported on others. The upper bound certifies it on simulated
data.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..core import Block, seeded, uniform
from ..models import LatentModel, can_sample_prior, is_standard_normal, latent_size
from ..posteriors import Distribution, Params
from ..results import SECOND_OPINION, Array, Estimate, Flag, concatenate
from .ais import AnnealingPath, AnnealingSchedule, ais_of, anneal, tune
from .bases import Base, MixtureBase, PriorBase, gaussian_base
from .bounds import GROUP, block_log_weights, iwae_of
from .importance_weights import GROUPS, are_believable, effective_sample_size, grouped_noise, k_hat, log_mean_exp
from .mixtures import ComponentMixture
from .modes import MAX_MIXTURE_SIZE, adapted_mixture
from .proposals import DefensiveMixture, StudentT
from .reverse import no_opinion, opinion_work, second_opinion
from .selection import Candidate, Estimator, choose, flags_of, lies_above, picked

__all__ = ["Evidence", "EvidencePlan", "block_evidence"]

NEGLIGIBLE = 1e-3  # nats: an error this small needs no k-hat, as weights that are equal up to rounding have no tail
BOUNDED = 0.2  # nats: the same for bounded weights, whose variance is finite whatever k-hat is (25 effective draws)
KNOWN = 0.2  # the relative error of the mean weight of the prior's draws above which they certify nothing
ENOUGH = 0.05  # nats: where a pilot predicts a smaller error, importance sampling suffices
MAX_CHAINS = 512  # for each datum, whatever its target
MIXTURE_PERIOD = 4  # draws, one of which is the prior's, where a mixture covers the modes
MAX_PRIOR_SIZE = 20  # latents above which draws from the prior find nothing


@dataclass(frozen=True, kw_only=True)
class EvidencePlan:
    """Budgets of the log-evidence estimators.

    Attributes:
        n_importance: importance samples of each datum in the reported run.
        n_pilot: importance samples of each datum in the pilot.
        annealing: the schedule of AIS; None for no AIS.
        n_others: samples from each further distribution in the reported run, and as many in its pilot.
        target: an error in nats that each datum should reach, or None. Each datum then gets 1, 2, 4, ... times
            `n_importance` samples, up to `max_importance`, as its pilot predicts that it needs. Where these are not
            enough, it gets 1, 2, 4, ... times the chains of AIS, up to 512. A datum that still misses it is flagged.
        max_importance: the most importance samples of a datum.
        base: where AIS starts: "local" for the Gaussian fitted to each datum, or "prior" as in the literature.
        annealed_share: the share of the data, drawn at random, for which AIS runs as an independent check although
            importance sampling suffices. It runs for all where the importance weights are poor, and where the draws
            include the prior: there its disagreement tells of several modes.
        second_opinion: whether reverse AIS from where the chains ended gives a second opinion, for the data for which
            AIS runs. A datum where it lies above the reported bound is flagged.
    Raises:
        ValueError: another base, or a share that is not between 0 and 1.
    """

    n_importance: int = 2000
    n_pilot: int = 512
    annealing: AnnealingSchedule | None = field(default_factory=AnnealingSchedule)
    n_others: int = 128
    target: float | None = None
    max_importance: int = 32_000
    base: str = "local"
    annealed_share: float = 1.0
    second_opinion: bool = False

    def __post_init__(self) -> None:
        if self.base not in ("local", "prior"):
            raise ValueError(f'base must be "local" or "prior"; got {self.base!r}')
        if not 0 <= self.annealed_share <= 1:
            raise ValueError(f"annealed_share must be between 0 and 1; got {self.annealed_share}")


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Log evidence of a block of B data.

    Attributes:
        estimate: the estimate of each datum's chosen estimator, (B,) in nats.
        chosen: the names of those estimators, (B,).
        candidates: the estimates of all estimators on the reported draws, by name, and the second opinion.
        k_hat: k-hat of the reported importance weights, (B,).
        flags: the `Flag` of each datum, (B,).
        work: units of work per datum, by estimator.
        base, path: where annealing started and its frozen kernels; None without annealing.
    """

    estimate: Estimate
    chosen: NDArray[np.str_]
    candidates: dict[str, Estimate]
    k_hat: Array
    flags: NDArray[np.int64]
    work: dict[str, float]
    base: Base | None
    path: AnnealingPath | None


def block_evidence(
    model: LatentModel,
    block: Block,
    base: Params,
    plan: EvidencePlan,
    seed: int,
    others: Mapping[Estimator, Distribution] | None = None,
) -> Evidence:
    """Estimate log p(x) of one block of B data.

    Args:
        model: a `LatentModel`.
        block: the data.
        base: the parameters of a local Gaussian, each with a leading B.
        plan: the budgets.
        seed: the seed of the reported draws and of the pilots of importance sampling; those of AIS have their own.
        others: further distributions to draw from, by estimator; those without a density are left out.
    Raises:
        TypeError: annealing with parameters that are not a Gaussian's, or from a prior that cannot be sampled.
    """
    work: dict[str, float] = {}
    candidates: dict[Estimator, Candidate] = {}
    student = StudentT(base)
    proposals: dict[Estimator, Distribution] = {Estimator.IWAE: student}
    mixture: ComponentMixture | None = None
    size = latent_size(model)
    own_prior = size <= MAX_PRIOR_SIZE and not is_standard_normal(model, block.x, base["mean"])
    if can_sample_prior(model) and (size <= MAX_MIXTURE_SIZE or own_prior):
        wide, mixture, work["modes"] = adapted_mixture(model, block, student, seed)
        proposals[Estimator.IWAE] = DefensiveMixture(wide, model, block.x, MIXTURE_PERIOD)
    elif can_sample_prior(model) and size <= MAX_PRIOR_SIZE:
        proposals[Estimator.IWAE] = DefensiveMixture(student, model, block.x)
    proposals |= {name: dist for name, dist in (others or {}).items() if dist.has_density}
    defended = isinstance(proposals[Estimator.IWAE], DefensiveMixture)
    for name, dist in proposals.items():
        strata = dist.period if isinstance(dist, DefensiveMixture) else 1
        candidates[name], work[name.value] = _importance_candidate(model, block, name, dist, plan, seed, strata)
    start, path, opinion = None, None, None
    if plan.annealing is not None:
        iwae = candidates[Estimator.IWAE]
        poor = ~iwae.reliable | (iwae.estimate.mc_errors > (plan.target or np.inf))
        candidates[Estimator.IWAE] = replace(iwae, replaceable=poor)
        all_rows = defended and mixture is None
        rows = np.arange(len(block.index)) if all_rows else _annealed_rows(iwae, block, plan, seed)
        start = _start_of_annealing(model, block, base, plan, mixture)
        annealed, path, n_chains, opinion = _annealed_candidate(start, block, base["mean"], plan, seed, poor, rows)
        candidates[Estimator.AIS] = annealed
        gradients = plan.annealing.n_leapfrog * (plan.annealing.n_temperatures - 1) + 1
        pilots = GROUP * (plan.annealing.n_pilots + 1.0) * len(rows) / len(block.index)
        work[Estimator.AIS.value] = gradients * (pilots + n_chains)
    chosen = choose(candidates, defended)
    reported, flags = picked(candidates, chosen, block.index.numpy()), flags_of(candidates, chosen, defended)
    if plan.target is not None:
        flags |= np.where(reported.mc_errors > plan.target, int(Flag.TARGET_MISSED), 0)
    estimates = {name.value: candidate.estimate for name, candidate in candidates.items()}
    if opinion is not None:
        estimates[SECOND_OPINION] = opinion
        flags |= np.where(lies_above(opinion, reported), int(Flag.SECOND_OPINION), 0)
        assert path is not None
        assert plan.annealing is not None
        share = len(rows) / len(block.index)
        work[SECOND_OPINION] = share * opinion_work(path, plan.annealing.n_chains)
    return Evidence(
        estimate=reported,
        chosen=chosen,
        candidates=estimates,
        k_hat=candidates[Estimator.IWAE].k_hat,
        flags=flags,
        work=work,
        base=start,
        path=path,
    )


def _budgets(error: Array, n_pilot: int, n_run: int, target: float, most: int) -> NDArray[np.int64]:
    """Numbers of draws (B,), each n_run times a power of 2, that should reach half the target given the pilot's error.

    Half of it, because the n_pilot draws of the pilot may have been lucky.
    """
    needed = n_pilot * (2 * error / target) ** 2 / n_run
    doublings = np.ceil(np.log2(np.nan_to_num(needed, nan=1.0, posinf=1e9).clip(1)))
    return np.minimum(n_run * 2**doublings, max(most, n_run)).astype(np.int64)


def _by(budget: NDArray[np.int64]) -> list[tuple[int, NDArray[np.int64]]]:
    """The rows that have each budget."""
    return [(int(n), np.flatnonzero(budget == n)) for n in np.unique(budget)]


def _importance_candidate(
    model: LatentModel, block: Block, name: Estimator, dist: Distribution, plan: EvidencePlan, seed: int, strata: int
) -> tuple[Candidate, float]:
    """Importance sampling from one distribution, and its work units per datum. Draws come in whole rounds of the
    strata.
    """
    own = name is Estimator.IWAE
    n_pilot, n_run = (plan.n_pilot, plan.n_importance) if own else (plan.n_others, plan.n_others)
    n_pilot, n_run = (strata * -(-number // strata) for number in (n_pilot, n_run))
    pilot = block_log_weights(model, dist, block, n_pilot, seed, f"{name}-pilot")
    budget = np.full(len(block.index), n_run)
    if own and plan.target is not None:
        _, error = _value_and_error(pilot, strata)
        budget = _budgets(error, n_pilot, n_run, plan.target, plan.max_importance)
    runs = [
        (rows, block_log_weights(model, dist, block, n, seed, f"{name}-run", _index(rows, block)))
        for n, rows in _by(budget)
    ]
    candidate = _of_importance_runs(name, pilot, runs, block.index.numpy(), seed, strata)
    return candidate, 0.5 * (n_pilot + float(budget.mean()))


def _of_importance_runs(
    name: Estimator,
    pilot: Tensor,
    runs: list[tuple[NDArray[np.int64], Tensor]],
    ids: NDArray[np.int64],
    seed: int,
    strata: int,
) -> Candidate:
    """The candidate of `runs`, log weights (K, R) of rows (R,) that together are all rows.

    A pilot that is not believable predicts no error, unless the run is reliable. A run is reliable if it is believable
    itself, or if its error is small enough to need no diagnostics.
    """
    value, error = _value_and_error(pilot, strata)
    expected, tail, fine = np.empty(len(ids)), np.empty(len(ids)), np.empty(len(ids), dtype=bool)
    enough, known = BOUNDED if strata > 1 else NEGLIGIBLE, np.ones(len(ids), dtype=bool)
    for rows, run in runs:
        if strata > 1:
            known[rows] = _is_known(run[strata - 1 :: strata])
        expected[rows] = error[rows] * math.sqrt(len(pilot) / len(run))
        tail[rows], fine[rows] = k_hat(run), are_believable(run)
    label = f"IWAE_{max(len(run) for _, run in runs)} ({name})"
    estimate = _joined([(rows, iwae_of(run, ids[rows], label, (name.value, seed), strata)) for rows, run in runs])
    reliable = fine | (estimate.mc_errors < enough)
    foreseen = are_believable(pilot) | (expected < enough) | reliable
    return Candidate(
        pilot=value,
        pilot_error=error,
        expected=np.where(foreseen, expected, np.inf),
        estimate=estimate,
        reliable=reliable,
        certified=fine | known | (estimate.mc_errors < NEGLIGIBLE),
        k_hat=tail,
    )


def _is_known(log_w: Tensor) -> NDArray[np.bool_]:
    """Whether the draws of the prior know their own mean weight, (K, N) -> (N,). A mode that only they can find is one
    that a few of them carry until they do.
    """
    value, error = _value_and_error(log_w)
    return np.isfinite(value) & (error <= KNOWN)


def _annealed_rows(iwae: Candidate, block: Block, plan: EvidencePlan, seed: int) -> NDArray[np.int64]:
    """The rows (R,) for which AIS runs: where the importance weights are poor, and a random share of the others."""
    draw = uniform((len(block.index),), seeded(seed, "annealed share", block.number), block.like).cpu().numpy()
    poor = ~iwae.reliable | ~(iwae.expected < ENOUGH)
    return np.flatnonzero(poor | (draw < plan.annealed_share))


def _annealed_candidate(
    base: Base,
    block: Block,
    like: Tensor,
    plan: EvidencePlan,
    seed: int,
    wanted: NDArray[np.bool_],
    annealed: NDArray[np.int64],
) -> tuple[Candidate, AnnealingPath, float, Estimate | None]:
    """The candidate of AIS on the rows `annealed`, its path, the mean number of chains of a datum, and the second
    opinion, if the plan wants one.

    It is reliable where the chains share the weight, with an effective sample size of 40% or more. Given a target, the
    data where it is `wanted` (B,) get as many chains as the pilot predicts that they need. Other rows have no value.
    """
    schedule, ids = plan.annealing, block.index.numpy()
    assert schedule is not None
    path, pilot = tune(base, schedule, len(ids), like, ("ais", block.number), _index(annealed, block))
    value, error, budget = np.full(len(ids), np.nan), np.full(len(ids), np.inf), np.zeros(len(ids), dtype=np.int64)
    value[annealed], error[annealed] = _value_and_error(pilot.log_w)
    budget[annealed] = schedule.n_chains
    if plan.target is not None:
        enough = _budgets(error[annealed], GROUP, schedule.n_chains, plan.target, MAX_CHAINS)
        budget[annealed] = np.where(wanted[annealed], enough, schedule.n_chains)
    parts, opinions, shared = [], [], np.zeros(len(ids), dtype=bool)
    for n, rows in _by(budget):
        if n == 0:
            nothing = np.zeros((GROUPS, len(rows)))
            values = np.full(len(rows), np.nan)
            parts.append((rows, Estimate("AIS", values, side="lower", noise={("ais", seed): nothing}, ids=ids[rows])))
            opinions.append((rows, no_opinion(ids[rows], seed)))
            continue
        run = anneal(base, path, n, seed, ("ais", "run", block.number), rows=_index(rows, block))
        if plan.second_opinion:
            opinions.append(
                (rows, second_opinion(base, path, run, schedule.n_chains, seed, block, _index(rows, block)))
            )
        shared[rows] = (effective_sample_size(run.log_w) >= 0.4 * n).cpu().numpy()
        parts.append((rows, ais_of(run, ids[rows], "AIS", ("ais", seed))))
    expected = error * np.sqrt(GROUP / np.maximum(budget, 1))
    candidate = Candidate(
        pilot=value,
        pilot_error=error,
        expected=expected,
        estimate=_joined(parts),
        reliable=shared,
        certified=np.ones(len(ids), dtype=bool),
        k_hat=np.full(len(ids), np.nan),
    )
    return candidate, path, float(budget.mean()), _joined(opinions) if plan.second_opinion else None


def _start_of_annealing(
    model: LatentModel, block: Block, params: Params, plan: EvidencePlan, mixture: ComponentMixture | None
) -> Base:
    """Where chains start: at the prior if the plan says so, or at all modes if they are known, or at the Gaussian."""
    if plan.base == "prior":
        return PriorBase(model, block.x, len(block.index))
    gaussian = gaussian_base(model, block.x, params)
    return gaussian if mixture is None else MixtureBase(model, block.x, gaussian.coordinates, mixture)


def _index(rows: NDArray[np.int64], block: Block) -> Tensor | None:
    """`rows` on the block's device, or None if they are all rows."""
    return None if len(rows) == len(block.index) else torch.from_numpy(rows).to(block.like.device)


def _joined(parts: list[tuple[NDArray[np.int64], Estimate]]) -> Estimate:
    """Estimates of rows (R,) that together are all rows, joined in order."""
    return concatenate([part for _, part in parts])[np.argsort(np.concatenate([rows for rows, _ in parts]))]


def _value_and_error(log_w: Tensor, strata: int = 1) -> tuple[Array, Array]:
    value, deviations = log_mean_exp(log_w, strata)
    return value.cpu().numpy(), np.sqrt((grouped_noise(deviations) ** 2).sum(0))
