r"""Mixtures of Student t's, one for each datum, and their fit to draws by EM (Dempster, Laird and Rubin 1977)."""

import math

import torch
from torch import Tensor

from ..core import uniform
from .proposals import log_student_t

__all__ = ["ComponentMixture", "cholesky", "fitted_mixture", "joined", "spread_out"]

N_EM_STEPS = 6
FLOOR = 0.2  # the part of the shares that all components have alike
FREEDOM = 3  # degrees of freedom of the components
POOLED_DRAWS = 2.0  # draws that the average covariance counts for in that of each component


class ComponentMixture:
    """A mixture of C multivariate Student t's for each of N data, in float64.

    Args:
        log_shares: the logarithms of their shares (C, N).
        centers: (C, N, D).
        scales: lower-triangular, (C, N, D, D).
    """

    has_density = True

    def __init__(self, log_shares: Tensor, centers: Tensor, scales: Tensor) -> None:
        self.log_shares, self.centers, self.scales = log_shares, centers, scales
        self.size = centers.shape[-1]
        self.noise_size = self.size + FREEDOM + 1
        identity = torch.eye(self.size, dtype=scales.dtype, device=scales.device)
        self.inverse_scales = torch.linalg.solve_triangular(scales, identity.expand(scales.shape), upper=False)
        self._log_weights = log_shares - scales.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def rows(self, index: Tensor) -> "ComponentMixture":
        """The mixtures of the data `index` (R,)."""
        return ComponentMixture(self.log_shares[:, index], self.centers[:, index], self.scales[:, index])

    def rsample_and_log_q(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Map standard normal noise (S, N, D + nu + 1) to z (S, N, D) and log q in nats (S, N)."""
        e, rest, which = noise.double().split([self.size, FREEDOM, 1], dim=-1)
        chance = 0.5 * (1 + torch.erf(which[..., 0] / math.sqrt(2)))
        ends = self.log_shares.exp().cumsum(0)[:-1, None]
        component = (chance > ends).sum(0)
        data = torch.arange(noise.shape[1], device=noise.device)
        u = e / rest.square().mean(-1, keepdim=True).sqrt()
        z = self.centers[component, data] + (self.scales[component, data] @ u[..., None])[..., 0]
        z = z.to(noise)
        return z, self.log_prob(z)

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z) in nats: (S, N, D) -> (S, N), in float64."""
        return torch.logsumexp(self._terms(self._whitened(z).square().sum(-2)), dim=0).T

    def log_prob_and_grad(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """log q(z) in nats (S, N), and its gradient in z (S, N, D), both in float64."""
        u = self._whitened(z)
        square = u.square().sum(-2)
        terms = self._terms(square)
        pull = torch.softmax(terms, 0) * (FREEDOM + self.size) / (FREEDOM + square)
        grad = -(self.inverse_scales.mT @ (pull[..., None, :] * u)).sum(0)
        return torch.logsumexp(terms, 0).T, grad.permute(2, 0, 1)

    def log_terms(self, z: Tensor) -> Tensor:
        """Log densities (C, N, S) of z (S, N, D) under normals in place of the t's, each with its share and up to one
        constant.
        """
        return -0.5 * self._whitened(z).square().sum(-2) + self._log_weights[..., None]

    def _whitened(self, z: Tensor) -> Tensor:
        """z (S, N, D) in the coordinates of each component, (C, N, D, S): in this order of dimensions it is fast."""
        return self.inverse_scales @ (z.double().permute(1, 2, 0).contiguous() - self.centers[..., None])

    def _terms(self, square: Tensor) -> Tensor:
        return log_student_t(square, self.size, FREEDOM) + self._log_weights[..., None]


def joined(first: ComponentMixture, second: ComponentMixture, share: float) -> ComponentMixture:
    """A mixture of two mixtures, the second of which has this share."""
    return ComponentMixture(
        torch.cat([first.log_shares + math.log1p(-share), second.log_shares + math.log(share)]),
        torch.cat([first.centers, second.centers]),
        torch.cat([first.scales, second.scales]),
    )


def fitted_mixture(even: Tensor, number: int, generator: torch.Generator) -> ComponentMixture:
    """A number of normals fitted by EM to draws of equal weight (S, N, D)."""
    centers = spread_out(even, number, generator)
    nearest = (even - centers[:, None]).square().sum(-1).argmin(0)
    owners = torch.nn.functional.one_hot(nearest.T, number).movedim(-1, 0).double()
    for _ in range(N_EM_STEPS):
        owners = torch.softmax(_moments(even, owners).log_terms(even), 0)
    return _moments(even, owners)


def _moments(z: Tensor, owners: Tensor) -> ComponentMixture:
    """Components with the moments of draws z (S, N, D) that belong to them by `owners` (C, N, S)."""
    n_draws, _, d = z.shape
    size, middle = owners.sum(-1), z.mean(0)
    apart = (z - middle).transpose(0, 1)
    means = (owners.transpose(0, 1) @ apart).transpose(0, 1) / size.clamp(min=1e-6)[..., None]
    squares = (apart[..., None] * apart[..., None, :]).flatten(2)
    scatter = (owners.transpose(0, 1) @ squares).transpose(0, 1).unflatten(-1, (d, d))
    scatter = scatter - size[..., None, None] * means[..., None] * means[..., None, :]
    pooled = scatter.sum(0) / n_draws
    least = 1e-12 * apart.square().mean((1, 2))[:, None, None] + 1e-24
    pooled = pooled + least * torch.eye(d).to(z)
    covariance = (scatter + POOLED_DRAWS * pooled) / (size + POOLED_DRAWS)[..., None, None]
    shares = (1 - FLOOR) * size / n_draws + FLOOR / len(size)
    return ComponentMixture(shares.log(), middle + means, cholesky(covariance, torch.eye(d).to(z)))


def cholesky(covariance: Tensor, otherwise: Tensor) -> Tensor:
    """The lower-triangular scales (C, N, D, D) of covariances, and `otherwise` where rounding leaves them none."""
    scales, info = torch.linalg.cholesky_ex(covariance.nan_to_num())
    return torch.where((info == 0)[..., None, None], scales, otherwise)


def spread_out(z: Tensor, number: int, generator: torch.Generator) -> Tensor:
    """Some of the draws z (S, N, D) that lie apart, (number, N, D).

    Each is drawn in proportion to its squared distance from those before it (k-means++, Arthur and Vassilvitskii 2007).
    """
    picked = [z[0]]
    distance = torch.full(z.shape[:2], torch.inf, dtype=z.dtype, device=z.device)
    for chance in uniform((number - 1, z.shape[1]), generator, z, data_axis=1):
        apart = z - picked[-1]
        distance = torch.minimum(distance, torch.einsum("snd,snd->sn", apart, apart))
        ends = distance.cumsum(0)
        index = (ends < chance * ends[-1]).sum(0).clamp(max=len(z) - 1)
        picked.append(z[index, torch.arange(z.shape[1], device=z.device)])
    return torch.stack(picked)
