"""log p(x, z) and its gradient in z, with a check that both densities have the right shape."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ..core import Rows
from .protocols import LatentModel

__all__ = ["log_joint", "log_joint_and_grad", "samples_in_a_call", "value_and_grad"]

ROWS = 2500  # of one call of the model, at most
VALUES = 2**20  # of the data in one call, about; activations of larger calls no longer fit what the allocator reuses


def log_joint(model: LatentModel, x: Rows, z: Tensor) -> Tensor:
    """log p(x, z) in nats: z (S, N, D) -> (S, N), in calls of the model that are not too large for its data.

    Raises:
        ValueError: a density of another shape than (S, N), which would otherwise broadcast silently.
    """
    parts = [_log_joint(model, x, part) for part in z.split(samples_in_a_call(x, z))]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def log_joint_and_grad(model: LatentModel, x: Rows, z: Tensor) -> tuple[Tensor, Tensor]:
    """log p(x, z) in nats, float64 (S, N), and its gradient in z (S, N, D); no parameter of the model gets a gradient.

    Raises:
        ValueError: a density of another shape than (S, N).
    """
    parts = [
        value_and_grad(lambda point: _log_joint(model, x, point), part) for part in z.split(samples_in_a_call(x, z))
    ]
    return parts[0] if len(parts) == 1 else (torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts]))


def samples_in_a_call(x: Rows, z: Tensor) -> int:
    """How many of the S samples (S, N, D) a model gets at once, as the size of a datum has it, and at least one."""
    n = max(z.shape[1], 1)
    tensors = x.values() if isinstance(x, Mapping) else (x,)
    values = sum(tensor.numel() for tensor in tensors if isinstance(tensor, Tensor)) // n
    return max(1, min(ROWS, VALUES // max(values, 1)) // n)


def _log_joint(model: LatentModel, x: Rows, z: Tensor) -> Tensor:
    prior, likelihood = model.log_prior(z, x), model.log_likelihood(x, z)
    for name, value in (("log_prior", prior), ("log_likelihood", likelihood)):
        if value.shape != z.shape[:2]:
            hint = "Sum over latents" if name == "log_prior" else "Sum over pixels"
            raise ValueError(
                f"{name} must return (S, N) = {tuple(z.shape[:2])}; got {tuple(value.shape)}. {hint} before returning."
            )
    return prior + likelihood


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
