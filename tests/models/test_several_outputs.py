"""Likelihoods of counts, angles, heavy tails and mixtures: normalized, drawn as they say, and shaped as the rest."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import elbowroom as er
from elbowroom.models import likelihoods
from elbowroom.models.likelihoods import Likelihood, as_likelihood
from tests.statistics import assert_mean_is

COUNTS = torch.arange(0, 6000.0, dtype=torch.float64)
REALS = torch.linspace(-2000, 2000, 2_000_001, dtype=torch.float64)
ANGLES = torch.linspace(-math.pi, math.pi, 100_001, dtype=torch.float64)[1:]
LEVELS = torch.arange(256, dtype=torch.float64) / 255
TABLE: dict[str, tuple[Likelihood, int, Tensor, float]] = {  # outputs for each number of x, all x, and their spacing
    "poisson": (likelihoods.poisson(), 1, COUNTS, 1.0),
    "negative_binomial": (likelihoods.negative_binomial(), 2, COUNTS, 1.0),
    "zero_inflated_negative_binomial": (likelihoods.zero_inflated_negative_binomial(), 3, COUNTS, 1.0),
    "beta_binomial": (likelihoods.beta_binomial(30), 2, COUNTS[:31], 1.0),
    "student_t": (likelihoods.student_t(4, "decoder"), 2, REALS, float(REALS[1] - REALS[0])),
    "von_mises": (likelihoods.von_mises(), 2, ANGLES, float(ANGLES[1] - ANGLES[0])),
}


def outputs(n: int, rows: int = 4) -> Tensor:
    """(rows, n) outputs of a decoder, about as large as those of a trained one."""
    return torch.randn(rows, n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)


@pytest.mark.parametrize("name", TABLE)
def test_the_mass_is_one(name: str) -> None:
    likelihood, n, values, spacing = TABLE[name]
    for row in outputs(n):
        parts = tuple(part.expand(1, len(values), 1) for part in row)
        log_p = likelihood.log_prob(values[:, None], parts if n > 1 else parts[0])[0]
        assert (log_p.exp().sum() * spacing).item() == pytest.approx(1, abs=1e-4 if name == "student_t" else 1e-6)


def test_a_mixture_of_logistics_has_mass_one_and_is_that_of_its_parts() -> None:
    mixture, single = likelihoods.discretized_logistic_mixture(3), likelihoods.discretized_logistic("decoder")
    row = outputs(9, 1)[0]
    value = mixture.log_prob(LEVELS[:, None], row.expand(1, 256, 1, 9))[0]
    assert value.exp().sum().item() == pytest.approx(1, abs=1e-9)
    shares, loc, log_scale = torch.softmax(row[:3], 0), row[3:6], row[6:]
    each = [
        single.log_prob(LEVELS[:, None], (loc[k].expand(1, 256, 1), log_scale[k].expand(1, 256, 1)))[0].exp()
        for k in range(3)
    ]
    assert torch.allclose(value.exp(), (torch.stack(each) * shares[:, None]).sum(0), atol=1e-12)


@pytest.mark.parametrize("name", TABLE)
def test_draws_have_the_mean_of_the_mass(name: str) -> None:
    """False alarms are at the rate of `tests.statistics`, for all rows of the table together."""
    likelihood, n, values, spacing = TABLE[name]
    if name == "von_mises":
        values = values[(values > -math.pi) & (values < math.pi)]
    for i, row in enumerate(outputs(n)):
        parts = tuple(part.expand(1, len(values), 1) for part in row)
        p = likelihood.log_prob(values[:, None], parts if n > 1 else parts[0])[0].exp() * spacing
        many = tuple(part.expand(1, 20_000, 1) for part in row)
        draws = likelihood.sample(many if n > 1 else many[0], torch.Generator().manual_seed(i))[0, :, 0]
        wrap: Callable[[Tensor], Tensor] = torch.sin if name == "von_mises" else lambda v: v.clamp(-50, 50)
        assert_mean_is(wrap(draws), (wrap(values) * p).sum().item(), n_comparisons=4 * len(TABLE))


@pytest.mark.parametrize("name", [*TABLE, "discretized_logistic_mixture"])
def test_a_decoder_of_it_is_measured(name: str) -> None:
    """The tuple and the stacked tensor are the same; the model simulates its own data, and passes the check."""
    n = TABLE[name][1] if name in TABLE else 6
    likelihood = TABLE[name][0] if name in TABLE else likelihoods.discretized_logistic_mixture(2)
    torch.manual_seed(0)
    net = nn.Linear(2, 5 * n).double()

    def stacked(z: Tensor) -> Tensor:
        return 0.3 * (net(z).reshape(-1, 5, n) if name == "discretized_logistic_mixture" else net(z))

    def split(z: Tensor) -> tuple[Tensor, ...] | Tensor:
        return tuple(stacked(z).chunk(n, 1)) if n > 1 and name in TABLE else stacked(z)

    one, other = (er.DecoderModel(decoder, likelihood, 2) for decoder in (stacked, split))
    generator = torch.Generator().manual_seed(1)
    z = one.sample_prior(1, torch.zeros(40, 5, dtype=torch.float64), generator)[0].double()
    x = one.sample_data(z, None, generator)
    assert torch.equal(one.log_likelihood(x, z[None]), other.log_likelihood(x, z[None]))
    q = er.Amortized(nn.Linear(5, 4).double(), er.DiagonalGaussian(2))
    er.check(one, q, x)
    assert er.decompose(one, q, x, plan="quick").amortization.mean > 0


def test_a_negative_binomial_has_the_mean_and_the_variance_of_its_outputs() -> None:
    distribution = likelihoods.negative_binomial().distribution((torch.tensor(2.0).log(), torch.tensor(4.0).log()))
    assert distribution.mean.item() == pytest.approx(2)
    assert distribution.variance.item() == pytest.approx(2 + 4 / 4)


@pytest.mark.parametrize("name", ["zero_inflated_negative_binomial", "beta_binomial"])
def test_the_moments_are_those_of_the_mass(name: str) -> None:
    likelihood, n, values, _ = TABLE[name]
    for row in outputs(n):
        distribution = likelihood.distribution(tuple(part.reshape(1, 1, 1) for part in row))
        p = distribution.log_prob(values).exp()[0, 0]
        mean = (values * p).sum()
        assert distribution.mean.item() == pytest.approx(mean.item(), rel=1e-6)
        assert distribution.variance.item() == pytest.approx(((values - mean).square() * p).sum().item(), rel=1e-5)


@pytest.mark.parametrize("name", ["poisson", "negative_binomial", "zero_inflated_negative_binomial", "von_mises"])
def test_a_name_is_enough(name: str) -> None:
    assert as_likelihood(name).name == name


@pytest.mark.parametrize("name", ["beta_binomial", "student_t", "discretized_logistic_mixture"])
def test_a_name_that_needs_a_number_says_which(name: str) -> None:
    with pytest.raises(ValueError, match=rf"pass er\.likelihoods\.{name}\(\w+=\d"):
        as_likelihood(name)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda: likelihoods.beta_binomial(0), "total_count must be at least 1; got 0"),
        (lambda: likelihoods.student_t(0, 1.0), "df must be positive; got 0"),
        (lambda: likelihoods.discretized_logistic_mixture(0), "n_components must be at least 1; got 0"),
        (lambda: likelihoods.negative_binomial().distribution(torch.zeros(1, 2, 3)), r"\(log mean, log theta\), or a"),
        (lambda: likelihoods.von_mises().distribution((torch.zeros(1, 2),)), "got a tuple of 1"),
        (lambda: likelihoods.discretized_logistic_mixture(2).distribution(torch.zeros(1, 2, 5)), "dimension of 6"),
    ],
)
def test_wrong_numbers_and_outputs_are_named(made: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        made()


@pytest.mark.parametrize("name", [name for name in TABLE if TABLE[name][0].discrete])
@pytest.mark.parametrize("value", [-1.0, 0.5])
def test_data_that_are_no_counts_are_refused(name: str, value: float) -> None:
    likelihood, n, *_ = TABLE[name]
    model = er.DecoderModel(nn.Linear(2, 5 * n).double(), likelihood, 2)
    x = torch.ones(10, 5, dtype=torch.float64)
    x[0, 0] = value
    with pytest.raises(er.CheckError, match=f'likelihood "{name}" takes counts .*got {value:g}'):
        er.check(model, None, x)
