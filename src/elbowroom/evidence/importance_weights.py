r"""Summaries of log importance weights (K, N): log-mean and its error, effective sample size, Pareto k-hat.

log mean(w),   error = std(w / mean(w)) / sqrt(K),   effective sample size = (sum w)^2 / sum w^2,   Pareto k-hat
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..results import Array

__all__ = [
    "GROUPS",
    "are_believable",
    "effective_sample_size",
    "grouped_noise",
    "k_hat",
    "k_hat_threshold",
    "log_mean_exp",
    "resampled",
]

MIN_EFFECTIVE = 10  # draws; fewer cannot tell how much they vary
GROUPS = 16  # groups of draws, whose deviations an estimate keeps


def grouped_noise(deviations: Tensor, least: Tensor | None = None) -> Array:
    """Turn the deviations (K, N) of single draws into noise (G, N) whose squares sum to their variance / K, G = 16.

    With K = 1 the noise is NaN, since a single draw says nothing about its own error. With `least` (N,) the error of a
    datum is not below that, such as what rounding alone would make of it.
    """
    n_draws, n = deviations.shape
    if n_draws < 2:
        return np.full((GROUPS, n), np.nan)
    total = torch.zeros(GROUPS, n, dtype=torch.float64, device=deviations.device)
    total.index_add_(0, torch.arange(n_draws, device=deviations.device) % GROUPS, deviations.double())
    target = (deviations.double().square().sum(0) / (n_draws - 1) / n_draws).sqrt()
    target = target if least is None else target.maximum(least.to(target))
    size = total.square().sum(0).sqrt()
    noise = total * torch.where(size > 0, target / size, 0.0)
    noise[0] += torch.where(size > 0, 0.0, target)  # groups that cancel exactly leave no direction: any will do
    return noise.cpu().numpy()


def log_mean_exp(log_w: Tensor, strata: int = 1) -> tuple[Tensor, Tensor]:
    """log(mean(w)) over draws, and the deviations w / mean(w) - 1 whose spread is its delta-method error.

    Args:
        log_w: log weights (K, N) in nats.
        strata: how many components the draws alternate between; deviations are then from the mean of each.
    Returns:
        The value (N,) in nats and the deviations (K, N). The error of the value is std(deviations) / sqrt(K).
    """
    value = torch.logsumexp(log_w.double(), 0) - float(np.log(len(log_w)))
    deviations = torch.exp(log_w.double() - value) - 1.0
    if strata > 1:
        for component in range(strata):
            deviations[component::strata] -= deviations[component::strata].mean(0)
    return value, deviations


def effective_sample_size(log_w: Tensor) -> Tensor:
    """(sum w)^2 / sum w^2 over draws, between 1 and K (Kong 1992): log weights (K, N) -> (N,)."""
    log_w = log_w.double()
    return torch.exp(2 * torch.logsumexp(log_w, 0) - torch.logsumexp(2 * log_w, 0))


def resampled(z: Tensor, shares: Tensor, n_draws: int, chance: Tensor) -> Tensor:
    """Draws (n_draws, N, D) of equal weight from points z (S, N, D) with these shares (S, N) of each datum's weight.

    Systematic resampling: one `chance` (N,) of each datum, uniform on [0, 1), moves a comb of n_draws teeth.
    """
    ticks = (torch.arange(n_draws, device=z.device)[:, None] + chance) / n_draws
    picked = torch.searchsorted(shares.cumsum(0).T.contiguous(), ticks.T.contiguous()).T.clamp(max=len(z) - 1)
    return z.gather(0, picked[..., None].expand(-1, -1, z.shape[-1]))


def k_hat_threshold(n_draws: int) -> float:
    """The largest k-hat at which a mean of K = n_draws weights is trusted: min(1 - 1 / log10(K), 0.7).

    It is from Vehtari, Simpson, Gelman, Yao and Gabry (2024), Pareto smoothed importance sampling, section 3.

    >>> k_hat_threshold(100)
    0.5
    """
    return min(1.0 - 1.0 / float(np.log10(max(n_draws, 11))), 0.7)


def are_believable(log_w: Tensor) -> NDArray[np.bool_]:
    """Whether the error of log mean(w) can be believed, (K, N) -> (N,): k-hat is small, and many draws carry the sum.

    Neither is enough alone. One outlier among thousands of even weights leaves the shape of their tail as it was, and
    k-hat small, though it carries most of the sum; and heavy tails can share the sum among many draws.
    """
    shared = effective_sample_size(log_w) >= MIN_EFFECTIVE
    return (k_hat(log_w) <= k_hat_threshold(len(log_w))) & shared.cpu().numpy()


def k_hat(log_w: Tensor) -> Array:
    """Shape k of a generalized Pareto distribution fitted to the largest importance weights, (K, N) -> (N,).

    The tail is the min(K / 5, 3 sqrt(K)) largest weights. The fit is the profile posterior mean of Zhang and Stephens
    (2009), with the weakly informative prior of Vehtari et al. (2024).

    Returns:
        k for each datum. It is +inf if the tail has fewer than 5 draws, NaN if a log weight is NaN or +inf or all are
        -inf, and -inf if no weight exceeds the threshold of the tail, as when all weights are equal.
    """
    weights = log_w.double().cpu().numpy()
    n_draws, n = weights.shape
    tail = int(min(n_draws / 5, 3 * np.sqrt(n_draws)))
    if tail < 5:
        return np.full(n, np.inf)
    with np.errstate(all="ignore"):
        shifted = np.exp(weights - weights.max(axis=0))
        ordered = np.sort(shifted, axis=0)
        excess = ordered[-tail:] - np.maximum(ordered[-tail - 1], np.finfo(np.float64).tiny)
        k = _generalized_pareto_shape(excess)
    k = np.where(excess[-1] > 0, k, -np.inf)
    usable = ~np.isnan(weights).any(axis=0) & (weights < np.inf).all(axis=0) & np.isfinite(weights).any(axis=0)
    return np.where(usable, k, np.nan)


def _generalized_pareto_shape(excess: Array) -> Array:
    """Shape of the generalized Pareto distribution for ascending excesses (M, N) over the threshold -> (N,)."""
    m = len(excess)
    grid = 30 + int(np.sqrt(m))
    quartile = excess[int(m / 4 + 0.5) - 1]
    steps = 1.0 - np.sqrt(grid / (np.arange(1, grid + 1) - 0.5))
    theta = steps[:, None] / (3.0 * quartile) + 1.0 / excess[-1]
    shape = np.stack([np.log1p(-row * excess).mean(axis=0) for row in theta])
    profile = m * (np.log(-theta / shape) - shape - 1.0)
    posterior = np.exp(profile - profile.max(axis=0))
    best = (theta * posterior).sum(axis=0) / posterior.sum(axis=0)
    k = np.log1p(-best * excess).mean(axis=0)
    return (m * k + 10 * 0.5) / (m + 10)
