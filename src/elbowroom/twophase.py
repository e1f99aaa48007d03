r"""Two-phase estimates: a cheap plan on all N data, a dear one on a simple random sample S of n of them.

    mean = mean_all(cheap) + mean_S(dear - cheap)          the difference estimator (double sampling)
    its error on these data: S_d^2 (1/n - 1/N) by the choice of S, and the dear plan's own draws

(Cochran 1977, chapter 12; Saerndal, Swensson and Wretman 1992, chapter 9.) It is unbiased for the mean of the dear plan
on all data, however poor the cheap one; a cheap plan that errs by as much on every datum costs nothing. So that tables,
steps and groups need to know nothing of it, it is written as one value per datum:

    value_i = dear_i for i in S,      cheap_i + mean_S(dear - cheap) otherwise

whose mean it is. A value of the second kind is a prediction. The side of a rung is that of its dear values: it holds
for the mean over all data, in expectation over S and the draws, not for a prediction by itself, nor for a group whose
differences are unlike those of the others.
"""

import zlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .estimate import Array, Correction, Estimate
from .ladder import LADDERS, Gaps
from .local import Fit, Outcome
from .rng import seeded

__all__ = ["combine", "expected_se", "refined_rows", "second_seed"]


def refined_rows(n_data: int, n_refined: int, seed: int) -> Tensor:
    """The rows (n,) that the dear plan measures: a simple random sample, in order."""
    return torch.randperm(n_data, generator=seeded(seed, "refine", "rows"))[:n_refined].sort().values


def second_seed(seed: int) -> int:
    """The seed of the dear plan's draws: under `seed` they would be the cheap plan's, on other data."""
    return int(torch.randint(2**31, (1,), generator=seeded(seed, "refine", "draws")))


def combine(cheap: Gaps, dear: Gaps, rows: NDArray[np.int64]) -> Gaps:
    """One `Gaps` on the N data of `cheap`, whose `rows` (n,) are the data of `dear`.

    The rungs are those of the dear plan; one that the cheap plan did not fit is predicted from the nearest below it.
    Data that either plan leaves out are left out, and of the differences too. Flags, fits, candidates, `chosen` and
    `k_hat` are as measured: by the dear plan on its rows, by the cheap one elsewhere.

    Raises:
        ValueError: fewer than two of the rows are finite in both.
    """
    n = len(cheap)
    both = cheap.elbo.finite[rows] & dear.elbo.finite
    if both.sum() < 2:
        raise ValueError(f"a correction needs 2 refined data that are finite in both plans; got {both.sum()}")
    keep, place = cheap.elbo.finite.copy(), np.full(n, -1)
    keep[rows] = both
    place[rows[both]] = np.arange(both.sum())

    def rung(low: Estimate, high: Estimate) -> Estimate:
        return _corrected(low, high, rows, place).where(keep)

    local = {name: rung(cheap.local[_surrogate(name, cheap)], high) for name, high in dear.local.items()}
    names = [*dear.candidates, *(name for name in cheap.candidates if name not in dear.candidates)]
    work = cheap.work | {f"refined: {name}": units * len(rows) / n for name, units in dear.work.items()}
    notes = (
        f"plan {dear.plan} on {len(rows)} data drawn at random, plan {cheap.plan} on all; mc counts that draw too",
        f"single values of the {n - len(rows)} data that were not refined are predictions",
    )
    return Gaps(
        rung(cheap.elbo, dear.elbo), local, rung(cheap.log_evidence, dear.log_evidence),
        {name: _fit(cheap.fits.get(name), fit, rows, n) for name, fit in dear.fits.items()},
        _put(cheap.flags, rows, dear.flags), _put(cheap.chosen, rows, dear.chosen),
        {name: _as_measured(cheap.candidates.get(name), dear.candidates.get(name), rows, cheap.ids) for name in names},
        _put(cheap.k_hat, rows, dear.k_hat), work, dear.family, f"{cheap.plan}, {dear.plan} on {len(rows)}",
        cheap.seed, cheap.kl_weight, cheap.groups, notes, cheap.fingerprint,
        _put(np.zeros(n, dtype=bool), rows, np.ones(len(rows), dtype=bool)),
    )  # fmt: skip


def expected_se(estimate: Estimate, n_data: int, n_refined: int) -> float:
    """The standard error to expect of N data of which n are refined, from a pilot whose data were measured by both
    plans: sqrt(S_y^2 / N + S_d^2 (1/n - 1/N)), nats; NaN for a pilot of one datum.
    """
    kept = estimate.values[estimate.finite]
    if len(kept) < 2:
        return float("nan")
    between = sum(part.variance for part in estimate.shared.values()) * (1 / n_refined - 1 / n_data)
    return float(np.sqrt(kept.var(ddof=1) / n_data + between))


def _surrogate(name: str, cheap: Gaps) -> str:
    """The rung of the cheap plan that predicts `name`: itself, or the nearest fitted one below it."""
    if name in cheap.local:
        return name
    order = LADDERS["diagonal"]
    return next(lower for lower in reversed(order[: order.index(name)]) if lower in cheap.local)


def _corrected(low: Estimate, high: Estimate, rows: NDArray[np.int64], place: NDArray[np.int64]) -> Estimate:
    """`high` on its rows; elsewhere `low` plus the mean difference, with no noise but the correction's spread.

    The differences hold the noise of both plans, so their variance is what a prediction misses, noise included; the
    cheap plan's noise must not be counted again.
    """
    used = place[rows] >= 0
    difference = (high.values - low.values[rows])[used]
    n = len(difference)
    deviations = (difference - difference.mean()) * np.sqrt(n / (n - 1))
    key = ("refined", n, zlib.crc32(low.ids[rows[used]].tobytes()))  # the same data, the same key: comparisons pair
    noise = {name: _spread(part, rows, len(low)) for name, part in high.noise.items()}
    values = _put(low.values + difference.mean(), rows, high.values)
    return Estimate(high.name, values, high.side, noise, low.ids, {key: Correction(deviations, place)})


def _as_measured(
    low: Estimate | None, high: Estimate | None, rows: NDArray[np.int64], ids: NDArray[np.int64]
) -> Estimate:
    """A candidate of either plan, uncorrected: `high` on its rows, `low` elsewhere, NaN where there is neither."""
    elsewhere = np.full(len(ids), np.nan) if low is None else low.values
    if high is None:
        assert low is not None
        return low
    noise: dict[object, Array] = {}
    if low is not None:
        noise |= {key: _put(part.T, rows, 0.0).T for key, part in low.noise.items()}
    noise |= {key: _spread(part, rows, len(ids)) for key, part in high.noise.items()}
    name = high.name if low is None or low.name == high.name else f"{high.name}, {low.name} elsewhere"
    return Estimate(name, _put(elsewhere, rows, high.values), high.side, noise, ids)


def _fit(low: Fit | None, high: Fit, rows: NDArray[np.int64], n: int) -> Fit:
    """How each datum's fit ended: `high` on its rows, `low` elsewhere, SKIPPED where there is none."""
    low = low or Fit(None, np.full(n, int(Outcome.SKIPPED)), np.zeros(n, dtype=np.int64), np.zeros(n))
    parts = ((low.outcome, high.outcome), (low.steps, high.steps), (low.work, high.work))
    return Fit(None, *(_put(before, rows, after) for before, after in parts))


def _spread(part: Array, rows: NDArray[np.int64], n: int) -> Array:
    """Noise (G, n) of the refined rows among N: zero elsewhere."""
    found = np.zeros((len(part), n))
    found[:, rows] = part
    return found


def _put(values: NDArray, rows: NDArray[np.int64], new: NDArray | float) -> NDArray:
    """A copy of `values` with `new` in its rows."""
    found = values.copy()
    found[rows] = new
    return found
