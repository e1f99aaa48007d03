"""log p(x, z) and its gradient in z, with a check that both densities have the right shape."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..core import Rows
from .protocols import LatentModel

__all__ = ["log_joint", "log_joint_and_grad", "value_and_grad"]


def log_joint(model: LatentModel, x: Rows, z: Tensor) -> Tensor:
    """log p(x, z) in nats: z (S, N, D) -> (S, N).

    Raises:
        ValueError: a density of another shape than (S, N), which would otherwise broadcast silently.
    """
    prior, likelihood = model.log_prior(z, x), model.log_likelihood(x, z)
    for name, value in (("log_prior", prior), ("log_likelihood", likelihood)):
        if value.shape != z.shape[:2]:
            hint = "Sum over latents" if name == "log_prior" else "Sum over pixels"
            raise ValueError(
                f"{name} must return (S, N) = {tuple(z.shape[:2])}; got {tuple(value.shape)}. {hint} before returning."
            )
    return prior + likelihood


def log_joint_and_grad(model: LatentModel, x: Rows, z: Tensor) -> tuple[Tensor, Tensor]:
    """log p(x, z) in nats, float64 (S, N), and its gradient in z (S, N, D); no parameter of the model gets a gradient.

    Raises:
        ValueError: a density of another shape than (S, N).
    """
    return value_and_grad(lambda point: log_joint(model, x, point), z)


def value_and_grad(function: Callable[[Tensor], Tensor], z: Tensor) -> tuple[Tensor, Tensor]:
    """The values of a log density at z (S, N, D), in float64 (S, N), and its gradient (S, N, D).

    The gradient is zero if the function does not depend on z.
    """
    with torch.enable_grad():
        point = z.detach().requires_grad_()
        value = function(point)
        if not value.requires_grad:
            return value.detach().double(), torch.zeros_like(z)
        (grad,) = torch.autograd.grad(value.sum(), point)
    return value.detach().double(), grad
