r"""Rounds of small steps with momentum, for diagonal Gaussians of so many latents that one whole set of draws is dear.

    v <- MOMENTUM v + (1 - MOMENTUM) rate M' E[grad log p(x, mean + s e)],     mean <- mean + M v,    many times, then
    s_i <- s_i / sqrt(E[-(s_i grad_i) e_i]),                                   from the draws of all steps

A diagonal q does not know the posterior's correlations, and plain steps zigzag across them. In the first round M is
diag(s), and momentum (Polyak 1964) takes about the square root of the steps. Later ones take for M the coordinates of
the curvature that the draws of the rounds before have seen, in which the posterior is about isotropic. Mirrored draws
tell the mean of a Gaussian posterior without noise, however few they are. Scales and curvature need a whole set of D
draws, in which the products of different coordinates cancel, so a round spreads one set over its steps. By Stein's
lemma E[-grad_i e_i s_i] is s_i^2 times the mean curvature, which is 1 at the optimum.

A round returns the average of its iterates of the mean (Polyak and Juditsky 1992).
"""

import math
from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor

from ..core import Rows
from ..models import LatentModel, log_joint_and_grad
from ..posteriors import AffineMap, Params
from .natural_gradients import curvature_metric, products_of

__all__ = ["SMALL_PAIRS", "rescaled", "round_with_momentum", "small_steps"]

SMALL_PAIRS = 4  # mirrored pairs of draws in a step
MOMENTUM = 0.9
MAX_STEP = 0.5  # of each coordinate of the mean in one step
MAX_RESCALING = 1.0  # of each log s in one round
MAX_ASCENT = 5.0  # of each coordinate of a gradient of the mean


def small_steps(size: int) -> int:
    """The number of steps of a round, whose draws make one whole set for `size` latents."""
    return -(-size // SMALL_PAIRS)


def rescaled(products: Tensor, log_growth: Tensor) -> Tensor:
    """Products (B, D, D) of s grad e', for scales s whose logarithm has grown by this (B, D)."""
    grown = log_growth.exp()
    return grown[:, :, None] * products * grown[:, None, :]


def round_with_momentum(
    model: LatentModel, x: Rows, params: Params, draws: Iterator[Tensor], rates: Tensor, skipped: int,
    products: Tensor | None = None,
) -> tuple[Params, Tensor, Tensor]:  # fmt: skip
    """One round for B data.

    Args:
        params: mean and log_scale (B, D) of diagonal Gaussians.
        draws: an iterator of standard normals (B, D), orthogonal in sets of D.
        rates: (B,) the size of the steps; at 1, without momentum, they are those of Newton's method where the posterior
            is a Gaussian and M fits it.
        skipped: how many iterates at the beginning do not enter the average, for a start that may be far.
        products: the mean (B, D, D) of s grad e' that earlier rounds saw, for `curvature_metric`; None in the first.
    Returns:
        The Gaussian after the round, which data (B,) stayed finite throughout, and the products that this round saw. A
        step that is not finite is not taken.
    """
    mean, scale, n_steps = params["mean"], params["log_scale"].exp(), small_steps(params["mean"].shape[-1])
    metric = None if products is None else curvature_metric(AffineMap.of_gaussian(params), products)
    velocity, total, draws_seen, scores = torch.zeros_like(mean), torch.zeros_like(mean), [], []
    rate, finite = rates.to(mean)[:, None], torch.ones(len(mean), dtype=torch.bool, device=mean.device)
    for t in range(n_steps):
        half = torch.stack(list(islice(draws, min(SMALL_PAIRS, mean.shape[-1] - t * SMALL_PAIRS))))
        e = torch.cat([half, -half])
        grad = log_joint_and_grad(model, x, mean + scale * e)[1]
        good = torch.isfinite(grad).all(0).all(-1)
        score = torch.where(good[:, None], scale * grad, 0.0)
        ascent = (score if metric is None else metric.pull_back(grad.mean(0)[None])).mean(0)
        velocity = torch.where(
            good[:, None], MOMENTUM * velocity + (1 - MOMENTUM) * rate * ascent.clamp(-MAX_ASCENT, MAX_ASCENT), velocity
        )
        step = velocity.clamp(-MAX_STEP, MAX_STEP)
        mean = torch.where(good[:, None], mean + (scale * step if metric is None else metric.displacement(step)), mean)
        draws_seen.append(e)
        scores.append(score)
        finite &= good
        if t >= skipped:
            total = total + mean / (n_steps - skipped)
    seen = products_of(torch.cat(scores), torch.cat(draws_seen))
    curvature = -seen.diagonal(dim1=-2, dim2=-1)
    widest = torch.full_like(curvature, math.exp(-2 * MAX_RESCALING))
    growth = -0.5 * torch.where(curvature > widest, curvature, widest).log().clamp(max=2 * MAX_RESCALING)
    return {"mean": total, "log_scale": params["log_scale"] + growth}, finite, seen
