r"""Natural-gradient ascent of the ELBO over Gaussians, each datum in the coordinates of its own current q.

    z = mean + L e,   g = L' grad log p(x, z) + e            (zero where q is the posterior)
    mean <- mean + rate * L E[g],      L <- L (I + rate * lower(E[g e']))

The parameters of log q are held fixed in g ("sticking the landing", Roeder, Wu and Duvenaud 2017). In these coordinates
the Fisher information of a Gaussian is the identity for the mean and for L's strict lower part, and 2 for log L_ii. The
natural gradient (Amari 1998) is therefore the plain one, with lower() the lower triangle whose diagonal is halved.
Steps need neither tuning to the posterior's scale nor curvature. Draws come in orthogonal antithetic sets
(`rng.orthogonal`), in which the products of different coordinates cancel.
"""

import math
from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor

from ..core import Rows
from ..models import LatentModel, log_joint_and_grad
from ..posteriors import AffineMap, Params

__all__ = ["natural_round"]

MAX_SHIFT = 0.5  # of the mean in one step, and of log L_ii, in units of q's own scale
MAX_TURN = 0.15  # norm of one step of L's strict lower part: few draws know its D (D - 1) / 2 numbers badly


def natural_round(
    model: LatentModel, x: Rows, params: Params, draws: Iterator[Tensor], rates: Tensor, n_steps: int, n_samples: int,
    metric: AffineMap | None = None,
) -> tuple[Params, Tensor]:  # fmt: skip
    """One round of n_steps natural-gradient steps, whose size falls from `rates` (B,) to zero as a cosine.

    Args:
        params: mean and log_scale (B, D) of diagonal Gaussians, and also `lower` (B, D, D) of full ones.
        draws: an iterator of standard normals (B, D).
        n_samples: the number of draws in a step, half of which mirror the other half.
        metric: coordinates in which the posterior is about isotropic, for the steps of the mean; None for those of q.
            A diagonal q does not know the posterior's correlations, so steps in its own coordinates zigzag.
    Returns:
        The last iterate, and which data (B,) stayed finite throughout. A step that is not finite is not taken.
    """
    q, full = AffineMap.of_gaussian(params), "lower" in params
    finite = torch.ones(len(q.center), dtype=torch.bool, device=q.center.device)
    for t in range(n_steps):
        half = torch.stack(list(islice(draws, max(n_samples // 2, 1))))
        e = torch.cat([half, -half])
        _, grad = log_joint_and_grad(model, x, q(e))
        rate = rates.to(e) * 0.5 * (1 + math.cos(math.pi * t / n_steps))
        moved, good = _step(q, metric or q, e, grad, rate, full)
        finite &= good
        q = AffineMap(
            torch.where(good[:, None], moved.center, q.center),
            torch.where(good[:, None, None], moved.scale, q.scale),
        )
    diagonal = q.scale.diagonal(dim1=-2, dim2=-1)
    last = {"mean": q.center, "log_scale": diagonal.log()}
    return last | ({"lower": q.scale.tril(-1)} if full else {}), finite


def _step(
    q: AffineMap, metric: AffineMap, e: Tensor, grad: Tensor, rate: Tensor, full: bool
) -> tuple[AffineMap, Tensor]:
    """One step on mirrored draws e (S, B, D) with the gradients of log p(x, z) there, and where (B,) it is finite."""
    g = q.pull_back(grad) + e
    ascent = metric.pull_back(grad).mean(0)  # the mirrored draws' own score averages to zero
    shift = metric.displacement((rate[:, None] * ascent).clamp(-MAX_SHIFT, MAX_SHIFT))
    growth = (rate[:, None] * 0.5 * (g * e).mean(0)).clamp(-MAX_SHIFT, MAX_SHIFT)
    turn = torch.diag_embed(growth.exp())
    if full:
        lower = rate[:, None, None] * (torch.bmm(g.permute(1, 2, 0), e.transpose(0, 1)) / len(e)).tril(-1)
        size = lower.flatten(1).norm(dim=1).clamp(min=MAX_TURN)
        turn = turn + lower * (MAX_TURN / size)[:, None, None]
    moved = AffineMap(q.center + shift, q.scale @ turn)
    return moved, torch.isfinite(g).all(dim=0).all(dim=-1) & torch.isfinite(moved.scale).flatten(1).all(dim=1)
