"""Models: closed forms against plain references and quadrature, decoders row by row, modes left as found."""

import functools
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, distributions, nn

from elbowroom.core import normal, seeded
from elbowroom.models import (
    DecoderModel,
    FunctionModel,
    LinearGaussian,
    Tempered,
    as_shape,
    device_and_dtype,
    evaluating,
    latent_size,
    likelihoods,
    log_joint,
    log_joint_and_grad,
    modules_of,
)

from .. import reference
from ..statistics import assert_close_z, assert_distribution_is

DOUBLE = torch.empty(0, dtype=torch.float64)
GLOBAL_DROPOUT = nn.Dropout()


def noise(*shape: int, key: str = "z") -> Tensor:
    return normal(shape, seeded(0, "test-model", key), DOUBLE)


def linear(n_data_dims: int = 5, n_latents: int = 3, scale: float = 0.6) -> tuple[LinearGaussian, Any]:
    """The library's linear-Gaussian model and the plain reference, the same numbers in both."""
    plain = reference.LinearGaussian.random(n_data_dims, n_latents, scale, seed=n_data_dims + n_latents)
    return LinearGaussian(torch.from_numpy(plain.weight), torch.from_numpy(plain.bias), scale), plain


def random_gaussian(n: int, d: int) -> tuple[Tensor, Tensor]:
    """Means (n, d) and covariances (n, d, d) of no particular shape."""
    root = noise(n, d, d, key="root")
    return noise(n, d, key="mean"), root @ root.mT + 0.1 * torch.eye(d, dtype=torch.float64)


def quadrature(model: Any, x: Any, n_latents: int, half_width: float = 10.0, n_points: int = 400) -> reference.Grid:
    """The plain quadrature over the log joint of a model, for one datum x (1, ...)."""

    def value(z: Any) -> Any:
        return log_joint(model, x, torch.from_numpy(z)[:, None])[:, 0].numpy()

    return reference.quadrature(value, n_latents, half_width, n_points)


# ---- the linear-Gaussian model


@pytest.mark.parametrize(("n_data_dims", "n_latents", "scale"), [(5, 3, 0.6), (1, 2, 1.5), (7, 1, 0.1)])
def test_closed_forms_are_those_of_the_reference(n_data_dims: int, n_latents: int, scale: float) -> None:
    model, plain = linear(n_data_dims, n_latents, scale)
    x = noise(6, n_data_dims, key="x") * 2
    mean, covariance = random_gaussian(6, n_latents)
    posterior_mean, _ = plain.posterior(x.numpy())
    np.testing.assert_allclose(model.log_evidence(x), plain.log_evidence(x.numpy()), rtol=1e-10)
    np.testing.assert_allclose(model.precision(), plain.precision(), rtol=1e-12)
    np.testing.assert_allclose(model.posterior_mean(x), posterior_mean, rtol=1e-9, atol=1e-12)
    exact = model.exact_elbo(x, mean, covariance)
    np.testing.assert_allclose(exact, plain.elbo(x.numpy(), mean.numpy(), covariance.numpy()), rtol=1e-9)
    np.testing.assert_allclose(
        model.exact_elbo(x, mean, covariance[0]), plain.elbo(x.numpy(), mean.numpy(), covariance[0].numpy()), rtol=1e-9
    )
    for family in ("diagonal", "full"):
        for kl_weight in (1.0, 4.0, 0.5):
            expected = plain.elbo(x.numpy(), *plain.best(x.numpy(), family, kl_weight))
            np.testing.assert_allclose(
                model.best_elbo(x, full=family == "full", kl_weight=kl_weight), expected, rtol=1e-9
            )


@pytest.mark.parametrize("n_latents", [1, 2])
def test_the_log_joint_integrates_to_the_evidence(n_latents: int) -> None:
    """Quadrature over the model's own log_prior + log_likelihood: every constant counts."""
    model, _ = linear(4, n_latents, 0.9)
    x = noise(2, 4, key="x")
    for i in range(2):
        grid = quadrature(model, x[i : i + 1], n_latents)
        assert grid.log_evidence == pytest.approx(model.log_evidence(x)[i].item(), abs=1e-8)
        np.testing.assert_allclose(grid.mean, model.posterior_mean(x)[i], atol=1e-8)
        np.testing.assert_allclose(grid.covariance, torch.linalg.inv(model.precision()), atol=1e-8)


def test_the_best_member_beats_its_neighbors() -> None:
    model, _ = linear()
    x = noise(4, 5, key="x")
    mean = model.posterior_mean(x)
    variance = 1 / model.precision().diagonal()
    for step in (-0.01, 0.01):
        assert (model.exact_elbo(x, mean, torch.diag(variance * (1 + step))) < model.best_elbo(x)).all()
        assert (model.exact_elbo(x, mean + step, torch.diag(variance)) < model.best_elbo(x)).all()
    np.testing.assert_allclose(model.best_elbo(x, full=True), model.log_evidence(x), rtol=1e-10)


def test_simulated_data_follow_the_evidence() -> None:
    """z from the prior, x given z: (x - b) whitened by the covariance of log p(x) is standard normal."""
    model, plain = linear()
    z = model.sample_prior(1, torch.zeros(5000, 5), seeded(0, "z"))[0]
    x = model.sample_data(z, None, seeded(0, "x"))
    covariance = plain.weight @ plain.weight.T + plain.scale**2 * np.eye(5)
    white = np.linalg.solve(np.linalg.cholesky(covariance), (x.numpy() - plain.bias).T).T
    for column in (*white.T, *z.numpy().T):
        assert_distribution_is(column, stats.norm.cdf, n_comparisons=8)
    error = x - z @ model.weight.T - model.bias
    assert_distribution_is(error.flatten() / model.scale, stats.norm.cdf)


# ---- decoders


class Rows(nn.Module):
    """A decoder that answers with its row of z, reversed, and the covariate it was given."""

    def forward(self, z: Tensor, dose: Tensor | None = None) -> Tensor:
        return z.flip(-1) if dose is None else z.flip(-1) + 100 * dose[:, None]


def decoded(model: DecoderModel, z: Tensor, x: dict[str, Tensor] | None = None) -> Tensor:
    output = model.decode(z, x)
    assert isinstance(output, Tensor)
    return output


def test_decode_keeps_samples_and_data_apart() -> None:
    model = DecoderModel(Rows(), likelihoods.gaussian(1.0), 3)
    z = noise(4, 5, 3)
    assert torch.equal(decoded(model, z), z.flip(-1))


def test_covariates_reach_the_row_of_their_datum() -> None:
    model = DecoderModel(Rows(), likelihoods.gaussian(1.0), 3, condition=["dose"])
    z, dose = noise(4, 5, 3), torch.arange(5.0, dtype=torch.float64)
    x = {"x": noise(5, 3, key="x"), "dose": dose}
    assert torch.equal(decoded(model, z, x), z.flip(-1) + 100 * dose[:, None])
    alone = model.log_likelihood({key: value[2:3] for key, value in x.items()}, z[:, 2:3])
    np.testing.assert_allclose(model.log_likelihood(x, z)[:, 2:3], alone, rtol=1e-12)
    simulated = model.sample_data(z[0], x, seeded(0))
    assert torch.equal(simulated["dose"], dose)
    np.testing.assert_allclose(simulated["x"], z[0].flip(-1) + 100 * dose[:, None], atol=7)


def test_a_convolutional_decoder_sees_its_latent_shape() -> None:
    decoder = nn.ConvTranspose2d(2, 1, 3).double()
    model = DecoderModel(decoder, "bernoulli", (2, 3, 4))
    z, x = noise(3, 5, 24), (noise(5, 1, 5, 6, key="x") > 0).double()
    assert latent_size(model) == 24
    assert decoded(model, z).shape == (3, 5, 1, 5, 6)
    logits = decoder(z[1, 2].reshape(1, 2, 3, 4))[0]
    expected = distributions.Bernoulli(logits=logits).log_prob(x[2]).sum()
    assert model.log_likelihood(x, z)[1, 2].item() == pytest.approx(expected.item(), rel=1e-12)


def test_pairs_of_outputs_lead_with_samples_and_data() -> None:
    model = DecoderModel(lambda z: (z, 0 * z), likelihoods.gaussian("decoder"), 3)
    z, x = noise(4, 5, 3), noise(5, 3, key="x")
    expected = stats.norm.logpdf(x.numpy(), z.numpy()).sum(-1)
    np.testing.assert_allclose(model.log_likelihood(x, z), expected, rtol=1e-12)


# ---- priors


def test_the_standard_prior_is_normalized() -> None:
    model, z = DecoderModel(Rows(), "bernoulli", (3, 2)), noise(4, 5, 6)
    np.testing.assert_allclose(model.log_prior(z), stats.norm.logpdf(z.numpy()).sum(-1), rtol=1e-12)
    function = FunctionModel(lambda x, z: z.sum(-1), (3, 2))
    np.testing.assert_allclose(function.log_prior(z, None), stats.norm.logpdf(z.numpy()).sum(-1), rtol=1e-12)


def mixture() -> distributions.Distribution:
    parts = distributions.Independent(distributions.Normal(torch.tensor([[-2.0] * 3, [2.0] * 3]).double(), 0.5), 1)
    return distributions.MixtureSameFamily(distributions.Categorical(torch.tensor([0.3, 0.7]).double()), parts)


def test_another_prior_is_scored_and_sampled() -> None:
    prior = mixture()
    model = DecoderModel(nn.Linear(3, 3).double(), "bernoulli", 3, prior=prior)
    z = noise(4, 5, 3)
    np.testing.assert_allclose(model.log_prior(z), prior.log_prob(z), rtol=1e-12)
    before = torch.get_rng_state()
    drawn = model.sample_prior(500, torch.zeros(4, 3), seeded(0, "a"))
    assert torch.equal(torch.get_rng_state(), before)
    assert drawn.shape == (500, 4, 3)
    assert drawn.dtype == torch.float64
    assert torch.equal(drawn, model.sample_prior(500, torch.zeros(4, 3), seeded(0, "a")))
    assert_close_z((drawn[..., 0] > 0).double().mean(), 0.7, math.sqrt(0.21 / 2000))


def test_independent_priors_are_summed_over_latents() -> None:
    model = DecoderModel(Rows(), "bernoulli", 3, prior=distributions.Normal(0.5, 2.0))
    z = noise(4, 5, 3)
    np.testing.assert_allclose(model.log_prior(z), stats.norm.logpdf(z.numpy(), 0.5, 2.0).sum(-1), rtol=1e-6)


def test_a_prior_without_draws_says_so() -> None:
    model = DecoderModel(Rows(), "bernoulli", 3, prior=SimpleNamespace(log_prob=lambda z: z.sum(-1)))
    with pytest.raises(TypeError, match="needs a prior with a `sample"):
        model.sample_prior(2, None, seeded(0))


@pytest.mark.parametrize(
    "model",
    [DecoderModel(Rows(), "bernoulli", 2), FunctionModel(lambda x, z: z.sum(-1), 2)],
    ids=["decoder", "function"],
)
def test_prior_draws_are_standard_normal(model: Any) -> None:
    z = model.sample_prior(200, torch.zeros(30, 4), seeded(0, "prior"))
    assert z.shape == (200, 30, 2)
    assert_distribution_is(z.flatten(), stats.norm.cdf)
    assert model.sample_prior(3, None, seeded(0, "prior")).shape == (3, 1, 2)


# ---- functions and tempering


def test_a_function_is_a_model() -> None:
    model = FunctionModel(
        lambda x, z: -(z - x).square().sum(-1), 2, lambda z, x: z.sum(-1) * 0 + 3, lambda z, x, generator: z + 1
    )
    z, x = noise(4, 5, 2), noise(5, 2, key="x")
    np.testing.assert_allclose(log_joint(model, x, z), 3 - (z - x).square().sum(-1), rtol=1e-12)
    assert torch.equal(model.sample_data(z[0], None, seeded(0)), z[0] + 1)
    assert not hasattr(model, "sample_prior")
    assert not hasattr(FunctionModel(lambda x, z: z.sum(-1), 2), "sample_data")


def test_tempering_scales_the_likelihood_alone() -> None:
    model, _ = linear()
    z, x = noise(4, 5, 3), noise(5, 5, key="x")
    expected = model.log_prior(z, x) + model.log_likelihood(x, z) / 4
    np.testing.assert_allclose(log_joint(Tempered(model, 4.0), x, z), expected, rtol=1e-12)
    assert Tempered(model, 4.0).latent_shape == (3,)


@pytest.mark.parametrize(
    ("prior", "likelihood", "message"),
    [
        (
            lambda z, x: z,
            lambda x, z: z.sum(-1),
            r"log_prior must return \(S, N\) = \(4, 5\); got \(4, 5, 2\). Sum over l",
        ),
        (None, lambda x, z: z, r"log_likelihood must return \(S, N\) = \(4, 5\); got \(4, 5, 2\). Sum over pixels"),
        (None, lambda x, z: z.sum((0, 2)), r"got \(5,\)"),
        (None, lambda x, z: z.sum(), r"got \(\)"),
    ],
)
def test_densities_of_another_shape_are_refused(prior: Any, likelihood: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        log_joint(FunctionModel(likelihood, 2, prior), noise(5, 2), noise(4, 5, 2))


@pytest.mark.parametrize("shape", [0, -3, (), (3, 0), (2.5,), "ab"])
def test_impossible_latent_shapes_are_refused(shape: Any) -> None:
    with pytest.raises(ValueError, match="latent_shape must be"):
        as_shape(shape)


# ---- modes


def holders(dropout: nn.Module) -> dict[str, Any]:
    """The ways in which foreign code holds a module."""

    class Plain:
        def __init__(self) -> None:
            self.parts = {"inner": [dropout]}

        def method(self, z: Tensor) -> Tensor:
            return self.parts["inner"][0](z)

    def closure(z: Tensor) -> Tensor:
        return dropout(z)

    return {
        "module": nn.Sequential(dropout),
        "attribute": Plain(),
        "method": Plain().method,
        "closure": closure,
        "nested": lambda z: closure(z),
        "partial": functools.partial(closure),
        "decoder": DecoderModel(closure, "bernoulli", 2),
        "function": FunctionModel(lambda x, z: closure(z).sum(-1), 2),
        "tempered": Tempered(DecoderModel(dropout, "bernoulli", 2), 2.0),
        "prior": DecoderModel(Rows(), "bernoulli", 2, prior=SimpleNamespace(log_prob=closure)),
    }


@pytest.mark.parametrize("kind", holders(nn.Dropout()))
@pytest.mark.parametrize("training", [True, False])
def test_modules_are_found_evaluated_and_put_back(kind: str, training: bool) -> None:
    dropout = nn.Dropout().train(training)
    holder = holders(dropout)[kind]
    assert any(dropout in root.modules() for root in modules_of(holder))
    with evaluating(holder):
        assert not dropout.training
    assert dropout.training is training
    with pytest.raises(KeyError), evaluating(holder):
        raise KeyError
    assert dropout.training is training


def global_decoder(z: Tensor) -> Tensor:
    return GLOBAL_DROPOUT(z)


def test_a_module_that_a_function_reads_from_its_script_is_found() -> None:
    with evaluating(DecoderModel(global_decoder, "bernoulli", 2)):
        assert not GLOBAL_DROPOUT.training
    assert GLOBAL_DROPOUT.training


def test_each_module_returns_to_its_own_mode() -> None:
    inner, outer = nn.Dropout().eval(), nn.Sequential()
    outer.append(inner)
    assert outer.training
    with evaluating(outer):
        assert not outer.training
    assert (outer.training, inner.training) == (True, False)


def test_placement_is_that_of_the_parameters() -> None:
    assert device_and_dtype(FunctionModel(lambda x, z: z.sum(-1), 2)) == (None, None)
    assert device_and_dtype(None, nn.Linear(2, 2).double()) == (torch.device("cpu"), torch.float64)
    assert device_and_dtype(linear()[0])[1] == torch.float64


@pytest.mark.parametrize(("width", "n_samples", "most"), [(4, 200, 2500), (30_000, 8, 20)])
def test_calls_of_large_data_are_split_and_give_the_same_numbers(width: int, n_samples: int, most: int) -> None:
    """Data of 30,000 values come in calls of at most a million, small ones in calls of at most 2,500 rows."""
    rows: list[int] = []

    class Counted(torch.nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            rows.append(len(input))
            return super().forward(input)

    decoder = Counted(3, width).double()
    model = DecoderModel(decoder, "bernoulli", 3)
    g = seeded(0, "split")
    x = (torch.rand(20, width, generator=g) < 0.5).double()
    z = torch.randn(n_samples, 20, 3, dtype=torch.float64, generator=g)
    logits = torch.nn.functional.linear(z, decoder.weight, decoder.bias)
    likelihood = (x * logits - torch.nn.functional.softplus(logits)).sum(-1)
    grad = (x - logits.sigmoid()) @ decoder.weight - z
    value, seen = log_joint_and_grad(model, x, z)
    expected = likelihood - 0.5 * z.square().sum(-1) - 1.5 * math.log(2 * math.pi)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(log_joint(model, x, z), expected)
    torch.testing.assert_close(seen, grad)
    assert max(rows) == most
    assert sum(rows) == 2 * n_samples * 20
