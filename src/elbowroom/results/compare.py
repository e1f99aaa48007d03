"""Two ladders compared: the difference of their ELBOs, split into one of log p(x) and one of the inference gap."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .display import Listing, Row, Shown
from .estimate import Array
from .ladder import Ladder

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True, eq=False, repr=False)
class Comparison(Shown):
    """a - b of one quantity, in nats: the mean difference and its standard error `se`; where the data are the same,
    also `values` (N,) per datum and `mc_se`, the error on these data alone (NaN and empty where they are not).
    """

    header: ClassVar[Row] = ("nats", "se", "mc", "data")

    mean: float
    se: float
    mc_se: float
    values: Array

    def row(self) -> Row:
        """The difference and its errors as the cells of a table; "apart" where the data are different ones."""
        mc = f"{self.mc_se:.3f}" if len(self.values) else "-"
        return (f"{self.mean:+.3f}", f"{self.se:.3f}", mc, f"{len(self.values):,} paired" if mc != "-" else "apart")

    def __repr__(self) -> str:
        paired = f", paired over {len(self.values)} data" if len(self.values) else ", different data"
        return f"{self.mean:+.3f} nats (se {self.se:.3f}{paired})"


def compare(a: Ladder, b: Ladder) -> Listing[Comparison]:
    """a - b: the difference of ELBOs ("elbo"), split into one of "log_evidence" and one of "inference".

    Paired where both hold the same data under the same ids; where no id is shared, the difference of means, whose
    errors add.

    Raises:
        ValueError: ids that coincide while the data differ, or that overlap in part.
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
        raise ValueError(f"{len(shared)} ids are shared of {len(a)} and {len(b)}: compare the same data, or data apart")
    order = np.argsort(b.ids)[np.searchsorted(np.sort(b.ids), a.ids)]
    if (
        a.fingerprint is not None
        and b.fingerprint is not None
        and not np.array_equal(a.fingerprint, b.fingerprint[order])
    ):
        raise ValueError("the ids coincide but the data differ; give decompose ids= of their own")
    differences = {name: p - r[order] for name, (p, r) in terms.items()}
    return Listing({name: Comparison(d.mean, d.se, d.mc_se, d.values) for name, d in differences.items()})
