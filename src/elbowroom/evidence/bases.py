r"""Where annealing starts: a sampler with a normalized density, in coordinates where the posterior is about round.

PriorBase      the model's prior: the literature's choice
GaussianBase   a Gaussian fitted to each datum, in whose coordinates it is standard normal
"""

from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from ..core import Rows, log_standard_normal, normal, select_rows
from ..models import LatentModel, SamplesPrior, log_joint_and_grad, samples_prior, value_and_grad
from ..posteriors import GAUSSIAN_PARAMS, AffineMap, Params

__all__ = ["Base", "GaussianBase", "PriorBase", "gaussian_base"]


class Base(Protocol):
    """Where chains start: a sampler with a normalized log density, in coordinates u where the posterior is about
    round.
    """

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n draws u for each datum, (n, N, D)."""

    def evaluate(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """log base and log joint as densities of u, (C, N), and their gradients, (C, N, D)."""

    def whiten(self, z: Tensor) -> Tensor:
        """z (S, N, D) -> u."""

    def rows(self, index: Tensor) -> "Base":
        """The base of some of the data."""


class GaussianBase:
    """A Gaussian fitted to each datum; standard normal in its own coordinates."""

    def __init__(self, model: LatentModel, x: Rows, coordinates: AffineMap) -> None:
        self.model, self.x, self.coordinates = model, x, coordinates

    def rows(self, index: Tensor) -> "GaussianBase":
        """The base of some of the data."""
        return GaussianBase(self.model, select_rows(self.x, index), self.coordinates.rows(index))

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n standard normal draws for each datum, (n, N, D)."""
        return normal((n, *self.coordinates.center.shape), generator, self.coordinates.center)

    def whiten(self, z: Tensor) -> Tensor:
        """z (S, N, D) -> u."""
        return self.coordinates.inverse(z)

    def evaluate(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """log base and log joint of u, (C, N), and their gradients; the base's in closed form."""
        joint_and_grad = getattr(self.model, "joint_and_grad", None) or partial(log_joint_and_grad, self.model)
        joint, grad = joint_and_grad(self.x, self.coordinates(u))
        return log_standard_normal(u.double()), joint + self.coordinates.log_det, -u, self.coordinates.pull_back(grad)


class PriorBase:
    """The model's prior, in the model's own coordinates: the literature's choice."""

    def __init__(self, model: LatentModel, x: Rows, n: int) -> None:
        if not samples_prior(model):
            raise TypeError("AIS from the prior needs model.sample_prior(n, x, generator)")
        self.model: SamplesPrior = model
        self.x, self.n = x, n

    def rows(self, index: Tensor) -> "PriorBase":
        """The base of some of the data."""
        return PriorBase(self.model, select_rows(self.x, index), len(index))

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n prior draws for each datum, (n, N, D)."""
        z = self.model.sample_prior(n, self.x, generator)
        return z.expand(n, self.n, z.shape[-1]).contiguous()

    def whiten(self, z: Tensor) -> Tensor:
        """z itself."""
        return z

    def evaluate(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """log prior and log joint of u, (C, N), and their gradients."""
        prior, prior_grad = value_and_grad(lambda v: self.model.log_prior(v, self.x), u)
        likelihood, grad = value_and_grad(lambda v: self.model.log_likelihood(self.x, v), u)
        return prior, prior + likelihood, prior_grad, prior_grad + grad


def gaussian_base(model: LatentModel, x: Rows, params: Params) -> GaussianBase:
    """The base that a fitted Gaussian's parameters (leading N) make.

    Raises:
        TypeError: a flow, whose parameters are not a Gaussian's.
    """
    if not set(params) <= GAUSSIAN_PARAMS:
        raise TypeError("an AIS base must be a Gaussian (diagonal or full); fit one with fit_local")
    return GaussianBase(model, x, AffineMap.of_gaussian(params).detached())
