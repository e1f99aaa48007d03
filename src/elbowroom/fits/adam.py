r"""Adam (Kingma and Ba 2015) on the parameters of each datum's q, in coordinates where its Gaussian part is standard
normal.
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
    """A round of steps: the last iterate, and which data (B,) stayed finite throughout.

    The rate first rises for a tenth of the steps: Adam's first ones are as long as any, and in noise's direction.

    Args:
        draw_noise: (n, step) -> standard normals (n, B, E); the other half of a step's draws are mirrored.
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
    """Coordinates of q's outer Gaussian part, and q in them; None, and q as it is, for a family without one."""
    frame = family.frame(params)
    if frame is None:
        return None, dict(params)
    outer = [key for key in params if key in GAUSSIAN_PARAMS]
    return frame, params | {key: torch.zeros_like(params[key]) for key in outer}


def broadcast_rows(values: Tensor, like: Tensor) -> Tensor:
    """(B,) values, to broadcast over all dimensions of `like` (B, ...)."""
    return values[(...,) + (None,) * (like.ndim - 1)]


def _gradient(
    model: LatentModel, x: Rows, family: Family, frame: AffineMap | None, params: Params, noise: Tensor
) -> tuple[Params, Tensor]:
    """The gradient of the ELBO in each parameter, log q with its parameters held fixed; and where (B,) all of it is
    finite.
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
    """The direction of ascent, betas 0.9 and 0.99, moments updated in place."""
    first, second = moments
    first.mul_(0.9).add_(grad, alpha=0.1)
    second.mul_(0.99).addcmul_(grad, grad, value=0.01)
    return (first / (1 - 0.9**t)) / ((second / (1 - 0.99**t)).sqrt() + 1e-8)
