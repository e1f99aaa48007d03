"""What every estimator asks of a latent-variable model p(z) p(x|z), written down.

    LatentModel     latent_shape, log_prior(z, x), log_likelihood(x, z)
    SamplesPrior    and sample_prior: starts of fits, annealing from the prior, simulation
    SamplesData     and sample_data: the sandwich, which simulates its data

Samples lead: z is (S, N, D), log densities are (S, N). x is data in memory with N rows, a tensor or a mapping; a model
of one's own may say more narrowly which, so here it is anything.
"""

import math
from collections.abc import Sequence
from typing import Any, Protocol, TypeGuard

import torch
from torch import Tensor

__all__ = ["LatentModel", "SamplesData", "SamplesPrior", "as_shape", "can_sample_prior", "latent_size", "samples_prior"]


class LatentModel(Protocol):
    """What every estimator needs. Log densities are normalized: constants in, event dimensions summed, nats."""

    @property
    def latent_shape(self) -> int | tuple[int, ...]:
        """The shape of one datum's latents; flattened to D in every z here."""

    def log_prior(self, z: Tensor, x: Any, /) -> Tensor:
        """log p(z): (S, N, D) -> (S, N). x is there for conditional priors."""

    def log_likelihood(self, x: Any, z: Tensor, /) -> Tensor:
        """log p(x|z): x with N rows, z (S, N, D) -> (S, N)."""


class SamplesPrior(LatentModel, Protocol):
    """A model whose prior can be drawn from."""

    def sample_prior(self, n: int, x: Any, generator: torch.Generator, /) -> Tensor:
        """n draws of z for each of the N rows of x: (n, N, D)."""


class SamplesData(LatentModel, Protocol):
    """A model that can simulate data."""

    def sample_data(self, z: Tensor, x: Any, generator: torch.Generator, /) -> Any:
        """One x for each z (N, D); where the model is conditional, `x` lends the covariates."""


def as_shape(latent_shape: int | Sequence[int]) -> tuple[int, ...]:
    """A tuple of positive sizes.

    >>> as_shape(5), as_shape((2, 3))
    ((5,), (2, 3))
    """
    shape = (latent_shape,) if isinstance(latent_shape, int) else tuple(latent_shape)
    if not shape or any(not isinstance(size, int) or size < 1 for size in shape):
        raise ValueError(f"latent_shape must be a positive integer or a tuple of them; got {latent_shape!r}")
    return shape


def can_sample_prior(model: LatentModel) -> TypeGuard[SamplesPrior]:
    """Whether draws of the prior can be had: it is optional, and a prior module may have a density alone."""
    prior = getattr(model, "prior", None)
    return samples_prior(model) and (prior is None or hasattr(prior, "sample"))


def samples_prior(model: LatentModel) -> TypeGuard[SamplesPrior]:
    """Whether the model has the optional method `sample_prior`, its own or one that it hands on."""
    return callable(getattr(model, "sample_prior", None))


def latent_size(model: LatentModel) -> int:
    """D, the number of latent coordinates of one datum."""
    return math.prod(as_shape(model.latent_shape))
