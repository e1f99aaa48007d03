r"""The driver of local fits, which runs rounds of steps for each datum and decides when they stop.

    maximize  L_n[q] = E_q[log p(x_n, z) - log q(z)]   over the parameters of datum n's own q

Gaussians ascend by natural gradients (`natural_gradients`), and flows by Adam in the whitened coordinates of their own
Gaussian part (`adam`). The data do not influence each other. Gradients are pathwise, with the parameters of log q held
fixed ("sticking the landing", Roeder, Wu and Duvenaud 2017), so they vanish where q is exact. Each round of decaying
steps is evaluated on fixed noise; the best iterate is kept, and a datum that no longer gains leaves the batch.
"""

from __future__ import annotations  # signatures in help() then show types by their names

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..core import Block, Data, Rows, normal, orthogonal, seeded, select_rows
from ..evidence import GROUP, check_door, log_weights, prepared
from ..models import LatentModel, log_joint_and_grad
from ..posteriors import (
    GAUSSIAN_PARAMS,
    WEIGHTS_KEY,
    AffineMap,
    Amortized,
    Ascent,
    Budget,
    Family,
    Local,
    Params,
    PosteriorLike,
    VariationalDistribution,
)
from ..results import Array, FitReport, Outcome
from .adam import adam_round, broadcast_rows
from .natural_gradients import natural_round
from .starts import start_of

__all__ = ["Fit", "Problem", "fit_block", "fit_local", "refine"]

LARGE_GAIN = 0.5  # nats: after a round that gained more, the next one takes steps of the same size
ROTATION_DRAWS = 256  # draws that determine the rotation of a flow


@dataclass(frozen=True, repr=False)
class Fit:
    """A fitted local posterior `q`, with a `report` of how each datum's fit ended."""

    q: Local
    report: FitReport

    def __repr__(self) -> str:
        return f"{self.q.family!r}: {self.report!r}"

    @property
    def outcome(self) -> NDArray[np.int64]:
        """The `Outcome` of each datum, (N,)."""
        return self.report.outcome

    @property
    def steps(self) -> NDArray[np.int64]:
        """The number of steps that each datum took, (N,)."""
        return self.report.steps

    @property
    def work(self) -> Array:
        """The work of each datum, (N,), in units of one gradient of the decoder in z."""
        return self.report.work


def fit_local(
    family: Family,
    model: LatentModel,
    x: Data,
    init: PosteriorLike | None = None,
    seed: int = 0,
    budget: Budget | None = None,
    check: bool = True,
) -> Fit:
    """Fit the best member of `family` to each datum.

    Args:
        family: the family of distributions.
        model: a `LatentModel`.
        x: N data (tensor, mapping, map-style dataset).
        init: a posterior to start from, as far as `family` can represent it; None for the prior.
        seed: the seed of all draws.
        budget: steps and samples; None for the family's own.
        check: whether to check the first rows before anything is computed.
    Returns:
        A `Fit`. Each datum keeps its best finite iterate, or its start if there is none. A datum whose last round met
        a value that is not finite is DIVERGED.
    Raises:
        CheckError: the check refuses the model, the posterior or the data.
        TypeError: data that can only be iterated.
        ValueError: no data, a density of the wrong shape, or a local `init` for another number of data.
    """
    if check:
        check_door(model, init, x)
    params: list[Params] = []
    reports: list[FitReport] = []
    with prepared(model, init, x) as (posterior, blocks):
        for block in blocks:
            start = start_of(family, posterior, model, block, seed)
            fitted, report = fit_block(family, model, block, start, seed, budget)
            rows = slice(0, block.rows)
            params.append({key: value[rows] for key, value in fitted.items()})
            reports.append(report[rows])
    report = FitReport.concatenated(reports)
    joined = {key: torch.cat([part[key] for part in params]) for key in params[0]}
    return Fit(Local(family, len(report.outcome), joined), report)


def refine(model: LatentModel, q: Amortized, x: Data, steps: int = 20, seed: int = 0, check: bool = True) -> Local:
    """A semi-amortized posterior: start at the encoder's output and take `steps` gradient steps for each datum.

    The other arguments and errors are those of `fit_local`.

    Raises:
        ValueError: a posterior whose family is unknown.
    """
    family = getattr(q, "family", None)
    if family is None:
        raise ValueError("refine needs a posterior with a known family, for instance er.Amortized(net, family)")
    rate = family.budget.learning_rate
    budget = Budget(n_steps=steps, n_samples=4, learning_rate=rate, max_rounds=1)
    return fit_local(family, model, x, q, seed, budget, check).q


def fit_block(
    family: Family, model: LatentModel, block: Block, start: Params, seed: int, budget: Budget | None = None
) -> tuple[Params, FitReport]:
    """Fit one block of B data from a start.

    `start` holds the parameters of a Gaussian (mean, log_scale, and `lower` if it is full) or of a member of `family`,
    each with a leading B. A diagonal fit from a full Gaussian starts at the diagonal Gaussian closest to it, and takes
    its steps in the coordinates of the full one.

    Returns:
        The fitted parameters, each with a leading B, and a report of how each fit ended.
    """
    params = family.started_at(start, seeded(seed, WEIGHTS_KEY, family.name))
    problem = Problem(
        family=family, model=model, block=block, like=start["mean"], seed=seed, metric=family.metric(start)
    )
    turned = "rotation" in params and set(start) <= GAUSSIAN_PARAMS
    if turned:
        params["rotation"] = _rotation(problem, params)
    params, report = _solve(problem, params, budget or family.budget)
    return params, FitReport(report.outcome, report.steps, report.work + (ROTATION_DRAWS if turned else 0))


@dataclass(frozen=True, kw_only=True)
class Problem:
    """The optimization of one block, whose noise depends on a key and on nothing else.

    Noise has the dtype and device of `like`. `metric` holds the coordinates for the mean's steps; None for those of q.
    """

    family: Family
    model: LatentModel
    block: Block
    like: Tensor
    seed: int
    metric: AffineMap | None = None

    def noise(self, n_samples: int, *key: str | int) -> Tensor:
        """Standard normal noise (S, B, E) for the whole block."""
        shape = (n_samples, len(self.block.index), self.family.noise_size)
        return normal(shape, self._generator(*key), self.like)

    def evaluate(self, params: Params, index: Tensor, n_samples: int) -> Tensor:
        """The ELBO in nats, (R,), of the data `index` (R,) on the fixed evaluation noise.

        Samples come in groups of GROUP, so n_samples is rounded up. The ELBO is not finite if a log weight is not.
        """
        total = torch.zeros(len(index), dtype=torch.float64, device=index.device)
        dist, x = VariationalDistribution(self.family, params), select_rows(self.block.x, index)
        n_groups = -(-n_samples // GROUP)
        with torch.no_grad():
            for group in range(n_groups):
                noise = self.noise(GROUP, "evaluate", group)[:, index]
                total = total + log_weights(self.model, dist, x, noise).sum(0)
        return total / (GROUP * n_groups)

    def round(self, params: Params, index: Tensor, budget: Budget, number: int, rates: Tensor) -> tuple[Params, Tensor]:
        """One round for the data `index` (R,): the last iterate, and which of them (R,) stayed finite throughout."""
        x = select_rows(self.block.x, index)
        if self.family.ascent is Ascent.NATURAL and not budget.plain:
            return self._natural_round(x, params, index, budget, number, rates)

        def draw_noise(n: int, step: int) -> Tensor:
            return self.noise(n, "step", number, step)[:, index]

        return adam_round(self.model, x, self.family, params, budget, rates, draw_noise)

    def _natural_round(
        self, x: Rows, params: Params, index: Tensor, budget: Budget, number: int, rates: Tensor
    ) -> tuple[Params, Tensor]:
        shape = (len(self.block.index), self.family.size)
        draws = (draw[index] for draw in orthogonal(shape, self._generator("round", number), self.like))
        n_samples = self.family.draws_per_step(budget)
        metric = None if self.metric is None else self.metric.rows(index)
        return natural_round(self.model, x, params, draws, rates, budget.n_steps, n_samples, metric)

    def _generator(self, *key: str | int) -> torch.Generator:
        return seeded(self.seed, "fit", self.family.name, self.block.number, *key)


def _solve(problem: Problem, params: Params, budget: Budget) -> tuple[Params, FitReport]:
    """Rounds until each datum no longer gains, diverges, or the budget is spent."""
    n, device = len(params["mean"]), params["mean"].device
    active = torch.arange(n, device=device)
    best = problem.evaluate(params, active, budget.n_evaluation)
    outcome = torch.full((n,), int(Outcome.RAN_OUT), device=device)
    rounds, n_flat = torch.zeros(n, device=device), torch.zeros(n, dtype=torch.int64, device=device)
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
        n_flat[active] = torch.where(~lost & (gain.abs() < budget.tolerance), n_flat[active] + 1, 0)
        settled = n_flat[active] >= budget.patience
        outcome[active] = torch.where(lost, int(Outcome.DIVERGED), int(Outcome.RAN_OUT))
        outcome[active[settled]] = int(Outcome.CONVERGED)
        rates[active] *= torch.where(gain > LARGE_GAIN, 1.0, budget.decay)
        active = active[~settled]
    done = rounds.cpu().numpy()
    n_samples = problem.family.draws_per_step(budget)
    work = done * budget.n_steps * n_samples + 0.5 * budget.n_evaluation * (1 + done)
    return params, FitReport(outcome.cpu().numpy(), (done * budget.n_steps).astype(np.int64), work)


def _rotation(problem: Problem, params: Params) -> Tensor:
    """Eigenvectors (B, D, D) of E[g g'], largest first, where g = L' grad log p(x, z) + e and a flow starts as the
    Gaussian z = mean + L e.

    Where the posterior is that Gaussian, g is zero, so the leading directions are those in which it is least Gaussian
    (the "lazy maps" of Brennan, Bigoni, Zahm, Spantini and Marzouk 2020).
    """
    q, second = AffineMap.of_gaussian(params), torch.zeros_like(params["lower"])
    for group in range(ROTATION_DRAWS // GROUP):
        e = problem.noise(GROUP, "rotation", group)
        _, grad = log_joint_and_grad(problem.model, problem.block.x, q(e))
        g = (q.pull_back(grad) + e).transpose(0, 1)
        second += torch.bmm(g.mT, g) / ROTATION_DRAWS
    good = torch.isfinite(second).flatten(1).all(1)
    identity = torch.eye(second.shape[-1]).to(second)
    _, vectors = torch.linalg.eigh(torch.where(broadcast_rows(good, second), second, identity))
    return vectors.flip(-1)
