r"""Adam (Kingma and Ba 2015) on the parameters of each datum's q.

It works in coordinates where the Gaussian part of q is standard normal.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..core import Rows
from ..models import LatentModel, log_joint
from ..posteriors import GAUSSIAN_PARAMS, AffineMap, Budget, Family, Params, VariationalDistribution

__all__ = ["adam_round"]

DrawNoise = Callable[[int, int], Tensor]


def adam_round(
    model: LatentModel, x: Rows, family: Family, params: Params, budget: Budget, rates: Tensor, draw_noise: DrawNoise
) -> tuple[Params, Tensor]:
    """One round of Adam steps that ascend the ELBO of each datum.

    The rate rises during the first tenth of the steps, since Adam's first steps are as long as any other and mostly
    follow noise, and falls to zero as a cosine. With `budget.plain` it is constant.

    Args:
        params: the parameters of a member of `family` for each datum, with a leading B.
        rates: (B,) the largest rate of each datum.
        draw_noise: (n, step) -> standard normals (n, B, E); a step also uses the mirror images of its draws.
    Returns:
        The last iterate, and which data (B,) stayed finite throughout. A step that is not finite is not taken.
    """
    frame, inner = (None, dict(params)) if budget.plain else framed(family, params)
    moments = {key: (torch.zeros_like(value), torch.zeros_like(value)) for key, value in inner.items()}
    finite = torch.ones(len(params["mean"]), dtype=torch.bool, device=params["mean"].device)
    for t in range(budget.n_steps):
        rise, fall = min(1.0, 10 * (t + 1) / budget.n_steps), 0.5 * (1 + math.cos(math.pi * t / budget.n_steps))
        rate = rates if budget.plain else rates * rise * fall
        half = draw_noise(-(-budget.n_samples // 2), t)
        noise = torch.cat([half, -half])[: budget.n_samples]
        grads, good = _gradient(model, x, family, frame, inner, noise)
        finite &= good
        for key, grad in grads.items():
            direction = _direction(moments[key], torch.nan_to_num(grad, 0.0, 0.0, 0.0), t + 1)
            moved = inner[key] + broadcast_rows(rate.to(grad), grad) * direction
            inner[key] = torch.where(broadcast_rows(good, grad), moved, inner[key])
    return (inner if frame is None else frame.compose(inner)), finite


def framed(family: Family, params: Params) -> tuple[AffineMap | None, Params]:
    """The coordinates of q's outer Gaussian part, and q's parameters in them.

    For a family without such a part, these are None and the parameters as they are.
    """
    frame = family.frame(params)
    if frame is None:
        return None, dict(params)
    outer = [key for key in params if key in GAUSSIAN_PARAMS]
    return frame, params | {key: torch.zeros_like(params[key]) for key in outer}


def broadcast_rows(values: Tensor, like: Tensor) -> Tensor:
    """Reshape values (B,) so that they broadcast over all dimensions of `like` (B, ...)."""
    return values[(...,) + (None,) * (like.ndim - 1)]


def _gradient(
    model: LatentModel, x: Rows, family: Family, frame: AffineMap | None, params: Params, noise: Tensor
) -> tuple[Params, Tensor]:
    """The gradient of the ELBO in each parameter, with the parameters of log q held fixed, and which data (B,) have a
    finite one.
    """
    with torch.enable_grad():
        free = {name: value.detach().requires_grad_() for name, value in params.items() if name not in family.fixed}
        dist = VariationalDistribution(family, params | free)
        u, log_q = dist.rsample_and_log_q(noise)
        if dist.has_density:
            log_q = dist.detached().log_prob(u)
        value = (log_joint(model, x, u if frame is None else frame(u)) - log_q).mean(0)
        grads = torch.autograd.grad(value.sum(), list(free.values()), allow_unused=True)
    gradient = {name: grad for name, grad in zip(free, grads, strict=True) if grad is not None}
    good = torch.isfinite(value.detach())
    for grad in gradient.values():
        good &= torch.isfinite(grad).flatten(1).all(1)
    return gradient, good


def _direction(moments: tuple[Tensor, Tensor], grad: Tensor, t: int) -> Tensor:
    """The direction of ascent, with betas 0.9 and 0.99; updates the moments in place."""
    first, second = moments
    first.mul_(0.9).add_(grad, alpha=0.1)
    second.mul_(0.99).addcmul_(grad, grad, value=0.01)
    return (first / (1 - 0.9**t)) / ((second / (1 - 0.99**t)).sqrt() + 1e-8)
