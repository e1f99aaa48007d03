"""Two ladders compared: the difference of their ELBOs, split into one of log p(x) and one of the inference gap."""

from dataclasses import dataclass

import numpy as np

from .estimate import Array
from .ladder import Ladder

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True)
class Comparison:
    """a - b of one quantity, in nats: the mean difference and its standard error `se`; where the data are the same,
    also `values` (N,) per datum and `mc_se`, the error on these data alone (NaN and empty where they are not).
    """

    mean: float
    se: float
    mc_se: float
    values: Array

    def __str__(self) -> str:
        paired = f", paired over {len(self.values)} data" if len(self.values) else ", different data"
        return f"{self.mean:+.3f} nats (se {self.se:.3f}{paired})"


def compare(a: Ladder, b: Ladder) -> dict[str, Comparison]:
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
        return {
            name: Comparison(p.mean - r.mean, float(np.hypot(p.se, r.se)), float("nan"), nothing)
            for name, (p, r) in terms.items()
        }
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
    return {name: Comparison(d.mean, d.se, d.mc_se, d.values) for name, d in differences.items()}
