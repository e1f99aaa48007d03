"""Means that are known while a measurement goes on."""

import math

from .gaps import Gaps

__all__ = ["RunningMeans"]


class RunningMeans:
    """The mean of each step of the ladder over the data that were measured so far, with its standard error in nats.

    Data without a finite value are left out.
    """

    def __init__(self) -> None:
        self._sums: dict[str, tuple[int, float, float]] = {}  # number, mean, and sum of squared deviations

    def add(self, gaps: Gaps) -> None:
        """Take in the data of a block."""
        for name, estimate in {"L[q]": gaps.elbo, **gaps.steps, "log p(x)": gaps.log_evidence}.items():
            values = estimate.values[estimate.finite]
            if not len(values):
                continue
            n, mean, squares = self._sums.get(name, (0, 0.0, 0.0))
            total, shift = n + len(values), values.mean() - mean
            squares += values.var() * len(values) + shift**2 * n * len(values) / total
            self._sums[name] = (total, mean + shift * len(values) / total, squares)

    def __str__(self) -> str:
        return ", ".join(f"{name} {self._shown(*sums)}" for name, sums in self._sums.items())

    @staticmethod
    def _shown(n: int, mean: float, squares: float) -> str:
        return f"{mean:.2f}" if n < 2 else f"{mean:.2f} +- {math.sqrt(squares / (n - 1) / n):.2f}"
