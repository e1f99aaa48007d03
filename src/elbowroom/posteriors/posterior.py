r"""Posteriors: two ways to assign each datum its member of a family.

    Amortized     the parameters come from an encoder that reads x
    Local         the parameters are a row per datum, fitted without an encoder

When called with x, either returns a distribution of z for each datum. An inference gap is what changes when one is
swapped for the other.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..core import Rows, covariates, kind_of, observed, seeded
from ..models import called, n_parameters
from .family import WEIGHTS_KEY, Family
from .small_networks import Params, copy_per_datum

__all__ = ["Amortized", "Local", "VariationalDistribution", "encoder_context"]


class VariationalDistribution:
    """One member of a family for each datum, which a posterior of a known family returns when called with x."""

    def __init__(self, family: Family, params: Params) -> None:
        self.family, self.params = family, params
        self.noise_size, self.has_density = family.noise_size, family.has_density

    def __repr__(self) -> str:
        return f"{self.family!r}, one member for each of {len(self.params['mean'])} data"

    def rsample_and_log_q(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Map standard normal noise (S, N, E) to z (S, N, D) and log q in nats (S, N)."""
        return self.family.rsample_and_log_q(self.params, noise)

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z) in nats: (S, N, D) -> (S, N). TypeError if the family has no density of z."""
        return self.family.log_prob(self.params, z)

    def detached(self) -> "VariationalDistribution":
        """The same distribution, with its parameters detached from the graph."""
        return VariationalDistribution(self.family, {key: value.detach() for key, value in self.params.items()})

    def per_datum(self) -> "VariationalDistribution":
        """The same distribution with detached parameters, copied so that no two data share any."""
        params = self.detached().params
        return VariationalDistribution(self.family, copy_per_datum(params, len(params["mean"])))


class Amortized(nn.Module):
    """q(z|x) whose parameters come from an encoder that reads x.

    Args:
        net: x (N, *event) -> (N, family.context_size), or a tuple of tensors that concatenate to it, such as
            (mean, log_var).
        family: the family of distributions.
        condition: the names of tensors in x that are passed to `net` as keywords; x is then a mapping.
        seed: the seed of the weights that all data share, which only flows have.
    """

    def __init__(
        self, net: nn.Module | Callable[..., Any], family: Family, condition: Sequence[str] = (), seed: int = 0
    ) -> None:
        super().__init__()
        self.net, self.family, self.condition = net, family, tuple(condition)
        self.weights = nn.ParameterDict(family.shared_weights(seeded(seed, WEIGHTS_KEY, family.name)))

    def extra_repr(self) -> str:
        """The family and the number of parameters, which torch prints before the networks."""
        return f"{self.family!r}, {n_parameters(self):,} parameters"

    def forward(self, x: Rows) -> VariationalDistribution:
        """The posterior of each of the N data in x.

        Raises:
            ValueError: `net` does not emit `family.context_size` numbers per datum.
        """
        context = encoder_context(self.net, x, self.condition, self.family)
        return VariationalDistribution(self.family, self.family.condition(dict(self.weights), context))

    def rows(self, index: Tensor) -> "Amortized":
        """The posterior itself, since an encoder serves any rows."""
        return self

    def localize(self, x: Rows) -> "Local":
        """A `Local` copy of each datum's parameters, without the encoder. L[q] is unchanged until they are fitted."""
        with torch.no_grad():
            return Local.of(self(x))


class Local(nn.Module):
    """q(z|x_i) with a row of parameters for each of n data; row i belongs to datum i.

    Args:
        family: the family of distributions.
        n: the number of data.
        params: initial parameters, each with a leading n; None for the standard normal.
        seed: the seed of a flow's initial weights; it has no effect if `params` are given.
    """

    def __init__(self, family: Family, n: int, params: Params | None = None, seed: int = 0) -> None:
        super().__init__()
        if params is None:
            zeros = torch.zeros(n, family.size)
            params = family.at(zeros, zeros.clone(), seeded(seed, WEIGHTS_KEY, family.name))
        self.family, self.n = family, n
        self.params = nn.ParameterDict(
            {key: nn.Parameter(value.clone(), key not in family.fixed) for key, value in params.items()}
        )

    def extra_repr(self) -> str:
        """The family, the number of data and the number of parameters, which torch prints before the parameters."""
        return f"{self.family!r}, {self.n} data, {n_parameters(self):,} parameters"

    @staticmethod
    def of(distribution: VariationalDistribution) -> "Local":
        """A local posterior that starts at this distribution."""
        params = distribution.per_datum().params
        return Local(distribution.family, len(params["mean"]), params)

    def forward(self, x: Rows | None = None) -> VariationalDistribution:
        """The posterior of each of the n data; x is ignored."""
        return VariationalDistribution(self.family, dict(self.params))

    def rows(self, index: Tensor) -> "Local":
        """The local posterior of the data `index` (B,)."""
        return Local(self.family, len(index), {key: value.detach()[index] for key, value in self.params.items()})

    def localize(self, x: Rows | None = None) -> "Local":
        """A copy of this posterior; x is ignored."""
        return self.rows(torch.arange(self.n))


class HasContext(Protocol):
    """A posterior that reads an encoder's output, with the number of values it needs."""

    @property
    def name(self) -> str:
        """The name that the error message gives."""

    @property
    def size(self) -> int:
        """D, the number of latents."""

    @property
    def context_size(self) -> int:
        """How many numbers an encoder must emit for each datum."""


def encoder_context(net: Callable[..., Any], x: Rows, condition: Sequence[str], reader: HasContext) -> Tensor:
    """An encoder's output (N, C), with its parts concatenated.

    Raises:
        ValueError: C is not the `context_size` of `reader`, or x lacks a tensor that `condition` names.
        TypeError: there is a `condition`, and x is not a mapping; or the encoder returns no tensors.
    """
    output = called(net, observed(x), **covariates(x, condition))
    parts = (output,) if isinstance(output, Tensor) else output
    if not isinstance(parts, tuple | list) or not all(isinstance(part, Tensor) for part in parts):
        raise TypeError(
            f"the encoder of a {reader.name} posterior must return a tensor or a tuple of tensors, such as (mean, "
            f"log_var); got {kind_of(output)}"
        )
    context = output.flatten(1) if isinstance(output, Tensor) else torch.cat([part.flatten(1) for part in output], -1)
    if context.shape[-1] != reader.context_size:
        raise ValueError(
            f"the encoder of a {reader.name} posterior over {reader.size} latents must emit "
            f"{reader.context_size} numbers per datum; got {context.shape[-1]}"
        )
    return context
