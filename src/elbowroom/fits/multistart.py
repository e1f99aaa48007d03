"""Two short fits from distant starts, the better of which is where the other fits of a datum start."""

import torch

from ..core import Block
from ..models import LatentModel, latent_size
from ..posteriors import Budget, DiagonalGaussian, Params, Posterior
from .adam import broadcast_rows
from .problem import Problem
from .rounds import approach, approach_work
from .starts import prior_start, start_of

__all__ = ["MULTISTART", "best_start"]

MULTISTART = Budget(n_steps=24, n_samples=4, learning_rate=0.5, max_rounds=1, n_evaluation=16)
MIN_LEAD = 1.0  # nats by which the fit from the prior must lie higher, so that noise does not decide


def best_start(
    posterior: Posterior | None, model: LatentModel, block: Block, seed: int, budget: Budget | None
) -> tuple[Params, float]:
    """A Gaussian start for the fits of a block, and its cost in work units per datum.

    Two diagonal Gaussians, one from `start_of` and one from the prior, are fitted briefly, and each datum takes the
    better of the two. If `budget` is None, the first is returned without a fit.

    About one encoder output in a thousand lies in a wrong basin, tens of nats below the best one, which no local fit
    from there can leave. A fit from the prior finds the best basin more often than not.

    Returns:
        mean and log_scale, each (B, D), and gradients of the decoder in z per datum.
    """
    family = DiagonalGaussian(latent_size(model))
    near = start_of(family, posterior, model, block, seed)
    if budget is None:
        return near, 0.0
    problem = Problem(family=family, model=model, block=block, like=near["mean"], seed=seed)
    ends, values = [], []
    for start in (near, prior_start(model, block, seed)):
        params, value = approach(problem, start, budget)
        ends.append(params)
        values.append(value)
    ahead = values[1] > values[0].nan_to_num(-torch.inf) + MIN_LEAD
    cost = 2 * approach_work(budget)
    return {key: torch.where(broadcast_rows(ahead, ends[0][key]), ends[1][key], ends[0][key]) for key in ends[0]}, cost
