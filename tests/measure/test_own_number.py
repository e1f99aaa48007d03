"""The user's own ELBO against ours: each known mistake is refused and named; a right number agrees."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, distributions, nn

from elbowroom.core import normal, seeded
from elbowroom.evidence import CheckError
from elbowroom.measure import check
from elbowroom.models import DecoderModel, likelihoods
from elbowroom.posteriors import Amortized, DiagonalGaussian

N, P, D = 400, 20, 4
SIGMA = 0.5
LOG_TWO_PI = math.log(2 * math.pi)
DOUBLE = torch.empty(0, dtype=torch.float64)


def linear(n_in: int, n_out: int, size: float, key: str) -> nn.Linear:
    with torch.random.fork_rng():
        net = nn.Linear(n_in, n_out).double()
    with torch.no_grad():
        net.weight.copy_(size * normal((n_out, n_in), seeded(0, "own", key), DOUBLE) / math.sqrt(n_in))
        net.bias.zero_()
    return net


class Parts:
    """A Gaussian VAE, data, and its owner's own loss, with one draw for each datum and the closed form of the KL."""

    def __init__(self, last: nn.Module | None = None) -> None:
        self.decoder, encoder = linear(D, P, 1.0, "decoder"), linear(P, 2 * D, 0.2, "encoder")
        with torch.no_grad():  # the exact posterior mean, and log variances that are off by 0.2 of x
            precision = self.decoder.weight.T @ self.decoder.weight / SIGMA**2 + torch.eye(D, dtype=torch.float64)
            encoder.weight[:D] = torch.linalg.solve(precision, self.decoder.weight.T / SIGMA**2)
            encoder.bias[D:] = -precision.diagonal().log()
        self.encoder = nn.Sequential(encoder, *([] if last is None else [last]))
        self.model = DecoderModel(self.decoder, likelihoods.gaussian(SIGMA), D)
        self.q = Amortized(self.encoder, DiagonalGaussian(D))
        clean = self.decoder(normal((N, D), seeded(0, "own", "z"), DOUBLE)).detach()
        self.x = clean + SIGMA * normal((N, P), seeded(0, "own", "x"), DOUBLE)

    def terms(self, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Reconstruction and KL (N,) in nats."""
        with torch.no_grad():
            mean, log_var = self.encoder(self.x).chunk(2, -1)
            z = mean + (0.5 * log_var).exp() * normal((N, D), seeded(seed, "own", "draw"), DOUBLE)
            log_p = distributions.Normal(self.decoder(z), SIGMA).log_prob(self.x).sum(-1)
            kl = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum(-1)
        return log_p, kl


MISTAKES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], str]] = {
    "loss": (lambda r, kl: -(r - kl), "the other sign"),
    "no Gaussian constant": (lambda r, kl: r - kl + P / 2 * LOG_TWO_PI, "lacks the constant -D/2 log 2 pi"),
    "half of it": (lambda r, kl: r - kl + P / 4 * LOG_TWO_PI, "half of the constant"),
    "no constants at all": (lambda r, kl: r - kl + P * (0.5 * LOG_TWO_PI + math.log(SIGMA)), "-D log sigma and -D/2"),
    "no prior's constant": (lambda r, kl: r - kl + 0.5 * D * LOG_TWO_PI, r"log p\(z\) lacks the constant -L/2"),
    "sum over data": (lambda r, kl: N * (r - kl), "a sum over the 400 data"),
    "mean over dimensions": (lambda r, kl: (r - kl) / P, "divided by the 20 dimensions"),
    "mean over both": (lambda r, kl: (r - kl) / (N * P), "divided by the 400 data and the 20 dimensions"),
    "bits": (lambda r, kl: (r - kl) / math.log(2), "in bits"),
    "bits per dimension": (lambda r, kl: -(r - kl) / (P * math.log(2)), "bits per dimension, with the other sign"),
    "KL twice": (lambda r, kl: r - 2 * kl, "KL is counted twice"),
    "beta": (lambda r, kl: r - 4 * kl, "KL has the weight 4"),
    "odd beta": (lambda r, kl: r - 30 * kl, "a weight of (29|30)"),
    "no KL": (lambda r, kl: r, "without the KL"),
    "mean reconstruction": (lambda r, kl: r / P - kl, "reconstruction is a mean over the dimensions"),
    "mean KL": (lambda r, kl: r - kl / D, "KL is a mean over the latents"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_known_mistake_is_refused_and_named(mistake: str) -> None:
    parts, (wrong, reason) = Parts(), MISTAKES[mistake]
    reconstruction, kl = parts.terms()
    own = wrong(reconstruction, kl).mean().item()
    with pytest.raises(CheckError, match=reason):
        check(parts.model, parts.q, parts.x, own_elbo=own)


@pytest.mark.parametrize("seed", range(10))
def test_a_right_number_agrees(seed: int) -> None:
    """A mean, an array and a function of x; four errors are allowed (false alarms: 1e-3 in all)."""
    parts = Parts()
    reconstruction, kl = parts.terms(seed)
    each = (reconstruction - kl).numpy()
    calls = iter(range(100 * seed, 100 * seed + 100))
    forms: list[Any] = [each.mean(), each, list(each), torch.from_numpy(each)]
    forms.append(lambda x: torch.sub(*parts.terms(next(calls))).mean())
    for own in forms:
        assert "agrees" in check(parts.model, parts.q, parts.x, own_elbo=own)[-1]


class Exponential(nn.Module):
    """Mean and exp(h), the second of which the owner takes for `what`."""

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        mean, second = h.chunk(2, -1)
        return mean, second.exp()


READINGS = {
    "a standard deviation, not": lambda h: h,
    "a variance, not": lambda h: 0.5 * h,
}


@pytest.mark.parametrize("reading", READINGS)
def test_another_reading_of_the_encoder_is_named(reading: str) -> None:
    """The owner's number is that of the same encoder with its second output read otherwise."""
    plain, parts = Parts(), Parts(Exponential())
    with torch.no_grad():
        mean, second = plain.encoder(plain.x).chunk(2, -1)
    log_scale = READINGS[reading](second)
    z = mean + log_scale.exp() * normal((64, N, D), seeded(3, "own", "draw"), DOUBLE)
    with torch.no_grad():
        log_p = distributions.Normal(plain.decoder(z), SIGMA).log_prob(plain.x).sum(-1)
    kl = 0.5 * (mean.square() + (2 * log_scale).exp() - 1 - 2 * log_scale).sum(-1)
    with pytest.raises(CheckError, match=reading):
        check(parts.model, parts.q, parts.x, own_elbo=(log_p.mean(0) - kl).mean().item())


def test_the_scale_of_a_callable_is_read_otherwise_too() -> None:
    """An owner who passed a variance where Normal takes a standard deviation."""
    parts = Parts()

    def q(x: Tensor) -> distributions.Distribution:
        mean, log_var = parts.encoder(x).chunk(2, -1)
        return distributions.Independent(distributions.Normal(mean, log_var.exp()), 1)

    with pytest.raises(CheckError, match="the scale of q is a variance"):
        check(parts.model, q, parts.x, own_elbo=torch.sub(*parts.terms()).mean().item())


def test_dropout_in_train_mode_is_named() -> None:
    parts = Parts(nn.Dropout(0.3))
    parts.encoder.train()
    own = float(np.mean([torch.sub(*parts.terms(seed)).mean().item() for seed in range(20)]))
    with pytest.raises(CheckError, match="train mode"):
        check(parts.model, parts.q, parts.x, own_elbo=own)
    assert parts.encoder.training


@pytest.mark.parametrize(
    ("own", "error", "words"),
    [
        (math.nan, ValueError, "finite"),
        (np.zeros(3), ValueError, "one for each of 400 data"),
        ("many", TypeError, "a number, N numbers, or a function of x"),
        (lambda x: None, TypeError, "a number"),
    ],
)
def test_a_number_that_is_none_is_refused(own: Any, error: type[Exception], words: str) -> None:
    parts = Parts()
    with pytest.raises(error, match=words):
        check(parts.model, parts.q, parts.x, own_elbo=own)
