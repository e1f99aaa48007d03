"""Comparison of two ladders: the difference of their ELBOs, split into log p(x) and the inference gap."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .display import Listing, Row, Shown
from .estimate import Array
from .ladder import Ladder

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True, eq=False, repr=False)
class Comparison(Shown):
    """The difference a - b of one quantity between two ladders, in nats.

    Attributes:
        mean: the mean difference.
        se: standard error of `mean`, counting the data as a sample of their population.
        mc_se: error of `mean` on these data alone; NaN where the ladders are of different data.
        values: (N,) difference of each datum; empty where the ladders are of different data.
    """

    header: ClassVar[Row] = ("nats", "se", "mc", "data")

    mean: float
    se: float
    mc_se: float
    values: Array

    def row(self) -> Row:
        """The cells of a table row: the difference, its errors and the number of pairs ("apart" if there are none)."""
        mc = f"{self.mc_se:.3f}" if len(self.values) else "-"
        return (f"{self.mean:+.3f}", f"{self.se:.3f}", mc, f"{len(self.values):,} paired" if mc != "-" else "apart")

    def __repr__(self) -> str:
        paired = f", paired over {len(self.values)} data" if len(self.values) else ", different data"
        return f"{self.mean:+.3f} nats (se {self.se:.3f}{paired})"


def compare(a: Ladder, b: Ladder) -> Listing[Comparison]:
    """Compare two ladders by a - b of the ELBO, of log p(x) and of the inference gap.

    The differences are paired where both ladders hold the same data under the same ids. Where they share no id, each is
    a difference of means, whose squared errors add.

    Args:
        a: a ladder of N data.
        b: a ladder of the same data in any order, or of data that share no id with those of `a`.
    Returns:
        A `Comparison` for "elbo", "log_evidence" and "inference"; the first is the second minus the third.
    Raises:
        ValueError: the ids overlap only in part, or coincide while the data differ.
    """
    shared = np.intersect1d(a.ids, b.ids)
    terms = {
        "elbo": (a.elbo, b.elbo),
        "log_evidence": (a.log_evidence, b.log_evidence),
        "inference": (a.inference, b.inference),
    }
    if len(shared) == 0:
        nothing = np.empty(0)
        return Listing(
            {
                name: Comparison(p.mean - r.mean, float(np.hypot(p.se, r.se)), float("nan"), nothing)
                for name, (p, r) in terms.items()
            }
        )
    if len(shared) != len(a.ids) or len(shared) != len(b.ids):
        raise ValueError(
            f"the runs share {len(shared)} of their {len(a)} and {len(b)} ids: compare runs on the same data, or on "
            "data of which none are the same"
        )
    order = np.argsort(b.ids)[np.searchsorted(np.sort(b.ids), a.ids)]
    if (
        a.fingerprint is not None
        and b.fingerprint is not None
        and not np.array_equal(a.fingerprint, b.fingerprint[order])
    ):
        raise ValueError("the runs use the same ids for different data: tell the data apart with decompose(ids=...)")
    differences = {name: p - r[order] for name, (p, r) in terms.items()}
    return Listing({name: Comparison(d.mean, d.se, d.mc_se, d.values) for name, d in differences.items()})
