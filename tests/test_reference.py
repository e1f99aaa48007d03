"""The references against each other and against scipy: closed form, quadrature, finite differences,
simulation.

Every random assertion goes through tests.statistics at its default false-alarm rate, 1e-6.
"""

import math

import numpy as np
import pytest
from scipy import optimize, stats

from tests import reference as ref
from tests.statistics import assert_detects, assert_mean_at_least, assert_mean_at_most, assert_mean_is

SHAPES = [(3, 1), (4, 2), (2, 3)]


def case(n_data_dims: int, n_latents: int, n: int = 3) -> tuple[ref.LinearGaussian, ref.Array]:
    model = ref.LinearGaussian.random(n_data_dims, n_latents, scale=0.7, seed=n_latents)
    return model, model.sample(n, seed=10)[1]


def some_gaussian(n_latents: int, seed: int = 3) -> tuple[ref.Array, ref.Array]:
    rng = np.random.default_rng(seed)
    root = 0.5 * rng.standard_normal((n_latents, n_latents)) + np.eye(n_latents)
    return rng.standard_normal(n_latents), root @ root.T


def banana(z: ref.Array) -> ref.Array:
    """A curved joint of two latents without closed form: z ~ N(0, I), x = 1 ~ N(z1 + z0^2, 0.5^2)."""
    prior = -(z**2).sum(-1) / 2 - math.log(2 * math.pi)
    return prior + stats.norm.logpdf(1.0, z[:, 1] + z[:, 0] ** 2, 0.5)


@pytest.mark.parametrize("shape", SHAPES)
def test_log_evidence_is_scipys(shape: tuple[int, int]) -> None:
    model, x = case(*shape)
    marginal = stats.multivariate_normal(model.bias, model.weight @ model.weight.T + 0.49 * np.eye(shape[0]))
    np.testing.assert_allclose(model.log_evidence(x), marginal.logpdf(x), rtol=1e-12)


@pytest.mark.parametrize("shape", SHAPES[:2])
def test_quadrature_finds_evidence_and_posterior(shape: tuple[int, int]) -> None:
    model, x = case(*shape)
    mean, covariance = model.posterior(x)
    for i in range(len(x)):
        grid = ref.quadrature(model.log_joint(x[i]), shape[1])
        np.testing.assert_allclose(grid.log_evidence, model.log_evidence(x)[i], atol=1e-10)
        np.testing.assert_allclose(grid.mean, mean[i], atol=1e-10)
        np.testing.assert_allclose(grid.covariance, covariance, atol=1e-10)


def test_quadrature_refuses_a_grid_that_is_too_small() -> None:
    with pytest.raises(ValueError, match="edge of the grid"):
        ref.quadrature(lambda z: -(z**2).sum(-1) / 2, 1, half_width=3)


@pytest.mark.parametrize("shape", SHAPES)
def test_elbo_plus_kl_is_log_evidence(shape: tuple[int, int]) -> None:
    model, x = case(*shape)
    mean, covariance = some_gaussian(shape[1])
    gap = model.log_evidence(x) - model.elbo(x, mean, covariance)
    posterior_mean, posterior_covariance = model.posterior(x)
    np.testing.assert_allclose(gap, ref.gaussian_kl(mean, covariance, posterior_mean, posterior_covariance))
    np.testing.assert_allclose(model.elbo(x, posterior_mean, posterior_covariance), model.log_evidence(x))


def test_elbo_accepts_a_covariance_per_datum() -> None:
    model, x = case(4, 2)
    means, covariances = map(np.stack, zip(*(some_gaussian(2, i) for i in range(3)), strict=True))
    each = [model.elbo(x[i : i + 1], means[i], covariances[i])[0] for i in range(3)]
    np.testing.assert_allclose(model.elbo(x, means, covariances), each)


@pytest.mark.parametrize("shape", SHAPES[:2])
def test_elbo_by_quadrature(shape: tuple[int, int]) -> None:
    model, x = case(*shape)
    mean, covariance = some_gaussian(shape[1])
    value = ref.elbo_by_quadrature(model.log_joint(x[0]), mean, covariance, n_points=8)
    np.testing.assert_allclose(value, model.elbo(x[:1], mean, covariance)[0])


def test_entropy_and_kl() -> None:
    mean, covariance = some_gaussian(2)
    other_mean, other = some_gaussian(2, seed=4)
    entropy = stats.multivariate_normal(mean, covariance).entropy()
    np.testing.assert_allclose(ref.gaussian_entropy(covariance), entropy)
    log_other = stats.multivariate_normal(other_mean, other).logpdf
    kl = -ref.elbo_by_quadrature(log_other, mean, covariance, n_points=8)
    np.testing.assert_allclose(ref.gaussian_kl(mean, covariance, other_mean, other), kl)


@pytest.mark.parametrize("kl_weight", [1.0, 4.0, 0.3])
@pytest.mark.parametrize("family", ["diagonal", "full"])
def test_best_q_is_where_its_objective_is_flat_and_highest(family: str, kl_weight: float) -> None:
    """E_q[log p(z) + log p(x|z) / b] + H[q], by definition, over means and scales or a Cholesky factor."""
    model, x = case(4, 3, n=1)

    def unpack(parameters: ref.Array) -> tuple[ref.Array, ref.Array]:
        root = np.diag(np.exp(parameters[3:6]))
        if family == "full":
            root[np.tril_indices(3, -1)] = parameters[6:]
        return parameters[:3], root @ root.T

    def objective(parameters: ref.Array) -> float:
        mean, covariance = unpack(parameters)
        negative_kl = -ref.gaussian_kl(mean, covariance, np.zeros(3), np.eye(3))
        return float(negative_kl + (model.elbo(x, mean, covariance)[0] - negative_kl) / kl_weight)

    mean, covariance = model.best(x, family, kl_weight)
    root = np.linalg.cholesky(covariance)
    start = np.concatenate([mean[0], np.log(np.diag(root)), root[np.tril_indices(3, -1)]])
    start = start if family == "full" else start[:6]
    assert np.abs(optimize.approx_fprime(start, objective, 1e-7)).max() < 1e-4
    rng = np.random.default_rng(0)
    for _ in range(50):
        assert objective(start + 0.1 * rng.standard_normal(start.shape)) < objective(start)


def test_the_diagonal_gap_in_closed_form() -> None:
    """log p(x) - L[q*_diagonal] = (sum log diag(precision) - log det precision) / 2, the same for every x."""
    model, x = case(4, 3)
    gap = model.log_evidence(x) - model.elbo(x, *model.best(x, "diagonal"))
    precision = model.precision()
    expected = (np.log(np.diag(precision)).sum() - np.linalg.slogdet(precision)[1]) / 2
    np.testing.assert_allclose(gap, expected)
    assert expected > 0.1


def test_mismatch_is_nothing_at_weight_one_and_a_loss_elsewhere() -> None:
    model, x = case(4, 3)
    for family in ("diagonal", "full"):
        np.testing.assert_allclose(model.mismatch(x, family, 1.0), 0, atol=1e-12)
        assert (model.mismatch(x, family, 4.0) > 0.05).all()
        assert (model.mismatch(x, family, 0.25) > 0.05).all()


def test_gradient_and_leapfrog() -> None:
    """Gradients of a known density; trajectories that return when the momentum is turned; energy error of
    order 2."""
    mean, covariance = some_gaussian(2)
    z, momentum = np.random.default_rng(0).standard_normal((2, 5, 2))
    slope = -(z - mean) @ np.linalg.inv(covariance)
    found = ref.gradient(lambda z: ref.log_normal(z, mean, covariance), z)
    np.testing.assert_allclose(found, slope, atol=1e-8)
    end, turned = ref.leapfrog(banana, z, momentum, 0.1, 10)
    back, _ = ref.leapfrog(banana, end, -turned, 0.1, 10)
    np.testing.assert_allclose(back, z, atol=1e-7)

    def energy_error(step_size: float, n: int) -> float:
        end, turned = ref.leapfrog(banana, z, momentum, step_size, n)
        before = banana(z) - (momentum**2).sum(-1) / 2
        return float(np.abs(banana(end) - (turned**2).sum(-1) / 2 - before).max())

    assert energy_error(0.02, 20) / energy_error(0.01, 40) == pytest.approx(4, rel=0.1)


def test_hmc_leaves_the_density_invariant() -> None:
    """Exact draws stay exact draws: mean and second moments after ten rough steps that reject often."""
    mean, covariance = some_gaussian(2)
    rng = np.random.default_rng(1)
    z = mean + rng.standard_normal((4000, 2)) @ np.linalg.cholesky(covariance).T
    rates = []
    for _ in range(10):
        z, accepted = ref.hmc_step(lambda z: ref.log_normal(z, mean, covariance), z, 0.9, 3, rng)
        rates.append(accepted.mean())
    assert 0.3 < np.mean(rates) < 0.95
    assert_mean_is(z, mean, n_comparisons=2)
    products = (z - mean)[:, :, None] * (z - mean)[:, None, :]
    assert_mean_is(products.reshape(-1, 4), covariance.ravel(), n_comparisons=2)


def test_weights_under_the_exact_posterior_are_all_the_evidence() -> None:
    model, x = case(4, 2)
    (mean, *_), covariance = model.posterior(x)
    log_joint = model.log_joint(x[0])
    rng = np.random.default_rng(2)
    exact = model.log_evidence(x)[0]
    np.testing.assert_allclose(ref.log_weights(log_joint, mean, covariance, 50, rng), exact, atol=1e-9)

    def log_base(z: ref.Array) -> ref.Array:
        return ref.log_normal(z, mean, covariance)

    z = mean + rng.standard_normal((20, 2)) @ np.linalg.cholesky(covariance).T
    for run in (ref.ais, ref.reverse_ais):
        log_w, _ = run(log_base, log_joint, z, [0, 0.2, 0.7, 1], 0.3, 2, rng)
        np.testing.assert_allclose(log_w, exact, atol=1e-9)


def test_iwae_by_its_definition() -> None:
    """Weights average to the evidence, K = 1 to the ELBO, and a larger K gives a higher lower bound."""
    model, x = case(4, 2)
    (mean, *_), covariance = model.best(x, "diagonal")
    rng = np.random.default_rng(4)
    log_w = ref.log_weights(model.log_joint(x[0]), mean, 1.3 * covariance, 64_000, rng)
    exact = model.log_evidence(x)[0]
    assert_mean_is(np.exp(log_w - exact), 1.0)
    assert_mean_is(ref.iwae(log_w, 1), model.elbo(x[:1], mean, 1.3 * covariance)[0])
    bounds = [ref.iwae(log_w, k) for k in (1, 4, 16)]
    for bound in bounds:
        assert_mean_at_most(bound, exact)
    assert bounds[0].mean() < bounds[1].mean() < bounds[2].mean()


def run_both_ways(
    log_base: ref.LogDensity,
    log_joint: ref.LogDensity,
    base: ref.Array,
    exact: ref.Array,
    n_temperatures: int,
) -> tuple[ref.Array, ref.Array]:
    betas = np.linspace(0, 1, n_temperatures + 1)
    rng = np.random.default_rng(5)
    forward, _ = ref.ais(log_base, log_joint, base, betas, 0.3, 3, rng)
    backward, _ = ref.reverse_ais(log_base, log_joint, exact, betas, 0.3, 3, rng)
    return forward, backward


def check_bracket(forward: ref.Array, backward: ref.Array, exact: float) -> None:
    assert_mean_is(np.exp(forward - exact), 1.0)
    assert_mean_is(np.exp(exact - backward), 1.0)
    assert_mean_at_most(forward, exact)
    assert_mean_at_least(backward, exact)
    error = float(forward.std() / math.sqrt(len(forward)))
    assert_detects(forward.mean(), exact, error)  # a log weight is a bound: it must lie visibly below


def linear_runs(n_temperatures: int) -> tuple[ref.Array, ref.Array, float]:
    """Forward and reverse log weights from the prior of a small linear model, and its log evidence."""
    model = ref.LinearGaussian(np.array([[1.0, 0.4], [0.2, 0.8]]), np.zeros(2), 0.8)
    x = np.array([[0.6, -0.5]])
    (mean,), covariance = model.posterior(x)
    rng = np.random.default_rng(6)
    base = rng.standard_normal((4000, 2))
    exact = mean + rng.standard_normal((4000, 2)) @ np.linalg.cholesky(covariance).T
    log_prior = stats.multivariate_normal(np.zeros(2)).logpdf
    forward, backward = run_both_ways(log_prior, model.log_joint(x[0]), base, exact, n_temperatures)
    return forward, backward, model.log_evidence(x)[0]


def test_ais_brackets_the_evidence_of_a_linear_model() -> None:
    """From the prior, few temperatures: unbiased weights both ways, log weights on their sides."""
    check_bracket(*linear_runs(5))


def test_ais_closes_with_more_temperatures() -> None:
    """It is the moves that close the bracket: 8 times the temperatures leave less than a third of it."""
    *few, exact = linear_runs(5)
    *many, _ = linear_runs(40)
    for wide, narrow in zip(few, many, strict=True):
        assert abs(narrow.mean() - exact) < abs(wide.mean() - exact) / 3


def test_order_of_moves_and_increments(monkeypatch: pytest.MonkeyPatch) -> None:
    """With log joint z, base 0 and moves that add 1, the sums can be done by hand; reverse mirrors."""
    seen = []

    def add_one(log_density: ref.LogDensity, z: ref.Array, *_: object) -> tuple[ref.Array, ref.Array]:
        seen.append(float(log_density(np.ones((1, 1)))[0]))  # at z = 1 the density between is beta itself
        return z + 1, z

    monkeypatch.setattr(ref, "hmc_step", add_one)
    path = (lambda z: 0 * z[:, 0], lambda z: z[:, 0], np.zeros((1, 1)), [0, 0.2, 0.7, 1], 0.1, 1)
    forward, _ = ref.ais(*path, np.random.default_rng(0))
    backward, _ = ref.reverse_ais(*path, np.random.default_rng(0))
    assert forward[0] == pytest.approx(0.2 * 0 + 0.5 * 1 + 0.3 * 2)
    assert backward[0] == pytest.approx(0.3 * 0 + 0.5 * 1 + 0.2 * 2)
    assert seen == pytest.approx([0.2, 0.7, 0.7, 0.2])


@pytest.mark.slow
def test_ais_brackets_the_evidence_of_a_curved_model() -> None:
    """The same where only quadrature knows the truth; exact draws by rejection from the prior."""
    rng = np.random.default_rng(7)
    candidates = rng.standard_normal((200_000, 2))
    ratio = np.exp(-0.5 * ((1 - candidates[:, 1] - candidates[:, 0] ** 2) / 0.5) ** 2)
    exact = candidates[rng.random(len(ratio)) < ratio][:40_000]
    assert len(exact) == 40_000
    log_prior = stats.multivariate_normal(np.zeros(2)).logpdf
    base = rng.standard_normal((40_000, 2))
    forward, backward = run_both_ways(log_prior, banana, base, exact, 20)
    truth = ref.quadrature(banana, 2)
    check_bracket(forward, backward, truth.log_evidence)
    assert_mean_is(exact, truth.mean)


def test_quadrature_of_a_curved_model_does_not_depend_on_the_grid() -> None:
    one, other = ref.quadrature(banana, 2), ref.quadrature(banana, 2, half_width=9, n_points=301)
    assert one.log_evidence == pytest.approx(other.log_evidence, abs=1e-10)
    mean, covariance = one.mean, one.covariance
    elbo = ref.elbo_by_quadrature(banana, mean, covariance)
    assert elbo == pytest.approx(ref.elbo_by_quadrature(banana, mean, covariance, n_points=20), abs=1e-10)
    assert elbo < one.log_evidence - 0.05
