"""Several modes in one to three latents are found, and enter importance sampling and annealing as one mixture."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import multivariate_t

import elbowroom as er
from elbowroom.core import iterate_blocks
from elbowroom.evidence import StudentT, adapted_mixture
from elbowroom.evidence.mixtures import FREEDOM, ComponentMixture, fitted_mixture
from elbowroom.results import Flag

from .. import scenarios
from ..statistics import assert_distribution_is, assert_rate_at_most


def some_mixture(n_components: int, n: int, size: int) -> ComponentMixture:
    generator = torch.Generator().manual_seed(1)
    shares = torch.rand(n_components, n, generator=generator, dtype=torch.float64)
    centers = 2 * torch.randn(n_components, n, size, generator=generator, dtype=torch.float64)
    scales = torch.randn(n_components, n, size, size, generator=generator, dtype=torch.float64).tril()
    scales.diagonal(dim1=-2, dim2=-1).abs_().add_(0.2)
    return ComponentMixture((shares / shares.sum(0)).log(), centers, scales)


def test_the_density_is_that_of_a_mixture_of_multivariate_ts() -> None:
    mixture = some_mixture(3, 4, 2)
    z = torch.randn(5, 4, 2, dtype=torch.float64)
    for row in range(4):
        parts = [
            math.exp(mixture.log_shares[c, row])
            * multivariate_t(mixture.centers[c, row], mixture.scales[c, row] @ mixture.scales[c, row].T, FREEDOM).pdf(
                z[:, row]
            )
            for c in range(3)
        ]
        np.testing.assert_allclose(mixture.log_prob(z)[:, row], np.log(sum(parts)), rtol=1e-10)


def test_its_gradient_is_that_of_autograd() -> None:
    mixture = some_mixture(3, 4, 3)
    z = torch.randn(5, 4, 3, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(mixture.log_prob(z).sum(), z)
    value, grad = mixture.log_prob_and_grad(z.detach())
    torch.testing.assert_close(grad, expected)
    torch.testing.assert_close(value, mixture.log_prob(z).detach())


def test_its_draws_have_that_density() -> None:
    """Of one latent, by the distribution function that integrates the density."""
    mixture = some_mixture(3, 2, 1)
    noise = torch.randn(20_000, 2, mixture.noise_size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    z, log_q = mixture.rsample_and_log_q(noise)
    torch.testing.assert_close(log_q, mixture.log_prob(z))
    grid = torch.linspace(-300, 300, 600_001, dtype=torch.float64)[:, None, None].expand(-1, 2, 1)
    cdf = mixture.log_prob(grid).exp().cumsum(0) * 1e-3
    for row in range(2):
        points, values = grid[:, 0, 0].numpy(), cdf[:, row].numpy()

        def below(v: NDArray[np.float64], points=points, values=values) -> NDArray[np.float64]:
            return np.asarray(np.interp(v, points, values))

        assert_distribution_is(z[:, row, 0].numpy(), below, n_comparisons=2)


def test_a_fit_by_em_finds_clusters_that_lie_apart() -> None:
    centers = torch.tensor([[-3.0, 0.0], [3.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    z = centers.repeat(100, 1)[:, None] + 0.1 * torch.randn(300, 2, 2, generator=generator, dtype=torch.float64)
    mixture = fitted_mixture(z, 12, torch.Generator().manual_seed(3))
    nearest = (mixture.centers[:, :, None] - centers).norm(dim=-1)
    assert (nearest.min(-1).values < 0.5).all()
    for cluster in range(3):
        mass = torch.where(nearest.argmin(-1) == cluster, mixture.log_shares.exp(), 0.0).sum(0)
        assert ((mass > 0.15) & (mass < 0.55)).all()


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_mixture_covers_every_mode(size: int) -> None:
    """x_i = z_i^2 + noise has 2^D modes of one weight; each is to have at least a tenth of what is its own."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(50, size, generator=generator)
    x = z.square().clamp(min=0.2) + 0.03 * torch.randn(50, size, generator=generator)
    model = er.DecoderModel(lambda z: z.square(), er.likelihoods.gaussian(0.03), size)
    (block,) = iterate_blocks(x, 50)
    mean = x.clamp(min=0.01).sqrt()
    local = StudentT({"mean": mean, "log_scale": torch.full_like(mean, math.log(0.02))})
    mixture, _, work = adapted_mixture(model, block, local, 0)
    corner = sum((mixture.centers[..., i] > 0).long() * 2**i for i in range(size))
    missed = 0
    for number in range(2**size):
        mass = torch.where(corner == number, mixture.log_shares.exp(), 0.0).sum(0)
        missed += int((mass < 0.1 / 2**size).sum())
    assert_rate_at_most(missed, 50 * 2**size, 0.01)
    assert 500 < work < 3000


def funnel_and_exact_draws(n: int, n_draws: int) -> tuple[er.DecoderModel, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A funnel, data of it (N, 1), exact draws of their posteriors (S, N, 2) and their log p(x) (N,)."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(n, 2, generator=generator)
    x = (1.5 * z[:, :1]).exp() * z[:, 1:] + 0.1 * torch.randn(n, 1, generator=generator)
    first = torch.linspace(-8, 8, 8001, dtype=torch.float64)
    variance = (3 * first).exp() + 0.01
    log_p = -0.5 * (x.double().square() / variance + variance.log() + first.square()) - math.log(2 * math.pi)
    picked = first[torch.multinomial(torch.softmax(log_p, 1), n_draws, replacement=True, generator=generator)]
    slope = (1.5 * picked).exp()
    narrow = 1 / (1 + slope.square() / 0.01)
    noise = torch.randn(slope.shape, generator=generator, dtype=torch.float64)
    second = narrow * slope * x.double() / 0.01 + narrow.sqrt() * noise
    model = er.DecoderModel(lambda z: (1.5 * z[..., :1]).exp() * z[..., 1:], er.likelihoods.gaussian(0.1), 2)
    return model, x, torch.stack([picked, second], -1).transpose(0, 1), torch.logsumexp(log_p, 1) + math.log(16 / 8000)


def test_the_mixture_reaches_the_bent_neck_of_a_funnel() -> None:
    """Where more than a twentieth of a posterior's mass has weights above 20, few draws carry it and the error is
    believed too small. That was so for 8% of the data, and the means of a fourth of the seeds were then not covered.
    """
    model, x, exact, truth = funnel_and_exact_draws(300, 400)
    missed = 0
    for block in iterate_blocks(x, 50):
        mean = torch.cat([torch.zeros_like(x), x.clamp(-2, 2)], -1)[block.index]
        local = StudentT({"mean": mean, "log_scale": torch.full_like(mean, -1.0)})
        mixture, _, _ = adapted_mixture(model, block, local, 0)
        z = exact[:, block.index]
        log_joint = model.log_prior(z, block.x) + model.log_likelihood(block.x, z)
        heavy = log_joint - mixture.log_prob(z) - truth[block.index] > math.log(20)
        missed += int((heavy.double().mean(0) > 0.05).sum())
    assert_rate_at_most(missed, 300, 0.03)


@pytest.mark.parametrize("sigma", [0.3, 0.03, 0.003])
def test_two_modes_are_solved(sigma: float) -> None:
    """x = z^2 + s e, with the encoder on the positive root: 200 data against quadrature.

    Before, up to 70% of the unflagged data lay more than 3 errors below the truth.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 1, generator=generator).square()
    x = x + sigma * torch.randn(200, 1, generator=generator)
    model = er.DecoderModel(lambda z: z.square(), er.likelihoods.gaussian(sigma), 1)

    def encode(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x.clamp(min=1e-2).sqrt(), torch.full_like(x, 2 * math.log(sigma))], -1)

    gaps = er.decompose(model, er.Amortized(encode, er.DiagonalGaussian(1)), x)
    grid = torch.linspace(-8, 8, 400_001, dtype=torch.float64)
    log_joint = -0.5 * ((x.double() - grid.square()) / sigma).square() - 0.5 * grid.square()
    truth = torch.logsumexp(log_joint, 1) + math.log(16 / 400_000 / (2 * math.pi * sigma))
    error = gaps.log_evidence.values - truth.numpy()
    unflagged = gaps.flags == 0
    assert np.abs(error).mean() < 0.05
    assert_rate_at_most(int((~unflagged).sum()), 200, 0.2)
    beyond = np.abs(error) > 3 * gaps.log_evidence.mc_errors
    assert_rate_at_most(int(beyond[unflagged].sum()), int(unflagged.sum()), 0.03)


@pytest.mark.parametrize("size", [1, 2])
def test_annealing_from_the_mixture_misses_no_mode(size: int) -> None:
    """Two modes of unequal weight; before, AIS from the one where q starts was 0.3 nats and more below on most data."""
    model, x = scenarios.bimodal(50, size)
    x[:, 0] = x[:, 0].abs() + 2.5
    x[:, 1:] = 0.0
    plan = er.Plan(evidence=er.EvidencePlan())
    gaps = er.decompose(model, lambda x: torch.distributions.Normal(torch.ones_like(x), 0.3), x, plan)
    below = scenarios.on_grid(model, x).numpy() - gaps.candidates["ais"].values
    assert np.abs(below).max() < 0.3
    assert (gaps.flags & Flag.BASES_DISAGREE > 0).mean() < 0.05


def test_the_sandwich_of_a_model_with_two_modes_is_narrow() -> None:
    """It was 305 nats wide when only one of the modes was the base of annealing.

    Over 24 seeds the mean width was 0.029 +- 0.020, and the widest of the 50 data were 0.3 to 1.7 nats, with a tail
    that halves every 0.3: one run in some 3,000 fails.
    """
    model = er.DecoderModel(lambda z: z.square(), er.likelihoods.gaussian(0.1), 1)
    made = er.sandwich(model, 50)
    assert made.width.mean < 0.1
    assert np.abs(made.width.values).max() < 5.0


def test_the_modes_of_a_prior_are_found_in_ten_latents() -> None:
    """A prior of four normals, seen through a matrix: 100 data against the closed form.

    Before, 41% of such data were flagged, and single errors reached 2 nats.
    """
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(4, 10, generator=generator)
    centers = 3 * centers / centers.norm(dim=-1, keepdim=True)
    weight = torch.randn(10, 10, generator=generator) / math.sqrt(10)
    z = centers[torch.randint(4, (100,), generator=generator)] + 0.5 * torch.randn(100, 10, generator=generator)
    x = z @ weight.T + torch.randn(100, 10, generator=generator)
    kinds = torch.distributions.Categorical(torch.full((4,), 0.25))
    parts = torch.distributions.Independent(torch.distributions.Normal(centers, 0.5), 1)
    prior = torch.distributions.MixtureSameFamily(kinds, parts)
    model = er.DecoderModel(lambda z: z @ weight.T, er.likelihoods.gaussian(1.0), 10, prior=prior)
    gaps = er.decompose(model, er.Amortized(lambda x: torch.zeros(len(x), 20), er.DiagonalGaussian(10)), x)
    seen = torch.distributions.MultivariateNormal(centers @ weight.T, 0.25 * weight @ weight.T + torch.eye(10))
    truth = torch.distributions.MixtureSameFamily(kinds, seen).log_prob(x)
    error = gaps.log_evidence.values - truth.numpy()
    assert np.abs(error).mean() < 0.05
    assert_rate_at_most(int((gaps.flags > 0).sum()), 100, 0.1)
    assert "evidence modes" in gaps.work


def test_a_value_does_not_depend_on_the_other_data() -> None:
    model, x = scenarios.bimodal(50, 2)
    q = er.Amortized(lambda x: torch.zeros(len(x), 4), er.DiagonalGaussian(2))
    whole, part = (er.decompose(model, q, rows, "quick").log_evidence.values for rows in (x, x[:20]))
    np.testing.assert_allclose(whole[:20], part, atol=1e-6)


def test_data_without_a_finite_density_do_no_harm() -> None:
    """The model is undefined on one datum, and on negative latents for another."""
    x = torch.tensor([[1.0], [2.0], [3.0], [4.0]])

    def log_likelihood(x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        value = torch.distributions.Normal(z[..., 0].square(), 0.3).log_prob(x[:, 0])
        value = torch.where(x[:, 0] == 2.0, torch.nan, value)
        return torch.where((x[:, 0] == 3.0) & (z[..., 0] < 0), -torch.inf, value)

    gaps = er.decompose(
        er.FunctionModel(log_likelihood, 1),
        er.Amortized(lambda x: torch.cat([x.sqrt(), torch.full_like(x, -4.0)], -1), er.DiagonalGaussian(1)),
        x,
        check=False,
    )
    values = gaps.log_evidence.values
    assert np.isnan(values[1]) or not np.isfinite(gaps.candidates["iwae"].values[1])
    grid = torch.linspace(-8, 8, 400_001, dtype=torch.float64)
    for row, low in ((0, -8.0), (2, 0.0), (3, -8.0)):
        log_joint = -0.5 * ((x[row].double() - grid.square()) / 0.3).square() - 0.5 * grid.square()
        log_joint = torch.where(grid < low, -torch.inf, log_joint)
        truth = float(torch.logsumexp(log_joint, 0)) + math.log(16 / 400_000 / (2 * math.pi * 0.3))
        assert abs(values[row] - truth) < 0.1
