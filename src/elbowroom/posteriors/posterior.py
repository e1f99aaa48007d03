r"""Posteriors: the two ways to give each datum its member of a family.

    Amortized     the parameters come from an encoder that reads x
    Local         the parameters are a row per datum, fitted without an encoder

Called with x, either returns a distribution of z for each datum; an inference gap is what changes when you swap them.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..core import Rows, covariates, observed, seeded
from ..models import n_parameters
from .family import WEIGHTS_KEY, Family
from .small_networks import Params, copy_per_datum

__all__ = ["Amortized", "Local", "VariationalDistribution", "encoder_context"]


class VariationalDistribution:
    """One member of a family for each datum: what a posterior of a known family returns when it is called with x."""

    def __init__(self, family: Family, params: Params) -> None:
        self.family, self.params = family, params
        self.noise_size, self.has_density = family.noise_size, family.has_density

    def __repr__(self) -> str:
        return f"{self.family!r}, one member for each of {len(self.params['mean'])} data"

    def rsample_and_log_q(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Standard normal noise (S, N, E) -> z (S, N, D), log q in nats (S, N)."""
        return self.family.rsample_and_log_q(self.params, noise)

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z) in nats, (S, N, D) -> (S, N); TypeError where the family has no density."""
        return self.family.log_prob(self.params, z)

    def detached(self) -> "VariationalDistribution":
        """The same distribution, constant in its parameters."""
        return VariationalDistribution(self.family, {key: value.detach() for key, value in self.params.items()})

    def per_datum(self) -> "VariationalDistribution":
        """The same distribution, constant, in parameters of which no two data share any."""
        params = self.detached().params
        return VariationalDistribution(self.family, copy_per_datum(params, len(params["mean"])))


class Amortized(nn.Module):
    """q(z|x) whose parameters an encoder reads off x.

    Args:
        net: x (N, *event) -> (N, family.context_size), or a tuple of tensors that concatenate to it: (mean, log_var).
            The tensors of x named in `condition` are passed as keywords.
        family: which distributions.
        seed: of the weights of a flow that all data share.
    """

    def __init__(
        self, net: nn.Module | Callable[..., Any], family: Family, condition: Sequence[str] = (), seed: int = 0
    ) -> None:
        super().__init__()
        self.net, self.family, self.condition = net, family, tuple(condition)
        self.weights = nn.ParameterDict(family.shared_weights(seeded(seed, WEIGHTS_KEY, family.name)))

    def extra_repr(self) -> str:
        """The family and the size, in the words that torch prints before the networks."""
        return f"{self.family!r}, {n_parameters(self):,} parameters"

    def forward(self, x: Rows) -> VariationalDistribution:
        """The posterior of each of N data."""
        context = encoder_context(self.net, x, self.condition, self.family)
        return VariationalDistribution(self.family, self.family.condition(dict(self.weights), context))

    def rows(self, index: Tensor) -> "Amortized":
        """An encoder serves any rows: itself."""
        return self

    def localize(self, x: Rows) -> "Local":
        """A copy of each datum's own parameters, free of the encoder: L[q] is unchanged until they are fitted."""
        with torch.no_grad():
            return Local.of(self(x))


class Local(nn.Module):
    """q(z|x_n) with a row of parameters for each of n data; row n belongs to datum n.

    Starts at the standard normal unless `params`, each with leading n, says otherwise.
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
        """The family and the size, in the words that torch prints before the parameters."""
        return f"{self.family!r}, {self.n} data, {n_parameters(self):,} parameters"

    @staticmethod
    def of(distribution: VariationalDistribution) -> "Local":
        """A local posterior that begins as this distribution."""
        params = distribution.per_datum().params
        return Local(distribution.family, len(params["mean"]), params)

    def forward(self, x: Rows | None = None) -> VariationalDistribution:
        """The posterior of each of the n data; x is not read."""
        return VariationalDistribution(self.family, dict(self.params))

    def rows(self, index: Tensor) -> "Local":
        """The local posterior of the data `index` (B,)."""
        return Local(self.family, len(index), {key: value.detach()[index] for key, value in self.params.items()})

    def localize(self, x: Rows | None = None) -> "Local":
        """A copy."""
        return self.rows(torch.arange(self.n))


class HasContext(Protocol):
    """What reads an encoder's answer, and how many numbers of it."""

    @property
    def name(self) -> str:
        """In the error."""

    @property
    def size(self) -> int:
        """D, the number of latents."""

    @property
    def context_size(self) -> int:
        """How many numbers an encoder must emit for each datum."""


def encoder_context(net: Callable[..., Any], x: Rows, condition: Sequence[str], reader: HasContext) -> Tensor:
    """An encoder's answer (N, C), its parts side by side. ValueError where C is not the `context_size` of `reader`."""
    output = net(observed(x), **covariates(x, condition))
    context = output.flatten(1) if isinstance(output, Tensor) else torch.cat([part.flatten(1) for part in output], -1)
    if context.shape[-1] != reader.context_size:
        raise ValueError(
            f"the encoder of a {reader.name} posterior over {reader.size} latents must emit "
            f"{reader.context_size} numbers per datum; got {context.shape[-1]}"
        )
    return context
