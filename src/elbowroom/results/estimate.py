r"""Estimates: values with their side and Monte Carlo errors, their means, and the errors of paired differences.

The Monte Carlo error is stored as *noise* of shape (G, N): what each of G groups of draws contributes to the deviation
of each datum's value, so that Var = sum_g noise_g^2. Estimates that share draws share a key, and their noise is
subtracted group by group: the covariance is carried along, and what two estimates have in common cancels exactly.

Values that were predicted rather than measured (double sampling) share a `Correction`, whose error is kept separately.
"""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from .display import ByValue, Row, Shown

__all__ = ["SIDES", "Array", "Correction", "Estimate", "concatenate"]

Array = NDArray[np.float64]
SIDES = {"unbiased": "", "lower": ">=", "upper": "<=", "neither": "~"}
FLIP = {"unbiased": "unbiased", "lower": "upper", "upper": "lower", "neither": "neither"}


@dataclass(frozen=True, eq=False)
class Correction(ByValue):
    """The part that predicted values have in common.

    A predicted value is a first-phase value plus the mean over n data of (second phase - first phase). Two estimates
    corrected on the same n data have the same key in `Estimate.shared`, and their corrections add datum by datum.

    Attributes:
        deviations: (n,) each of the n differences minus their mean, times sqrt(n / (n - 1)), in nats. Their mean square
            is the variance S_d^2 of a difference.
        place: (N,) position of each datum among the n; -1 where the value is predicted.
    """

    deviations: Array
    place: NDArray[np.int64]

    @property
    def predicted(self) -> NDArray[np.bool_]:
        """(N,) mask of the values that are predictions."""
        return self.place < 0

    @property
    def variance(self) -> float:
        """S_d^2 in nats^2, the variance of a difference: how far a prediction misses its datum, noise included."""
        return float((self.deviations**2).mean())

    def __getitem__(self, index: NDArray[np.generic] | slice) -> "Correction":
        return replace(self, place=self.place[index])

    def __neg__(self) -> "Correction":
        return replace(self, deviations=-self.deviations)

    def __add__(self, other: "Correction") -> "Correction":
        return replace(self, deviations=self.deviations + other.deviations)


@dataclass(frozen=True, eq=False, repr=False)
class Estimate(Shown):
    """A quantity in nats for each of N data.

    Estimates of the same data can be negated, added and subtracted; terms of different data raise a ValueError.

    Attributes:
        name: what is estimated and how, for instance ``"L[q*_full]"``.
        values: (N,) float64; NaN where there is no trustworthy number. NaN values are left out of means and counted.
        side: ``"unbiased"``, ``"lower"`` (the truth is at least this), ``"upper"`` or ``"neither"``; any other word
            raises a ValueError.
        noise: maps a key of the draws to their (G, N) Monte Carlo deviations; empty where the values are exact, and a
            row of NaN where the error is unknown.
        ids: (N,) identity of each datum; row numbers by default.
        shared: maps a key of the refined data to the `Correction` in predicted values; empty where every value was
            measured. A predicted value has zero noise, because the spread of the correction contains it.
    """

    header: ClassVar[Row] = ("", "nats", "se", "mc", "data")

    name: str
    values: Array
    _: KW_ONLY
    side: str = "unbiased"
    noise: Mapping[object, Array] = field(default_factory=dict)
    ids: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    shared: Mapping[object, Correction] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.side not in SIDES:
            raise ValueError(f"side must be one of {sorted(SIDES)}; got {self.side!r}")
        object.__setattr__(self, "values", np.asarray(self.values, dtype=np.float64))
        if len(self.ids) == 0:
            object.__setattr__(self, "ids", np.arange(len(self.values)))

    def __len__(self) -> int:
        return len(self.values)

    @property
    def mc_errors(self) -> Array:
        """(N,) standard deviation in nats of each value over repeated draws for the same datum.

        For a predicted value it is the distance to what measuring this datum would give, S_d sqrt(1 + 1/n).
        """
        total = self._drawn
        for part in self.shared.values():
            total = total + part.predicted * part.variance * (1 + 1 / len(part.deviations))
        return np.sqrt(total)

    @property
    def _drawn(self) -> Array:
        """(N,) variance of each value by its own draws."""
        return sum(((noise**2).sum(axis=0) for noise in self.noise.values()), np.zeros(len(self.values)))

    @property
    def finite(self) -> NDArray[np.bool_]:
        """(N,) mask of the data that take part in the mean."""
        return np.isfinite(self.values)

    @property
    def n_excluded(self) -> int:
        """Number of data that are left out of the mean because they have no finite value."""
        return int((~self.finite).sum())

    @property
    def mean(self) -> float:
        """Mean in nats over the data that have a finite value; NaN if there are none."""
        return float(self.values[self.finite].mean()) if self.finite.any() else float("nan")

    @property
    def se(self) -> float:
        r"""Standard error of the mean in nats, counting these data as a sample of their population; NaN below two data.

        It is the root of the sum of squared influences, which are (value - mean) / m for each of m data. Where u of
        them are predicted, the mean also moves by u / (m n) times the deviation of each of the n differences behind the
        correction; a measured datum that is among the n has both influences. For the whole sample, its square is

            S_y^2 / N + S_d^2 (1/n - 1/N)

        (Cochran 1977, chapter 12), where S_y^2 is the variance of the second phase's values. The variance of the
        predictions alone would be too small.
        """
        finite = self.finite
        m = int(finite.sum())
        if m < 2:
            return float("nan")
        influence, elsewhere = self.values[finite] - self.values[finite].mean(), 0.0
        for part in self.shared.values():
            place = part.place[finite]
            moved = part.deviations * (place < 0).sum() / len(part.deviations)
            influence += np.where(place < 0, 0.0, moved[place])
            elsewhere += (moved**2).sum() - (moved[place[place >= 0]] ** 2).sum()
        return float(np.sqrt(((influence**2).sum() + elsewhere) / (m - 1) / m))

    @property
    def mc_se(self) -> float:
        r"""Standard error in nats of the mean *on these data*: Monte Carlo, and the choice of the n refined data.

        Each of u predicted values misses its datum by S_d on its own, and by the correction's S_d / sqrt(n) together
        with all others. For m data this adds S_d^2 u (1 + u/n) / m^2 to the squared error, which is S_d^2 (1/n - 1/N)
        for all N. S_d^2 is measured on noisy differences, so it contains the draws of the predicted values, whose own
        noise is zero, and those of the correction. It leaves out that a measured value and the correction move together
        because they have the same draws, so those draws count 1 + u/n times. The result is exact for all N data, and
        errs on the safe side for a few of them.
        """
        finite, drawn = self.finite, self._drawn
        total = drawn[finite].sum()
        for part in self.shared.values():
            u, n = int(part.predicted[finite].sum()), len(part.deviations)
            total += u / n * drawn[finite & ~part.predicted].sum() + part.variance * u * (1 + u / n)
        return float(np.sqrt(total) / finite.sum()) if finite.any() else float("nan")

    def where(self, mask: NDArray[np.bool_]) -> "Estimate":
        """The same estimate with NaN outside `mask` (N,)."""
        if mask.all():
            return self
        return replace(self, values=np.where(mask, self.values, np.nan))

    def __getitem__(self, index: NDArray[np.generic] | slice) -> "Estimate":
        noise = {key: part[:, index] for key, part in self.noise.items()}
        shared = {key: part[index] for key, part in self.shared.items()}
        return replace(self, values=self.values[index], noise=noise, ids=self.ids[index], shared=shared)

    def __neg__(self) -> "Estimate":
        noise = {key: -part for key, part in self.noise.items()}
        shared = {key: -part for key, part in self.shared.items()}
        return replace(
            self, name=f"-{self.name}", values=-self.values, side=FLIP[self.side], noise=noise, shared=shared
        )

    def __add__(self, other: "Estimate") -> "Estimate":
        if len(self) != len(other) or not np.array_equal(self.ids, other.ids):
            raise ValueError(
                f"both terms must be about the same data; got {self.name} with {len(self)} ids and {other.name} "
                f"with {len(other)}. Terms of one gap are paired: estimate them on the same x."
            )
        noise = dict(self.noise)
        for key, part in other.noise.items():
            noise[key] = noise[key] + part if key in noise else part
        shared = dict(self.shared)
        for key, correction in other.shared.items():
            shared[key] = shared[key] + correction if key in shared else correction
        side = self.side if self.side == other.side else "neither"
        if "unbiased" in (self.side, other.side):
            side = other.side if self.side == "unbiased" else self.side
        name, values = f"{self.name} + {other.name}", self.values + other.values
        return Estimate(name, values, side=side, noise=noise, ids=self.ids, shared=shared)

    def __sub__(self, other: "Estimate") -> "Estimate":
        return replace(self + (-other), name=f"{self.name} - {other.name}")

    def named(self, name: str) -> "Estimate":
        """The same estimate under another name."""
        return replace(self, name=name)

    def row(self) -> Row:
        """The cells of a table row: side, mean, errors and number of data."""
        return (SIDES[self.side], f"{self.mean:.3f}", f"{self.se:.3f}", f"{self.mc_se:.3f}", f"{len(self):,}")

    def __repr__(self) -> str:
        left_out = f", {self.n_excluded} of {len(self)} left out" if self.n_excluded else ""
        sign = SIDES[self.side] or "="
        return f"{self.name} {sign} {self.mean:.3f} nats (se {self.se:.3f}, mc {self.mc_se:.3f}{left_out})"


def concatenate(parts: Sequence[Estimate]) -> Estimate:
    """Join the estimates of consecutive blocks into one.

    The draws of different blocks are independent, so their keys may coincide. Corrections under one key must be the
    same correction.
    """
    keys = list(parts[0].noise)
    noise = {key: np.concatenate([part.noise[key] for part in parts], axis=1) for key in keys}
    shared = {
        key: replace(first, place=np.concatenate([part.shared[key].place for part in parts]))
        for key, first in parts[0].shared.items()
    }
    values = np.concatenate([part.values for part in parts])
    ids = np.concatenate([part.ids for part in parts])
    return Estimate(parts[0].name, values, side=parts[0].side, noise=noise, ids=ids, shared=shared)
