r"""Proposals for importance sampling, made from a Gaussian that was fitted to each datum.

StudentT           a Student t around the Gaussian: its weights are bounded where the Gaussian's have no finite variance
DefensiveMixture   half of that and half of the prior: in few dimensions it finds the modes that the Gaussian misses
"""

import math

import torch
from torch import Tensor

from ..core import Rows, seed_of
from ..models import SamplesPrior, prior_draws
from ..posteriors import AffineMap, Params

__all__ = ["DefensiveMixture", "StudentT"]


class StudentT:
    """A multivariate Student t around a local Gaussian: center + L e / sqrt(chi^2 / nu), with nu = max(5, D).

    Fits that minimize KL(q || p) are narrower than the posterior, so importance weights under them can have infinite
    variance. A posterior under a Gaussian prior has Gaussian tails, so under a t the weights are bounded if the
    likelihood is. The t adds no more spread to the radius than it has under the Gaussian, so little is lost where
    the Gaussian is right.

    Args:
        params: the parameters of the Gaussian, each with a leading N.
    """

    has_density = True

    def __init__(self, params: Params) -> None:
        self.coordinates = AffineMap.of_gaussian(params).detached()
        self.size = params["mean"].shape[-1]
        self.freedom = max(5, self.size)
        self.noise_size = self.size + self.freedom

    def rsample_and_log_q(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Map standard normal noise (S, N, D + nu) to z (S, N, D) and log q in nats (S, N)."""
        e, rest = noise.split([self.size, self.freedom], dim=-1)
        u = e / rest.square().mean(-1, keepdim=True).sqrt()
        return self.coordinates(u), self._log_t(u) - self.coordinates.log_det

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z) in nats: (S, N, D) -> (S, N)."""
        return self._log_t(self.coordinates.inverse(z)) - self.coordinates.log_det

    def _log_t(self, u: Tensor) -> Tensor:
        nu, d = self.freedom, self.size
        constant = math.lgamma((nu + d) / 2) - math.lgamma(nu / 2) - 0.5 * d * math.log(nu * math.pi)
        return constant - 0.5 * (nu + d) * torch.log1p(u.square().sum(-1) / nu)


class DefensiveMixture:
    """A mixture of a Student t and the prior: half of the draws come from each, all weighted by the mixture's density.

    A local Gaussian can sit on one of several modes, and its weights then look perfect. In few dimensions draws of the
    prior find the other modes. Weights are at most twice the likelihood (the balance heuristic of Veach and Guibas
    1995).
    """

    has_density = True

    def __init__(self, student: StudentT, model: SamplesPrior, x: Rows) -> None:
        self.student, self.model, self.x = student, model, x
        self.noise_size = student.noise_size

    def rsample_and_log_q(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Map noise (S, N, D + nu) to z (S, N, D) and log q in nats (S, N).

        Draws alternate between the Student t and the prior, whose generator is seeded by the noise.
        """
        local, _ = self.student.rsample_and_log_q(noise[::2])
        generator = torch.Generator(noise.device)
        generator.manual_seed(seed_of(noise))
        prior = prior_draws(self.model, len(local), self.x, local.shape[1], generator).to(local)
        z = torch.stack([local, prior], dim=1).flatten(0, 1)[: len(noise)]
        return z, self.log_prob(z)

    def log_prob(self, z: Tensor) -> Tensor:
        """The log density of the mixture in nats: (S, N, D) -> (S, N)."""
        return torch.logaddexp(self.student.log_prob(z), self.model.log_prior(z, self.x)) - math.log(2)
