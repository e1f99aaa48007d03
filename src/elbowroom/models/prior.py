"""Draws from a model's prior, with a check of their shape, and the test whether that prior is N(0, I)."""

import torch
from torch import Tensor

from ..core import BLOCK, Rows, log_standard_normal, normal, read_rows, seeded
from .protocols import LatentModel, SamplesPrior, latent_size

__all__ = ["is_standard_normal", "prior_draws"]

PROBES = 4  # points for each datum at which two log densities are compared


def prior_draws(model: SamplesPrior, n: int, x: Rows, n_rows: int, generator: torch.Generator) -> Tensor:
    """Draw n latents from the prior for each of the n_rows rows of x, (n, N, D), all independent of each other.

    A `sample_prior` that ignores x may return draws for a single row, (n, 1, D). It is then asked for n N of them,
    since data that shared draws would have errors that are not independent. The draws of a datum do not depend on how
    many data share its block: they are made for a whole block, whose last row is repeated, and cut.

    Raises:
        ValueError: `sample_prior` returns another shape.
    """
    n_drawn = max(n_rows, BLOCK)
    whole = read_rows(x, torch.arange(n_drawn).clamp(max=n_rows - 1))
    z = model.sample_prior(n, whole, generator)
    shape = (n, n_drawn, latent_size(model))
    if z.shape == (n, 1, shape[-1]):
        z = model.sample_prior(n * n_drawn, whole, generator)
        if z.shape == (n * n_drawn, 1, shape[-1]):
            z = z.reshape(shape)
    if z.shape != shape:
        raise ValueError(f"sample_prior must return (n, N, D) = {shape}; got {tuple(z.shape)}")
    return z[:, :n_rows]


def is_standard_normal(model: LatentModel, x: Rows, like: Tensor) -> bool:
    """Whether the model's log prior is that of N(0, I), compared at points about the origin.

    `like` (N, D) has the dtype and device of the latents of the N rows of x.
    """
    z = 2.0 * normal((PROBES, *like.shape), seeded(0, "prior probe"), like)
    with torch.no_grad():
        value = model.log_prior(z, x)
    return value.shape == z.shape[:2] and torch.allclose(value.double(), log_standard_normal(z.double()), rtol=1e-4)
