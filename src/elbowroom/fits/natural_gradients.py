r"""Natural-gradient ascent of the ELBO over Gaussians, each datum in the coordinates of its own current q.

    z = mean + L e,   g = L' grad log p(x, z) + e            (zero where q is the posterior)
    mean <- mean + rate * L E[g],      L <- L (I + rate * lower(E[g e']))

The parameters of log q are held fixed in g ("sticking the landing", Roeder, Wu and Duvenaud 2017). In these coordinates
the Fisher information of a Gaussian is the identity for the mean and for L's strict lower part, and 2 for log L_ii. The
natural gradient (Amari 1998) is therefore the plain one, with lower() the lower triangle whose diagonal is halved.
Steps need neither tuning to the posterior's scale nor curvature. Draws come in orthogonal antithetic sets
(`rng.orthogonal`), in which the products of different coordinates cancel: 2 D draws, a complete set, give E[g e'] of a
Gaussian posterior without noise, and the step is then that of Newton's method.

Near its optimum the ELBO is quadratic with this curvature, so a fit that has not reached it still lacks

    shortfall = 1/2 |natural gradient|^2 = 1/2 |E[g]|^2 + 1/4 sum_i E[g_i e_i]^2 + 1/2 sum_{i > j} E[g_i e_j]^2

(a Newton decrement; a diagonal q lacks the last term, and its E[g] is taken in coordinates where the posterior is about
isotropic). The square of a noisy mean is too large; the products of independent groups of draws are not.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import islice

import torch
from torch import Tensor

from ..core import Rows
from ..models import LatentModel, log_joint_and_grad
from ..posteriors import AffineMap, Params

__all__ = ["curvature_metric", "natural_gradients", "natural_round", "products_of", "squared_norm"]

MAX_SHIFT = 0.5  # of each coordinate of the mean in one step, in units of the metric's scale
MAX_JUMP = 1.0  # the same of a step on complete sets of draws, which know the curvature
MAX_GROWTH = 0.5  # of log L_ii in one step
MAX_TURN = 0.5  # norm of one step of L's strict lower part, if its draws are a complete set; few draws know it badly
LEAST = 32  # draws of a complete set of few latents
RIDGE = 0.1  # added to a curvature that was estimated from draws, in which the prior's share is about 1


def natural_round(
    model: LatentModel, x: Rows, params: Params, draws: Iterator[Tensor], rates: Tensor, n_samples: int,
    metric: AffineMap | None = None, products: Tensor | None = None, far: Tensor | None = None,
) -> tuple[Params, Tensor, Tensor | None]:  # fmt: skip
    """One round of natural-gradient steps.

    Args:
        params: mean and log_scale (B, D) of diagonal Gaussians, and also `lower` (B, D, D) of full ones.
        draws: an iterator of standard normals (B, D).
        rates: (T, B) the size of each of T steps; 1 is a step of Newton's method where the posterior is Gaussian.
        n_samples: the number of draws in a step, half of which mirror the other half.
        metric: coordinates in which the posterior is about isotropic, for the steps of the mean; None for those of q.
            A diagonal q does not know the posterior's correlations, so steps in its own coordinates zigzag. If its
            draws are complete sets, the curvature that they see takes the place of the metric.
        products: the curvature (B, D, D) that the rounds before saw, as this one returns it.
        far: which full Gaussians (B,) are still far from their optimum, where their own coordinates are no guide to the
            steps of the mean. If their draws are complete sets, each step uses the curvature that it sees.
    Returns:
        The last iterate, which data (B,) stayed finite throughout, and the mean of L' grad e' over steps for
        `curvature_metric`, None where it is not needed. A step that is not finite is not taken.
    """
    q, full = AffineMap.of_gaussian(params), "lower" in params
    finite = torch.ones(len(q.center), dtype=torch.bool, device=q.center.device)
    is_complete = _completeness(n_samples, q.center.shape[-1]) == 1
    learns = metric is None and not full and is_complete
    for t, rate in enumerate(rates):
        half = torch.stack(list(islice(draws, max(n_samples // 2, 1))))
        e = torch.cat([half, -half])
        grad = log_joint_and_grad(model, x, q(e))[1]
        own = metric
        if learns:
            seen = products_of(q.pull_back(grad), e)
            products = seen if products is None else products + (seen - products) / (t + 2)
            own = curvature_metric(q, products)
        elif full and far is not None and far.any() and is_complete:
            curved = curvature_metric(q, products_of(q.pull_back(grad), e))
            own = AffineMap(q.center, torch.where(far[:, None, None], curved.scale, q.scale))
        moved, good = _step(q, own or q, e, grad, rate.to(e), full)
        finite &= good
        q = AffineMap(
            torch.where(good[:, None], moved.center, q.center),
            torch.where(good[:, None, None], moved.scale, q.scale),
        )
    diagonal = q.scale.diagonal(dim1=-2, dim2=-1)
    last = {"mean": q.center, "log_scale": diagonal.log()}
    return last | ({"lower": q.scale.tril(-1)} if full else {}), finite, products


def natural_gradients(
    q: AffineMap, metric: AffineMap, draws: Sequence[Tensor], grads: Sequence[Tensor], full: bool
) -> Tensor:
    """The natural gradient (G, B, P) of the ELBO in each of G groups of draws (S, B, D), with the gradients there.

    It is scaled such that the square of its norm is the shortfall in nats. Of a diagonal q, what the metric foretells
    of the effect of other coordinates is subtracted. Its mean is zero, and without it the draws make less noise.
    """
    foretold = None if full or metric is q else _foretold(q, metric)
    parts = []
    for e, grad in zip(draws, grads, strict=True):
        g = q.pull_back(grad) + e
        if full:
            d = e.shape[-1]
            row, column = torch.tril_indices(d, d, -1, device=e.device)
            lower = products_of(g, e)[:, row, column]
            parts.append(torch.cat([g.mean(0) / math.sqrt(2), 0.5 * (g * e).mean(0), lower / math.sqrt(2)], dim=-1))
            continue
        if foretold is not None:
            g = g + torch.einsum("snj,nij->sni", e, foretold)
        score = metric.pull_back((g.mean(0) / q.scale.diagonal(dim1=-2, dim2=-1))[None])[0]
        parts.append(torch.cat([score / math.sqrt(2), 0.5 * (g * e).mean(0)], dim=-1))
    return torch.stack(parts)


def _foretold(q: AffineMap, metric: AffineMap) -> Tensor:
    """The off-diagonal part (B, D, D) of the posterior's precision in the coordinates of q, as the metric has it."""
    ratio = torch.linalg.solve(metric.scale, q.scale)
    precision = ratio.mT @ ratio
    return precision - torch.diag_embed(precision.diagonal(dim1=-2, dim2=-1))


def squared_norm(groups: Tensor) -> tuple[Tensor, Tensor]:
    """An unbiased estimate (B,) of |E[X]|^2 from the means X (G, B, P) of G independent groups of draws.

    It averages the products of different groups. Also returned are the deviations (G, B) of single groups, whose spread
    over sqrt(G) is the error of the estimate.
    """
    n, total = len(groups), groups.sum(0)
    others = (groups * (total - groups)).sum(-1).double() / (n - 1)
    value = others.mean(0)
    return value, 2 * (others - value)


def curvature_metric(q: AffineMap, products: Tensor) -> AffineMap:
    """Coordinates in which the posterior is about isotropic, from the mean (B, D, D) of L' grad e' over draws of q.

    By Stein's lemma its negative is the mean curvature of -log p(x, z) in the coordinates of q. Data where it is not
    positive definite keep the coordinates of q.
    """
    eye = torch.eye(products.shape[-1]).to(products)
    curvature = -0.5 * (products + products.mT) + RIDGE * eye
    usable = torch.isfinite(curvature).flatten(1).all(1)
    factor, fault = torch.linalg.cholesky_ex(torch.where(usable[:, None, None], curvature, eye))
    factor = torch.where(((fault == 0) & usable)[:, None, None], factor, eye)
    inverse = torch.linalg.solve_triangular(factor, eye.expand_as(factor), upper=False)
    return AffineMap(q.center, q.scale @ inverse.mT)


def products_of(g: Tensor, e: Tensor) -> Tensor:
    """The mean of g e' over draws, each (S, B, D): (B, D, D)."""
    return torch.bmm(g.permute(1, 2, 0), e.transpose(0, 1)) / len(e)


def _completeness(n_samples: int, size: int) -> float:
    """The share that n_samples draws are of a complete set, which is not less than LEAST draws; at most 1."""
    return min(1.0, n_samples / max(2 * size, LEAST))


def _step(
    q: AffineMap, metric: AffineMap, e: Tensor, grad: Tensor, rate: Tensor, full: bool
) -> tuple[AffineMap, Tensor]:
    """One step on mirrored draws e (S, B, D) with the gradients of log p(x, z) there, and where (B,) it is finite."""
    g = q.pull_back(grad) + e
    ascent = metric.pull_back(grad).mean(0)  # the mirrored draws' own score averages to zero
    complete = _completeness(*e.shape[::2])
    far = max(MAX_SHIFT, MAX_JUMP * complete) if metric is not q else MAX_SHIFT
    shift = metric.displacement((rate[:, None] * ascent).clamp(-far, far))
    growth = (rate[:, None] * 0.5 * (g * e).mean(0)).clamp(-MAX_GROWTH, MAX_GROWTH)
    if full:
        lower = rate[:, None, None] * products_of(g, e).tril(-1)
        most = MAX_TURN * complete
        size = lower.flatten(1).norm(dim=1).clamp(min=most)
        turn = torch.diag_embed(growth.exp()) + lower * (most / size)[:, None, None]
    scale = q.scale @ turn if full else q.scale * growth.exp()[:, None]
    moved = AffineMap(q.center + shift, scale)
    return moved, torch.isfinite(g).all(dim=0).all(dim=-1) & torch.isfinite(moved.scale).flatten(1).all(dim=1)
