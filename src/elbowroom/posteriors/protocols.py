"""What every estimator asks of a posterior, written down.

    Posterior      called with x, returns a distribution of z for each datum
    Distribution   turns noise into z and log q

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
        """Whether log q is a density of z, and so can weigh draws of others and be a base of annealing."""

    def rsample_and_log_q(self, noise: Tensor, /) -> tuple[Tensor, Tensor]:
        """Standard normal noise (S, N, E) -> z (S, N, D), log q in nats (S, N), differentiable where a fit needs it."""

    def log_prob(self, z: Tensor, /) -> Tensor:
        """log q(z) in nats, (S, N, D) -> (S, N). TypeError where there is no density."""


class Posterior(Protocol):
    """q(z|x) for any x, or for N data of its own. Of which family it is, and so whose best member is fitted to each
    datum, shows in what it returns: a `VariationalDistribution`, or one of which only the inference gap can be
    measured.
    """

    def __call__(self, x: Any, /) -> Distribution:
        """The distribution of each of the N data in x: a tensor, or a mapping of tensors."""

    def rows(self, index: Tensor, /) -> "Posterior":
        """The posterior of the data `index` (B,): itself where an encoder serves any data."""


PosteriorLike: TypeAlias = Posterior | Callable[[Any], distributions.Distribution]  # what a user may pass as q
