"""A model made of a decoder, a likelihood and a prior, which is what most users bring.

`DecoderModel.decode` is the only place where (S, N) latents are flattened to rows for a decoder.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, overload

import torch
from torch import Tensor, nn

from ..core import Rows, covariates, forked, kind_of, log_standard_normal, normal, observed
from .likelihoods import Likelihood, Output, as_likelihood, bernoulli
from .modules import called, device_and_dtype, n_parameters
from .own_priors import Prior, as_prior
from .protocols import as_shape, latent_size
from .sigmoids import RecordedSigmoids

__all__ = ["DecoderModel"]


class DecoderModel(nn.Module):
    """A model made of a decoder, a likelihood and a prior.

    Args:
        decoder: called with rows z (R, *latent_shape), and with the tensors of x named in `condition` as keywords.
        likelihood: a name such as "bernoulli" (which takes logits), a `Likelihood` such as
            ``likelihoods.gaussian(0.1)``, or a callable output -> torch Distribution or (x, output) -> (S, N) in nats.
        latent_shape: D, or a tuple, which is flattened to D internally.
        prior: None for N(0, I); any object with a normalized ``log_prob(z)``: (S, N, *latent_shape) -> (S, N); or a
            function of rows z (R, *latent_shape) -> log p(z) (R,), from which nothing can be simulated.
        condition: the names of the tensors in x that the decoder needs; x is then a mapping with the data under "x".
        mask: the name of a tensor in x, shaped as the data, that is 0 where a number is missing. What the data hold
            there, NaN for instance, has no part in log p(x|z); the encoder gets it as it is.
    Raises:
        ValueError: an unknown likelihood, one that lacks its scale, or a `latent_shape` that is not positive.
        TypeError: a likelihood that is neither a name nor a `Likelihood` nor callable, or a prior of another kind.
    """

    def __init__(
        self,
        decoder: nn.Module | Callable[..., Any],
        likelihood: str | Likelihood | Callable[..., Any],
        latent_shape: int | Sequence[int],
        prior: Prior | Callable[[Tensor], Tensor] | None = None,
        condition: Sequence[str] = (),
        mask: str | None = None,
    ) -> None:
        super().__init__()
        self.mask = mask
        self.decoder = decoder
        self.likelihood = as_likelihood(likelihood)
        self.latent_shape = as_shape(latent_shape)
        self.prior = as_prior(prior)
        self.condition = tuple(condition)

    def extra_repr(self) -> str:
        """The latents, the prior and the number of parameters, which torch prints before the networks."""
        prior = "N(0, I)" if self.prior is None else type(self.prior).__name__
        return f"{latent_size(self)} latents, prior {prior}, {n_parameters(self):,} parameters"

    def log_prior(self, z: Tensor, x: Rows | None = None) -> Tensor:
        """log p(z) in nats: (S, N, D) -> (S, N)."""
        if self.prior is None:
            return log_standard_normal(z)
        value = self.prior.log_prob(z.unflatten(-1, self.latent_shape))
        return value.sum(-1) if value.shape == z.shape else value

    def decode(self, z: Tensor, x: Rows | None = None) -> Output:
        """The decoder's output for z (S, N, D), with leading dimensions (S, N).

        Raises:
            TypeError: the model is conditional and x is not a mapping.
            ValueError: x lacks a tensor that `condition` names.
        """
        return _map(lambda leaf: leaf.unflatten(0, z.shape[:2]), self._decoded_rows(z, x))

    def _decoded_rows(self, z: Tensor, x: Rows | None) -> Output:
        """The decoder's output with the leading dimension S N."""
        s, n, _ = z.shape
        rows = z.reshape(s * n, *self.latent_shape)
        given = {key: _tile(value, s) for key, value in covariates(x, self.condition).items()}
        output: Output = called(self.decoder, rows, **given)
        if not isinstance(output, Tensor | tuple | list):
            raise TypeError(
                f"the decoder must return a tensor or a tuple of tensors; got {kind_of(output)}. Pass a function that "
                "takes the tensor out of it"
            )
        return output

    def log_likelihood(self, x: Rows, z: Tensor) -> Tensor:
        """log p(x|z) in nats: x (N, *event), z (S, N, D) -> (S, N). ValueError if x is not shaped like the output.

        Probabilities of bits are scored by the logits behind them, if a sigmoid is the decoder's last step.
        """
        likelihood, output = self._scored(x, z)
        if self.mask is None:
            return likelihood.log_prob(observed(x), output)
        return likelihood.masked_log_prob(observed(x), output, covariates(x, [self.mask])[self.mask].bool())

    def _scored(self, x: Rows, z: Tensor) -> tuple[Likelihood, Output]:
        """The likelihood with the output that it scores, which for probabilities of bits are the logits behind them."""
        if self.likelihood.name != "bernoulli_probs":
            return self.likelihood, self.decode(z, x)
        probs, logits = self.probabilities(z, x)
        return (self.likelihood, probs) if logits is None else (bernoulli(), logits)

    def probabilities(self, z: Tensor, x: Rows | None = None) -> tuple[Output, Tensor | None]:
        """The output of a decoder of probabilities, and the logits behind it, if a sigmoid is its last step."""
        with RecordedSigmoids() as sigmoids:
            output = self._decoded_rows(z, x)
        logits = sigmoids.logits_of(output)
        parts = _map(lambda leaf: leaf.unflatten(0, z.shape[:2]), output)
        return parts, None if logits is None else logits.unflatten(0, z.shape[:2])

    def sample_prior(self, n: int, x: Rows | None, generator: torch.Generator) -> Tensor:
        """Draw n latents for each of the N rows of x, or for a single row if x is None: (n, N, D).

        Raises:
            TypeError: a prior without a `sample(shape)` method.
        """
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
        """Simulate one datum for each z (N, D). If x is a mapping, so is the result, with the covariates of x.

        Raises:
            TypeError: a likelihood that is only a log density and cannot be sampled.
        """
        with torch.no_grad():
            sample = self.likelihood.sample(self.decode(z[None], x), generator)[0]
        if self.mask is not None and isinstance(x, Mapping):  # what is missing stays so
            sample = torch.where(x[self.mask].bool(), sample, observed(x))
        return {**x, "x": sample} if isinstance(x, Mapping) else sample


def _tile(value: Tensor, s: int) -> Tensor:
    """A covariate (N, ...) for the rows of (S, N, D): sample-major, as `decode` flattens."""
    return value.expand(s, *value.shape).flatten(0, 1)


def _map(function: Callable[[Tensor], Tensor], output: Output) -> Output:
    """Apply to every tensor of a decoder's output."""
    return function(output) if isinstance(output, Tensor) else tuple(function(leaf) for leaf in output)
