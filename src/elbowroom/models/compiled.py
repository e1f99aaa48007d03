"""A model whose log joint and gradient are one compiled function, for long runs and only on request.

Compilation takes about twenty seconds, needs a C++ compiler, and saves about a tenth of the time of a gradient
(docs/benchmarks.md), so it pays off in runs of tens of thousands of gradient calls. Compiled code rounds differently,
and a rounding error can flip a Metropolis test. Compilation is therefore never switched on automatically: otherwise
the numbers would depend on the size of the run.
"""

from typing import Any

import torch
from torch import Tensor

from ..core import Rows
from .joint import log_joint
from .protocols import LatentModel

__all__ = ["CompiledModel"]


class CompiledModel:
    """A model compiled for annealing: `joint_and_grad` is compiled, and all other attributes are those of `model`.

    Args:
        model: a `LatentModel` whose log densities torch.compile can trace.
    Raises:
        Exception: whatever torch.compile raises, at the first gradient. If the decoder cannot be traced, use `model`
            itself.
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
        """log p(x, z) in nats, float64 (S, N), and its gradient in z (S, N, D), at z (S, N, D)."""
        grad, (_, value) = self._joint_and_grad(z.detach(), x)
        return value.detach().double(), grad.detach()
