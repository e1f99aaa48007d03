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
from dataclasses import dataclass, field
from enum import IntFlag
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .ais import RELAX_LEAPFROG, Path, Schedule, ais_of, anneal, base_of, tune
from .blocks import Block
from .bounds import GROUP, block_log_weights, iwae_of
from .estimate import Array, Estimate, effective_sample_size, grouped_noise, k_hat, k_hat_threshold, log_mean_exp
from .families import Params, Whitening, scale_tril
from .model import can_sample_prior, latent_size
from .rng import seed_of

__all__ = ["EvidencePlan", "Evidence", "Defended", "Flag", "HeavyTailed", "block_evidence", "reverse_bound"]

Z_DISAGREE = 4.0  # errors by which another base must exceed the chosen bound to be believed against it
SLACK = 0.05  # nats: disagreement smaller than this is not worth a flag
NEGLIGIBLE = 1e-3  # nats: an error this small needs no diagnosis, weights that are equal up to rounding have no tail
BOUNDED = 0.2  # nats: the same for bounded weights, whose variance is finite whatever k-hat says: 25 effective draws
ORDER = ["iwae", "ais", "flow", "encoder"]
N_RELAX = 20  # moves within the posterior before a reverse run; without, 1% of a MNIST VAE's widths are 1 to 18 nats
MAX_PRIOR_SIZE = 20  # latents above which draws from the prior find nothing


class Flag(IntFlag):
    """Why a datum's numbers should not be trusted; 0 where they are fine. Only NOT_FINITE and FIT_DIVERGED exclude it.

    WIDE is the sandwich's: its two bounds are more than a nat apart.
    """

    NOT_FINITE = 1
    FIT_DIVERGED = 2
    FIT_RAN_OUT = 4
    ERROR_UNRELIABLE = 8
    BASES_DISAGREE = 16
    WIDE = 32


@dataclass(frozen=True)
class EvidencePlan:
    """Budgets of the log-evidence estimators: importance samples reported and in the pilot, those of each further
    distribution (as many again in its pilot), and the annealing schedule.
    """

    n_importance: int = 2000
    n_pilot: int = 512
    n_others: int = 256
    annealing: Schedule | None = field(default_factory=Schedule)


@dataclass(frozen=True)
class Evidence:
    """Log evidence of a block.

    `estimate` is what each datum's chosen estimator gave, `chosen` (B,) its name; `candidates` are all of them on the
    reported draws; `k_hat` (B,) is that of the reported importance weights; `work` units per datum by stage; `path` the
    frozen annealing kernels.
    """

    estimate: Estimate
    chosen: NDArray[np.str_]
    candidates: dict[str, Estimate]
    k_hat: Array
    flags: NDArray[np.int64]
    work: dict[str, float]
    path: Path | None


@dataclass(frozen=True)
class _Candidate:
    """One estimator: what the pilot said of it, what the run reported, and where its error can be believed.

    `expected` is the error that the pilot foresees for the run, infinite where the pilot's own tail is too heavy to
    tell.
    """

    pilot: Array
    pilot_error: Array
    expected: Array
    estimate: Estimate
    reliable: NDArray[np.bool_]
    k_hat: Array


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
    for name, (dist, *numbers) in proposals.items():
        strata = 2 if isinstance(dist, Defended) else 1
        n_pilot, n_run = (strata * -(-number // strata) for number in numbers)  # whole rounds of the strata
        pilot = block_log_weights(model, dist, block, n_pilot, seed, f"{name}-pilot")
        run = block_log_weights(model, dist, block, n_run, seed, f"{name}-run")
        found[name] = _importance_candidate(name, pilot, run, ids, seed, strata)
        work[name] = 0.5 * (n_pilot + n_run)
    path = None
    if plan.annealing is not None:
        found["ais"], path = _annealed_candidate(model, block, base, plan.annealing, ids, seed)
        gradients = plan.annealing.n_leapfrog * (plan.annealing.n_temperatures - 1) + 1
        work["ais"] = gradients * (GROUP * (plan.annealing.n_pilots + 1.0) + plan.annealing.n_chains)
    chosen = _choose(found, defended)
    estimates = {name: candidate.estimate for name, candidate in found.items()}
    return Evidence(
        _pick(found, chosen, ids), chosen, estimates, found["iwae"].k_hat, _flags(found, chosen, defended), work, path
    )


def reverse_bound(
    model: Any, block: Block, base: Params, path: Path, z: Tensor, n_chains: int, seed: int
) -> tuple[Estimate, float]:
    """An upper bound of log p(x) per datum from the z (B, D) that simulated x, on the forward run's frozen kernels; and
    its work units per datum.

    E[1/w] = 1/p(x), so -log mean(1/w) errs upward. Each chain first makes N_RELAX moves within the posterior. All of a
    datum's chains start at its one exact draw: its single value has no error of its own (NaN); a mean over data does.
    """
    run = anneal(base_of(model, block.x, base), path, n_chains, seed, ("reverse", block.number), z, N_RELAX)
    value, deviations = log_mean_exp(-run.log_w)
    noise: dict[object, Array] = {("reverse", seed): np.full_like(grouped_noise(deviations), np.nan)}
    gradients = path.n_leapfrog * (len(path.betas) - 2) + RELAX_LEAPFROG * N_RELAX + 2
    estimate = Estimate("log p(x), reverse AIS", -value.cpu().numpy(), "upper", noise, block.index.numpy())
    return estimate, float(n_chains * gradients)


class HeavyTailed:
    """A multivariate Student t around a local Gaussian: center + L e / sqrt(chi^2 / nu), with nu = max(5, D).

    Fits that minimise KL(q || p) are narrower than the posterior, and importance weights under them can have no
    variance. A posterior under a Gaussian prior has Gaussian tails, so under a t the weights are bounded wherever the
    likelihood is; and with nu = D the spread of its radius is that of the Gaussian's own, so little is lost where the
    Gaussian is right.
    """

    has_density = True

    def __init__(self, params: Params) -> None:
        self.whitening = Whitening(params["mean"].detach(), scale_tril(params).detach())
        self.size = params["mean"].shape[-1]
        self.freedom = max(5, self.size)
        self.noise_size = self.size + self.freedom

    def rsample_and_log_q(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Standard normal noise (S, N, D + nu) -> z (S, N, D), log q in nats (S, N)."""
        e, rest = noise.split([self.size, self.freedom], dim=-1)
        u = e / rest.square().mean(-1, keepdim=True).sqrt()
        return self.whitening(u), self._log_t(u) - self.whitening.log_det

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z) in nats, (S, N, D) -> (S, N)."""
        return self._log_t(self.whitening.inverse(z)) - self.whitening.log_det

    def _log_t(self, u: Tensor) -> Tensor:
        nu, d = self.freedom, self.size
        constant = math.lgamma((nu + d) / 2) - math.lgamma(nu / 2) - 0.5 * d * math.log(nu * math.pi)
        return constant - 0.5 * (nu + d) * torch.log1p(u.square().sum(-1) / nu)


class Defended:
    """Half the draws from a heavy-tailed local Gaussian, half from the prior, all weighted by the mixture's density.

    A local Gaussian can sit on one of several modes and its weights look perfect. In few dimensions the prior's draws
    find the others; their weights are at most twice the likelihood (the balance heuristic of Veach and Guibas 1995).
    """

    has_density = True

    def __init__(self, heavy: HeavyTailed, model: Any, x: Any) -> None:
        self.heavy, self.model, self.x = heavy, model, x
        self.noise_size = heavy.noise_size

    def rsample_and_log_q(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Noise (S, N, E) -> z (S, N, D), log q (S, N); draws alternate, and the noise seeds those of the prior."""
        local, _ = self.heavy.rsample_and_log_q(noise[::2])
        generator = torch.Generator(noise.device)
        generator.manual_seed(seed_of(noise))
        prior = self.model.sample_prior(len(local), self.x, generator).to(local).expand_as(local)
        z = torch.stack([local, prior], dim=1).flatten(0, 1)[: len(noise)]
        return z, self.log_prob(z)

    def log_prob(self, z: Tensor) -> Tensor:
        """log of the mixture's density in nats, (S, N, D) -> (S, N)."""
        return torch.logaddexp(self.heavy.log_prob(z), self.model.log_prior(z, self.x)) - math.log(2)


def _importance_candidate(name: str, pilot: Tensor, run: Tensor, ids: Any, seed: int, strata: int) -> _Candidate:
    """Importance sampling. A pilot whose tail is too heavy foresees nothing; a run's error is believed by its own
    k-hat, or where it is small enough to need none.
    """
    value, error = _value_and_error(pilot, strata)
    enough = BOUNDED if strata > 1 else NEGLIGIBLE
    threshold, tail = k_hat_threshold(len(run)), k_hat(run)
    shrink = math.sqrt(len(pilot) / len(run))
    foreseen = (k_hat(pilot) <= threshold) | (error * shrink < enough)
    estimate = iwae_of(run, ids, f"IWAE_{len(run)} ({name})", (name, seed), strata)
    reliable = (tail <= threshold) | (estimate.mc_errors < enough)
    return _Candidate(value, error, np.where(foreseen, error * shrink, np.inf), estimate, reliable, tail)


def _annealed_candidate(
    model: Any, block: Block, params: Params, plan: Schedule, ids: Any, seed: int
) -> tuple[_Candidate, Path]:
    """AIS from the local Gaussian. Its error is believed where its chains still share the weight: ESS of 40% or
    more.
    """
    base = base_of(model, block.x, params)
    path, pilot = tune(base, plan, len(ids), params["mean"], ("ais", block.number))
    run = anneal(base, path, plan.n_chains, seed, ("ais", "run", block.number))
    value, error = _value_and_error(pilot.log_w)
    shared = (effective_sample_size(run.log_w) >= 0.4 * plan.n_chains).cpu().numpy()
    estimate = ais_of(run, ids, "AIS", ("ais", seed))
    expected = error * math.sqrt(len(pilot.log_w) / plan.n_chains)
    return _Candidate(value, error, expected, estimate, shared, np.full(len(ids), np.nan)), path


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
        chosen = np.where((chosen == "iwae") & ~iwae.reliable & ais.reliable & agree, "ais", chosen)
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
