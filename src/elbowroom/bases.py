r"""Where annealing starts: a sampler with a normalised density, in coordinates where the posterior is about round.

    PriorBase      the model's prior: the literature's choice
    GaussianBase   a Gaussian fitted to each datum, in whose coordinates it is standard normal
    MixtureBase    some of the first in the second, with the mixture's density
"""

import math
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from .blocks import some
from .families import Params, Whitening, scale_tril
from .model import log_joint_and_grad, value_and_grad
from .rng import normal, uniform

__all__ = ["Base", "GaussianBase", "MixtureBase", "PriorBase", "base_of"]

LOG_2PI = math.log(2 * math.pi)


class Base(Protocol):
    """Where chains start: a sampler with a normalised log density, in coordinates u where the posterior is about
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

    def __init__(self, model: Any, x: Any, whitening: Whitening) -> None:
        self.model, self.x, self.whitening = model, x, whitening

    def rows(self, index: Tensor) -> "GaussianBase":
        """The base of some of the data."""
        return GaussianBase(self.model, some(self.x, index), self.whitening.rows(index))

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n standard normal draws for each datum, (n, N, D)."""
        return normal((n, *self.whitening.center.shape), generator, self.whitening.center)

    def whiten(self, z: Tensor) -> Tensor:
        """z (S, N, D) -> u."""
        return self.whitening.inverse(z)

    def evaluate(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """log base and log joint of u, (C, N), and their gradients; the base's in closed form."""
        joint_and_grad = getattr(self.model, "joint_and_grad", None) or partial(log_joint_and_grad, self.model)
        joint, grad = joint_and_grad(self.x, self.whitening(u))
        base = -0.5 * (u.double().square().sum(-1) + u.shape[-1] * LOG_2PI)
        return base, joint + self.whitening.log_det, -u, self.whitening.pull_back(grad)


class PriorBase:
    """The model's prior, in the model's own coordinates: the literature's choice."""

    def __init__(self, model: Any, x: Any, n: int) -> None:
        if not hasattr(model, "sample_prior"):
            raise TypeError("AIS from the prior needs model.sample_prior(n, x, generator)")
        self.model, self.x, self.n = model, x, n

    def rows(self, index: Tensor) -> "PriorBase":
        """The base of some of the data."""
        return PriorBase(self.model, some(self.x, index), len(index))

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


class MixtureBase:
    """weight * prior + (1 - weight) * Gaussian, sampled by component, its density normalised: a base that misses
    less.
    """

    def __init__(self, gaussian: GaussianBase, weight: float = 0.1) -> None:
        if not 0 < weight < 1:
            raise ValueError(f"the prior's weight in a mixture must lie between 0 and 1; got {weight}")
        self.gaussian, self.weight = gaussian, weight

    def rows(self, index: Tensor) -> "MixtureBase":
        """The base of some of the data."""
        return MixtureBase(self.gaussian.rows(index), self.weight)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n draws for each datum, (n, N, D)."""
        g = self.gaussian
        u = g.sample(n, generator)
        prior = g.model.sample_prior(n, g.x, generator)
        chosen = uniform(u.shape[:2], generator, u) < self.weight
        return torch.where(chosen[..., None], g.whiten(prior.expand(u.shape).contiguous()), u)

    def whiten(self, z: Tensor) -> Tensor:
        """z (S, N, D) -> u, in the Gaussian's coordinates."""
        return self.gaussian.whiten(z)

    def evaluate(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """log mixture and log joint of u, (C, N), and their gradients."""
        g = self.gaussian
        _, joint, _, grad = g.evaluate(u)

        def log_mixture(v: Tensor) -> Tensor:
            normal_part = -0.5 * (v.square().sum(-1) + v.shape[-1] * LOG_2PI)
            prior_part = g.model.log_prior(g.whitening(v), g.x) + g.whitening.log_det
            return torch.logaddexp(prior_part + math.log(self.weight), normal_part + math.log1p(-self.weight))

        base, base_grad = value_and_grad(log_mixture, u)
        return base, joint, base_grad, grad


def base_of(model: Any, x: Any, params: Params) -> GaussianBase:
    """The base that a fitted Gaussian's parameters (leading N) make.

    Raises:
        TypeError: a flow, whose parameters are not a Gaussian's.
    """
    if set(params) - {"mean", "log_scale", "lower"}:
        raise TypeError("an AIS base must be a Gaussian (diagonal or full); fit one with fit_local")
    return GaussianBase(model, x, Whitening(params["mean"].detach(), scale_tril(params).detach()))
