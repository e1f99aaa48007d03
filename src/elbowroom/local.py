r"""Local fits: the best member of a family for each datum by itself, all data of a block solved as one batch.

    maximise  L_n[q] = E_q[log p(x_n, z) - log q(z)]   over the parameters of datum n's own q

Gaussians climb by natural gradients (`natural`), flows by Adam in the whitened coordinates of their own Gaussian part;
no datum feels another. Gradients are pathwise with q's own parameters held fixed ("sticking the landing", Roeder, Wu
and Duvenaud 2017), so they vanish where q is exact. Each round of decaying steps is evaluated on fixed noise; the best
iterate is kept, and a datum that no longer gains leaves the batch.
"""

import math
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .blocks import Block, some
from .bounds import GROUP, log_weights, prepared
from .families import CouplingFlow, DiagonalGaussian, Family, FullGaussian, Params, Whitening, scale_tril
from .model import can_sample_prior, log_joint, log_joint_and_grad
from .natural import natural_round
from .posteriors import Amortized, Conditioned, Local
from .rng import normal, orthogonal, seeded

__all__ = ["BUDGETS", "RACE", "Budget", "Fit", "Outcome", "fit_block", "fit_local", "raced_start", "refine", "start_of"]


LEAP = 0.5  # nats: a round that gained more was still on its way, and the next takes steps as long
ROTATION_DRAWS = 256  # behind the coordinates of a flow
DRAWS_PER_LATENT = 0.25  # of a full fit's step, at least: fewer cannot tell D (D - 1) / 2 numbers from noise


class Outcome(IntEnum):
    """How a local fit ended, for one datum; SKIPPED where a two-phase run predicts the rung instead."""

    CONVERGED = 0
    RAN_OUT = 1
    DIVERGED = 2
    SKIPPED = 3


@dataclass(frozen=True)
class Budget:
    """Rounds of `n_steps` steps on `n_samples` draws; the step size falls to zero within a round, and from one round to
    the next to its `decay`, unless the datum still gains by leaps.

    A datum has converged when `patience` rounds in a row changed its value by less than `tolerance` nats on the fixed
    evaluation noise; a round that lost more is undone, and the next one takes smaller steps. With `plain`, rounds are
    of Adam at a constant rate in the parameters' own coordinates, as published.
    """

    n_steps: int
    n_samples: int
    learning_rate: float
    max_rounds: int = 6
    tolerance: float = 0.02
    n_evaluation: int = 32
    decay: float = 0.4
    patience: int = 1
    plain: bool = False


RACE = Budget(30, 4, 0.5, max_rounds=1, n_evaluation=16)
BUDGETS = {
    "diagonal": Budget(90, 4, 0.5, tolerance=0.04, n_evaluation=64, decay=0.3),
    "full": Budget(50, 12, 0.4, tolerance=0.05),
    "flow": Budget(500, 16, 0.005, max_rounds=4, tolerance=0.05, n_evaluation=512),
    "auxiliary": Budget(200, 16, 0.01, n_evaluation=128),
}


@dataclass(frozen=True)
class Fit:
    """A fitted local posterior `q`, and how each datum's fit ended: outcome (N,), steps (N,), work units per datum
    (N,).
    """

    q: Local | None
    outcome: NDArray[np.int64]
    steps: NDArray[np.int64]
    work: NDArray[np.float64]


@dataclass
class _Problem:
    """The optimisation of one block, whose noise is a function of a key and of nothing else."""

    family: Family
    model: Any
    block: Block
    like: Tensor
    seed: int
    metric: Whitening | None = None

    def noise(self, n_samples: int, *key: str | int) -> Tensor:
        """Standard normal (S, B, E) of the whole block."""
        shape = (n_samples, len(self.block.index), self.family.noise_size)
        return normal(shape, self._generator(*key), self.like)

    def evaluate(self, params: Params, index: Tensor, n_samples: int) -> Tensor:
        """ELBO of the data `index` (B,) on the fixed evaluation noise, GROUP samples at a time; NaN where it is not
        finite.
        """
        total = torch.zeros(len(index), dtype=torch.float64, device=index.device)
        dist, x, n_groups = Conditioned(self.family, params), some(self.block.x, index), -(-n_samples // GROUP)
        with torch.no_grad():
            for group in range(n_groups):
                noise = self.noise(GROUP, "evaluate", group)[:, index]
                total = total + log_weights(self.model, dist, x, noise).sum(0)
        return total / (GROUP * n_groups)

    def round(
        self, params: Params, index: Tensor, budget: Budget, number: int, rates: Tensor
    ) -> tuple[Params, Tensor]:
        """One round for the data `index`: the last iterate, and which of them (B,) stayed finite throughout."""
        x = some(self.block.x, index)
        if isinstance(self.family, DiagonalGaussian | FullGaussian) and not budget.plain:
            shape = (len(self.block.index), self.family.size)
            draws = (draw[index] for draw in orthogonal(shape, self._generator("round", number), self.like))
            n_samples = samples_of(self.family, budget)
            metric = None if self.metric is None else self.metric.rows(index)
            return natural_round(self.model, x, params, draws, rates, budget.n_steps, n_samples, metric)
        return _adam_round(self, x, params, index, budget, number, rates)

    def _generator(self, *key: str | int) -> torch.Generator:
        return seeded(self.seed, "fit", self.family.name, self.block.number, *key)


def fit_local(family: Family, model: Any, x: Any, init: Any = None, seed: int = 0, budget: Budget | None = None) -> Fit:
    """Fit the best member of `family` to each datum.

    Args:
        family: which distributions. model: a `LatentModel`. x: N data.
        init: a posterior to start from, as far as `family` can hold it; None for the prior.
        budget: steps and samples; None for the family's own.
    Returns:
        A `Fit`. A datum whose every iterate failed keeps its start and is DIVERGED.
    """
    parts = []
    with prepared(model, init, x) as (posterior, all_blocks):
        for block in all_blocks:
            start = start_of(family, posterior, model, block, seed)
            params, outcome, steps, work = fit_block(family, model, block, start, seed, budget)
            keep = slice(0, block.rows)
            parts.append(({k: v[keep] for k, v in params.items()}, outcome[keep], steps[keep], work[keep]))
    params = {key: torch.cat([part[0][key] for part in parts]) for key in parts[0][0]}
    outcome, steps, work = (np.concatenate([part[i] for part in parts]) for i in (1, 2, 3))
    return Fit(Local(family, len(outcome), params), outcome, steps, work)


def refine(model: Any, q: Amortized, x: Any, steps: int = 20, seed: int = 0) -> Local:
    """A semi-amortized posterior: start at the encoder's answer and take `steps` gradient steps for each datum.

    Raises:
        ValueError: a posterior whose family is unknown.
    """
    if getattr(q, "family", None) is None:
        raise ValueError("refine needs a posterior with a known family, for instance er.Amortized(net, family)")
    rate = BUDGETS[q.family.name].learning_rate
    budget = Budget(steps, 4, rate, max_rounds=1)
    fitted = fit_local(q.family, model, x, q, seed, budget).q
    assert fitted is not None
    return fitted


def start_of(family: Family, posterior: Any, model: Any, block: Block, seed: int) -> Params:
    """Where the fits of a block start: the encoder's answer, or the prior for a datum where that is not finite or is
    worse.

    Everything of the encoder's answer that `family` can hold is kept: all of it in its own family, a full Gaussian's
    scale for a flow, the marginal scales otherwise.
    """
    prior = _prior_start(model, block, seed)
    dist = None if posterior is None else _constant(posterior.rows(block.index), block.x)
    if dist is None:
        return prior
    source, kept = dist.family, dict(dist.params)
    if source.name != family.name and not (source.name == "full" and family.name == "flow"):
        source, kept = DiagonalGaussian(source.size), {"mean": kept["mean"], "log_scale": _marginal_log_scale(kept)}
    fallback = source.at(prior["mean"], prior["log_scale"], seeded(seed, "bank", source.name))
    noise = normal((GROUP, len(block.index), source.noise_size), seeded(seed, "start", block.number), prior["mean"])
    with torch.no_grad():
        values = [log_weights(model, Conditioned(source, p), block.x, noise) for p in (kept, fallback)]
    lead = values[1] - values[0]  # paired draws: the prior must be better beyond their noise
    worse = lead.mean(0) > 2 * lead.std(0) / math.sqrt(GROUP)
    better = torch.isfinite(values[0]).all(0) & ~worse
    return {key: torch.where(_like(better, kept[key]), kept[key], fallback[key]) for key in kept}


def raced_start(
    posterior: Any, model: Any, block: Block, seed: int, budget: Budget | None
) -> tuple[Params, float]:
    """A Gaussian start for the fits of a block, and its cost in work units per datum: the better of two diagonal
    Gaussians after a short fit each, one begun at `start_of`, one at the prior. Without a budget, the first as it is.

    About one encoder's answer in a thousand lies in the wrong basin, tens of nats below the best, where no local fit
    finds out; from the prior the best one is found more often than not. It must lead by a nat, so that noise does not
    decide.
    """
    family = DiagonalGaussian(int(np.prod(model.latent_shape)))
    near = start_of(family, posterior, model, block, seed)
    if budget is None:
        return near, 0.0
    problem = _Problem(family, model, block, near["mean"], seed)
    ends, values, every = [], [], torch.arange(len(block.index), device=near["mean"].device)
    for start in (near, _prior_start(model, block, seed)):
        params, *_ = fit_block(family, model, block, start, seed, budget)
        ends.append(params)
        values.append(problem.evaluate(params, every, budget.n_evaluation))
    ahead = values[1] > values[0].nan_to_num(-torch.inf) + 1.0
    cost = 2 * (budget.max_rounds * budget.n_steps * budget.n_samples + 1.5 * budget.n_evaluation)
    return {key: torch.where(_like(ahead, ends[0][key]), ends[1][key], ends[0][key]) for key in ends[0]}, cost


def _constant(posterior: Any, x: Any) -> Conditioned | None:
    """The posterior's members as constants with a row per datum; None where its family is unknown."""
    with torch.no_grad():
        if getattr(posterior(x), "family", None) is None:
            return None
        return posterior.localize(x)(x).detached()


def fit_block(
    family: Family, model: Any, block: Block, start: Params, seed: int, budget: Budget | None = None
) -> tuple[Params, NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Fit one block from a start: parameters of q(z), outcome, steps and work units, each with leading B.

    `start` is a Gaussian (mean, log_scale, and `lower` where it is full) or a member of `family`. A diagonal fit from a
    full Gaussian begins at its best diagonal one, and climbs in its coordinates.
    """
    metric = None
    if isinstance(family, DiagonalGaussian) and "lower" in start:
        metric = Whitening(start["mean"], scale_tril(start))
        precision = torch.cholesky_inverse(metric.scale).diagonal(dim1=-2, dim2=-1)
        start = {"mean": start["mean"], "log_scale": -0.5 * precision.log()}
    params = family.at(start["mean"], start["log_scale"], seeded(seed, "bank", family.name))
    params = {key: start.get(key, value).clone() for key, value in params.items()}
    problem = _Problem(family, model, block, start["mean"], seed, metric)
    turned = isinstance(family, CouplingFlow) and set(start) <= {"mean", "log_scale", "lower"}
    if turned:
        params["rotation"] = _rotation(problem, params)
    params, outcome, steps, work = _solve(problem, params, budget or BUDGETS[family.name])
    return params, outcome, steps, work + (ROTATION_DRAWS if turned else 0)


def samples_of(family: Family, budget: Budget) -> int:
    """Draws that one step takes: a full Gaussian needs more of them where there are many latents."""
    if isinstance(family, FullGaussian):
        return max(budget.n_samples, 2 * math.ceil(DRAWS_PER_LATENT * family.size / 2))
    return budget.n_samples


def _solve(problem: _Problem, params: Params, budget: Budget) -> tuple[Params, Any, Any, Any]:
    """Rounds until each datum no longer gains, diverges, or the budget is spent."""
    n, device = len(params["mean"]), params["mean"].device
    active = torch.arange(n, device=device)
    best = problem.evaluate(params, active, budget.n_evaluation)
    outcome = torch.full((n,), int(Outcome.RAN_OUT), device=device)
    rounds, calm = torch.zeros(n, device=device), torch.zeros(n, dtype=torch.int64, device=device)
    rates = torch.full((n,), budget.learning_rate, device=device, dtype=torch.float64)
    for number in range(budget.max_rounds):
        if len(active) == 0 or budget.n_steps == 0:
            break
        begun = {key: value[active] for key, value in params.items()}
        moved, finite = problem.round(begun, active, budget, number, rates[active])
        value = problem.evaluate(moved, active, budget.n_evaluation)
        gain = value - best[active]
        better = torch.isfinite(value) & ~(value <= best[active])
        for key in params:
            params[key][active[better]] = moved[key][better]
        best[active[better]] = value[better]
        rounds[active] += 1
        lost = ~(finite & torch.isfinite(value))
        calm[active] = torch.where(~lost & (gain.abs() < budget.tolerance), calm[active] + 1, 0)
        settled = calm[active] >= budget.patience
        outcome[active] = torch.where(lost, int(Outcome.DIVERGED), int(Outcome.RAN_OUT))
        outcome[active[settled]] = int(Outcome.CONVERGED)
        rates[active] *= torch.where(gain > LEAP, 1.0, budget.decay)
        active = active[~settled]
    done = rounds.cpu().numpy()
    n_samples = samples_of(problem.family, budget)
    work = done * budget.n_steps * n_samples + 0.5 * budget.n_evaluation * (1 + done)
    return params, outcome.cpu().numpy(), (done * budget.n_steps).astype(np.int64), work


def _adam_round(
    problem: _Problem, x: Any, params: Params, index: Tensor, budget: Budget, number: int, rates: Tensor
) -> tuple[Params, Tensor]:
    """A round of Adam (Kingma and Ba 2015) in coordinates where the flow's Gaussian part is standard normal.

    The rate first rises for a tenth of the steps: Adam's first ones are as long as any, and in noise's direction.
    """
    frame, inner = (None, dict(params)) if budget.plain else whitened(problem.family, params)
    moments = {key: (torch.zeros_like(value), torch.zeros_like(value)) for key, value in inner.items()}
    finite = torch.ones(len(index), dtype=torch.bool, device=index.device)
    for t in range(budget.n_steps):
        rise, fall = min(1.0, 10 * (t + 1) / budget.n_steps), 0.5 * (1 + math.cos(math.pi * t / budget.n_steps))
        rate = rates if budget.plain else rates * rise * fall
        half = problem.noise(-(-budget.n_samples // 2), "step", number, t)[:, index]
        noise = torch.cat([half, -half])[: budget.n_samples]
        grads, good = _gradient(problem, x, frame, inner, noise)
        finite &= good
        for key, grad in grads.items():
            direction = _adam(moments[key], torch.nan_to_num(grad, 0.0, 0.0, 0.0), t + 1)
            moved = inner[key] + _like(rate.to(grad), grad) * direction
            inner[key] = torch.where(_like(good, grad), moved, inner[key])
    return (inner if frame is None else frame.compose(inner)), finite


def whitened(family: Family, params: Params) -> tuple[Whitening | None, Params]:
    """Coordinates of q's outer Gaussian part, and q in them; none for an auxiliary flow, whose Gaussian lies inside."""
    if not family.has_density:
        return None, dict(params)
    outer = [key for key in ("mean", "log_scale", "lower") if key in params]
    return Whitening(params["mean"], scale_tril(params)), params | {key: torch.zeros_like(params[key]) for key in outer}


def _rotation(problem: _Problem, params: Params) -> Tensor:
    """Eigenvectors (B, D, D), the largest first, of E[g g'], g = L' grad log p(x, z) + e, where a flow starts as the
    Gaussian z = mean + L e.

    Where the posterior is that Gaussian, g is zero: the leading directions are those in which it is least Gaussian
    (the "lazy maps" of Brennan, Bigoni, Zahm, Spantini and Marzouk 2020).
    """
    q, second = Whitening(params["mean"], scale_tril(params)), torch.zeros_like(params["lower"])
    for group in range(ROTATION_DRAWS // GROUP):
        e = problem.noise(GROUP, "rotation", group)
        _, grad = log_joint_and_grad(problem.model, problem.block.x, q(e))
        g = (q.pull_back(grad) + e).transpose(0, 1)
        second += torch.bmm(g.mT, g) / ROTATION_DRAWS
    good = torch.isfinite(second).flatten(1).all(1)
    _, vectors = torch.linalg.eigh(torch.where(_like(good, second), second, torch.eye(second.shape[-1]).to(second)))
    return vectors.flip(-1)


def _gradient(
    problem: _Problem, x: Any, frame: Whitening | None, params: Params, noise: Tensor
) -> tuple[Params, Tensor]:
    """The gradient of the ELBO in each parameter, log q with its parameters held fixed; and where (B,) all of it is
    finite.
    """
    with torch.enable_grad():
        fixed = problem.family.fixed
        free = {name: value.detach().requires_grad_() for name, value in params.items() if name not in fixed}
        dist = Conditioned(problem.family, params | free)
        u, log_q = dist.rsample_and_log_q(noise)
        if dist.has_density:
            log_q = dist.detached().log_prob(u)
        value = (log_joint(problem.model, x, u if frame is None else frame(u)) - log_q).mean(0)
        grads = torch.autograd.grad(value.sum(), list(free.values()), allow_unused=True)
    found = {name: grad for name, grad in zip(free, grads, strict=True) if grad is not None}
    good = torch.isfinite(value.detach())
    for grad in found.values():
        good &= torch.isfinite(grad).flatten(1).all(1)
    return found, good


def _adam(moments: tuple[Tensor, Tensor], grad: Tensor, t: int) -> Tensor:
    """The direction of ascent, betas 0.9 and 0.99, moments updated in place."""
    first, second = moments
    first.mul_(0.9).add_(grad, alpha=0.1)
    second.mul_(0.99).addcmul_(grad, grad, value=0.01)
    return (first / (1 - 0.9**t)) / ((second / (1 - 0.99**t)).sqrt() + 1e-8)


def _prior_start(model: Any, block: Block, seed: int) -> Params:
    """Moments of the prior from 64 draws where it can be sampled (exactly N(0, I) otherwise): mean, log_scale (B,
    D).
    """
    d = int(np.prod(model.latent_shape))
    zeros = block.like.new_zeros(len(block.index), d)
    if getattr(model, "prior", None) is None or not can_sample_prior(model):
        return {"mean": zeros, "log_scale": zeros.clone()}
    z = model.sample_prior(64, block.x, seeded(seed, "prior-start", block.number)).expand(64, len(zeros), d)
    return {"mean": z.mean(0), "log_scale": z.std(0).log()}


def _marginal_log_scale(params: Params) -> Tensor:
    """log standard deviations of a posterior's Gaussian part, (B, D)."""
    if "lower" not in params:
        return params["log_scale"]
    tril = torch.diag_embed(params["log_scale"].exp()) + params["lower"].tril(-1)
    return 0.5 * tril.square().sum(-1).log()


def _like(mask: Tensor, value: Tensor) -> Tensor:
    return mask[(...,) + (None,) * (value.ndim - 1)]
