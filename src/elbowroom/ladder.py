"""`Gaps`: the measured ladder of each datum, its steps, its place on disk, and two of them compared."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import store
from .estimate import Array, Correction, Estimate
from .local import Fit
from .table import ladder_table

__all__ = ["LADDERS", "Comparison", "Gaps", "compare", "load_gaps"]

LADDERS = {
    "diagonal": ("diagonal", "full", "flow"),
    "full": ("full", "flow"),
    "flow": ("flow",),
    "auxiliary": ("auxiliary",),
}
LEAVING = {"diagonal": "factorization", "full": "gaussianity", "flow": "remainder", "auxiliary": "remainder"}


@dataclass(frozen=True)
class Gaps:
    """What `decompose` found. Estimates are per datum, in nats; data without a finite value on a fitted rung are NaN
    in all.

    Attributes:
        elbo: L[q]. local: the fitted rungs by family. log_evidence: the best lower bound of log p(x).
        fits: outcome of each local fit. flags: (N,) `Flag` of each datum, 0 where fine.
        chosen: (N,) which estimator gave each log evidence. candidates: all of them. k_hat: (N,) of the importance
            weights.
        work: work units per datum by stage. family: of q, or None. kl_weight: declared. groups: (N,) labels or None.
        refined: (N,) which data the dear plan of a two-phase run measured; None where one plan measured all.
    """

    elbo: Estimate
    local: dict[str, Estimate]
    log_evidence: Estimate
    fits: dict[str, Fit]
    flags: NDArray[np.int64]
    chosen: NDArray[np.str_]
    candidates: dict[str, Estimate]
    k_hat: Array
    work: dict[str, float]
    family: str | None
    plan: str
    seed: int
    kl_weight: float = 1.0
    groups: NDArray[Any] | None = None
    notes: tuple[str, ...] = ()
    fingerprint: NDArray[np.int64] | None = None
    refined: NDArray[np.bool_] | None = None

    @property
    def ladder(self) -> tuple[str, ...]:
        """The fitted rungs that form the ladder, from q's own family upwards."""
        return tuple(name for name in LADDERS.get(self.family or "", ()) if name in self.local)

    @property
    def inference(self) -> Estimate:
        """log p(x) - L[q]: all that the ELBO loses."""
        return (self.log_evidence - self.elbo).named("inference")

    @property
    def amortization(self) -> Estimate:
        """L[q*] - L[q] in q's own family: what one network for all data costs."""
        self._needs_family()
        return (self.local[self.ladder[0]] - self.elbo).named("amortization")

    @property
    def approximation(self) -> Estimate:
        """log p(x) - L[q*] in q's own family: what the family costs."""
        self._needs_family()
        return (self.log_evidence - self.local[self.ladder[0]]).named("approximation")

    @property
    def steps(self) -> dict[str, Estimate]:
        """The steps of the ladder in order; they add up to the inference gap, datum by datum."""
        if not self.ladder:
            return {"inference": self.inference}
        own = self.ladder[0]
        found: dict[str, Estimate] = {}
        if "tempered" in self.local:
            found["encoder"] = (self.local["tempered"] - self.elbo).named("encoder")
            found["mismatch"] = (self.local[own] - self.local["tempered"]).named("mismatch")
        else:
            found["amortization"] = self.amortization
        for lower, upper in zip(self.ladder, (*self.ladder[1:], None), strict=True):
            name = self._step_name(lower, upper)
            top = self.log_evidence if upper is None else self.local[upper]
            found[name] = (top - self.local[lower]).named(name)
        return found

    def _needs_family(self) -> None:
        if not self.ladder:
            raise TypeError("this needs a q whose family is known (a Gaussian, a flow); only `inference` is there")

    def _step_name(self, lower: str, upper: str | None) -> str:
        """The assumptions between two rungs, joined where rungs in between were not fitted."""
        order = LADDERS[self.family or ""]
        stop = len(order) if upper is None else order.index(upper)
        names = [LEAVING[rung] for rung in order[order.index(lower) : stop]]
        if upper is None and names[-1] != "remainder":
            names.append("remainder")
        return " + ".join(names)

    def __getattr__(self, name: str) -> Estimate:
        if name in ("factorization", "gaussianity", "remainder", "mismatch", "encoder"):
            if name in self.steps:
                return self.steps[name]
            how = (
                "kl_weight="
                if name in ("mismatch", "encoder")
                else 'a plan with the rungs around it, such as "standard"'
            )
            if name in ("gaussianity", "remainder"):
                how = 'plan "flow"'
            raise AttributeError(
                f"{name} was not measured on its own; steps are {list(self.steps)}. Ask for it with {how}."
            )
        raise AttributeError(f"Gaps has no attribute {name!r}")

    @property
    def ids(self) -> NDArray[np.int64]:
        """(N,) identity of each datum."""
        return self.elbo.ids

    @property
    def n_excluded(self) -> int:
        """How many data are left out of every mean."""
        return self.log_evidence.n_excluded

    def __len__(self) -> int:
        return len(self.elbo)

    def __str__(self) -> str:
        return ladder_table(self)

    def save(self, folder: str | Path, overwrite: bool = False) -> None:
        """Write a run folder that `load_gaps` reads. Raises `store.RunError` where the folder is in use."""
        columns: dict[str, NDArray[Any]] = {
            "id": self.ids,
            "flags": self.flags,
            "chosen": self.chosen,
            "k_hat": self.k_hat,
        }
        if self.groups is not None:
            columns["group"] = self.groups
        if self.fingerprint is not None:
            columns["fingerprint"] = self.fingerprint
        if self.refined is not None:
            columns["refined"] = self.refined
        sides: dict[str, list[str]] = {}
        keys: dict[str, list[Any]] = {}
        shared: dict[str, list[Any]] = {}
        for name, estimate in self._named().items():
            columns[name], sides[name] = estimate.values, [estimate.name, estimate.side]
            keys[name], shared[name] = list(estimate.noise), list(estimate.shared)
            for i, noise in enumerate(estimate.noise.values()):
                columns[f"{name}.noise{i}"] = noise.T
            for i, part in enumerate(estimate.shared.values()):
                columns[f"{name}.shared{i}"] = np.where(part.predicted, np.nan, part.deviations[part.place])
        for name, fit in self.fits.items():
            columns[f"outcome.{name}"], columns[f"steps.{name}"] = fit.outcome, fit.steps
            columns[f"work.{name}"] = fit.work
        meta = {
            "family": self.family, "plan": self.plan, "seed": self.seed, "kl_weight": self.kl_weight, "work": self.work,
            "notes": list(self.notes), "estimates": sides, "noise": keys, "shared": shared, "fits": list(self.fits),
            "n": len(self),
        }  # fmt: skip
        store.write_run(folder, meta, columns, overwrite)

    def _named(self) -> dict[str, Estimate]:
        """Every measured estimate under the name of its column."""
        rungs = {f"local.{name}": estimate for name, estimate in self.local.items()}
        others = {f"candidate.{name}": estimate for name, estimate in self.candidates.items()}
        return {"elbo": self.elbo, **rungs, "log_evidence": self.log_evidence, **others}


def load_gaps(folder: str | Path) -> Gaps:
    """A saved `Gaps`, its errors and their covariances included. Raises `store.RunError` where there is none."""
    meta, columns = store.read_run(folder)
    found: dict[str, Estimate] = {}
    for name, (label, side) in meta["estimates"].items():
        noise = {_key(key): columns[f"{name}.noise{i}"].T for i, key in enumerate(meta["noise"][name])}
        keys = meta.get("shared", {}).get(name, [])
        shared = {_key(key): _correction(columns[f"{name}.shared{i}"]) for i, key in enumerate(keys)}
        found[name] = Estimate(label, columns[name], side, noise, columns["id"], shared)
    fits = {
        name: Fit(None, columns[f"outcome.{name}"], columns[f"steps.{name}"], columns[f"work.{name}"])
        for name in meta["fits"]
    }
    return Gaps(
        found["elbo"], _under("local.", found), found["log_evidence"], fits, columns["flags"],
        columns["chosen"].astype(str), _under("candidate.", found), columns["k_hat"], meta["work"], meta["family"],
        meta["plan"], meta["seed"], meta["kl_weight"], columns.get("group"), tuple(meta["notes"]),
        columns.get("fingerprint"), columns.get("refined"),
    )  # fmt: skip


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


def compare(a: Gaps, b: Gaps) -> dict[str, Comparison]:
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
    found = {name: p - r[order] for name, (p, r) in terms.items()}
    return {name: Comparison(d.mean, d.se, d.mc_se, d.values) for name, d in found.items()}


def _under(prefix: str, found: dict[str, Estimate]) -> dict[str, Estimate]:
    return {name.removeprefix(prefix): estimate for name, estimate in found.items() if name.startswith(prefix)}


def _correction(column: Array) -> Correction:
    """A correction from its column (N,): the deviations of the refined data, NaN where the value is predicted."""
    measured = np.isfinite(column)
    return Correction(column[measured], np.where(measured, np.cumsum(measured) - 1, -1))


def _key(key: Any) -> object:
    return tuple(key) if isinstance(key, list) else key
