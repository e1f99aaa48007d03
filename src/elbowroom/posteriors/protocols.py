"""Protocols of posteriors: what the estimators require of them.

    Posterior      returns a distribution of z for each datum when called with x
    Distribution   maps noise to z and log q

An inference gap is what changes when one posterior is swapped for another.
"""

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

from torch import Tensor, distributions

__all__ = ["Distribution", "Posterior", "PosteriorLike"]


class Distribution(Protocol):
    """One distribution of z for each of N data."""

    @property
    def noise_size(self) -> int:
        """E, how many standard normals make one z."""

    @property
    def has_density(self) -> bool:
        """Whether log q is a density of z, which can weigh draws of other distributions and be a base of annealing."""

    def rsample_and_log_q(self, noise: Tensor, /) -> tuple[Tensor, Tensor]:
        """Map standard normal noise (S, N, E) to z (S, N, D) and log q in nats (S, N).

        Both are differentiable in the parameters if the distribution is to be fitted.
        """

    def log_prob(self, z: Tensor, /) -> Tensor:
        """log q(z) in nats: (S, N, D) -> (S, N). TypeError if there is no density of z."""


class Posterior(Protocol):
    """q(z|x) for any x, or for N data of its own.

    If it returns a `VariationalDistribution`, its family is known, and the best member of that family can be fitted to
    each datum. Of any other distribution only the inference gap can be measured.
    """

    def __call__(self, x: Any, /) -> Distribution:
        """The distribution of each of the N data in x: a tensor, or a mapping of tensors."""

    def rows(self, index: Tensor, /) -> "Posterior":
        """The posterior of the data `index` (B,), which is the posterior itself if an encoder serves any data."""


PosteriorLike: TypeAlias = Posterior | Callable[[Any], distributions.Distribution]  # what a user may pass as q
