r"""Double sampling: a cheap plan on all N data, and a costly one on a simple random sample S of n of them.

    mean = mean_all(first phase) + mean_S(second phase - first phase)          the difference estimator
    its error on these data: S_d^2 (1/n - 1/N) by the choice of S, and the second phase's own draws

(Cochran 1977, chapter 12; Saerndal, Swensson and Wretman 1992, chapter 9.) The estimator is unbiased for the mean of
the costly plan on all data, however poor the cheap one is; if the cheap plan errs equally on every datum, its error
costs nothing. The result is stored as one value per datum, whose mean is the estimator, so that tables, steps and
groups need no special case:

    value_i = second_i for i in S,      first_i + mean_S(second - first) otherwise

A value of the second kind is a prediction. The side of a rung is that of its second-phase values: it holds for the mean
over all data, in expectation over S and the draws. It does not hold for a single prediction, nor for a group of data
whose differences are unlike those of the others.
"""

import zlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..core import seeded
from ..results import Array, Correction, Estimate, FitReport, Gaps, Outcome

__all__ = ["combine", "expected_se", "refined_rows", "second_phase_seed"]


def refined_rows(n_data: int, n_refined: int, seed: int) -> Tensor:
    """The rows (n,) that the second phase measures: a simple random sample of 0, ..., N - 1, sorted."""
    return torch.randperm(n_data, generator=seeded(seed, "refine", "rows"))[:n_refined].sort().values


def second_phase_seed(seed: int) -> int:
    """The seed of the second phase's draws.

    It differs from `seed`, under which those draws would repeat the draws of the first phase on other data.
    """
    return int(torch.randint(2**31, (1,), generator=seeded(seed, "refine", "draws")))


def combine(first: Gaps, second: Gaps, rows: NDArray[np.int64]) -> Gaps:
    """Combine both phases into one `Gaps` on the N data of the first.

    The rungs are those of the second phase; one that the first phase did not fit is predicted from the nearest fitted
    rung below it. Data that either phase leaves out are left out, also of the differences. Flags, fits, candidates,
    `chosen` and `k_hat` are as measured: by the second phase on its rows, by the first elsewhere.

    Args:
        first: the first phase, of N data.
        second: the second phase, of n data.
        rows: (n,) rows of `first` that `second` measured.
    Raises:
        ValueError: fewer than two of the rows are finite in both phases.
    """
    n = len(first)
    both = first.elbo.finite[rows] & second.elbo.finite
    if both.sum() < 2:
        raise ValueError(f"a correction needs 2 refined data that are finite in both plans; got {both.sum()}")
    finite, place = first.elbo.finite.copy(), np.full(n, -1)
    finite[rows] = both
    place[rows[both]] = np.arange(both.sum())

    def rung(low: Estimate, high: Estimate) -> Estimate:
        return _corrected(low, high, rows, place).where(finite)

    names = [*second.candidates, *(name for name in first.candidates if name not in second.candidates)]
    candidates = {
        name: _as_measured(first.candidates.get(name), second.candidates.get(name), rows, first.ids) for name in names
    }
    notes = (
        f"plan {second.plan} on {len(rows)} data drawn at random, plan {first.plan} on all; mc counts that draw too",
        f"single values of the {n - len(rows)} data that were not refined are predictions",
    )
    return Gaps(
        elbo=rung(first.elbo, second.elbo),
        local={name: rung(first.local[_surrogate(name, first)], high) for name, high in second.local.items()},
        log_evidence=rung(first.log_evidence, second.log_evidence),
        shortfall={
            name: rung(first.shortfall.get(name) or _nothing(high, first), high)
            for name, high in second.shortfall.items()
        },
        fits={name: _fit(first.fits.get(name), fit, rows, n) for name, fit in second.fits.items()},
        flags=_replaced(first.flags, rows, second.flags),
        chosen=_replaced(first.chosen, rows, second.chosen),
        estimators={**first.estimators, **second.estimators},
        candidates=candidates,
        k_hat=_replaced(first.k_hat, rows, second.k_hat),
        rungs=second.rungs,
        family=second.family,
        work={**first.work, **{f"refined: {name}": units * len(rows) / n for name, units in second.work.items()}},
        plan=f"{first.plan}, {second.plan} on {len(rows)}",
        seed=first.seed,
        kl_weight=first.kl_weight,
        groups=first.groups,
        notes=notes,
        fingerprint=first.fingerprint,
        refined=_replaced(np.zeros(n, dtype=bool), rows, np.ones(len(rows), dtype=bool)),
    )


def expected_se(estimate: Estimate, n_data: int, n_refined: int) -> float:
    """The standard error in nats to expect of a mean over `n_data` data (N), of which `n_refined` (n) are refined.

    It is sqrt(S_y^2 / N + S_d^2 (1/n - 1/N)), with both variances from `estimate`, a pilot whose data were all measured
    by both plans. NaN for a pilot of fewer than two finite data.
    """
    values = estimate.values[estimate.finite]
    if len(values) < 2:
        return float("nan")
    between = sum(part.variance for part in estimate.shared.values()) * (1 / n_refined - 1 / n_data)
    return float(np.sqrt(values.var(ddof=1) / n_data + between))


def _nothing(like: Estimate, first: Gaps) -> Estimate:
    """Zero for all data of the first phase, where it has no estimate of this kind."""
    return Estimate(like.name, np.zeros(len(first)), side=like.side, ids=first.ids)


def _surrogate(name: str, first: Gaps) -> str:
    """The rung of the first phase that predicts `name`: itself, or the nearest fitted one below it."""
    if name in first.local:
        return name
    order = [rung.name for rung in first.rungs if rung.place is not None]
    return next(lower for lower in reversed(order[: order.index(name)]) if lower in first.local)


def _corrected(low: Estimate, high: Estimate, rows: NDArray[np.int64], place: NDArray[np.int64]) -> Estimate:
    """`high` on its rows; elsewhere `low` plus the mean difference, with no noise but the correction's spread.

    The differences hold the noise of both phases, so their variance is what a prediction misses, noise included; the
    first phase's noise must not be counted again.
    """
    used = place[rows] >= 0
    difference = (high.values - low.values[rows])[used]
    n = len(difference)
    deviations = (difference - difference.mean()) * np.sqrt(n / (n - 1))
    key = ("refined", n, zlib.crc32(low.ids[rows[used]].tobytes()))  # the same data, the same key: comparisons pair
    noise = {name: _scattered(part, rows, len(low)) for name, part in high.noise.items()}
    values = _replaced(low.values + difference.mean(), rows, high.values)
    shared: dict[object, Correction] = {key: Correction(deviations, place)}
    return Estimate(high.name, values, side=high.side, noise=noise, ids=low.ids, shared=shared)


def _as_measured(
    low: Estimate | None, high: Estimate | None, rows: NDArray[np.int64], ids: NDArray[np.int64]
) -> Estimate:
    """A candidate of either phase, uncorrected: `high` on its rows, `low` elsewhere, NaN where there is neither."""
    elsewhere = np.full(len(ids), np.nan) if low is None else low.values
    if high is None:
        assert low is not None
        return low
    noise: dict[object, Array] = {}
    if low is not None:
        noise |= {key: _replaced(part.T, rows, 0.0).T for key, part in low.noise.items()}
    noise |= {key: _scattered(part, rows, len(ids)) for key, part in high.noise.items()}
    name = high.name if low is None or low.name == high.name else f"{high.name}, {low.name} elsewhere"
    return Estimate(name, _replaced(elsewhere, rows, high.values), side=high.side, noise=noise, ids=ids)


def _fit(low: FitReport | None, high: FitReport, rows: NDArray[np.int64], n: int) -> FitReport:
    """How each datum's fit ended: `high` on its rows, `low` elsewhere, SKIPPED where there is none."""
    low = low or FitReport(np.full(n, int(Outcome.SKIPPED)), np.zeros(n, dtype=np.int64), np.zeros(n))
    parts = ((low.outcome, high.outcome), (low.steps, high.steps), (low.work, high.work))
    return FitReport(*(_replaced(before, rows, after) for before, after in parts))


def _scattered(part: Array, rows: NDArray[np.int64], n: int) -> Array:
    """Noise (G, n) of the refined rows among N: zero elsewhere."""
    scattered = np.zeros((len(part), n))
    scattered[:, rows] = part
    return scattered


def _replaced(values: NDArray[Any], rows: NDArray[np.int64], new: NDArray[Any] | float) -> NDArray[Any]:
    """A copy of `values` with `new` in its rows."""
    copy = values.copy()
    copy[rows] = new
    return copy
