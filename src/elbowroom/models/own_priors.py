"""Priors other than N(0, I): what people bring, as an object with `log_prob`.

FunctionPrior   a function z -> log p(z)
VampPrior       the mixture of an encoder's answers to pseudo-inputs
"""

from collections.abc import Callable
from typing import Any, Protocol, cast

import torch
from torch import Tensor, distributions, nn

from ..core import kind_of

__all__ = ["FunctionPrior", "Prior", "VampPrior", "as_prior"]


class Prior(Protocol):
    """A normalized density of z. A prior that also has `sample(shape)` can start annealing and simulate data."""

    def log_prob(self, z: Tensor, /) -> Tensor:
        """log p(z) in nats: (S, N, *latent_shape) -> (S, N). For vector latents, (S, N, D) is summed over D."""


def as_prior(prior: object) -> Prior | None:
    """`prior` itself if it is None or has `log_prob`, and a callable as a `FunctionPrior`.

    Raises:
        TypeError: anything else.
    """
    if prior is None or hasattr(prior, "log_prob"):
        return cast(Prior | None, prior)
    if callable(prior):
        return FunctionPrior(prior)
    raise TypeError(
        f"prior must be None for N(0, I), an object with log_prob(z), or a function z -> log p(z); got {kind_of(prior)}"
    )


class FunctionPrior(nn.Module):
    """A prior from a function of rows z (R, *latent_shape) -> log p(z) (R,) in nats, which must be normalized."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z) in nats: (S, N, *latent_shape) -> (S, N).

        Raises:
            ValueError: the function does not return a number for each row.
        """
        rows = z.flatten(0, 1)
        value = self.function(rows)
        if not isinstance(value, Tensor) or value.shape != rows.shape[:1]:
            got = tuple(value.shape) if isinstance(value, Tensor) else kind_of(value)
            raise ValueError(
                f"the prior must give log p(z) of shape ({len(rows)},) for z {tuple(rows.shape)}; got {got}"
            )
        return value.unflatten(0, z.shape[:2])


class VampPrior(nn.Module):
    """The mixture, in equal parts, of an encoder's answers to pseudo-inputs (Tomczak and Welling 2018).

    Args:
        encoder: pseudo-inputs (K, *event) -> mean and log variance, (K, D) each.
        pseudo_inputs: a function without arguments that returns them.
    """

    def __init__(self, encoder: Callable[[Tensor], tuple[Tensor, Tensor]], pseudo_inputs: Callable[[], Tensor]) -> None:
        super().__init__()
        self.encoder, self.pseudo_inputs = encoder, pseudo_inputs

    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z) in nats: (S, N, *latent_shape) -> (S, N)."""
        return self._mixture().log_prob(z.flatten(2))

    def sample(self, shape: tuple[int, ...]) -> Tensor:
        """Draws (*shape, D)."""
        return self._mixture().sample(torch.Size(shape))

    def _mixture(self) -> distributions.Distribution:
        mean, log_var = self.encoder(self.pseudo_inputs())
        parts = distributions.Independent(distributions.Normal(mean, (0.5 * log_var).exp()), 1)
        shares = distributions.Categorical(logits=mean.new_zeros(len(mean)))
        return distributions.MixtureSameFamily(shares, parts)
