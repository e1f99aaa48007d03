"""The helper's own rates, at false alarms high enough to see, against scipy's exact binomial test.

Every test here that draws states its own false-alarm rate through `ALARM`, the p-value below which it fails.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from tests import statistics as st

ALARM = 1e-6
REPEATS = 4000


def refuses(check: Callable[..., None], *arguments: Any, **settings: Any) -> bool:
    try:
        check(*arguments, **settings)
    except AssertionError:
        return True
    return False


def failures(check: Callable[[int], None], repeats: int = REPEATS) -> int:
    """How often `check(i)` raises AssertionError."""
    return sum(refuses(check, i) for i in range(repeats))


def expect_rate(count: int, rate: float, repeats: int = REPEATS) -> None:
    p = stats.binomtest(count, repeats, rate).pvalue
    assert p > ALARM, f"{count} of {repeats} for a rate of {rate}: p = {p:.2g}"


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize("tail", [1e-12, 1e-6, 0.025, 0.7])
@pytest.mark.parametrize("dof", [1, 4, 200, np.inf])
def test_threshold_inverts_the_tail(tail: float, dof: float) -> None:
    np.testing.assert_allclose(stats.t.sf(st.threshold(tail, dof), dof), tail, rtol=1e-7)


# Seven entries share the rate: a family fails with probability 1 - (1 - 0.05 / 7)^7, a little below 0.05.
FAMILY = 1 - (1 - 0.05 / 7) ** 7


@pytest.mark.parametrize("shape", [(), (7,)])
def test_close_z_false_alarms(shape: tuple[int, ...]) -> None:
    noise = normal(1, REPEATS, *shape)
    count = failures(lambda i: st.assert_close_z(3 + 2 * noise[i], 3.0, 2.0, false_alarm=0.05))
    expect_rate(count, FAMILY if shape else 0.05)


def test_close_z_shares_its_rate_among_comparisons() -> None:
    noise = normal(2, REPEATS)
    count = failures(lambda i: st.assert_close_z(noise[i], 0.0, 1.0, n_comparisons=5, false_alarm=0.5))
    expect_rate(count, 0.1)


@pytest.mark.parametrize("n", [3, 30])
def test_mean_false_alarms_are_exact_for_few_normal_samples(n: int) -> None:
    samples = 5 + 0.1 * normal(3, REPEATS, n, 7)
    expect_rate(failures(lambda i: st.assert_mean_is(samples[i], 5.0, false_alarm=0.05)), FAMILY)


def test_a_normal_limit_would_alarm_too_often_for_few_samples() -> None:
    """The reason for Student's t: with 3 samples the normal limit fails 19% of the time instead of 5%."""
    samples = normal(4, REPEATS, 3)

    def check(i: int) -> None:
        st.assert_close_z(samples[i].mean(), 0.0, samples[i].std(ddof=1) / np.sqrt(3), false_alarm=0.05)

    expect_rate(failures(check), 2 * stats.t.sf(st.threshold(0.025), 2))


@pytest.mark.parametrize("shift", [-1.0, 0.0, 1.0, 4.0])
def test_one_sided_checks(shift: float) -> None:
    """`shift` errors above the bound, at_most fails as often as a normal tail; at_least mirrors it."""
    noise = shift + normal(5, REPEATS)
    limit = st.threshold(0.05)
    high = failures(lambda i: st.assert_at_most_z(noise[i], 0.0, 1.0, false_alarm=0.05))
    low = failures(lambda i: st.assert_at_least_z(noise[i], 0.0, 1.0, false_alarm=0.05))
    expect_rate(high, stats.norm.sf(limit - shift))
    expect_rate(low, stats.norm.sf(limit + shift))


@pytest.mark.parametrize("shift", [-0.5, 0.0, 0.5])
def test_one_sided_means(shift: float) -> None:
    """With 16 samples the statistic is a noncentral t, its noncentrality 4 times the shift."""
    samples = shift + normal(6, REPEATS, 16)
    limit = st.threshold(0.05, dof=15)
    high = failures(lambda i: st.assert_mean_at_most(samples[i], 0.0, false_alarm=0.05))
    low = failures(lambda i: st.assert_mean_at_least(samples[i], 0.0, false_alarm=0.05))
    expect_rate(high, stats.nct.sf(limit, 15, 4 * shift))
    expect_rate(low, stats.nct.sf(limit, 15, -4 * shift))


@pytest.mark.parametrize("shift", [1.0, 2.0, 4.0])
def test_power(shift: float) -> None:
    """A truth `shift` errors off is refused as often as the normal distribution says."""
    noise = shift + normal(7, REPEATS)
    limit = st.threshold(0.025)
    expected = stats.norm.sf(limit - shift) + stats.norm.cdf(-limit - shift)
    expect_rate(failures(lambda i: st.assert_close_z(noise[i], 0.0, 1.0, false_alarm=0.05)), expected)


def test_detects_passes_exactly_where_close_fails() -> None:
    noise = 2 + normal(8, 400, 3)
    outcomes = set()
    for i in range(400):
        close = refuses(st.assert_close_z, noise[i], 0.0, 1.0, false_alarm=0.05)
        outcomes.add((close, refuses(st.assert_detects, noise[i], 0.0, 1.0, false_alarm=0.05)))
    assert outcomes == {(True, False), (False, True)}


def test_a_bias_of_8_errors_is_found_at_the_default_rate() -> None:
    """Phi(4.9 - 8) = 1e-3 of misses: the reason for the rule of 8 errors."""
    noise = 8 + normal(9, REPEATS)
    missed = failures(lambda i: st.assert_detects(noise[i], 0.0, 1.0))
    expect_rate(missed, stats.norm.cdf(st.threshold(0.5e-6) - 8))


def test_resolves() -> None:
    st.assert_resolves([0.01, 0.0125], bias=0.1)
    with pytest.raises(AssertionError, match=r"7\.69 standard errors"):
        st.assert_resolves([0.01, 0.013], bias=0.1)
    with pytest.raises(AssertionError, match="nan"):
        st.assert_resolves([0.01, np.nan], bias=0.1)


@pytest.mark.parametrize("true_rate", [0.02, 0.03, 0.06])
def test_rates_by_enumeration(true_rate: float) -> None:
    """No draw needed: sum the binomial probability of each count that the check refuses."""
    n, counts = 200, range(201)
    weight = stats.binom.pmf(counts, n, true_rate)

    def refused(check: Callable[..., None]) -> float:
        return sum(weight[k] for k in counts if refuses(check, k, n, 0.03, 0.05))

    if true_rate == 0.03:  # discrete counts: at most the rate asked for, and not far below it
        assert 0.005 < refused(st.assert_rate_at_most) < 0.05
        assert 0.005 < refused(st.assert_rate_at_least) < 0.05
        assert 0.005 < refused(st.assert_rate_is) < 0.05
    else:
        too_many = true_rate > 0.03
        assert (refused(st.assert_rate_at_most) > 0.1) == too_many
        assert (refused(st.assert_rate_at_least) > 0.05) == (not too_many)


def test_distribution_false_alarms_and_power() -> None:
    noise = normal(10, 1000, 50)
    alarms = failures(lambda i: st.assert_distribution_is(noise[i], stats.norm.cdf, false_alarm=0.05), 1000)
    expect_rate(alarms, 0.05, 1000)
    wide = 1.5 * normal(11, 2000)
    with pytest.raises(AssertionError, match="2000 samples do not follow"):
        st.assert_distribution_is(wide, stats.norm.cdf)


def test_nan_never_passes() -> None:
    for of_errors in (st.assert_close_z, st.assert_at_most_z, st.assert_at_least_z):
        with pytest.raises(AssertionError, match="1 of 2 entries; the worst, entry 1: nan"):
            of_errors([0.0, np.nan], 0.0, 1.0)
    for of_samples in (st.assert_mean_is, st.assert_mean_at_most, st.assert_mean_at_least):
        with pytest.raises(AssertionError, match="1 of 3 samples are not finite"):
            of_samples([0.0, 1.0, np.nan], 0.0)
    with pytest.raises(AssertionError, match="no power"):
        st.assert_detects(np.nan, 0.0, 1.0)


@pytest.mark.parametrize("error", [0.0, -1.0, np.inf, np.nan])
def test_an_error_that_is_none_is_refused(error: float) -> None:
    with pytest.raises(ValueError, match="finite and positive"):
        st.assert_close_z(1.0, 1.0, error)


def test_constant_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="assert_allclose"):
        st.assert_mean_is(np.ones(5), 1.0)
    with pytest.raises(ValueError, match="n >= 2"):
        st.assert_mean_is([1.0], 1.0)
    with pytest.raises(ValueError, match="count 5 of n = 4"):
        st.assert_rate_at_most(5, 4, 0.5)
    with pytest.raises(ValueError, match="must lie in"):
        st.assert_close_z(0.0, 0.0, 1.0, false_alarm=0.0)


def test_the_message_names_the_worst_entry() -> None:
    expected = r"2 of 3 entries; the worst, entry 2: 9 differs from 0 by 90\.00 standard errors of 0\.1"
    with pytest.raises(AssertionError, match=expected):
        st.assert_close_z([0.0, 6.0, 9.0], 0.0, [0.1, 0.1, 0.1])


def test_tensors_are_read(device: torch.device) -> None:
    estimate = torch.tensor([1.0, 2.0], device=device, requires_grad=True)
    st.assert_close_z(estimate, torch.tensor([1.1, 1.9], device=device), 0.1)
    with pytest.raises(AssertionError):
        st.assert_close_z(estimate, torch.tensor([1.0, 3.0], device=device), 0.1)


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 5, 20])
def test_mean_false_alarms_at_a_finer_grain(n: int) -> None:
    """At 1% and 40,000 repetitions: the rate to within about a quarter of itself."""
    samples = normal(12, 40_000, n)
    count = failures(lambda i: st.assert_mean_is(samples[i], 0.0, false_alarm=0.01), 40_000)
    expect_rate(count, 0.01, 40_000)
