r"""Bases of annealing: samplers with a normalized density, in coordinates where the posterior is about isotropic.

PriorBase      the model's prior, the usual choice in the literature
GaussianBase   a Gaussian fitted to each datum, in coordinates where that Gaussian is standard normal
MixtureBase    a mixture that covers several modes, in the same coordinates
"""

from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from ..core import Rows, log_standard_normal, normal, select_rows
from ..models import LatentModel, SamplesPrior, log_joint_and_grad, prior_draws, samples_prior, value_and_grad
from ..posteriors import GAUSSIAN_PARAMS, AffineMap, Params
from .mixtures import ComponentMixture

__all__ = ["Base", "GaussianBase", "MixtureBase", "PriorBase", "gaussian_base"]


class Base(Protocol):
    """Where chains start: a sampler with a normalized log density, in coordinates u of its own."""

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw n points u for each datum, (n, N, D)."""

    def evaluate(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """log base and log joint in nats as densities of u, (C, N), and their gradients, (C, N, D)."""

    def whiten(self, z: Tensor) -> Tensor:
        """Map z (S, N, D) to u (S, N, D)."""

    def latents(self, u: Tensor) -> Tensor:
        """Map u (S, N, D) to z (S, N, D)."""

    def rows(self, index: Tensor) -> "Base":
        """The base of the data `index` (R,)."""


class GaussianBase:
    """A Gaussian fitted to each datum, in coordinates where it is standard normal."""

    def __init__(self, model: LatentModel, x: Rows, coordinates: AffineMap) -> None:
        self.model, self.x, self.coordinates = model, x, coordinates

    def rows(self, index: Tensor) -> "GaussianBase":
        """The base of the data `index` (R,)."""
        return GaussianBase(self.model, select_rows(self.x, index), self.coordinates.rows(index))

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw n standard normal points u for each datum, (n, N, D)."""
        return normal((n, *self.coordinates.center.shape), generator, self.coordinates.center, data_axis=1)

    def whiten(self, z: Tensor) -> Tensor:
        """Map z (S, N, D) to u (S, N, D)."""
        return self.coordinates.inverse(z)

    def latents(self, u: Tensor) -> Tensor:
        """Map u (S, N, D) to z (S, N, D)."""
        return self.coordinates(u)

    def evaluate(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """log base and log joint in nats as densities of u, (C, N), and their gradients, (C, N, D)."""
        joint_and_grad = getattr(self.model, "joint_and_grad", None) or partial(log_joint_and_grad, self.model)
        joint, grad = joint_and_grad(self.x, self.coordinates(u))
        return log_standard_normal(u.double()), joint + self.coordinates.log_det, -u, self.coordinates.pull_back(grad)


class MixtureBase:
    """A mixture for each datum that covers several modes, in coordinates where one Gaussian is standard normal."""

    def __init__(self, model: LatentModel, x: Rows, coordinates: AffineMap, mixture: ComponentMixture) -> None:
        self.model, self.x, self.coordinates, self.mixture = model, x, coordinates, mixture

    def rows(self, index: Tensor) -> "MixtureBase":
        """The base of the data `index` (R,)."""
        return MixtureBase(
            self.model, select_rows(self.x, index), self.coordinates.rows(index), self.mixture.rows(index)
        )

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw n points u for each datum, (n, N, D)."""
        center = self.coordinates.center
        noise = normal((n, len(center), self.mixture.noise_size), generator, center, data_axis=1)
        return self.whiten(self.mixture.rsample_and_log_q(noise)[0])

    def whiten(self, z: Tensor) -> Tensor:
        """Map z (S, N, D) to u (S, N, D)."""
        return self.coordinates.inverse(z)

    def latents(self, u: Tensor) -> Tensor:
        """Map u (S, N, D) to z (S, N, D)."""
        return self.coordinates(u)

    def evaluate(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """log base and log joint in nats as densities of u, (C, N), and their gradients, (C, N, D)."""
        z, log_det = self.coordinates(u), self.coordinates.log_det
        base, base_grad = self.mixture.log_prob_and_grad(z)
        joint, grad = log_joint_and_grad(self.model, self.x, z)
        pulled = self.coordinates.pull_back(base_grad.to(grad))
        return base + log_det, joint + log_det, pulled, self.coordinates.pull_back(grad)


class PriorBase:
    """The model's prior, in the model's own coordinates, the usual choice in the literature.

    Raises:
        TypeError: the model has no `sample_prior`.
    """

    def __init__(self, model: LatentModel, x: Rows, n: int) -> None:
        if not samples_prior(model):
            raise TypeError("AIS from the prior needs model.sample_prior(n, x, generator)")
        self.model: SamplesPrior = model
        self.x, self.n = x, n

    def rows(self, index: Tensor) -> "PriorBase":
        """The base of the data `index` (R,)."""
        return PriorBase(self.model, select_rows(self.x, index), len(index))

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw n points from the prior for each datum, (n, N, D)."""
        return prior_draws(self.model, n, self.x, self.n, generator)

    def whiten(self, z: Tensor) -> Tensor:
        """Return z (S, N, D) itself."""
        return z

    def latents(self, u: Tensor) -> Tensor:
        """Return u (S, N, D) itself."""
        return u

    def evaluate(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """log prior and log joint of u in nats, (C, N), and their gradients, (C, N, D)."""
        prior, prior_grad = value_and_grad(lambda v: self.model.log_prior(v, self.x), u)
        likelihood, grad = value_and_grad(lambda v: self.model.log_likelihood(self.x, v), u)
        return prior, prior + likelihood, prior_grad, prior_grad + grad


def gaussian_base(model: LatentModel, x: Rows, params: Params) -> GaussianBase:
    """The base with the parameters of a fitted Gaussian, each with a leading N.

    Raises:
        TypeError: parameters that are not those of a Gaussian, such as a flow's.
    """
    if not set(params) <= GAUSSIAN_PARAMS:
        raise TypeError("an AIS base must be a Gaussian (diagonal or full); fit one with fit_local")
    return GaussianBase(model, x, AffineMap.of_gaussian(params).detached())
