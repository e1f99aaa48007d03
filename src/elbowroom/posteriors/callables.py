"""A bare callable x -> torch Distribution as a posterior."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, distributions

from ..core import Rows, forked, seed_of
from .gaussians import DiagonalGaussian, FullGaussian
from .posterior import Local, VariationalDistribution
from .protocols import Distribution, Posterior, PosteriorLike

__all__ = ["CallablePosterior", "as_posterior"]


def as_posterior(q: PosteriorLike) -> Posterior:
    """`q` itself if it is a posterior already, and otherwise a `CallablePosterior` that wraps it."""
    return cast(Posterior, q) if hasattr(q, "rows") else CallablePosterior(q)


class CallablePosterior:
    """A posterior from a bare callable x -> torch Distribution, with event (D,) or (*latent_shape) and batch (N,).

    Independent normals become members of `DiagonalGaussian` and multivariate normals members of `FullGaussian`.
    Other distributions have no known family: their inference gap can be measured, but their local optimum cannot be
    fitted. They are sampled by their own `sample` under a forked generator that the noise seeds, so their draws, too,
    depend only on the key of the noise.

    Args:
        q: the callable. Calling the posterior raises TypeError if `q` returns something other than a distribution.
    """

    def __init__(self, q: Callable[[Any], distributions.Distribution]) -> None:
        self.net = q

    def __repr__(self) -> str:
        return f"CallablePosterior({getattr(self.net, '__name__', type(self.net).__name__)})"

    def __call__(self, x: Rows) -> Distribution:
        answer: object = self.net(x)
        if hasattr(answer, "rsample_and_log_q"):
            return cast(Distribution, answer)
        if not isinstance(answer, distributions.Distribution):
            raise TypeError(
                f"q(x) must return a torch Distribution (or use er.Amortized for a network that returns parameters); "
                f"got {type(answer).__name__}"
            )
        return _of_known_family(answer) or SampledDistribution(answer)

    def rows(self, index: Tensor) -> "CallablePosterior":
        """The posterior itself, since a callable serves any rows."""
        return self

    def localize(self, x: Rows) -> Local:
        """A `Local` posterior that starts at the Gaussian of each of the N data in x.

        Raises:
            TypeError: the distributions are not Gaussian, so they have no family to fit.
        """
        distribution = self(x)
        if not isinstance(distribution, VariationalDistribution):
            raise TypeError("this posterior's family is unknown, so it has no local optimum to fit")
        return Local.of(distribution)


class SampledDistribution:
    """A torch distribution as a `Distribution`: the first numbers of the noise seed the generator of its draws.

    It draws for all rows of a block at once, so the draws of a datum in a short last block depend on the rows to which
    that is padded, and are others where more data follow.
    """

    noise_size = 1
    has_density = True

    def __init__(self, distribution: distributions.Distribution) -> None:
        self.distribution = distribution

    def rsample_and_log_q(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Map noise (S, N, 1) to z (S, N, D), which has no gradient, and log q in nats (S, N)."""
        with forked(seed_of(noise), noise.device), torch.no_grad():
            z = self.distribution.sample(noise.shape[:1])
        return z.flatten(2), self.log_prob(z.flatten(2))

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z) in nats: (S, N, D) -> (S, N)."""
        shape = self.distribution.batch_shape + self.distribution.event_shape
        value = self.distribution.log_prob(z.reshape(len(z), *shape))
        return value.flatten(2).sum(-1) if value.ndim > 2 else value


def _of_known_family(distribution: distributions.Distribution) -> VariationalDistribution | None:
    """A Gaussian as a member of our families; None for anything else."""
    plain = distribution.base_dist if isinstance(distribution, distributions.Independent) else distribution
    if isinstance(plain, distributions.Normal):
        mean, scale = plain.mean.flatten(1), plain.stddev.flatten(1)
        return VariationalDistribution(DiagonalGaussian(mean.shape[1]), {"mean": mean, "log_scale": scale.log()})
    if isinstance(distribution, distributions.MultivariateNormal):
        mean, tril = distribution.mean, distribution.scale_tril
        params = {"mean": mean, "log_scale": tril.diagonal(dim1=-2, dim2=-1).log(), "lower": tril.tril(-1)}
        return VariationalDistribution(FullGaussian(mean.shape[1]), params)
    return None
