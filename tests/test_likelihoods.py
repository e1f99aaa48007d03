"""Likelihoods: one table, each entry against scipy's density, its own normalization and its Fisher information."""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, distributions

from elbowroom import likelihoods
from elbowroom.likelihoods import Likelihood, as_likelihood
from elbowroom.rng import normal, seeded

from .statistics import assert_close_z, assert_detects

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
    x = noise(N, *event, key="x").abs() * 2 % min(3, len(support))
    return x.floor() if name != "categorical" else x.long()


def test_the_table_is_complete() -> None:
    """Every constructor and every class of likelihood has a row here."""
    constructors = set(likelihoods.__all__) - {"Likelihood", "as_likelihood"}
    missing = constructors - {name.split(" ")[0] for name in CASES}
    assert not missing, f"likelihoods without a row in CASES: {sorted(missing)}"
    classes = {kind for kind in vars(likelihoods).values() if inspect.isclass(kind) and issubclass(kind, Likelihood)}
    tested = {type(case.make()) for case in CASES.values()} | {Likelihood}
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
