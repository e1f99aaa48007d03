r"""Local fits of all data, block by block.

    maximize  L_n[q] = E_q[log p(x_n, z) - log q(z)]   over the parameters of datum n's own q

Gaussians ascend by natural gradients (`natural_gradients`), and flows by Adam in the whitened coordinates of their own
Gaussian part (`adam`). The data do not influence each other. Gradients are pathwise, with the parameters of log q held
fixed ("sticking the landing", Roeder, Wu and Duvenaud 2017), so they vanish where q is exact. `rounds` says when a fit
ends.
"""

from __future__ import annotations  # signatures in help() then show types by their names

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..core import Block, Data, seeded
from ..evidence import GROUP, check_door, prepared
from ..models import LatentModel, log_joint_and_grad
from ..posteriors import (
    GAUSSIAN_PARAMS,
    WEIGHTS_KEY,
    AffineMap,
    Amortized,
    Budget,
    Family,
    Local,
    Params,
    PosteriorLike,
)
from ..results import Array, FitReport
from .adam import broadcast_rows
from .problem import Problem
from .rounds import approach, approach_work, solve
from .starts import start_of

__all__ = ["Fit", "fit_block", "fit_local", "refine"]

APPROACH = Budget(n_steps=60, learning_rate=0.5, n_evaluation=64)  # the small steps of a Gaussian from a far start
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
            fitted, report = fit_block(family, model, block, start, seed, budget, is_far=budget is None)
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
    family: Family, model: LatentModel, block: Block, start: Params, seed: int, budget: Budget | None = None,
    is_far: bool = False,
) -> tuple[Params, FitReport]:  # fmt: skip
    """Fit one block of B data from a start.

    `start` holds the parameters of a Gaussian (mean, log_scale, and `lower` if it is full) or of a member of `family`,
    each with a leading B. A diagonal fit from a full Gaussian starts at the diagonal Gaussian closest to it, and takes
    its steps in the coordinates of the full one. With `is_far` a Gaussian first makes many small steps, as starts that
    come out of a race have done.

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
    extra = float(ROTATION_DRAWS) if turned else 0.0
    if is_far and problem.is_natural:
        steps = replace(APPROACH, n_samples=family.draws_to_approach())
        params, _ = approach(problem, params, steps)
        extra = approach_work(steps)
    params, report = solve(problem, params, budget or family.budget)
    return params, replace(report, work=report.work + extra)


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
