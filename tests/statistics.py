"""Random assertions that state how often they fail by chance.

Each function takes `false_alarm`, the probability that it fails although what it asserts is true, over all
entries together (Bonferroni: each of m entries gets false_alarm / m). At 1e-6 a suite of a thousand such
assertions fails by chance once in a thousand runs. `n_comparisons` counts further assertions of the same kind
that share the rate, as in a loop. The assertions about means rest on the mean being close to normal (exactly,
for normal samples): a mean of importance weights of infinite variance is not a case for them.

A test has two directions. An assertion that something holds is worth as much as its power, so
`assert_detects` says that the same data would have revealed a wrong value, and `assert_resolves` that the
smallest bias that matters is at least 8 standard errors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special, stats

__all__ = [
    "FALSE_ALARM",
    "assert_at_least_z",
    "assert_at_most_z",
    "assert_close_z",
    "assert_detects",
    "assert_distribution_is",
    "assert_mean_at_least",
    "assert_mean_at_most",
    "assert_mean_is",
    "assert_rate_at_least",
    "assert_rate_at_most",
    "assert_rate_is",
    "assert_resolves",
    "threshold",
]

FALSE_ALARM = 1e-6


def threshold(tail: float, dof: float = np.inf) -> float:
    """The t with P(T > t) = tail, for Student's t with `dof` degrees of freedom (normal if infinite)."""
    if not 0 < tail < 1:
        raise ValueError(f"the rate of false alarms of one entry must lie in (0, 1); got {tail}")
    return float(-special.ndtri(tail) if np.isinf(dof) else -special.stdtrit(dof, tail))


def assert_close_z(
    estimate: Any,
    truth: Any,
    error: Any,
    n_comparisons: int = 1,
    false_alarm: float = FALSE_ALARM,
    dof: float = np.inf,
) -> None:
    """Fail unless |estimate - truth| is within what `error`, a standard error per entry, explains.

    `dof` is the degrees of freedom of an error that was itself estimated; leave it out where the error is
    known.
    """
    z = _z(estimate, truth, error)
    limit = threshold(false_alarm / (2 * n_comparisons * z.size), dof)
    _report(np.abs(z) > limit, z, limit, estimate, truth, error, "differs from")


def assert_at_most_z(
    estimate: Any,
    bound: Any,
    error: Any,
    n_comparisons: int = 1,
    false_alarm: float = FALSE_ALARM,
    dof: float = np.inf,
) -> None:
    """Fail if any entry's expectation is evidently above `bound`: the test of a lower bound."""
    z = _z(estimate, bound, error)
    limit = threshold(false_alarm / (n_comparisons * z.size), dof)
    _report(z > limit, z, limit, estimate, bound, error, "is above")


def assert_at_least_z(
    estimate: Any,
    bound: Any,
    error: Any,
    n_comparisons: int = 1,
    false_alarm: float = FALSE_ALARM,
    dof: float = np.inf,
) -> None:
    """Fail if any entry's expectation is evidently below `bound`: the test of an upper bound."""
    assert_at_most_z(-_array(estimate), -_array(bound), error, n_comparisons, false_alarm, dof)


def assert_mean_is(samples: Any, truth: Any, n_comparisons: int = 1, false_alarm: float = FALSE_ALARM) -> None:
    """Fail unless independent samples, along the first axis, have the mean `truth` (Student's t)."""
    mean, error, dof = _moments(samples)
    assert_close_z(mean, truth, error, n_comparisons, false_alarm, dof)


def assert_mean_at_most(samples: Any, bound: Any, n_comparisons: int = 1, false_alarm: float = FALSE_ALARM) -> None:
    """Fail if the mean of independent samples, along the first axis, is evidently above `bound`."""
    mean, error, dof = _moments(samples)
    assert_at_most_z(mean, bound, error, n_comparisons, false_alarm, dof)


def assert_mean_at_least(samples: Any, bound: Any, n_comparisons: int = 1, false_alarm: float = FALSE_ALARM) -> None:
    """Fail if the mean of independent samples, along the first axis, is evidently below `bound`."""
    mean, error, dof = _moments(samples)
    assert_at_least_z(mean, bound, error, n_comparisons, false_alarm, dof)


def assert_detects(
    estimate: Any,
    wrong: Any,
    error: Any,
    n_comparisons: int = 1,
    false_alarm: float = FALSE_ALARM,
    dof: float = np.inf,
) -> None:
    """Fail unless `assert_close_z`, with the same arguments, would have refused the value `wrong`.

    Where `wrong` is true this passes with probability `false_alarm`; where the truth is d errors away from
    it, it fails with probability Phi(t - d), t = 4.9 at the default rate: 1e-3 at d = 8, 1e-6 at d = 9.7.
    """
    z = _z(estimate, wrong, error)
    limit = threshold(false_alarm / (2 * n_comparisons * z.size), dof)
    if not np.any(np.abs(z) > limit):
        raise AssertionError(
            f"no power: the largest of {z.size} differences is {np.abs(z).max():.2f} standard errors, and it "
            f"takes {limit:.2f} to tell the estimate from the wrong value. Draw more samples."
        )


def assert_resolves(error: Any, bias: float, n_errors: float = 8.0) -> None:
    """Fail unless `bias`, the smallest that matters, is `n_errors` standard errors or more in every entry."""
    worst = float(_array(error).max())
    if not worst * n_errors <= bias:  # so that NaN fails
        raise AssertionError(
            f"a bias of {bias:g} is {bias / worst:.2f} standard errors and should be {n_errors:g} or more: "
            f"draw {(n_errors * worst / bias) ** 2:.1f} times as many samples"
        )


def assert_rate_at_most(count: int, n: int, rate: float, false_alarm: float = FALSE_ALARM) -> None:
    """Fail if `count` of `n` independent events is evidently more than the probability `rate` explains."""
    _check_count(count, n)
    _check_tail(stats.binom.sf(count - 1, n, rate), false_alarm, count, n, f"at most {rate:g}")


def assert_rate_at_least(count: int, n: int, rate: float, false_alarm: float = FALSE_ALARM) -> None:
    """Fail if `count` of `n` independent events is evidently fewer than the probability `rate` explains."""
    _check_count(count, n)
    _check_tail(stats.binom.cdf(count, n, rate), false_alarm, count, n, f"at least {rate:g}")


def assert_rate_is(count: int, n: int, rate: float, false_alarm: float = FALSE_ALARM) -> None:
    """Fail if `count` of `n` independent events is evidently not what the probability `rate` explains."""
    assert_rate_at_most(count, n, rate, false_alarm / 2)
    assert_rate_at_least(count, n, rate, false_alarm / 2)


def assert_distribution_is(
    samples: Any,
    cdf: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    n_comparisons: int = 1,
    false_alarm: float = FALSE_ALARM,
) -> None:
    """Fail unless independent samples (n,) follow the continuous distribution `cdf` (Kolmogorov-Smirnov)."""
    values = _array(samples).ravel()
    found = stats.kstest(values, cdf)
    if not found.pvalue >= false_alarm / n_comparisons:  # so that NaN fails
        raise AssertionError(
            f"{values.size} samples do not follow the distribution: largest gap of the cumulative curves "
            f"{found.statistic:.4f}, p = {found.pvalue:.2g} (limit {false_alarm / n_comparisons:.2g})"
        )


def _array(x: Any) -> NDArray[np.float64]:
    if isinstance(x, torch.Tensor):
        x = x.detach().cpu()
    return np.asarray(x, dtype=np.float64)


def _z(estimate: Any, truth: Any, error: Any) -> NDArray[np.float64]:
    """(estimate - truth) / error, at least 1-d; NaN in an estimate stays NaN and is refused by `_report`."""
    estimate, truth, error = np.broadcast_arrays(_array(estimate), _array(truth), _array(error))
    if not estimate.size:
        raise ValueError("nothing to compare: the estimate has no entries")
    if not (np.isfinite(error).all() and (error > 0).all()):
        raise ValueError("errors must be finite and positive: compare exact values with assert_allclose")
    return np.atleast_1d((estimate - truth) / error)


def _moments(samples: Any) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Mean, standard error of the mean, and degrees of freedom, of samples (n, ...) along the first axis."""
    values = _array(samples)
    if values.ndim < 1 or len(values) < 2:
        raise ValueError(f"samples must be (n, ...) with n >= 2; got shape {values.shape}")
    if not np.isfinite(values).all():
        raise AssertionError(f"{(~np.isfinite(values)).sum()} of {values.size} samples are not finite")
    return values.mean(0), values.std(0, ddof=1) / np.sqrt(len(values)), len(values) - 1


def _report(
    bad: NDArray[np.bool_],
    z: NDArray[np.float64],
    limit: float,
    estimate: Any,
    truth: Any,
    error: Any,
    what: str,
) -> None:
    bad = bad | np.isnan(z)
    if not bad.any():
        return
    worst = int(np.argmax(np.where(np.isnan(z), np.inf, np.abs(z)) * bad))
    one, other, unit = (np.broadcast_to(_array(part), z.shape).flat[worst] for part in (estimate, truth, error))
    raise AssertionError(
        f"{bad.sum()} of {z.size} entries; the worst, entry {worst}: {one:.6g} {what} {other:.6g} "
        f"by {z.flat[worst]:.2f} standard errors of {unit:.2g} (limit {limit:.2f})"
    )


def _check_count(count: int, n: int) -> None:
    if not 0 <= count <= n or n < 1:
        raise ValueError(f"expected 0 <= count <= n and n >= 1; got count {count} of n = {n}")


def _check_tail(tail: float, false_alarm: float, count: int, n: int, what: str) -> None:
    if not tail >= false_alarm:
        raise AssertionError(
            f"{count} of {n} ({count / n:.4g}) for a rate of {what}: this has probability {tail:.2g} "
            f"(limit {false_alarm:.2g})"
        )
