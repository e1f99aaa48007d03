r"""Local fits: the best member of a family for each datum by itself, all data of a block solved as one batch.

    maximise  L_n[q] = E_q[log p(x_n, z) - log q(z)]   over the parameters of datum n's own q

Adam is element-wise, so no datum feels another. Fits run in *whitened* coordinates u, z = center + scale u, where the
start is the standard normal: the encoder's answer for a diagonal fit, the Gauss-Newton precision at the diagonal
optimum for a full one, the full Gaussian for a flow. Gradients are pathwise with q's own parameters held fixed
("sticking the landing", Roeder, Wu and Duvenaud 2017), so they vanish where q is exact. Each round of decaying steps
is evaluated on fixed noise; the best iterate is kept, and a datum that no longer gains leaves the batch.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .blocks import Block
from .bounds import GROUP, log_weights, prepared
from .families import DiagonalGaussian, Family, FullGaussian, Params, Whitening, scale_tril
from .model import can_sample_prior, log_joint
from .posteriors import Amortized, Conditioned, Local
from .rng import normal, seeded

__all__ = ["BUDGETS", "Budget", "Fit", "Outcome", "fit_block", "fit_local", "refine", "start_of"]


LEAP = 0.5  # nats: a round that gained more was still on its way, and the next may take longer steps
MAX_RATE = 0.2  # of Adam, in units of the scales at the start
N_CURVATURE = 4  # draws over which the curvature is averaged
EIGENVALUE_FLOOR = 0.02  # of the precision in the diagonal optimum's units: no direction is taken to be 7 times wider


class Outcome(IntEnum):
    """How a local fit ended, for one datum; SKIPPED where a two-phase run predicts the rung instead."""

    CONVERGED = 0
    RAN_OUT = 1
    DIVERGED = 2
    SKIPPED = 3


@dataclass(frozen=True)
class Budget:
    """Rounds of `n_steps` Adam steps on `n_samples` draws; the step size falls to zero within a round. From one
    round to the next it falls to its `decay`, or grows by as much while a datum still gains by leaps.

    A datum has converged when a whole round changed its value by less than `tolerance` nats on the fixed evaluation
    noise; a round that lost more is undone, and the next one takes smaller steps.
    """

    n_steps: int
    n_samples: int
    learning_rate: float
    max_rounds: int = 6
    tolerance: float = 0.02
    n_evaluation: int = 32
    decay: float = 0.3


BUDGETS = {
    "diagonal": Budget(120, 4, 0.2, tolerance=0.03, n_evaluation=64),
    "full": Budget(100, 12, 0.007),
    "flow": Budget(200, 16, 0.01, n_evaluation=128),
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
    """The optimisation of one block: `objective(params, index, noise)` is log p(x, z) - log q, (S, B)."""

    family: Family
    model: Any
    x: Any
    frame: Whitening
    noise: Callable[..., Tensor]

    def log_w(self, params: Params, index: Tensor, noise: Tensor, stick: bool = False) -> Tensor:
        """Log weights of the data `index`; with `stick`, log q is evaluated with its parameters held fixed."""
        frame, x = self.frame.rows(index), _rows(self.x, index)
        dist = Conditioned(self.family, params)
        u, log_q = dist.rsample_and_log_q(noise)
        if stick and dist.has_density:
            log_q = dist.detached().log_prob(u)
        return log_joint(self.model, x, frame(u)) + frame.log_det - log_q

    def evaluate(self, params: Params, index: Tensor, n_samples: int) -> Tensor:
        """(B,) ELBO on the fixed evaluation noise, GROUP samples at a time; NaN where it is not finite."""
        total = torch.zeros(len(index), dtype=torch.float64, device=index.device)
        with torch.no_grad():
            for group in range(-(-n_samples // GROUP)):
                total = total + self.log_w(params, index, self.noise(GROUP, "evaluate", group)[:, index]).double().sum(
                    0
                )
        return total / (GROUP * -(-n_samples // GROUP))


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


def _constant(posterior: Any, x: Any) -> Conditioned | None:
    """The posterior's members as constants with a row per datum; None where its family is unknown."""
    with torch.no_grad():
        if getattr(posterior(x), "family", None) is None:
            return None
        return posterior.localize(x)(x).detached()


def fit_block(
    family: Family, model: Any, block: Block, start: Params, seed: int, budget: Budget | None = None
) -> tuple[Params, NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Fit one block from a Gaussian start: parameters of q(z), outcome, steps and work units, each with leading B."""
    budget = budget or BUDGETS[family.name]
    frame, params, work = _start(family, model, block, start, seed)
    like = start["mean"]

    def noise(n_samples: int, *key: str | int) -> Tensor:
        generator = seeded(seed, "fit", family.name, block.number, *key)
        return normal((n_samples, len(block.index), family.noise_size), generator, like)

    problem = _Problem(family, model, block.x, frame, noise)
    params, outcome, steps, spent = _solve(problem, params, budget)
    return params, outcome, steps, spent + work


def _solve(problem: _Problem, params: Params, budget: Budget) -> tuple[Params, Any, Any, Any]:
    """Rounds until each datum no longer gains, diverges, or the budget is spent."""
    n, device = len(params["mean"]), params["mean"].device
    active = torch.arange(n, device=device)
    best = problem.evaluate(params, active, budget.n_evaluation)
    outcome = torch.full((n,), int(Outcome.RAN_OUT), device=device)
    rounds = torch.zeros(n, device=device)
    rates = torch.full((n,), budget.learning_rate, device=device, dtype=torch.float64)
    for number in range(budget.max_rounds):
        if len(active) == 0 or budget.n_steps == 0:
            break
        moved, finite = _round(
            problem, {k: v[active] for k, v in params.items()}, active, budget, number, rates[active]
        )
        value = problem.evaluate(moved, active, budget.n_evaluation)
        gain = value - best[active]
        better = torch.isfinite(value) & ~(value <= best[active])
        for key in params:
            params[key][active[better]] = moved[key][better]
        best[active[better]] = value[better]
        problem.frame, params = rebased(problem.family, problem.frame, params)
        rounds[active] += 1
        lost = ~(finite & torch.isfinite(value))
        settled = ~lost & (gain.abs() < budget.tolerance)
        outcome[active] = torch.where(lost, int(Outcome.DIVERGED), int(Outcome.RAN_OUT))
        outcome[active[settled]] = int(Outcome.CONVERGED)
        leaping = (gain > LEAP) & (rates[active] < MAX_RATE)
        rates[active] *= torch.where(leaping, 1 / budget.decay, budget.decay)
        active = active[~settled]
    done = rounds.cpu().numpy()
    work = done * budget.n_steps * budget.n_samples + 0.5 * budget.n_evaluation * (1 + done)
    return problem.frame.compose(params), outcome.cpu().numpy(), (done * budget.n_steps).astype(np.int64), work


def rebased(family: Family, frame: Whitening, params: Params) -> tuple[Whitening, Params]:
    """The same q in coordinates of its own scale, so that the next steps are neither timid nor wild.

    An overconfident encoder gives coordinates far too small: without this a fit from there stalls and looks converged.
    """
    if not family.has_density:
        return frame, params
    outer = frame.compose({key: params[key] for key in ("mean", "log_scale", "lower") if key in params})
    zeroed = {key: torch.zeros_like(params[key]) for key in outer}
    return Whitening(outer["mean"], scale_tril(outer)), params | zeroed


def _round(
    problem: _Problem, params: Params, index: Tensor, budget: Budget, number: int, rates: Tensor
) -> tuple[Params, Tensor]:
    """One round of steps that fall to zero as a cosine: the last iterate, and which data (B,) stayed finite
    throughout.
    """
    moments = {key: (torch.zeros_like(value), torch.zeros_like(value)) for key, value in params.items()}
    finite = torch.ones(len(index), dtype=torch.bool, device=index.device)
    for t in range(budget.n_steps):
        rate = rates * 0.5 * (1 + math.cos(math.pi * t / budget.n_steps))
        params, good = _ascend(problem, params, index, budget.n_samples, moments, rate, (number, t))
        finite &= good
    return params, finite


def _ascend(
    problem: _Problem, params: Params, index: Tensor, n_samples: int, moments: Any, rate: Tensor, key: tuple[int, int]
) -> tuple[Params, Tensor]:
    """One Adam step on antithetic draws. A datum whose value or gradient is not finite stays where it is, and is
    told.
    """
    half = problem.noise(-(-n_samples // 2), "step", *key)[:, index]
    noise = torch.cat([half, -half])[:n_samples]
    with torch.enable_grad():
        free = {name: value.detach().requires_grad_() for name, value in params.items()}
        value = problem.log_w(free, index, noise, stick=True).mean(0)
        grads = torch.autograd.grad(value.sum(), list(free.values()), allow_unused=True)
    good = torch.isfinite(value.detach())
    for grad in grads:
        good &= grad is None or torch.isfinite(grad).flatten(1).all(1)
    stepped = dict(params)
    for (name, old), grad in zip(params.items(), grads, strict=True):
        if grad is not None:
            direction = _adam(moments[name], torch.nan_to_num(grad, 0.0, 0.0, 0.0), key[1] + 1)
            new = old + _like(rate.to(old), old) * direction
            stepped[name] = torch.where(_like(good, old), new, old)
    return stepped, good


def _adam(moments: tuple[Tensor, Tensor], grad: Tensor, t: int) -> Tensor:
    """The ascent direction of Adam (Kingma and Ba 2015), betas 0.9 and 0.99, moments updated in place."""
    first, second = moments
    first.mul_(0.9).add_(grad, alpha=0.1)
    second.mul_(0.99).addcmul_(grad, grad, value=0.01)
    return (first / (1 - 0.9**t)) / ((second / (1 - 0.99**t)).sqrt() + 1e-8)


def _start(family: Family, model: Any, block: Block, start: Params, seed: int) -> tuple[Whitening, Params, float]:
    """Coordinates of the start, the parameters to begin from in them, and what finding them cost in work units.

    `start` is a diagonal Gaussian (mean, log_scale), a Gaussian with `lower`, or the localized parameters of an
    amortized flow.
    """
    mean, generator = start["mean"], seeded(seed, "bank", family.name)
    zeros = torch.zeros_like(mean)
    if not family.has_density:  # the auxiliary flow's base lies inside: no outer affine map to absorb coordinates
        eye = torch.eye(mean.shape[-1], dtype=mean.dtype, device=mean.device).expand(len(mean), -1, -1)
        given = {key: value.clone() for key, value in start.items()} if len(start) > 3 else None
        return Whitening(zeros, eye), given or family.at(mean.clone(), start["log_scale"].clone(), generator), 0.0
    frame, cost = Whitening(mean, scale_tril(start)), 0.0
    if isinstance(family, FullGaussian) and "lower" not in start:
        frame, cost = curvature_frame(model, block, frame, seed)
    if len(start) > 3:
        absorbed = {key: torch.zeros_like(start[key]) for key in ("mean", "log_scale", "lower") if key in start}
        return frame, start | absorbed, cost
    return frame, family.at(zeros, zeros.clone(), generator), cost


def curvature_frame(model: Any, block: Block, start: Whitening, seed: int) -> tuple[Whitening, float]:
    """Coordinates in which the posterior is about standard normal: the inverse of its average curvature under the
    start.

    The best Gaussian's precision is E_q[-Hessian of log p(x, z)] (Opper and Archambeau 2009), so the curvature is
    averaged over draws of the diagonal optimum: on a MNIST VAE that start is 0.25 nats better than the curvature at
    the center alone. The model's own `curvature`, or Hessian-vector products; eigenvalues are floored, and the start
    is kept where it has the higher ELBO, so that the full Gaussian never ends below the diagonal one. Returns the
    coordinates and their cost.
    """
    n, d = start.center.shape
    half = normal((N_CURVATURE // 2, n, d), seeded(seed, "curvature", block.number), start.center)
    points = start(torch.cat([half, -half]))
    precision = start.center.new_zeros(n, d, d, dtype=torch.float64)
    cost = 0.0
    for z in points:
        at = model.curvature(block.x, z) if hasattr(model, "curvature") else None
        cost += d if at is not None else 3 * d
        precision += (_hessian_precision(model, block.x, z) if at is None else at) / len(points)
    width = start.scale.diagonal(dim1=-2, dim2=-1).double()
    precision = torch.nan_to_num(precision * width[:, :, None] * width[:, None, :], posinf=0.0, neginf=0.0)
    values, vectors = torch.linalg.eigh(precision)
    covariance = (vectors / values.clamp(min=EIGENVALUE_FLOOR)[:, None, :]) @ vectors.mT
    tril, info = torch.linalg.cholesky_ex(width[:, :, None] * covariance * width[:, None, :])
    curved = Whitening(start.center, torch.where(_like(info == 0, tril), tril.to(start.scale), start.scale))
    noise = normal((GROUP, n, d), seeded(seed, "curvature-guard", block.number), start.center)
    with torch.no_grad():
        gain = (_value_of(model, block.x, curved, noise) - _value_of(model, block.x, start, noise)).nan_to_num(
            -torch.inf
        )
    return Whitening(start.center, torch.where(_like(gain > 0, start.scale), curved.scale, start.scale)), cost + GROUP


def _value_of(model: Any, x: Any, frame: Whitening, noise: Tensor) -> Tensor:
    """ELBO (B,) of the Gaussian that is standard normal in these coordinates, up to the entropy of the noise."""
    return log_joint(model, x, frame(noise)).double().mean(0) + frame.log_det


def _hessian_precision(model: Any, x: Any, z: Tensor) -> Tensor:
    """Minus the Hessian of log p(x, z) at z (N, D), by D Hessian-vector products: (N, D, D), NaN where not twice
    smooth.
    """
    n, d = z.shape
    with torch.enable_grad():
        points = z.detach()[None].requires_grad_()
        (grad,) = torch.autograd.grad(log_joint(model, x, points).sum(), points, create_graph=True)
        if not grad.requires_grad:
            return z.new_full((n, d, d), torch.nan)
        rows = [
            torch.autograd.grad(grad[0, :, i].sum(), points, retain_graph=True, allow_unused=True)[0] for i in range(d)
        ]
    hessian = torch.stack([torch.zeros_like(z) if row is None else row[0] for row in rows], dim=1)
    return -0.5 * (hessian + hessian.mT)


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


def _rows(x: Any, index: Tensor) -> Any:
    return {key: value[index] for key, value in x.items()} if isinstance(x, dict) else x[index]


def _like(mask: Tensor, value: Tensor) -> Tensor:
    return mask[(...,) + (None,) * (value.ndim - 1)]
