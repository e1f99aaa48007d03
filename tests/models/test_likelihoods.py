"""Likelihoods: one table, each entry against scipy's density, its own normalization and its Fisher information."""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, distributions

from elbowroom.core import normal, seeded
from elbowroom.models import likelihoods
from elbowroom.models.likelihoods import Likelihood, LogisticMixture, SeveralOutputs, as_likelihood

from ..statistics import assert_close_z, assert_detects, assert_distribution_is
from .test_several_outputs import TABLE

S, N, EVENT = 3, 4, (2, 3)
DOUBLE = torch.empty(0, dtype=torch.float64)


def noise(*shape: int, key: str = "output") -> Tensor:
    return normal(shape, seeded(0, "test-likelihoods", key), DOUBLE)


@dataclass(frozen=True)
class Case:
    """A likelihood, and by what it is judged: `output(event)` (S, N, *event, ...), `x(event)` data, a scipy log density
    `(x, output) -> terms`, and the support to sum or integrate over."""

    make: Callable[[], Likelihood]
    output: Callable[[tuple[int, ...]], Any]
    oracle: Callable[[Any, Any], Any]
    support: tuple[float, ...] | tuple[None, float, float]


def one(event: tuple[int, ...]) -> Tensor:
    return 1.5 * noise(S, N, *event)


def stacked(event: tuple[int, ...]) -> Tensor:
    return noise(S, N, 2 * event[0], *event[1:])


def continuous_bernoulli(x: Any, output: Any) -> Any:
    """x l + log of 1 / the integral of exp(u l) over [0, 1], which is l / (exp(l) - 1)."""
    return x * output + np.log(output / np.expm1(output))


def normal_from(x: Any, output: Any) -> Any:
    mean, log_var = np.split(output, 2, axis=2)
    return stats.norm.logpdf(x, mean, np.exp(log_var / 2))


def discretized(x: Any, loc: Any, scale: Any) -> Any:
    """log of a difference of cumulative probabilities, from the side on which they are small; the end bins are open."""
    low = np.where(x == 0, -np.inf, (x - 0.5 / 255 - loc) / scale)
    high = np.where(x == 1, np.inf, (x + 0.5 / 255 - loc) / scale)
    left = stats.logistic.cdf(high) - stats.logistic.cdf(low)
    return np.log(np.where(x < loc, left, stats.logistic.sf(low) - stats.logistic.sf(high)))


LEVELS = tuple(k / 255 for k in range(256))
CASES = {
    "bernoulli": Case(likelihoods.bernoulli, one, lambda x, o: stats.bernoulli.logpmf(x, 1 / (1 + np.exp(-o))), (0, 1)),
    "bernoulli_probs": Case(
        likelihoods.bernoulli_probs,
        lambda event: torch.sigmoid(one(event)),
        lambda x, o: stats.bernoulli.logpmf(x, o),
        (0, 1),
    ),
    "continuous_bernoulli": Case(likelihoods.continuous_bernoulli, one, continuous_bernoulli, (None, 0.0, 1.0)),
    "categorical": Case(
        likelihoods.categorical,
        lambda event: one((*event, 3)),
        lambda x, o: np.take_along_axis(
            o - np.log(np.exp(o).sum(-1, keepdims=True)), np.broadcast_to(x, o.shape[:-1])[..., None], -1
        ),
        (0, 1, 2),
    ),
    "gaussian": Case(
        lambda: likelihoods.gaussian(0.3), one, lambda x, o: stats.norm.logpdf(x, o, 0.3), (None, -15.0, 15.0)
    ),
    "gaussian (tensor)": Case(
        lambda: likelihoods.gaussian(torch.tensor(0.7, dtype=torch.float64)),
        one,
        lambda x, o: stats.norm.logpdf(x, o, 0.7),
        (None, -15.0, 15.0),
    ),
    "gaussian (callable)": Case(
        lambda: likelihoods.gaussian(lambda: torch.tensor(2.0, dtype=torch.float64)),
        one,
        lambda x, o: stats.norm.logpdf(x, o, 2.0),
        (None, -40.0, 40.0),
    ),
    "gaussian (learned)": Case(
        lambda: likelihoods.gaussian("learned"), one, lambda x, o: stats.norm.logpdf(x, o, 1.0), (None, -20.0, 20.0)
    ),
    "gaussian (decoder)": Case(lambda: likelihoods.gaussian("decoder"), stacked, normal_from, (None, -60.0, 60.0)),
    "laplace": Case(
        lambda: likelihoods.laplace(0.3), one, lambda x, o: stats.laplace.logpdf(x, o, 0.3), (None, -25.0, 25.0)
    ),
    "discretized_logistic": Case(
        lambda: likelihoods.discretized_logistic(0.3), one, lambda x, o: discretized(x, o, 0.3), LEVELS
    ),
    "discretized_logistic (learned)": Case(
        lambda: likelihoods.discretized_logistic("learned"), one, lambda x, o: discretized(x, o, 1.0), LEVELS
    ),
    "discretized_logistic (decoder)": Case(
        lambda: likelihoods.discretized_logistic("decoder"),
        stacked,
        lambda x, o: discretized(x, np.split(o, 2, 2)[0], np.exp(np.split(o, 2, 2)[1])),
        LEVELS,
    ),
    "custom": Case(
        lambda: likelihoods.custom(lambda o: distributions.Poisson(o.exp())),
        one,
        lambda x, o: stats.poisson.logpmf(x, np.exp(o)),
        tuple(range(200)),
    ),
}
ALL = pytest.mark.parametrize("name", CASES)


def data(name: str, event: tuple[int, ...]) -> Tensor:
    """x (N, *event) in the support."""
    support = CASES[name].support
    if support[0] is None:
        return (noise(N, *event, key="x").abs() / 4).clamp(max=1)
    if support is LEVELS:
        return (255 * noise(N, *event, key="x").abs()).floor().clamp(max=255) / 255
    x = noise(N, *event, key="x").abs() * 2 % min(3, len(support))
    return x.floor() if name != "categorical" else x.long()


def test_the_table_is_complete() -> None:
    """Every constructor and every class of likelihood has a row here, or in the table of those of several outputs."""
    constructors = set(likelihoods.__all__) - {"Likelihood", "Output", "as_likelihood", "bits_per_dim"}
    missing = constructors - {name.split(" ")[0] for name in CASES} - set(TABLE) - {"discretized_logistic_mixture"}
    assert not missing, f"likelihoods without a row in CASES: {sorted(missing)}"
    classes = {kind for kind in vars(likelihoods).values() if inspect.isclass(kind) and issubclass(kind, Likelihood)}
    tested = {type(case.make()) for case in CASES.values()} | {Likelihood, SeveralOutputs, LogisticMixture}
    assert classes == tested, f"classes without a row in CASES: {sorted(kind.__name__ for kind in classes - tested)}"


@ALL
def test_log_prob_is_the_density_of_scipy_summed_over_events(name: str) -> None:
    case, x = CASES[name], data(name, EVENT)
    output = case.output(EVENT)
    expected = case.oracle(x.numpy(), output.numpy()).reshape(S, N, -1).sum(-1)
    np.testing.assert_allclose(case.make().log_prob(x, output).detach(), expected, rtol=1e-10, atol=1e-12)


@ALL
def test_log_prob_is_that_of_its_own_distribution(name: str) -> None:
    case, x = CASES[name], data(name, EVENT)
    likelihood, output = case.make(), case.output(EVENT)
    expected = likelihood.distribution(output).log_prob(x).reshape(S, N, -1).sum(-1)
    np.testing.assert_allclose(likelihood.log_prob(x, output).detach(), expected.detach(), rtol=1e-12, atol=1e-12)


@ALL
def test_the_density_sums_to_one(name: str) -> None:
    """Every point of the support, or of a fine grid over it, is one datum; all have the same decoder output."""
    case = CASES[name]
    if case.support[0] is None:
        x = torch.linspace(case.support[1], case.support[2], 100_001, dtype=torch.float64)[:, None]
    else:
        x = torch.tensor(case.support, dtype=torch.long if name == "categorical" else torch.float64)[:, None]
    for row in case.output((1,)).flatten(0, 1):
        density = case.make().log_prob(x, row.expand(1, len(x), *row.shape)).exp().detach()[0]
        total = density.sum() if case.support[0] is not None else torch.trapezoid(density, x[:, 0])
        assert total.item() == pytest.approx(1.0, rel=1e-5)


@ALL
def test_data_of_another_shape_are_refused(name: str) -> None:
    """One pixel against six broadcasts without a word, and six against one: both are refused, by name."""
    case = CASES[name]
    likelihood = case.make()
    for x_event, event in (((1,), (6,)), ((6,), (2, 3)), ((1, 3), (2, 3))):
        with pytest.raises(ValueError, match=f"{likelihood.name} likelihood: x must be shaped like"):
            likelihood.log_prob(data(name, x_event), case.output(event))


@ALL
def test_simulated_data_have_the_mean_of_the_distribution(name: str) -> None:
    case = CASES[name]
    likelihood, n = case.make(), 4000
    output = case.output((2,))[:1, :1]
    wide = output.expand(1, n, *output.shape[2:]).contiguous()
    before = torch.get_rng_state()
    x = likelihood.sample(wide, seeded(0, "sample", name))[0].double()
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(x, likelihood.sample(wide, seeded(0, "sample", name))[0].double())
    assert not torch.equal(x, likelihood.sample(wide, seeded(1, "sample", name))[0].double())
    made = likelihood.distribution(output)
    if name == "categorical":
        probs = torch.softmax(output, -1)[0, 0]
        mean = probs @ torch.arange(3.0, dtype=torch.float64)
        variance = probs @ torch.arange(3.0, dtype=torch.float64) ** 2 - mean**2
    else:
        mean, variance = made.mean[0, 0], made.variance[0, 0]
    error = (variance / n).sqrt().detach()
    assert_close_z(x.mean(0), mean.detach(), error, n_comparisons=len(CASES))
    assert_detects(x.mean(0), mean.detach() + 0.7 * variance.sqrt().detach(), error)


def test_bernoulli_scores_extreme_logits() -> None:
    x, output = torch.tensor([[1.0, 0.0]]), torch.tensor([[[-800.0, 800.0]]])
    assert likelihoods.bernoulli().log_prob(x, output).item() == -1600.0
    assert likelihoods.bernoulli().log_prob(1 - x, output).item() == 0.0
    assert likelihoods.bernoulli_probs().log_prob(x, x[None]).item() == 0.0
    assert likelihoods.bernoulli_probs().log_prob(x, 1 - x[None]).item() == -math.inf


def test_a_decoder_may_stack_mean_and_log_variance_or_give_a_pair() -> None:
    likelihood, output = likelihoods.gaussian("decoder"), stacked(EVENT)
    pair = (output[:, :, :2], output[:, :, 2:])
    x = noise(N, *EVENT, key="x")
    assert torch.equal(likelihood.log_prob(x, pair), likelihood.log_prob(x, output))
    with pytest.raises(ValueError, match="twice the channels"):
        likelihood.log_prob(x, noise(S, N, 3))


def test_a_learned_scale_is_a_parameter() -> None:
    likelihood = likelihoods.gaussian("learned")
    likelihood.log_prob(noise(N, *EVENT, key="x"), one(EVENT)).sum().backward()
    (parameter,) = likelihood.parameters()
    assert parameter.grad is not None
    assert parameter.grad.abs() > 0


def test_callables_become_likelihoods() -> None:
    scores = as_likelihood(lambda x, output: -(x - output).abs().sum(-1))
    x, output = noise(N, 3, key="x"), one((3,))
    np.testing.assert_allclose(scores.log_prob(x, output), -np.abs(x.numpy() - output.numpy()).sum(-1))
    with pytest.raises(TypeError, match="cannot simulate"):
        scores.distribution(output)
    with pytest.raises(TypeError, match="must return a torch Distribution; got int"):
        as_likelihood(lambda o: 3).log_prob(x, output)
    named = as_likelihood("bernoulli")
    assert as_likelihood(named) is named


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("gaussian", ValueError, "needs its scale"),
        ("laplace", ValueError, "needs its scale"),
        ("discretized_logistic", ValueError, r"needs its scale: pass er.likelihoods.discretized_logistic\(scale="),
        ("bernouli", ValueError, "must be one of"),
        (3, TypeError, "got int"),
    ],
)
def test_what_is_no_likelihood_is_refused(spec: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        as_likelihood(spec)


@pytest.mark.parametrize("scale", [0, -1.0, "leaned"])
def test_an_impossible_scale_is_refused(scale: Any) -> None:
    with pytest.raises(ValueError, match="scale must be"):
        likelihoods.gaussian(scale)


# ---- masses of 8-bit pixels


def exact_log_mass(level: int, loc: float, scale: float) -> float:
    """log(F(b) - F(a)) with a thousand digits, so that no care is needed."""
    with localcontext(prec=1000):
        high = ((level + Decimal("0.5")) / 255 - Decimal(loc)) / Decimal(scale)
        low = ((level - Decimal("0.5")) / 255 - Decimal(loc)) / Decimal(scale)
        upper = Decimal(1) if level == 255 else 1 / (1 + (-high).exp())
        lower = Decimal(0) if level == 0 else 1 / (1 + (-low).exp())
        return float((upper - lower).ln())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("scale", [1e-4, 2e-3, 0.05, 1.0, 50.0])
@pytest.mark.parametrize("loc", [-3.0, -0.004, 0.0, 0.31, 128 / 255, 0.999, 40.0])
def test_the_masses_of_all_levels_sum_to_one(scale: float, loc: float, dtype: torch.dtype) -> None:
    x = (torch.arange(256.0, dtype=torch.float64) / 255).to(dtype)[:, None]
    mean = torch.full((1, 256, 1), loc, dtype=dtype)
    total = likelihoods.discretized_logistic(scale).log_prob(x, mean).double().logsumexp(1)
    assert total.item() == pytest.approx(0.0, abs=1e-11 if dtype == torch.float64 else 2e-5)


@pytest.mark.parametrize(
    ("level", "loc", "scale"),
    [
        (51, 5.0, 0.01),  # a tail of e^-480, which a difference of sigmoids takes for zero
        (204, -4.0, 0.01),
        (0, 2.0, 0.004),
        (255, -1.0, 0.004),
        (100, 100 / 255, 1e-4),  # all the mass in one bin
        (100, 101 / 255, 1e-4),
        (30, 0.5, 1000.0),  # a bin far narrower than the scale
        (30, 0.12, 0.02),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_far_tails_keep_their_mass_and_gradient(level: int, loc: float, scale: float, dtype: torch.dtype) -> None:
    """Against a thousand digits, in single precision too; the gradient against differences of those."""
    x = torch.tensor([[level / 255]], dtype=dtype)
    mean = torch.tensor([[[loc]]], dtype=dtype, requires_grad=True)
    log_scale = torch.tensor([[[math.log(scale)]]], dtype=dtype, requires_grad=True)
    value = likelihoods.discretized_logistic("decoder").log_prob(x, (mean, log_scale))
    rtol, atol = (1e-9, 1e-12) if dtype == torch.float64 else (2e-4, 1e-4)
    np.testing.assert_allclose(value.item(), exact_log_mass(level, loc, scale), rtol=rtol, atol=atol)
    found = torch.autograd.grad(value.sum(), (mean, log_scale))
    step = 1e-6
    by_loc = exact_log_mass(level, loc + step * scale, scale) - exact_log_mass(level, loc - step * scale, scale)
    by_scale = exact_log_mass(level, loc, scale * math.exp(step)) - exact_log_mass(level, loc, scale * math.exp(-step))
    for one, other in zip(found, (by_loc / (2 * step * scale), by_scale / (2 * step)), strict=True):
        np.testing.assert_allclose(one.item(), other, rtol=max(rtol, 1e-6), atol=10 * atol / scale**0.5)


def test_values_outside_the_levels_have_no_mass() -> None:
    likelihood = likelihoods.discretized_logistic(0.1)
    x = torch.tensor([[-0.5], [1.5], [17.0], [0.0]])
    value = likelihood.log_prob(x, torch.zeros(1, 4, 1))[0]
    assert value[:3].tolist() == 3 * [-math.inf]
    assert value[3].isfinite()


def test_draws_are_levels() -> None:
    """Also where a float32 draw is as far out as it can be; and each level as often as its mass says."""
    likelihood, n = likelihoods.discretized_logistic(0.004), 4000
    x = likelihood.sample(torch.full((1, n, 1), 0.301), seeded(0, "levels"))[0, :, 0]
    levels = (255 * x.double()).round()
    np.testing.assert_allclose(255 * x.double(), levels, atol=1e-5)
    masses = likelihood.log_prob(torch.tensor(LEVELS)[:, None], torch.full((1, 256, 1), 0.301))[0].exp()
    for level in range(75, 79):
        p = masses[level].item()
        error = math.sqrt(p * (1 - p) / n)
        assert_close_z((levels == level).double().mean(), p, error, n_comparisons=4)
    assert_detects((levels == 76).double().mean(), masses[75].item(), math.sqrt(0.25 / n))


def test_bits_per_dim() -> None:
    uniform = likelihoods.discretized_logistic(1e6).log_prob(torch.full((1, 6), 0.2), torch.full((1, 1, 6), 0.5))
    logs = torch.tensor([-math.log(2.0) * 6, -math.log(256.0) * 6])
    np.testing.assert_allclose(likelihoods.bits_per_dim(logs, 6), [1.0, 8.0], rtol=1e-12)
    assert likelihoods.bits_per_dim(uniform.item(), 6) == pytest.approx(math.log2(4 * 255e6), rel=1e-6)
    with pytest.raises(ValueError, match="n_dims must be the number of dimensions"):
        likelihoods.bits_per_dim(-1.0, 0)


# ---- the continuous Bernoulli


@pytest.mark.parametrize("logit", [0.0, 1e-9, -1e-5, 0.0299, -0.0301, 0.4, -7.0, 30.0, -200.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_continuous_bernoulli_is_normalized_at_every_logit(logit: float, dtype: torch.dtype) -> None:
    """By Gauss-Legendre quadrature over pieces of [0, 1], at logits near zero and large; and its draws follow it."""
    nodes, weights = np.polynomial.legendre.leggauss(40)
    x = torch.tensor([(i + 0.5 + 0.5 * node) / 20 for i in range(20) for node in nodes], dtype=dtype)[:, None]
    weight = torch.tensor(np.tile(weights, 20)).double() / 40
    output = torch.full((1, len(x), 1), logit, dtype=dtype, requires_grad=True)
    density = likelihoods.continuous_bernoulli().log_prob(x, output)[0]
    total = (density.double().exp() * weight).sum()
    assert total.item() == pytest.approx(1.0, rel=1e-12 if dtype == torch.float64 else 3e-5)
    (grad,) = torch.autograd.grad(density.sum(), output)
    assert grad.isfinite().all()
    mean = (x[:, 0].double() * density.detach().double().exp() * weight).sum()  # the score is x - E[x]
    np.testing.assert_allclose((x - grad[0])[:, 0].double(), mean, atol=1e-9 if dtype == torch.float64 else 1e-4)


@pytest.mark.parametrize("logit", [0.0, 1e-5, -0.4, 9.0, -30.0])
def test_draws_of_the_continuous_bernoulli_follow_its_density(logit: float) -> None:
    output = torch.full((1, 2000, 1), logit, dtype=torch.float32)
    x = likelihoods.continuous_bernoulli().sample(output, seeded(0, "continuous", str(logit)))[0, :, 0]

    def cdf(points: Any) -> Any:
        return points if logit == 0 else np.expm1(logit * points) / math.expm1(logit)

    assert_distribution_is(x, cdf, n_comparisons=5)
