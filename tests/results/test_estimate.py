"""Estimates: errors against statistics, sides through arithmetic, k-hat against arviz-stats."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from arviz_stats.base import array_stats
from scipy import stats
from torch import Tensor

from elbowroom.core import normal, seeded
from elbowroom.evidence import effective_sample_size, grouped_noise, k_hat, k_hat_threshold, log_mean_exp
from elbowroom.results import Estimate, concatenate

from .. import reference
from ..statistics import (
    assert_close_z,
    assert_distribution_is,
    assert_mean_is,
    assert_rate_at_least,
    assert_rate_is,
    assert_resolves,
)

SIDES = ("unbiased", "lower", "upper", "neither")


def draws(n_draws: int, n: int, *key: str | int) -> Tensor:
    return normal((n_draws, n), seeded(0, "test-estimate", *key), torch.empty(0, dtype=torch.float64))


def estimate(x: Tensor, key: object, **settings: Any) -> Estimate:
    """The mean over draws x (K, N), with the noise of its draws."""
    return Estimate("mean", x.mean(0).numpy(), noise={key: grouped_noise(x - x.mean(0))}, **settings)


# ---- errors


@pytest.mark.parametrize("n_draws", [2, 3, 16, 17, 100])
def test_the_noise_sums_to_the_squared_standard_error(n_draws: int) -> None:
    x = draws(n_draws, 50, "sum", n_draws)
    noise = grouped_noise(x - x.mean(0))
    np.testing.assert_allclose(np.sqrt((noise**2).sum(0)), stats.sem(x.numpy(), axis=0), rtol=1e-12)


def test_groups_that_cancel_do_not_hide_the_error() -> None:
    """Deviations +1 and -1 that meet in each of the 16 groups: their mean is as uncertain as any other's."""
    deviations = torch.tensor([[1.0], [-1.0]], dtype=torch.float64).repeat_interleave(16, 0)
    error = np.sqrt((grouped_noise(deviations) ** 2).sum(0))
    np.testing.assert_allclose(error, stats.sem(deviations.numpy(), axis=0), rtol=1e-12)


def test_one_draw_says_nothing_of_its_error() -> None:
    assert np.isnan(grouped_noise(torch.zeros(1, 4))).all()
    assert np.isnan(estimate(draws(1, 4), "a").mc_se)


def test_the_error_of_an_exact_value_is_zero() -> None:
    assert (Estimate("a", np.ones(3)).mc_errors == 0).all()
    assert (estimate(torch.ones(5, 3), "a").mc_errors == 0).all()


def test_a_mean_over_its_error_follows_students_t() -> None:
    made = estimate(draws(20, 20_000, "t"), "a")
    assert_distribution_is(made.values / made.mc_errors, stats.t(df=19).cdf)


def test_the_error_of_a_mean_on_these_data_is_right() -> None:
    x = draws(10, 40 * 2000, "mc_se").unflatten(1, (2000, 40)) + torch.arange(40.0)
    made = [estimate(x[:, i], "a") for i in range(2000)]
    deviations = np.array([one.mean for one in made]) - 19.5
    errors = np.array([one.mc_se for one in made])
    assert_mean_is(deviations**2 * 400, 1.0, n_comparisons=2)
    assert_mean_is(errors**2 * 400, 1.0, n_comparisons=2)


def test_se_counts_the_data_as_a_sample() -> None:
    values = np.array([1.0, 4.0, 2.0, np.nan, 9.0])
    made = Estimate("a", values)
    assert made.se == pytest.approx(stats.sem(values[np.isfinite(values)]))
    assert np.isnan(Estimate("a", np.array([1.0, np.nan])).se)


# ---- draws in common


def test_what_two_estimates_share_cancels_exactly() -> None:
    a, b = estimate(draws(32, 10, "a"), "a"), estimate(draws(32, 10, "b"), "b")
    assert ((a - a).mc_errors == 0).all()
    np.testing.assert_allclose(((a + b) - a).mc_errors, b.mc_errors, rtol=1e-12)
    np.testing.assert_allclose((a + a).mc_errors, 2 * a.mc_errors, rtol=1e-12)
    np.testing.assert_allclose((-a).mc_errors, a.mc_errors)


def test_independent_draws_add_in_quadrature() -> None:
    a, b = estimate(draws(32, 10, "a"), "y"), estimate(draws(32, 10, "b"), "x")
    for both in (a + b, a - b):
        np.testing.assert_allclose(both.mc_errors, np.hypot(a.mc_errors, b.mc_errors), rtol=1e-12)


@pytest.mark.parametrize("correlation", [-0.9, 0.0, 0.9, 0.999])
def test_the_covariance_of_shared_draws_is_carried(correlation: float) -> None:
    """The average squared error of a difference is its variance; 16 groups leave it within a tenth."""
    x, other = draws(64, 4000, "x"), draws(64, 4000, "y")
    y = correlation * x + math.sqrt(1 - correlation**2) * other
    truth = 2 * (1 - correlation) / 64
    found = (estimate(x, "a") - estimate(y, "a")).mc_errors ** 2 / truth
    assert_close_z(found.mean(), 1.0, 0.1 / 5 + found.std() / math.sqrt(4000))


def test_noise_of_two_blocks_stays_with_its_data() -> None:
    a, b = estimate(draws(8, 3, "a"), "k"), estimate(draws(8, 2, "b"), "k", ids=np.array([3, 4]))
    both = concatenate([a, b])
    assert both.ids.tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(both.values, np.concatenate([a.values, b.values]))
    np.testing.assert_array_equal(both.mc_errors, np.concatenate([a.mc_errors, b.mc_errors]))
    np.testing.assert_array_equal(both[3:].mc_errors, b.mc_errors)
    np.testing.assert_array_equal(both[np.array([4, 0])].values, both.values[[4, 0]])


# ---- sides


def sum_of(one: str, other: str) -> str:
    """The side of a sum: exact terms are neutral, opposite errors may be of either sign."""
    if "unbiased" in (one, other):
        return other if one == "unbiased" else one
    return one if one == other else "neither"


@pytest.mark.parametrize(("one", "other"), list(itertools.product(SIDES, SIDES)))
def test_sides_go_through_sums_and_differences(one: str, other: str) -> None:
    a, b = Estimate("a", np.ones(2), side=one), Estimate("b", np.ones(2), side=other)
    flipped = {"lower": "upper", "upper": "lower"}.get(other, other)
    assert (a + b).side == sum_of(one, other)
    assert (a - b).side == sum_of(one, flipped)
    assert (-b).side == flipped


@pytest.mark.parametrize(("side", "sign"), [("lower", ">="), ("upper", "<="), ("neither", "~")])
def test_a_side_is_printed(side: str, sign: str) -> None:
    assert f"L {sign} 1.500 nats" in str(Estimate("L", np.array([1.0, 2.0]), side=side))


def test_values_and_names_of_arithmetic() -> None:
    a, b = Estimate("a", np.array([1.0, 2.0])), Estimate("b", np.array([3.0, 5.0]))
    assert (a - b).values.tolist() == [-2.0, -3.0]
    assert (a + b).values.tolist() == [4.0, 7.0]
    assert ((a - b).name, (-a).name, a.named("c").name) == ("a - b", "-a", "c")


def test_unpaired_terms_and_unknown_sides_are_refused() -> None:
    a = Estimate("a", np.ones(2))
    with pytest.raises(ValueError, match="same data"):
        a - Estimate("b", np.ones(3))
    with pytest.raises(ValueError, match="same data"):
        a + Estimate("b", np.ones(2), ids=np.array([5, 6]))
    with pytest.raises(ValueError, match="side must be"):
        Estimate("a", np.ones(2), side="above")


# ---- what is not finite


def test_data_without_a_number_are_left_out_and_counted() -> None:
    x = draws(8, 5, "nan")
    x[3, 1], x[0, 4] = torch.nan, -torch.inf
    made = estimate(x, "a")
    assert made.n_excluded == 2
    assert made.mean == pytest.approx(x[:, [0, 2, 3]].mean().item())
    assert made.mc_se == pytest.approx(np.sqrt((made.mc_errors[[0, 2, 3]] ** 2).sum()) / 3)
    assert "2 of 5 left out" in str(made)
    kept = made.where(np.array([True, True, False, True, True]))
    assert kept.n_excluded == 3
    assert np.isnan(Estimate("a", np.full(2, np.nan)).mean)


# ---- functions of log weights


def test_log_mean_exp_is_the_plain_loop() -> None:
    log_w = 30 * draws(12, 6, "lme") - 800
    value, deviations = log_mean_exp(log_w)
    for i in range(6):
        assert value[i].item() == pytest.approx(reference.log_mean_exp(log_w[:, i].numpy()), rel=1e-12)
    np.testing.assert_allclose(deviations, torch.softmax(log_w, 0) * 12 - 1, atol=1e-12)


def test_log_mean_exp_accumulates_in_float64() -> None:
    log_w = draws(2000, 3, "f32").float()
    assert log_mean_exp(log_w)[0].dtype == torch.float64
    np.testing.assert_allclose(log_mean_exp(log_w)[0], log_mean_exp(log_w.double())[0], rtol=1e-14)


def test_delta_method_errors_cover() -> None:
    """Log-normal weights of scale 0.5, K = 500: two errors cover the truth as a normal's would."""
    value, deviations = log_mean_exp(0.5 * draws(500, 20_000, "delta") - 0.125)
    errors = np.sqrt((grouped_noise(deviations) ** 2).sum(0))
    covered = int((np.abs(value.numpy()) < 2 * errors).sum())
    assert_rate_at_least(covered, 20_000, 0.94)
    assert_rate_is(covered, 20_000, 0.95)


def test_effective_sample_size_is_its_formula() -> None:
    log_w = 3 * draws(50, 8, "ess")
    w = np.exp(log_w.numpy())
    np.testing.assert_allclose(effective_sample_size(log_w), w.sum(0) ** 2 / (w**2).sum(0), rtol=1e-12)
    np.testing.assert_allclose(effective_sample_size(torch.full((7, 2), -900.0)), 7.0)
    np.testing.assert_allclose(effective_sample_size(torch.tensor([[0.0], [-2000.0]])), 1.0)


# ---- k-hat


WEIGHTS = {
    "narrow": lambda x: 0.1 * x,
    "lognormal": lambda x: x,
    "wide": lambda x: 4 * x,
    "pareto": lambda x: -0.9 * torch.log(torch.special.ndtr(-x)),
    "bounded": lambda x: torch.log(torch.special.ndtr(x)),
    "shifted": lambda x: 2 * x - 5000,
}


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("n_draws", [30, 100, 512, 2000])
def test_k_hat_is_that_of_arviz(name: str, n_draws: int) -> None:
    log_w = WEIGHTS[name](draws(n_draws, 6, name, n_draws))
    expected = [
        array_stats.psislw(-log_w[:, i].numpy())[1] for i in range(6)
    ]  # it takes log ratios with the other sign
    np.testing.assert_allclose(k_hat(log_w), expected, rtol=1e-6, atol=1e-6)


def test_k_hat_finds_the_shape_of_a_pareto_tail() -> None:
    """Weights u^-k have a tail of shape k; the prior of the fit adds 10 draws of shape 0.5. 0.06 is 7 errors."""
    k, tail = 0.9, int(3 * math.sqrt(4000))
    found = k_hat(-k * torch.log(torch.special.ndtr(draws(4000, 300, "shape"))))
    assert_resolves(found.std() / math.sqrt(300), 0.06, 7)
    assert found.mean() == pytest.approx((tail * k + 5) / (tail + 10), abs=0.06)


def test_k_hat_at_the_edges() -> None:
    assert (k_hat(torch.zeros(100, 2)) == -np.inf).all()
    assert (k_hat(draws(20, 2, "few")) == np.inf).all()
    log_w = draws(100, 3, "edge")
    log_w[5, 1] = torch.nan
    assert np.isnan(k_hat(log_w)).tolist() == [False, True, False]


@pytest.mark.parametrize("n_draws", [50, 100, 500, 2000, 100_000])
def test_the_threshold_of_k_hat_is_that_of_the_paper(n_draws: int) -> None:
    assert k_hat_threshold(n_draws) == pytest.approx(min(1 - 1 / math.log10(n_draws), 0.7))
