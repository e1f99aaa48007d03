"""The Gaussian families, with a diagonal and with a full covariance, and the budgets of their local fits."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..core import log_standard_normal
from .affine import AffineMap, scale_tril
from .family import Ascent, Budget, Family
from .small_networks import Params, batched_matmul

__all__ = ["DiagonalGaussian", "FullGaussian", "complete_sets"]

LEAST_PAIRS = 16  # mirrored pairs in a step of a fit, rounded up to complete sets of D
MOST_PAIRS = 128  # pairs in a step of a diagonal fit, which has only 2 D numbers to learn
MAX_FULL_SIZE = 300  # latents above which D^2 numbers for each datum cost more than they tell


class DiagonalGaussian(Family):
    """N(mean, diag(scale^2)), with independent latents. An encoder emits (mean, log-variance), 2 D numbers."""

    name = "diagonal"
    place = 1
    members, assumption, remedy = "a diagonal Gaussian", "independent latents", "a full-covariance posterior"
    step = "factorization"
    is_gaussian = True
    ascent = Ascent.NATURAL
    budget = Budget(n_steps=2, learning_rate=1.0, tolerance=0.01, n_evaluation=48, max_rounds=30)

    def __init__(self, latent_shape: int | Sequence[int]) -> None:
        super().__init__(latent_shape)
        self.context_size = 2 * self.size

    def condition(self, weights: Mapping[str, Tensor], context: Tensor) -> Params:
        mean, log_var = context.chunk(2, dim=-1)
        return {"mean": mean, "log_scale": 0.5 * log_var}

    def rsample_and_log_q(self, params: Params, noise: Tensor) -> tuple[Tensor, Tensor]:
        z = params["mean"] + params["log_scale"].exp() * noise
        return z, log_standard_normal(noise) - params["log_scale"].sum(-1)

    def log_prob(self, params: Params, z: Tensor) -> Tensor:
        noise = (z - params["mean"]) * torch.exp(-params["log_scale"])
        return log_standard_normal(noise) - params["log_scale"].sum(-1)

    def at(self, mean: Tensor, log_scale: Tensor, generator: torch.Generator) -> Params:
        return {"mean": mean, "log_scale": log_scale}

    def started_at(self, start: Params, generator: torch.Generator) -> Params:
        """The parameters at which a fit starts.

        From a full Gaussian p it is the diagonal q that minimizes KL(q || p), with the diagonal of p's precision.
        """
        if "lower" in start:
            precision = torch.cholesky_inverse(scale_tril(start)).diagonal(dim1=-2, dim2=-1)
            start = {"mean": start["mean"], "log_scale": -0.5 * precision.log()}
        return super().started_at(start, generator)

    def metric(self, start: Params) -> AffineMap | None:
        return AffineMap.of_gaussian(start) if "lower" in start else None

    def draws_per_step(self, budget: Budget) -> int:
        """The number of draws in one step of a fit: the budget's, or complete sets where it names none."""
        return budget.n_samples or 2 * min(complete_sets(self.size), MOST_PAIRS)

    def lacks_whole_sets(self) -> bool:
        return complete_sets(self.size) > MOST_PAIRS

    def frame(self, params: Params) -> AffineMap | None:
        return AffineMap.of_gaussian(params)


class FullGaussian(Family):
    """N(mean, L L'), with L lower triangular.

    An encoder emits the mean (D), twice the log of L's diagonal (D), and L's strict lower part (D (D - 1) / 2). That
    part should be zero at first: so many random numbers would spread z far beyond what a decoder can use.
    """

    name = "full"
    place = 2
    members, assumption, remedy = "a full-covariance Gaussian", "a Gaussian shape", "a flow posterior"
    step = "gaussianity"
    max_size = MAX_FULL_SIZE
    is_gaussian = True
    ascent = Ascent.NATURAL
    budget = Budget(n_steps=7, learning_rate=1.0, tolerance=0.01, n_evaluation=64, min_rounds=2, max_rounds=12)

    def __init__(self, latent_shape: int | Sequence[int]) -> None:
        super().__init__(latent_shape)
        self.context_size = 2 * self.size + self.size * (self.size - 1) // 2
        self.zero_at_first = slice(2 * self.size, None)

    def condition(self, weights: Mapping[str, Tensor], context: Tensor) -> Params:
        d = self.size
        mean, log_var, lower = context.split([d, d, context.shape[-1] - 2 * d], dim=-1)
        rows, columns = torch.tril_indices(d, d, offset=-1, device=context.device)
        full = context.new_zeros(len(context), d, d).index_put(
            (torch.arange(len(context))[:, None], rows, columns), lower
        )
        return {"mean": mean, "log_scale": 0.5 * log_var, "lower": full}

    def rsample_and_log_q(self, params: Params, noise: Tensor) -> tuple[Tensor, Tensor]:
        z = params["mean"] + batched_matmul(noise, scale_tril(params).mT)
        return z, log_standard_normal(noise) - params["log_scale"].sum(-1)

    def log_prob(self, params: Params, z: Tensor) -> Tensor:
        noise = AffineMap.of_gaussian(params).inverse(z)
        return log_standard_normal(noise) - params["log_scale"].sum(-1)

    def at(self, mean: Tensor, log_scale: Tensor, generator: torch.Generator) -> Params:
        n, d = mean.shape
        return {"mean": mean, "log_scale": log_scale, "lower": mean.new_zeros(n, d, d)}

    def frame(self, params: Params) -> AffineMap | None:
        return AffineMap.of_gaussian(params)

    def draws_per_step(self, budget: Budget) -> int:
        """The number of draws in one step of a fit: the budget's, or complete sets where it names none."""
        return budget.n_samples or 2 * complete_sets(self.size)

    def draws_to_approach(self) -> int:
        """The number of draws in one of the many small steps of a fit from a far start."""
        return max(12, 2 * math.ceil(self.size / 8))


def complete_sets(size: int) -> int:
    """The least number of mirrored pairs, `LEAST_PAIRS` or more, that makes whole sets of `size` orthogonal draws.

    The products of different coordinates cancel in a whole set, so that a step makes no noise where the posterior is a
    Gaussian.
    """
    return size * math.ceil(LEAST_PAIRS / size)
