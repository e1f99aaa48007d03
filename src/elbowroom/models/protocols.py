"""Protocols of latent-variable models p(z) p(x|z): what the estimators require of them.

    LatentModel     latent_shape, log_prior(z, x), log_likelihood(x, z)
    SamplesPrior    also sample_prior, for starts of fits, annealing from the prior, and simulation
    SamplesData     also sample_data, for the sandwich, which simulates its data

Samples are the leading dimension: z is (S, N, D), and log densities are (S, N). x is data in memory with N rows, a
tensor or a mapping. It is annotated as Any, so that a model may declare a narrower type.
"""

import math
from collections.abc import Sequence
from typing import Any, Protocol, TypeGuard

import torch
from torch import Tensor

__all__ = ["LatentModel", "SamplesData", "SamplesPrior", "as_shape", "can_sample_prior", "latent_size", "samples_prior"]


class LatentModel(Protocol):
    """What every estimator needs. Log densities are in nats, normalized, and summed over event dimensions."""

    @property
    def latent_shape(self) -> int | tuple[int, ...]:
        """The shape of one datum's latents, which are flattened to D in every z below."""

    def log_prior(self, z: Tensor, x: Any, /) -> Tensor:
        """log p(z) in nats: (S, N, D) -> (S, N). A conditional prior may depend on x."""

    def log_likelihood(self, x: Any, z: Tensor, /) -> Tensor:
        """log p(x|z) in nats: x with N rows, z (S, N, D) -> (S, N)."""


class SamplesPrior(LatentModel, Protocol):
    """A model whose prior can be sampled."""

    def sample_prior(self, n: int, x: Any, generator: torch.Generator, /) -> Tensor:
        """Draw n latents z for each of the N rows of x: (n, N, D)."""


class SamplesData(LatentModel, Protocol):
    """A model that can simulate data."""

    def sample_data(self, z: Tensor, x: Any, generator: torch.Generator, /) -> Any:
        """Simulate one datum for each z (N, D). If the model is conditional, the covariates are those of `x`."""


def as_shape(latent_shape: int | Sequence[int]) -> tuple[int, ...]:
    """A latent shape as a tuple of positive sizes. ValueError for anything else.

    >>> as_shape(5), as_shape((2, 3))
    ((5,), (2, 3))
    """
    shape = (latent_shape,) if isinstance(latent_shape, int) else tuple(latent_shape)
    if not shape or any(not isinstance(size, int) or size < 1 for size in shape):
        raise ValueError(f"latent_shape must be a positive integer or a tuple of them; got {latent_shape!r}")
    return shape


def can_sample_prior(model: LatentModel) -> TypeGuard[SamplesPrior]:
    """Whether the prior can be sampled: the model has a `sample_prior`, and its `prior`, if any, has a `sample`."""
    prior = getattr(model, "prior", None)
    return samples_prior(model) and (prior is None or hasattr(prior, "sample"))


def samples_prior(model: LatentModel) -> TypeGuard[SamplesPrior]:
    """Whether the model has the optional method `sample_prior`, its own or one that it passes on."""
    return callable(getattr(model, "sample_prior", None))


def latent_size(model: LatentModel) -> int:
    """D, the number of latent coordinates of one datum."""
    return math.prod(as_shape(model.latent_shape))
