"""Plain, slow references in numpy, written from the mathematics and from nothing in elbowroom.

The linear-Gaussian model has every quantity in closed form:

    p(z) = N(0, I),   p(x|z) = N(W z + b, s^2 I)
    log p(x) = log N(x; b, W W' + s^2 I)
    p(z|x)   = N(m, S),   S^-1 = I + W'W / s^2,   m = S W'(x - b) / s^2           (Bishop 2006, section 2.3.3)

For any q = N(m_q, S_q) the ELBO is log p(x) - KL(q || p(z|x)), here computed from its own three expectations.
The best diagonal q has the posterior's mean and the variances 1 / diag(S^-1): it matches the precision's
diagonal. Raising the likelihood to the power 1/b, as a beta-VAE's objective does, turns s^2 into b s^2 for
every purpose but the normalizing constant, so its best q is known too, and what it loses under the true
model.

For models of one or two latents without closed forms there is quadrature on a grid and, for the ELBO of a
Gaussian q, Gauss-Hermite. AIS and IWAE are loops. A log joint here is a function (R, D) -> (R,) of one
datum's latents. Shapes: N data, P dimensions of x, D latents, C chains, K samples, R rows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Grid",
    "LinearGaussian",
    "ais",
    "best_diagonal",
    "elbo_by_quadrature",
    "gaussian_entropy",
    "gaussian_kl",
    "gradient",
    "hmc_step",
    "iwae",
    "leapfrog",
    "log_mean_exp",
    "log_normal",
    "log_weights",
    "quadrature",
    "reverse_ais",
]

Array = NDArray[np.float64]
LogDensity = Callable[[Array], Array]


@dataclass(frozen=True)
class LinearGaussian:
    """x = W z + b + s eps with z and eps standard normal; weight (P, D), bias (P,), scale s > 0."""

    weight: Array
    bias: Array
    scale: float

    @classmethod
    def random(cls, n_data_dims: int, n_latents: int, scale: float, seed: int) -> LinearGaussian:
        rng = np.random.default_rng(seed)
        return cls(rng.standard_normal((n_data_dims, n_latents)), rng.standard_normal(n_data_dims), scale)

    def sample(self, n: int, seed: int) -> tuple[Array, Array]:
        """n draws of (z, x), (n, D) and (n, P)."""
        rng = np.random.default_rng(seed)
        z = rng.standard_normal((n, self.weight.shape[1]))
        return z, z @ self.weight.T + self.bias + self.scale * rng.standard_normal((n, len(self.bias)))

    def log_joint(self, x: Array) -> LogDensity:
        """log p(x, z) of one datum x (P,), as a function of z (R, D)."""
        n_data_dims, n_latents = self.weight.shape

        def value(z: Array) -> Array:
            error = x - self.bias - z @ self.weight.T
            constants = (n_latents + n_data_dims) * math.log(2 * math.pi) / 2
            constants += n_data_dims * math.log(self.scale)
            return -(z**2).sum(-1) / 2 - (error**2).sum(-1) / (2 * self.scale**2) - constants

        return value

    def log_evidence(self, x: Array) -> Array:
        """log p(x) in nats, (N, P) -> (N,)."""
        return log_normal(x, self.bias, self.weight @ self.weight.T + self.scale**2 * np.eye(len(self.bias)))

    def precision(self) -> Array:
        """The posterior's precision (D, D), the same for every x."""
        return np.eye(self.weight.shape[1]) + self.weight.T @ self.weight / self.scale**2

    def posterior(self, x: Array) -> tuple[Array, Array]:
        """Mean (N, D) and covariance (D, D) of p(z|x)."""
        covariance = np.asarray(np.linalg.inv(self.precision()), dtype=np.float64)
        return (x - self.bias) @ self.weight @ covariance / self.scale**2, covariance

    def elbo(self, x: Array, mean: Array, covariance: Array) -> Array:
        """E_q[log p(z)] + E_q[log p(x|z)] + H[q] (N,), q = N(mean (N, D), covariance (D, D) or (N, D, D))."""
        n_data_dims, n_latents = self.weight.shape
        spread = np.trace(covariance, axis1=-2, axis2=-1)
        log_prior = -(n_latents * math.log(2 * math.pi) + (mean**2).sum(-1) + spread) / 2
        error = ((x - self.bias - mean @ self.weight.T) ** 2).sum(-1)
        error = error + np.einsum("pi,...ij,pj->...", self.weight, covariance, self.weight)
        variance = self.scale**2
        log_likelihood = -n_data_dims * math.log(2 * math.pi * variance) / 2 - error / (2 * variance)
        return log_prior + log_likelihood + gaussian_entropy(covariance)

    def tempered(self, kl_weight: float) -> LinearGaussian:
        """The model with the posteriors of p(z) p(x|z)^(1/b), b = kl_weight: its scale is sqrt(b) s."""
        return LinearGaussian(self.weight, self.bias, self.scale * math.sqrt(kl_weight))

    def best(self, x: Array, family: str, kl_weight: float = 1.0) -> tuple[Array, Array]:
        """Mean (N, D), covariance (D, D) of the best q in "diagonal" or "full" for the objective with
        `kl_weight`."""
        target = self.tempered(kl_weight)
        mean, covariance = target.posterior(x)
        if family == "diagonal":
            covariance = best_diagonal(target.precision())
        elif family != "full":
            raise ValueError(f'family must be "diagonal" or "full"; got {family!r}')
        return mean, covariance

    def mismatch(self, x: Array, family: str, kl_weight: float) -> Array:
        """Nats (N,) that the best q for `kl_weight` loses under the true model to the best of its family."""
        return self.elbo(x, *self.best(x, family)) - self.elbo(x, *self.best(x, family, kl_weight))


def best_diagonal(precision: Array) -> Array:
    """Covariance (D, D) of the diagonal Gaussian of least KL(q || N(m, precision^-1)), at the mean m."""
    return np.diag(1 / np.diag(precision))


def log_normal(x: Array, mean: Array, covariance: Array) -> Array:
    """log N(x; mean, covariance) for x (..., P), covariance (P, P)."""
    error = x - mean
    log_det = np.linalg.slogdet(covariance)[1]
    square = (error * np.linalg.solve(covariance, error[..., None])[..., 0]).sum(-1)
    return -(x.shape[-1] * math.log(2 * math.pi) + log_det + square) / 2


def gaussian_entropy(covariance: Array) -> Array:
    """H[N(., covariance)] in nats, (..., D, D) -> (...)."""
    return (covariance.shape[-1] * math.log(2 * math.pi * math.e) + np.linalg.slogdet(covariance)[1]) / 2


def gaussian_kl(mean: Array, covariance: Array, other_mean: Array, other_covariance: Array) -> Array:
    """KL(N(mean, covariance) || N(other_mean, other_covariance)), (..., D) and (..., D, D) -> (...)."""
    shift = other_mean - mean
    ratio = np.linalg.solve(other_covariance, covariance)
    square = (shift * np.linalg.solve(other_covariance, shift[..., None])[..., 0]).sum(-1)
    trace = np.trace(ratio, axis1=-2, axis2=-1)
    return (trace + square - mean.shape[-1] - np.linalg.slogdet(ratio)[1]) / 2


@dataclass(frozen=True)
class Grid:
    """What quadrature knows of one datum: log p(x), the posterior's mean (D,) and covariance (D, D)."""

    log_evidence: float
    mean: Array
    covariance: Array


def quadrature(log_joint: LogDensity, n_latents: int, half_width: float = 10.0, n_points: int = 400) -> Grid:
    """The trapezoid rule on [-half_width, half_width]^D, D = n_latents of 1 or 2.

    For a smooth density that has died out at the edge it converges faster than any power of the spacing; the
    posterior must be wider than a few spacings, 2 half_width / n_points.
    """
    axis, step = np.linspace(-half_width, half_width, n_points, retstep=True)
    z = np.array(list(itertools.product(axis, repeat=n_latents)))
    log_p = log_joint(z)
    top = log_p.max()
    weight = np.exp(log_p - top)
    edge = (np.abs(z) == half_width).any(-1)
    if weight[edge].max() > 1e-12:
        left = weight[edge].max()
        raise ValueError(f"the density has not died out at the edge of the grid: {left:.1g} of its top")
    total = weight.sum()
    mean = weight @ z / total
    covariance = (z - mean).T @ ((z - mean) * weight[:, None]) / total
    return Grid(float(top + math.log(total) + n_latents * math.log(step)), mean, covariance)


def elbo_by_quadrature(log_joint: LogDensity, mean: Array, covariance: Array, n_points: int = 60) -> float:
    """E_q[log p(x, z)] + H[q], q = N(mean (D,), covariance (D, D)): Gauss-Hermite in whitened axes."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(n_points)
    weights = weights / weights.sum()
    grid = np.array(list(itertools.product(nodes, repeat=len(mean))))
    weight = np.array([math.prod(row) for row in itertools.product(weights, repeat=len(mean))])
    z = mean + grid @ np.linalg.cholesky(covariance).T
    return float(weight @ log_joint(z) + gaussian_entropy(covariance))


def log_mean_exp(log_w: Array) -> float:
    """log of the mean of exp(log_w), one term after the other."""
    top = max(log_w)
    return float(top + math.log(math.fsum(math.exp(value - top) for value in log_w) / len(log_w)))


def log_weights(
    log_joint: LogDensity, mean: Array, covariance: Array, n_samples: int, rng: np.random.Generator
) -> Array:
    """log p(x, z) - log q(z) at `n_samples` draws of q = N(mean (D,), covariance (D, D)), (K,)."""
    z = mean + rng.standard_normal((n_samples, len(mean))) @ np.linalg.cholesky(covariance).T
    return log_joint(z) - log_normal(z, mean, covariance)


def iwae(log_w: Array, n_samples: int) -> Array:
    """The bound of each group of K = `n_samples` log weights: (groups * K,) -> (groups,). K = 1: the ELBO."""
    return np.array([log_mean_exp(group) for group in log_w.reshape(-1, n_samples)])


def gradient(log_density: LogDensity, z: Array, step: float = 1e-5) -> Array:
    """Central differences, (R, D) -> (R, D): the error is of order step^2."""
    columns = []
    for unit in np.eye(z.shape[1]):
        columns.append((log_density(z + step * unit) - log_density(z - step * unit)) / (2 * step))
    return np.stack(columns, -1)


def leapfrog(
    log_density: LogDensity, z: Array, momentum: Array, step_size: float, n_leapfrog: int
) -> tuple[Array, Array]:
    """n_leapfrog steps of half kick, drift, half kick (Neal 2011), unit mass; z and momentum (C, D)."""
    for _ in range(n_leapfrog):
        momentum = momentum + step_size / 2 * gradient(log_density, z)
        z = z + step_size * momentum
        momentum = momentum + step_size / 2 * gradient(log_density, z)
    return z, momentum


def hmc_step(
    log_density: LogDensity, z: Array, step_size: float, n_leapfrog: int, rng: np.random.Generator
) -> tuple[Array, NDArray[np.bool_]]:
    """One Metropolis-adjusted trajectory of each chain (C, D); returns the new states and who accepted."""
    momentum = rng.standard_normal(z.shape)
    proposal, end = leapfrog(log_density, z, momentum, step_size, n_leapfrog)
    before = log_density(z) - (momentum**2).sum(-1) / 2
    after = log_density(proposal) - (end**2).sum(-1) / 2
    accepted = np.log(rng.random(len(z))) < after - before
    return np.where(accepted[:, None], proposal, z), accepted


def ais(
    log_base: LogDensity,
    log_joint: LogDensity,
    z: Array,
    betas: Sequence[float] | Array,
    step_size: float,
    n_leapfrog: int,
    rng: np.random.Generator,
) -> tuple[Array, Array]:
    """Neal 2001. From exact draws z (C, D) of the base to the posterior, along base^(1-b) joint^b.

    Returns log weights (C,), E[exp(log_w)] = p(x), and the last states. betas runs from 0 to 1. Increment
    first, then the move that leaves the new density invariant; after the last increment no move is needed.
    """
    log_w = np.zeros(len(z))
    for below, beta in itertools.pairwise(betas):
        log_w = log_w + (beta - below) * (log_joint(z) - log_base(z))
        if beta < 1:
            z, _ = hmc_step(_between(log_base, log_joint, beta), z, step_size, n_leapfrog, rng)
    return log_w, z


def reverse_ais(
    log_base: LogDensity,
    log_joint: LogDensity,
    z: Array,
    betas: Sequence[float] | Array,
    step_size: float,
    n_leapfrog: int,
    rng: np.random.Generator,
) -> tuple[Array, Array]:
    """Grosse et al. 2015. `ais` run backwards from exact draws z (C, D) of the posterior.

    Returns log weights (C,) with E[exp(-log_w)] = 1 / p(x), so that E[log_w] is at least log p(x); and the
    states reached at the base.
    """
    log_w = np.zeros(len(z))
    for below, beta in reversed(list(itertools.pairwise(betas))):
        if beta < 1:
            z, _ = hmc_step(_between(log_base, log_joint, beta), z, step_size, n_leapfrog, rng)
        log_w = log_w + (beta - below) * (log_joint(z) - log_base(z))
    return log_w, z


def _between(log_base: LogDensity, log_joint: LogDensity, beta: float) -> LogDensity:
    return lambda z: (1 - beta) * log_base(z) + beta * log_joint(z)
