"""Models with a planted cause, and what it costs in closed form or by quadrature."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import elbowroom as er

__all__ = [
    "Linear",
    "beta_vae", "bimodal", "correlated", "curved", "linear", "memorizer", "no_gap", "on_grid", "wrong_encoder",
]  # fmt: skip


@dataclass(frozen=True)
class Linear:
    """A linear-Gaussian model with a linear encoder of (mean, log-variance) and data of its own: gaps in closed
    form.
    """

    model: er.LinearGaussian
    q: er.Amortized
    x: Tensor
    mean: Tensor
    variance: Tensor

    @property
    def elbo(self) -> Tensor:
        """(N,) L[q]."""
        return self.model.exact_elbo(self.x, self.mean, torch.diag(self.variance))


class _LinearEncoder(nn.Module):
    def __init__(self, mean: Callable[[Tensor], Tensor], variance: Tensor) -> None:
        super().__init__()
        self.mean = mean
        self.log_var: Tensor
        self.register_buffer("log_var", variance.log())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.mean(x), self.log_var.expand(len(x), -1)


def linear(
    weight: Tensor, n: int = 100, shift: float = 0.0, widen: float = 1.0, kl_weight: float = 1.0, seed: int = 0
) -> Linear:
    """The best diagonal encoder for p(z) p(x|z)^(1/kl_weight), its mean moved by `shift` and its variance times
    `widen`.
    """
    generator = torch.Generator().manual_seed(seed)
    model = er.LinearGaussian(weight, torch.linspace(-1, 1, len(weight)), 0.8)
    z = torch.randn(n, weight.shape[1], generator=generator)
    x = z @ weight.T + model.bias + 0.8 * torch.randn(n, len(weight), generator=generator)
    variance = widen / model.precision(kl_weight).diagonal()

    def encode(x: Tensor) -> Tensor:
        return model.posterior_mean(x, kl_weight) + shift

    q = er.Amortized(_LinearEncoder(encode, variance), er.DiagonalGaussian(weight.shape[1]))
    return Linear(model, q, x, encode(x), variance)


def _weight(correlation: float) -> Tensor:
    """(6, 3) weights whose columns overlap by `correlation`: the posterior is correlated by about as much."""
    generator = torch.Generator().manual_seed(1)
    columns = torch.linalg.qr(torch.randn(6, 3, generator=generator))[0]
    mixing = torch.linalg.cholesky((1 - correlation) * torch.eye(3) + correlation * torch.ones(3, 3))
    return 1.5 * columns @ mixing.T


def no_gap(n: int = 100) -> Linear:
    """Independent posterior, perfect encoder: nothing to lose."""
    return linear(_weight(0.0), n)


def wrong_encoder(n: int = 100) -> Linear:
    """Only the encoder is wrong."""
    return linear(_weight(0.0), n, shift=0.5, widen=2.0)


def correlated(n: int = 100) -> Linear:
    """Only independence is wrong."""
    return linear(_weight(0.9), n)


def beta_vae(kl_weight: float, n: int = 100) -> Linear:
    """Only the objective is wrong: the best encoder of a beta-VAE."""
    return linear(_weight(0.3), n, kl_weight=kl_weight)


def memorizer(n: int = 100) -> tuple[Linear, Tensor]:
    """An encoder that is perfect on its training data and off by 0.7 elsewhere; and held-out data of the same model."""
    train, heldout = no_gap(n), linear(_weight(0.0), n, seed=7)
    seen = train.x

    def encode(x: Tensor) -> Tensor:
        known = (x[:, None] == seen).all(-1).any(-1, keepdim=True)
        return train.model.posterior_mean(x) + torch.where(known, 0.0, 0.7)

    q = er.Amortized(_LinearEncoder(encode, train.variance), er.DiagonalGaussian(3))
    return Linear(train.model, q, train.x, train.mean, train.variance), heldout.x


def curved(n: int = 50) -> tuple[er.FunctionModel, Tensor]:
    """2 latents on a parabola: one mode, no Gaussian."""

    def means(z: Tensor) -> Tensor:
        return torch.stack([0.3 * z[..., 0], z[..., 1] + 0.8 * z[..., 0] ** 2], -1)

    return _normal_model(means, torch.tensor([0.5, 0.25]), n)


def bimodal(n: int = 50, size: int = 1) -> tuple[er.FunctionModel, Tensor]:
    """The first latent enters as z^2 + 0.2 z: for large x two modes of unequal weight, asymmetric throughout.

    With two latents the second follows the first.
    """

    def means(z: Tensor) -> Tensor:
        first = z[..., :1] ** 2 + 0.2 * z[..., :1]
        return torch.cat([first, z[..., 1:] + 0.5 * z[..., :1]], -1)

    return _normal_model(means, torch.tensor([0.5, 1.0])[:size], n)


def on_grid(model: er.FunctionModel, x: Tensor, half_width: float = 6.0, points: int = 1201) -> Tensor:
    """log p(x) (N,) by the midpoint rule over a square of 1 or 2 latents."""
    size = model.latent_shape[0]
    points = points if size == 1 else 481
    width = 2 * half_width / points
    line = -half_width + width * (torch.arange(points) + 0.5)
    z = torch.stack(torch.meshgrid(*[line] * size, indexing="ij"), -1).reshape(-1, 1, size)
    values = [model.log_prior(z, row) + model.log_likelihood(row, z) for row in x[:, None]]
    return torch.logsumexp(torch.cat(values, 1), 0) + size * math.log(width)


def _normal_model(means: Callable[[Tensor], Tensor], scale: Tensor, n: int) -> tuple[er.FunctionModel, Tensor]:
    def log_likelihood(x: Tensor, z: Tensor) -> Tensor:
        return torch.distributions.Normal(means(z), scale.to(z), validate_args=False).log_prob(x).sum(-1)

    def sample_data(z: Tensor, x: Tensor | None, generator: torch.Generator) -> Tensor:
        return means(z) + scale.to(z) * torch.randn(z.shape, generator=generator).to(z)

    generator = torch.Generator().manual_seed(3)
    z = torch.randn(n, len(scale), generator=generator)
    model = er.FunctionModel(log_likelihood, len(scale), sample_data=sample_data)
    return model, sample_data(z, None, generator)
