"""A model's own prior: fits start there, whoever supplies it, and data never share its draws."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

import elbowroom as er
from elbowroom.core import iterate_blocks, seeded
from elbowroom.fits import prior_start
from elbowroom.models import Tempered, is_standard_normal, prior_draws


class Shifted:
    """z ~ N(shift c, width^2), x ~ N(z, 1), with c a covariate; written to the protocol, with no attribute `prior`."""

    def __init__(self, shift: float, width: float, size: int = 2) -> None:
        self.shift, self.width, self.latent_shape = shift, width, (size,)

    def log_prior(self, z: Tensor, x: Any) -> Tensor:
        return Normal(self.shift * x["c"], self.width).log_prob(z).sum(-1)

    def log_likelihood(self, x: Any, z: Tensor) -> Tensor:
        return Normal(z, 1.0).log_prob(x["x"]).sum(-1)

    def sample_prior(self, n: int, x: Any, generator: torch.Generator) -> Tensor:
        c: Tensor = x["c"]
        return self.shift * c + self.width * torch.randn(n, *c.shape, generator=generator)

    def sample_data(self, z: Tensor, x: Any, generator: torch.Generator) -> Any:
        return {"x": z + torch.randn(z.shape, generator=generator), "c": x["c"]}

    def data(self, n: int = 50) -> dict[str, Tensor]:
        c, e = torch.randn(2, n, *self.latent_shape, generator=seeded(0, "data"))
        return {"x": self.shift * c + math.hypot(1.0, self.width) * e, "c": c}

    def log_evidence(self, x: dict[str, Tensor]) -> Tensor:
        return Normal(self.shift * x["c"], math.hypot(1.0, self.width)).log_prob(x["x"]).sum(-1)


PRIORS = [(100.0, 0.1, 2), (-30.0, 5.0, 3), (1e4, 1.0, 1)]


@pytest.mark.parametrize(("shift", "width", "size"), PRIORS)
def test_fits_start_at_the_models_own_prior(shift: float, width: float, size: int) -> None:
    model = Shifted(shift, width, size)
    x = model.data()
    fit = er.fit_local(er.DiagonalGaussian(size), model, x)
    reached = er.elbo(model, fit.q, x, n_samples=200)
    np.testing.assert_allclose(reached.mean, model.log_evidence(x).mean(), atol=0.05)


@pytest.mark.parametrize(("shift", "width", "size"), PRIORS)
def test_the_sandwich_of_a_model_with_its_own_prior_is_narrow(shift: float, width: float, size: int) -> None:
    model = Shifted(shift, width, size)
    assert abs(er.sandwich(model, n=50, like=model.data()).width.mean) < 0.1


def test_the_tempered_model_starts_at_the_same_prior() -> None:
    model = Shifted(100.0, 0.1)
    x = model.data()
    (block,) = iterate_blocks(x)
    plain, tempered = prior_start(model, block, 0), prior_start(Tempered(model, 4.0), block, 0)
    for key, value in plain.items():
        assert torch.equal(tempered[key], value)
    assert (plain["mean"] - 100.0 * x["c"]).abs().max() < 0.1


def test_n_0_i_is_recognized_by_its_density() -> None:
    x = torch.zeros(5, 3)
    like = torch.zeros(5, 2)
    assert is_standard_normal(er.DecoderModel(torch.nn.Linear(2, 3), "bernoulli", 2), x, like)
    assert is_standard_normal(Shifted(0.0, 1.0), {"x": x, "c": like}, like)
    assert not is_standard_normal(Shifted(0.0, 1.01), {"x": x, "c": like}, like)
    assert not is_standard_normal(Shifted(0.02, 1.0), {"x": x, "c": like + 1}, like)


class Careless:
    """z ~ N(0, I), x ~ N(z, 0.7^2), whose `sample_prior` returns draws of another shape than (n, N, D)."""

    latent_shape = (2,)

    def __init__(self, *shape: int) -> None:
        self.shape = shape

    def log_prior(self, z: Tensor, x: Any) -> Tensor:
        return Normal(0.0, 1.0).log_prob(z).sum(-1)

    def log_likelihood(self, x: Any, z: Tensor) -> Tensor:
        return Normal(z, 0.7).log_prob(x).sum(-1)

    def sample_prior(self, n: int, x: Any, generator: torch.Generator) -> Tensor:
        return torch.randn(n, *self.shape, generator=generator)


X = 1.22 * torch.randn(50, 2, generator=seeded(0, "x"))


def spread_and_claim(means: list[float], claims: list[float]) -> tuple[float, float]:
    return float(np.std(means, ddof=1)), float(np.sqrt(np.mean(np.square(claims))))


@pytest.mark.parametrize("n_temperatures", [1, 4])
def test_data_do_not_share_the_draws_of_a_prior_that_ignores_x(n_temperatures: int) -> None:
    """Their errors add as independent ones. 40 runs know the spread to 11%, so 1.6 times the claim is 5.4 errors off;
    with shared draws it is 3.3 times the claim.
    """
    runs = [
        er.ais(Careless(1, 2), X, base="prior", n_temperatures=n_temperatures, n_chains=64, seed=s, check=False)
        for s in range(40)
    ]
    spread, claim = spread_and_claim([run.mean for run in runs], [run.mc_se for run in runs])
    assert 0.5 < spread / claim < 1.6


def test_draws_are_independent_across_data() -> None:
    z = prior_draws(Careless(1, 2), 400, X, 50, seeded(0, "draws"))
    assert z.shape == (400, 50, 2)
    correlation = np.corrcoef(z[..., 0].T)[np.triu_indices(50, 1)]
    assert np.abs(correlation).max() < 6 / math.sqrt(400)


@pytest.mark.parametrize("shape", [(2,), (50, 3), (7, 2), (50, 1, 2)])
def test_draws_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"sample_prior must return \(n, N, D\) = \(\d+, 50, 2\); got \("):
        er.ais(Careless(*shape), X, base="prior", n_temperatures=2)


@pytest.mark.parametrize("shape", [(2,), (50, 3), (7, 2)])
def test_the_ladder_refuses_them_too(shape: tuple[int, ...]) -> None:
    q = er.Amortized(torch.nn.Linear(2, 4), er.DiagonalGaussian(2))
    with pytest.raises(ValueError, match="sample_prior must return"):
        er.decompose(Careless(*shape), q, X, plan="quick")


def test_a_function_is_a_prior() -> None:
    """The same numbers as the distribution that it stands for; what it returns must be a number for each row."""
    wide = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(3), 2.0), 1)
    z, x = torch.randn(4, 5, 3), torch.randn(5, 3)
    function = er.DecoderModel(torch.nn.Identity(), er.likelihoods.gaussian(1.0), 3, prior=wide.log_prob)
    exact = er.DecoderModel(torch.nn.Identity(), er.likelihoods.gaussian(1.0), 3, prior=wide)
    torch.testing.assert_close(function.log_prior(z, x), exact.log_prior(z, x), rtol=0, atol=0)
    images = er.DecoderModel(torch.nn.Flatten(), er.likelihoods.gaussian(1.0), (3, 1), prior=lambda z: z.sum((1, 2)))
    torch.testing.assert_close(images.log_prior(z, x), z.sum(-1))
    summed = er.DecoderModel(torch.nn.Identity(), er.likelihoods.gaussian(1.0), 3, prior=lambda z: -z.square().sum())
    with pytest.raises(ValueError, match=r"log p\(z\) of shape \(20,\) for z \(20, 3\); got \(\)"):
        summed.log_prior(z, x)
    with pytest.raises(TypeError, match=r"a function z -> log p\(z\); got a number|got float"):
        er.DecoderModel(torch.nn.Identity(), er.likelihoods.gaussian(1.0), 3, prior=2.0)  # type: ignore[arg-type]
