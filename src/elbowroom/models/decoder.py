"""A decoder with a likelihood and a prior: the model that most people bring.

Flattening (S, N) latents to rows for a decoder happens in `DecoderModel.decode`, and nowhere else.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, overload

import torch
from torch import Tensor, nn

from ..core import Rows, covariates, forked, log_standard_normal, normal, observed
from .likelihoods import Likelihood, Output, as_likelihood
from .modules import device_and_dtype, n_parameters
from .protocols import as_shape, latent_size

__all__ = ["DecoderModel"]


class Prior(Protocol):
    """A density of z, normalized; one that also has `sample(shape)` can start annealing and simulate data."""

    def log_prob(self, z: Tensor, /) -> Tensor:
        """log p(z) in nats: (S, N, *latent_shape) -> (S, N), or with the event dimensions still to be summed."""


class DecoderModel(nn.Module):
    """A decoder with a likelihood and a prior.

    Args:
        decoder: called with z (R, *latent_shape) rows, and the tensors of x named in `condition` as keywords.
        likelihood: a name ("bernoulli" takes logits), a constructor's result such as ``likelihoods.gaussian(0.1)``,
            or a callable output -> torch Distribution, or (x, output) -> (S, N).
        latent_shape: D, or a tuple; flattened to D inside.
        prior: None for N(0, I), or anything with a normalized ``log_prob(z)``: (S, N, *latent_shape) -> (S, N).
        condition: names of tensors in x that the decoder wants; x is then a mapping with the data under "x".
    """

    def __init__(
        self,
        decoder: nn.Module | Callable[..., Any],
        likelihood: str | Likelihood | Callable[..., Any],
        latent_shape: int | Sequence[int],
        prior: Prior | None = None,
        condition: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.decoder = decoder
        self.likelihood = as_likelihood(likelihood)
        self.latent_shape = as_shape(latent_shape)
        self.prior = prior
        self.condition = tuple(condition)

    def extra_repr(self) -> str:
        """Latents, prior and size, in the words that torch prints before the networks."""
        prior = "N(0, I)" if self.prior is None else type(self.prior).__name__
        return f"{latent_size(self)} latents, prior {prior}, {n_parameters(self):,} parameters"

    def log_prior(self, z: Tensor, x: Rows | None = None) -> Tensor:
        """log p(z) in nats: (S, N, D) -> (S, N)."""
        if self.prior is None:
            return log_standard_normal(z)
        value = self.prior.log_prob(z.unflatten(-1, self.latent_shape))
        return value.sum(-1) if value.shape == z.shape else value

    def decode(self, z: Tensor, x: Rows | None = None) -> Output:
        """The decoder's output for z (S, N, D), with leading dimensions (S, N)."""
        s, n, _ = z.shape
        rows = z.reshape(s * n, *self.latent_shape)
        given = {key: _tile(value, s) for key, value in covariates(x, self.condition).items()}
        output = self.decoder(rows, **given)
        return _map(lambda leaf: leaf.unflatten(0, (s, n)), output)

    def log_likelihood(self, x: Rows, z: Tensor) -> Tensor:
        """log p(x|z) in nats: x (N, *event), z (S, N, D) -> (S, N)."""
        return self.likelihood.log_prob(observed(x), self.decode(z, x))

    def sample_prior(self, n: int, x: Rows | None, generator: torch.Generator) -> Tensor:
        """n draws of z for each of the N rows of x (or for one row where x is None): (n, N, D)."""
        rows = 1 if x is None else len(observed(x))
        device, dtype = device_and_dtype(self)
        like = torch.empty(0, device=device, dtype=dtype)
        if self.prior is None:
            return normal((n, rows, latent_size(self)), generator, like)
        if not hasattr(self.prior, "sample"):
            raise TypeError(f"sample_prior needs a prior with a `sample(shape)`; {type(self.prior).__name__} has none")
        seed = int(torch.randint(2**62, (1,), generator=generator, device=generator.device))
        with forked(seed, generator.device), torch.no_grad():
            return self.prior.sample((n, rows)).reshape(n, rows, latent_size(self)).to(like)

    @overload
    def sample_data(self, z: Tensor, x: Tensor | None, generator: torch.Generator) -> Tensor: ...
    @overload
    def sample_data(self, z: Tensor, x: Mapping[str, Tensor], generator: torch.Generator) -> Mapping[str, Tensor]: ...
    @overload
    def sample_data(self, z: Tensor, x: Rows | None, generator: torch.Generator) -> Rows: ...
    def sample_data(self, z: Tensor, x: Rows | None, generator: torch.Generator) -> Rows:
        """Simulated data for z (N, D); a mapping like `x`, whose covariates are kept, where the model is
        conditional.
        """
        with torch.no_grad():
            sample = self.likelihood.sample(self.decode(z[None], x), generator)[0]
        return {**x, "x": sample} if isinstance(x, Mapping) else sample


def _tile(value: Tensor, s: int) -> Tensor:
    """A covariate (N, ...) for the rows of (S, N, D): sample-major, as `decode` flattens."""
    return value.expand(s, *value.shape).flatten(0, 1)


def _map(function: Callable[[Tensor], Tensor], output: Output) -> Output:
    """Apply to every tensor of a decoder's output."""
    return function(output) if isinstance(output, Tensor) else tuple(function(leaf) for leaf in output)
