r"""Proposals for importance sampling, made from a Gaussian that was fitted to each datum.

StudentT           a Student t around the Gaussian: its weights are bounded where the Gaussian's have no finite variance
DefensiveMixture   that, or another local distribution, with a share of the prior: in few dimensions it finds the modes
                   that the Gaussian misses
"""

import math

import torch
from torch import Tensor

from ..core import Rows, seed_of
from ..models import SamplesPrior, prior_draws
from ..posteriors import AffineMap, Distribution, Params

__all__ = ["DefensiveMixture", "StudentT", "log_student_t"]


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
        return self.coordinates(u), log_student_t(
            u.square().sum(-1), self.size, self.freedom
        ) - self.coordinates.log_det

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z) in nats: (S, N, D) -> (S, N)."""
        return (
            log_student_t(self.coordinates.inverse(z).square().sum(-1), self.size, self.freedom)
            - self.coordinates.log_det
        )


class DefensiveMixture:
    """A mixture of a local distribution and the prior, all of whose draws are weighted by the mixture's density.

    One draw in `period` comes from the prior. A local Gaussian can sit on one of several modes, and its weights then
    look perfect. In few dimensions draws of the prior find the other modes. Weights are at most `period` times the
    likelihood (the balance heuristic of Veach and Guibas 1995).

    Args:
        local: a distribution with a density.
        model: the model whose prior it is.
        x: the data.
        period: the number of draws in a cycle, the last of which is the prior's.
    """

    has_density = True

    def __init__(self, local: Distribution, model: SamplesPrior, x: Rows, period: int = 2) -> None:
        self.local, self.model, self.x, self.period = local, model, x, period
        self.noise_size = local.noise_size

    def rsample_and_log_q(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Map noise (S, N, E) to z (S, N, D) and log q in nats (S, N). The prior's generator is seeded by the noise."""
        z, _ = self.local.rsample_and_log_q(noise)
        generator = torch.Generator(noise.device)
        generator.manual_seed(seed_of(noise))
        n_prior = -(-len(z) // self.period)
        prior = prior_draws(self.model, n_prior, self.x, z.shape[1], generator).to(z)
        z = z.clone()
        last = z[self.period - 1 :: self.period]
        last.copy_(prior[: len(last)])
        return z, self.log_prob(z)

    def log_prob(self, z: Tensor) -> Tensor:
        """The log density of the mixture in nats: (S, N, D) -> (S, N)."""
        local = self.local.log_prob(z) + math.log1p(-1 / self.period)
        return torch.logaddexp(local, self.model.log_prior(z, self.x).to(local) - math.log(self.period))


def log_student_t(square: Tensor, d: int, freedom: int) -> Tensor:
    """The log density in nats of a standard Student t of d dimensions, at points with these squared lengths."""
    constant = math.lgamma((freedom + d) / 2) - math.lgamma(freedom / 2) - 0.5 * d * math.log(freedom * math.pi)
    return constant - 0.5 * (freedom + d) * torch.log1p(square / freedom)
