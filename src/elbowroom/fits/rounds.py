r"""The rounds of a fit, and when each datum's fit ends.

Gaussians   climb by natural gradients until they lack less than the tolerance, by the estimate of their shortfall
others      climb by Adam until a round gains less than the tolerance

Each round is judged on fixed noise, and the better iterate is kept. A datum whose fit has ended leaves the batch.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..posteriors import Budget, Params
from ..results import FitReport, Outcome
from .adam import broadcast_rows
from .momentum import rescaled
from .problem import Problem

__all__ = ["approach", "approach_work", "solve"]

FIRST_STEPS = -1  # the number of the round that is an approach: its draws are those of no other
LARGE_GAIN = 0.5  # nats: after a round of Adam that gained more, the next one takes steps of the same size
SETTLING = 0.25  # nats: a Gaussian that lacks less takes steps that average the noise of their draws
LAST_WHOLE = 3.0  # the last step of a round before them has the size 1/3, the first of them 1/4, the next 1/5
CERTAIN = 2.0  # errors of the estimated shortfall by which it may lie above the tolerance, and of a gain
MORE_CERTAIN = 0.25  # of these errors more for each round, since the same draws judge all rounds
MOST_DOUBT = 5.0  # tolerances that this may be, at most, for each round that was made
STILL_GAINING = 0.1  # nats: a Gaussian whose last round clearly gained more has not ended, whatever it seems to lack
WORSE = 3.0  # paired errors by which an iterate may lie lower than the one before it


def solve(problem: Problem, params: Params, budget: Budget) -> tuple[Params, FitReport]:
    """Fit all data of a block; `params` are the start, and are overwritten by the fit."""
    if problem.is_natural and not budget.plain:
        return _climb_naturally(problem, params, budget)
    return _climb_by_adam(problem, params, budget)


def approach(problem: Problem, start: Params, budget: Budget) -> tuple[Params, Tensor]:
    """A round of many small steps for all data of a block, from a start that may be far from the optimum.

    Returns:
        The last iterate of each datum, or its start where that is better, and its ELBO in nats (B,).
    """
    every = torch.arange(len(start["mean"]), device=start["mean"].device)
    rates = _rates(budget, torch.zeros_like(every), torch.ones_like(every))
    moved, _, _ = problem.natural(start, every, budget.n_samples, FIRST_STEPS, rates)
    before, after = (problem.evaluate(params, every, budget.n_evaluation) for params in (start, moved))
    better = torch.isfinite(after) & ~(after <= before)
    params = {key: torch.where(broadcast_rows(better, moved[key]), moved[key], start[key]) for key in moved}
    return params, torch.where(better, after, before)


def approach_work(budget: Budget) -> float:
    """The cost of an approach in gradients per datum."""
    return budget.n_steps * budget.n_samples + budget.n_evaluation


@dataclass(frozen=True)
class _State:
    """Where each of B data stands: outcome, rounds done, and rounds without gain or steps that averaged."""

    outcome: Tensor
    rounds: Tensor
    count: Tensor

    @staticmethod
    def begun(n: int, device: torch.device) -> "_State":
        zeros = torch.zeros(n, dtype=torch.int64, device=device)
        return _State(torch.full((n,), int(Outcome.RAN_OUT), device=device), zeros, zeros.clone())

    def report(self, n_steps: int, work: Tensor) -> FitReport:
        steps = self.rounds * n_steps
        return FitReport(self.outcome.cpu().numpy(), steps.cpu().numpy().astype(np.int64), work.double().cpu().numpy())


def _climb_naturally(problem: Problem, params: Params, budget: Budget) -> tuple[Params, FitReport]:
    """Rounds of natural gradients.

    The rate of a datum falls within a round from `budget.learning_rate` to 1/3 as a cosine. Once the datum lacks less
    than SETTLING, its steps average: their sizes are 1/4, 1/5, ... and go on falling from round to round.
    """
    n, device = len(params["mean"]), params["mean"].device
    budget, small = problem.pace(budget)
    active, state = torch.arange(n, device=device), _State.begun(n, device)
    best, lacked, _ = problem.check(params, active, budget.n_evaluation)
    products: Tensor | None = None
    size = torch.ones(n, device=device, dtype=torch.float64)
    for number in range(budget.max_rounds if budget.n_steps else 0):
        if len(active) == 0:
            break
        begun = {key: value[active] for key, value in params.items()}
        if small:
            share = 1 / (1 + state.count[active] / budget.n_steps)
            rates = budget.learning_rate * size[active]
            moved, finite, products = problem.with_momentum(begun, active, number, rates, share, products)
        else:
            rates, far = _rates(budget, state.count[active], size[active], 1 / LAST_WHOLE), state.count[active] == 0
            moved, finite, products = problem.natural(begun, active, budget.n_samples, number, rates, products, far)
        value, short, error = problem.check(moved, active, budget.n_evaluation, products)
        lost = ~(finite & torch.isfinite(value).all(0))
        better = torch.isfinite(value).all(0) & ~_is_worse(value, best[:, active])
        gains = value - best[:, active]
        foretold = lacked[active].clamp(min=0.0) if small else torch.zeros_like(short)
        ended = _has_ended(short, error, gains - foretold, budget.tolerance, number)
        near = better | (gains.mean(0) >= -budget.tolerance)  # the best is not lower than what lacks little enough
        for key in params:
            params[key][active[better]] = moved[key][better]
        if small and products is not None:  # where the round is undone, so are the coordinates of its products
            undone = torch.where(better[:, None], 0.0, begun["log_scale"] - moved["log_scale"])
            products = rescaled(products, undone)
        best[:, active[better]], lacked[active[better]] = value[:, better], short[better]
        state.rounds[active] += 1
        enough = state.rounds[active] >= budget.min_rounds
        settled = enough & near & ~lost & ended
        state.outcome[active] = torch.where(lost, int(Outcome.DIVERGED), int(Outcome.RAN_OUT))
        state.outcome[active[settled]] = int(Outcome.CONVERGED)
        settling = better & (short <= SETTLING)
        state.count[active] = torch.where(settling, state.count[active] + budget.n_steps, 0)
        size[active] *= torch.where(better, 1.0, budget.decay)
        active, products = active[~settled], None if products is None else products[~settled]
    n_checks = best.shape[0] * (1 + state.rounds)
    return params, state.report(budget.n_steps, state.rounds * budget.n_steps * budget.n_samples + n_checks)


def _rates(budget: Budget, averaged: Tensor, size: Tensor, last: float = 0.0) -> Tensor:
    """The sizes (T, R) of the steps of a round, for data that have made `averaged` (R,) averaging steps before.

    Steps that do not average fall from `budget.learning_rate` to `last` as a cosine.
    """
    t = torch.arange(budget.n_steps, dtype=torch.float64, device=size.device)[:, None]
    falling = last + (budget.learning_rate - last) * 0.5 * (1 + torch.cos(math.pi * t / max(budget.n_steps - 1, 1)))
    averaging = 1 / (LAST_WHOLE + 1 + t + averaged - budget.n_steps)
    return torch.where(averaged > 0, averaging.clamp(max=budget.learning_rate), falling) * size


def _has_ended(short: Tensor, error: Tensor, gains: Tensor, tolerance: float, number: int) -> Tensor:
    """Whether data lack no more than the tolerance, as far as can be told, after round `number` with gains (S, R).

    The error of the estimate is allowed for, up to MOST_DOUBT tolerances for each round. One datum in forty has draws
    on which the estimate lies two errors too high, after every round; it would never end without MORE_CERTAIN.
    """
    doubt = ((CERTAIN + MORE_CERTAIN * number) * error).clamp(max=MOST_DOUBT * tolerance * (number + 1))
    gain = gains.mean(0) - CERTAIN * gains.std(0) / math.sqrt(len(gains))
    return (short <= tolerance + doubt) & (gain <= STILL_GAINING)


def _is_worse(values: Tensor, before: Tensor) -> Tensor:
    """Whether log weights (S, R) lie below those of another iterate on the same draws, beyond their noise."""
    gain = values - before
    mean, error = gain.mean(0), gain.std(0) / math.sqrt(len(gain))
    return torch.isfinite(before).all(0) & (mean < -WORSE * error)


def _climb_by_adam(problem: Problem, params: Params, budget: Budget) -> tuple[Params, FitReport]:
    """Rounds of Adam until each datum no longer gains, diverges, or the budget is spent."""
    n, device = len(params["mean"]), params["mean"].device
    active, state = torch.arange(n, device=device), _State.begun(n, device)
    best = problem.evaluate(params, active, budget.n_evaluation)
    rates = torch.full((n,), budget.learning_rate, device=device, dtype=torch.float64)
    for number in range(budget.max_rounds if budget.n_steps else 0):
        if len(active) == 0:
            break
        begun = {key: value[active] for key, value in params.items()}
        moved, finite = problem.adam(begun, active, budget, number, rates[active])
        value = problem.evaluate(moved, active, budget.n_evaluation)
        gain = value - best[active]
        better = torch.isfinite(value) & ~(value <= best[active])
        for key in params:
            params[key][active[better]] = moved[key][better]
        best[active[better]] = value[better]
        state.rounds[active] += 1
        lost = ~(finite & torch.isfinite(value))
        state.count[active] = torch.where(~lost & (gain.abs() < budget.tolerance), state.count[active] + 1, 0)
        settled = state.count[active] >= budget.patience
        state.outcome[active] = torch.where(lost, int(Outcome.DIVERGED), int(Outcome.RAN_OUT))
        state.outcome[active[settled]] = int(Outcome.CONVERGED)
        rates[active] *= torch.where(gain > LARGE_GAIN, 1.0, budget.decay)
        active = active[~settled]
    spent = budget.n_steps * problem.family.draws_per_step(budget)
    work = state.rounds * spent + 0.5 * budget.n_evaluation * (1 + state.rounds)
    return params, state.report(budget.n_steps, work)
