"""A likelihood of the user's own is a density of x, and its gradient is its own; sound ones pass without a word."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, distributions, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from elbowroom.core import normal, seeded, uniform
from elbowroom.evidence import CheckError
from elbowroom.measure import check, decompose
from elbowroom.models import DecoderModel, FunctionModel, LinearGaussian
from elbowroom.posteriors import Amortized, DiagonalGaussian

P, D, N = 20, 3, 40
DOUBLE = torch.empty(0, dtype=torch.float64)
REAL = normal((N, P), seeded(0, "density", "real"), DOUBLE)
BITS = (REAL > 0).double()
UNIT = uniform((N, P), seeded(0, "density", "unit"), DOUBLE)
EIGHT_BIT = (255 * UNIT).round() / 255
COUNTS = (6 * UNIT).floor()


def network(n_in: int, n_out: int, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(n_in, 30), nn.Tanh(), nn.Linear(30, n_out)).double()


def fitted(x: Tensor, mean: Tensor) -> Tensor:
    """Each datum's likelihood at the scale that suits it best."""
    scale = (x - mean).square().mean(-1, keepdim=True).sqrt()
    return distributions.Normal(mean, scale).log_prob(x).sum(-1)


def bce_mean(x: Tensor, logits: Tensor) -> Tensor:
    return -binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").mean(-1)


FAULTS: dict[str, tuple[Callable[..., Any], Tensor, str]] = {
    "scale fitted to each x": (fitted, REAL, "1 / r\\^20"),
    "and to bits": (fitted, BITS, "must be"),
    "and to pixels": (fitted, EIGHT_BIT, "must be"),
    "squared error": (lambda x, m: -0.5 * (x - m).square().sum(-1), REAL, "-D/2 log 2 pi of a Gaussian is missing"),
    "squared error, sigma 0.3": (
        lambda x, m: -((x - m) / 0.3).square().sum(-1) / 2 - P * math.log(0.3),
        REAL,
        "-D/2 log 2 pi of a Gaussian is missing",
    ),
    "mean squared error": (lambda x, m: -0.5 * (x - m).square().mean(-1), REAL, "normalized"),
    "absolute error": (lambda x, m: -3 * (x - m).abs().sum(-1), REAL, "normalized"),
    "mean cross-entropy": (bce_mean, BITS, "normalized"),
    "squared error of bits": (lambda x, m: -(x - m).square().sum(-1), BITS, "normalized"),
    "weighted cross-entropy": (lambda x, m: 2 * P * bce_mean(x, m), BITS, "normalized"),
    "Poisson without factorial": (lambda x, m: (x * m - m.exp()).sum(-1), COUNTS, "normalized"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_no_density_is_refused(name: str) -> None:
    likelihood, x, words = FAULTS[name]
    with pytest.raises(CheckError, match=words):
        check(DecoderModel(network(D, P), likelihood, D), None, x)


SOUND: dict[str, tuple[Callable[..., Any], Tensor]] = {
    "normal": (lambda m: distributions.Normal(m, 0.3), REAL),
    "a narrow normal": (lambda x, m: distributions.Normal(m, 1e-3).log_prob(x).sum(-1), REAL),
    "a wide normal": (lambda x, m: distributions.Normal(m, 1e3).log_prob(x).sum(-1), REAL),
    "normal far from zero": (lambda x, m: distributions.Normal(m + 1e4, 1.0).log_prob(x).sum(-1), REAL + 1e4),
    "scales of the decoder": (lambda m: distributions.Normal(m.tanh(), (2 * m).exp()), REAL),
    "Laplace": (lambda m: distributions.Laplace(m, 0.5), REAL),
    "Student t": (lambda m: distributions.StudentT(3.0, m, 0.5), REAL),
    "Cauchy": (lambda m: distributions.Cauchy(m, 0.5), REAL),
    "logistic": (lambda x, m: -(torch.nn.functional.softplus(x - m) * 2 - (x - m)).sum(-1), REAL),
    "normal of bits": (lambda m: distributions.Normal(m, 1.0), BITS),
    "normal of pixels": (lambda m: distributions.Normal(m, 0.1), EIGHT_BIT),
    "Bernoulli": (lambda m: distributions.Bernoulli(logits=m), BITS),
    "cross-entropy": (lambda x, m: P * bce_mean(x, m), BITS),
    "beta": (lambda m: distributions.Beta(m.exp() + 1, torch.ones_like(m)), 0.01 + 0.98 * UNIT),
    "continuous Bernoulli": (lambda m: distributions.ContinuousBernoulli(logits=m), UNIT),
    "Poisson": (lambda m: distributions.Poisson(m.exp()), COUNTS),
    "negative binomial": (lambda m: distributions.NegativeBinomial(torch.tensor(3.0), logits=m), COUNTS),
}


@pytest.mark.filterwarnings("ignore:a continuous density on 8-bit data")
@pytest.mark.parametrize("name", SOUND)
def test_a_density_passes_without_a_word(name: str) -> None:
    likelihood, x = SOUND[name]
    notes = check(DecoderModel(network(D, P), likelihood, D), None, x)
    assert [note for note in notes if "8-bit" not in note] == []


class Protocol:
    """A model of nothing but the protocol's methods, whose likelihood reads a covariate."""

    latent_shape = (D,)

    def __init__(self, constant: float = 0.0) -> None:
        self.net, self.constant = network(D, P), constant

    def log_prior(self, z: Tensor, x: Any) -> Tensor:
        return distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)

    def log_likelihood(self, x: Any, z: Tensor) -> Tensor:
        return distributions.Normal(self.net(z) + x["dose"], 0.3).log_prob(x["x"]).sum(-1) + self.constant


def test_models_of_other_kinds_are_tested_too() -> None:
    net, x = network(D, P), {"x": REAL, "dose": UNIT[:, :1]}
    bare = FunctionModel(lambda x, z: distributions.Normal(net(z), 0.3).log_prob(x).sum(-1), D)
    exact = LinearGaussian(torch.randn(P, D, dtype=torch.float64), torch.zeros(P, dtype=torch.float64), 0.3)
    assert check(bare, None, REAL) == check(exact, None, REAL) == check(Protocol(), None, x) == []
    with pytest.raises(CheckError, match="normalized"):
        check(Protocol(5.0), None, x)
    with pytest.raises(CheckError, match="normalized"):
        check(FunctionModel(lambda x, z: -(x - net(z)).square().sum(-1), D), None, REAL)


@pytest.mark.filterwarnings("ignore:log p")
def test_what_cannot_be_verified_is_said() -> None:
    """A full covariance is no sum over numbers, and 2,000 numbers are too many to vary."""
    scale = torch.eye(P, dtype=torch.float64) + 0.3
    model = DecoderModel(network(D, P), lambda m: distributions.MultivariateNormal(m, scale), D)
    assert "was not verified to be a density" in check(model, None, REAL)[0]
    wide = DecoderModel(network(D, 2000), lambda m: distributions.Normal(m, 1.0), D)
    assert "2000 numbers" in check(wide, None, normal((8, 2000), seeded(0, "wide"), DOUBLE))[0]


def test_decompose_says_in_its_table_what_was_not_verified_and_refuses_what_is_no_density() -> None:
    scale = torch.eye(P, dtype=torch.float64) + 0.3
    net, q = network(D, P), Amortized(network(P, 2 * D), DiagonalGaussian(D))
    whole = DecoderModel(net, lambda m: distributions.MultivariateNormal(m, scale), D)
    gaps = decompose(whole, q, REAL, plan="quick")
    assert any("was not verified to be a density" in note for note in gaps.notes)
    assert "was not verified to be a density" in str(gaps)
    verified = decompose(DecoderModel(net, lambda m: distributions.Normal(m, 0.3), D), q, REAL, plan="quick")
    assert "verified" not in str(verified)
    bare = FunctionModel(lambda x, z: -(x - net(z)).square().sum(-1), D)
    with pytest.raises(CheckError, match="normalized"):
        decompose(bare, q, REAL, plan="quick")
    assert len(decompose(bare, q, REAL, plan="quick", check=False)) == len(REAL)


BOOK = normal((16, D), seeded(0, "density", "book"), DOUBLE)


def nearest(z: Tensor) -> Tensor:
    return BOOK[torch.cdist(z, BOOK).argmin(-1)]


STRAIGHT: dict[str, Callable[[Tensor], Tensor]] = {
    "nearest code": lambda z: z + (nearest(z) - z).detach(),
    "rounding": lambda z: z + (z.round() - z).detach(),
    "sign": lambda z: z + (z.sign() - z).detach(),
    "half of the gradient": lambda z: 0.4 * z + (0.6 * z).detach(),
}


@pytest.mark.parametrize("name", STRAIGHT)
def test_a_gradient_that_is_not_its_own_is_refused(name: str) -> None:
    net = network(D, P)
    with pytest.raises(CheckError, match="the gradient of log p"):
        check(DecoderModel(lambda z: net(STRAIGHT[name](z)), "bernoulli", D), None, BITS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.ELU, nn.Softplus, nn.Hardtanh])
@pytest.mark.parametrize("size", [1e-6, 1.0, 30.0])
def test_a_gradient_of_its_own_passes(size: float, activation: type[nn.Module], dtype: torch.dtype) -> None:
    """Kinks, decoders that hardly depend on z, and steep ones."""
    first, last = network(D, 50), network(50, P, 1)
    net = nn.Sequential(first, activation(), last).to(dtype)
    assert check(DecoderModel(lambda z: size * net(z), "bernoulli", D), None, BITS.to(dtype)) == []
