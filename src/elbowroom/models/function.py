"""A model given by its log densities alone."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..core import Rows, log_standard_normal, normal, observed
from .protocols import as_shape, latent_size

__all__ = ["FunctionModel"]


class FunctionModel:
    """A model given by its log densities alone.

    Args:
        log_likelihood: (x, z (S, N, D)) -> (S, N), normalized, in nats.
        latent_shape: D, or a tuple, which is flattened to D internally.
        log_prior: (z (S, N, D), x) -> (S, N), normalized, in nats; None for N(0, I). Only a model with the default
            prior has a `sample_prior`.
        sample_data: optional, (z (N, D), x, generator) -> x. Only the sandwich needs it.
    Raises:
        ValueError: a `latent_shape` that is not positive.
    """

    def __init__(
        self,
        log_likelihood: Callable[[Any, Tensor], Tensor],
        latent_shape: int | Sequence[int],
        log_prior: Callable[[Tensor, Any], Tensor] | None = None,
        sample_data: Callable[[Tensor, Any, torch.Generator], Any] | None = None,
    ) -> None:
        self.latent_shape = as_shape(latent_shape)
        self.log_likelihood = log_likelihood
        self._log_prior = log_prior
        if sample_data is not None:
            self.sample_data = sample_data
        if log_prior is None:
            self.sample_prior = self._sample_standard_normal

    def __repr__(self) -> str:
        names = [getattr(f, "__name__", type(f).__name__) for f in (self.log_likelihood, self._log_prior) if f]
        prior = "N(0, I)" if self._log_prior is None else names[-1]
        return f"FunctionModel({names[0]}, {latent_size(self)} latents, prior {prior})"

    def log_prior(self, z: Tensor, x: Rows | None) -> Tensor:
        """log p(z) in nats: (S, N, D) -> (S, N)."""
        if self._log_prior is not None:
            return self._log_prior(z, x)
        return log_standard_normal(z)

    def _sample_standard_normal(self, n: int, x: Rows | None, generator: torch.Generator) -> Tensor:
        like = observed(x) if x is not None else torch.empty(0)
        like = like if like.is_floating_point() else torch.empty(0, device=like.device)
        return normal((n, len(like) if x is not None else 1, latent_size(self)), generator, like)
