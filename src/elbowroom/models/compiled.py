"""A model whose log joint and its gradient are one compiled function: for long runs, on request.

Compilation takes some twenty seconds and a C++ compiler, and saves about a tenth of a gradient (docs/benchmarks.md): it
pays in runs of tens of thousands of gradient calls. It also rounds otherwise, and a rounding can flip a Metropolis
test; so it is never switched on by itself, or numbers would depend on the size of the run.
"""

from typing import Any

import torch
from torch import Tensor

from ..core import Rows
from .joint import log_joint
from .protocols import LatentModel

__all__ = ["CompiledModel"]


class CompiledModel:
    """`model`, compiled for annealing: whatever else is asked of it, it answers as before.

    Raises:
        Whatever torch.compile raises, at the first gradient: for a decoder that cannot be traced, keep the model as it
        is.
    """

    def __init__(self, model: LatentModel) -> None:
        self.model = model

        def total(z: Tensor, x: Rows) -> tuple[Tensor, Tensor]:
            value = log_joint(model, x, z)
            return value.sum(), value

        both = torch.func.grad_and_value(total, has_aux=True)
        self._joint_and_grad = torch.compile(lambda z, x: both(z, x), dynamic=False)

    def __getattr__(self, name: str) -> Any:
        if name == "model":
            raise AttributeError(name)
        return getattr(self.model, name)

    def joint_and_grad(self, x: Rows, z: Tensor) -> tuple[Tensor, Tensor]:
        """log p(x, z) (S, N) in nats, float64, and its gradient (S, N, D)."""
        grad, (_, value) = self._joint_and_grad(z.detach(), x)
        return value.detach().double(), grad.detach()
