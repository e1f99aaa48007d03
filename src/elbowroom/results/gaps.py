"""`Gaps`, the result of `decompose`: it is printed as a table, saved as a run folder and read back."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import store
from .estimate import Array, Correction, Estimate
from .frames import as_dataframe, as_dataset
from .ladder import Ladder, Rung
from .outcomes import FitReport
from .summary import ladder_summary
from .table import ladder_html, ladder_table
from .verdict import Verdict, judge

if TYPE_CHECKING:
    import pandas
    import xarray

__all__ = ["Gaps", "load_gaps"]


class Gaps(Ladder):
    """The result of `decompose`, with the attributes of `Ladder`; it prints as a table of the ladder."""

    def __repr__(self) -> str:
        return ladder_table(self)

    def _repr_html_(self) -> str:
        return ladder_html(self)

    def verdict(self, train: Ladder | None = None) -> Verdict:
        """Say in words what the ladder shows; `docs/verdict.md` lists the rules.

        Args:
            train: the gaps of training data. If given, this ladder is that of held-out data, and how the encoder and
                the model generalize is judged too.
        Returns:
            A `Verdict`, ordered as `judge` orders it.
        """
        return judge(self, train)

    def to_dict(self) -> dict[str, Any]:
        """The printed table as a dictionary that JSON can hold.

        "rows" lead from L[q] up to log p(x). Each has its kind ("rung" or "step"), name, side, and mean, se and mc_se
        in nats, and whether mc_se is to be believed; a step also has its share of the inference gap, and the rung of a
        Gaussian its shortfall. "without_doubtful" is log p(x) without the data whose error is unknown. Counts of flags
        and of fits, notes and the work follow. Flags are named as in `Flag`, and a number that is not finite is None.
        """
        return ladder_summary(self)

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per datum with the index `id`; `results.frames` lists the columns, whose names are stable.

        Raises:
            ImportError: pandas is not installed.
        """
        return as_dataframe(self)

    def to_xarray(self) -> "xarray.Dataset":
        """The same columns as variables along the dimension `id`, with units and sides as attributes.

        Raises:
            ImportError: xarray is not installed.
        """
        return as_dataset(self)

    def save(self, folder: str | Path, overwrite: bool = False) -> None:
        """Write a run folder that `load_gaps` reads.

        Args:
            folder: a new or empty folder, or with `overwrite` one that holds a run.
            overwrite: replace the run that the folder holds.
        Raises:
            RunError: the folder holds a run and `overwrite` is False, or it holds other files, or is a file.
        """
        meta, columns = self.to_columns()
        store.write_run(folder, meta, columns, overwrite)

    def to_columns(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The metadata, ready for JSON, and the columns, (N,) or (N, G) each: `from_columns` makes the gaps of them."""
        columns: dict[str, NDArray[Any]] = {
            "id": self.ids,
            "flags": self.flags,
            "chosen": self.chosen,
            "k_hat": self.k_hat,
        }
        optional = {"group": self.groups, "fingerprint": self.fingerprint, "refined": self.refined}
        columns |= {name: column for name, column in optional.items() if column is not None}
        for name, estimate in self._by_column().items():
            columns[name] = estimate.values
            for i, noise in enumerate(estimate.noise.values()):
                columns[f"{name}.noise{i}"] = noise.T
            for i, part in enumerate(estimate.shared.values()):
                columns[f"{name}.shared{i}"] = np.where(part.predicted, np.nan, part.deviations[part.place])
        for name, fit in self.fits.items():
            columns[f"outcome.{name}"], columns[f"steps.{name}"] = fit.outcome, fit.steps
            columns[f"work.{name}"] = fit.work
        return self._meta(), columns

    def _meta(self) -> dict[str, Any]:
        """All but the columns, as JSON can hold it."""
        estimates = self._by_column()
        return {
            "family": self.family, "plan": self.plan, "seed": self.seed, "kl_weight": self.kl_weight,
            "work": dict(self.work), "notes": list(self.notes),
            "estimates": {name: [e.name, e.side] for name, e in estimates.items()},
            "noise": {name: list(e.noise) for name, e in estimates.items()},
            "shared": {name: list(e.shared) for name, e in estimates.items()},
            "fits": list(self.fits), "n": len(self),
            "rungs": [asdict(rung) for rung in self.rungs], "estimators": dict(self.estimators),
            "provenance": dict(self.provenance),
        }  # fmt: skip

    @staticmethod
    def from_columns(meta: Mapping[str, Any], columns: Mapping[str, NDArray[Any]]) -> "Gaps":
        """The gaps of which `to_columns` made these."""
        estimates = {name: _estimate(name, meta, columns) for name in meta["estimates"]}
        fits = {
            name: FitReport(columns[f"outcome.{name}"], columns[f"steps.{name}"], columns[f"work.{name}"])
            for name in meta["fits"]
        }
        return Gaps(
            elbo=estimates["elbo"],
            local=_under("local.", estimates),
            log_evidence=estimates["log_evidence"],
            shortfall=_under("shortfall.", estimates),
            fits=fits,
            flags=columns["flags"],
            chosen=columns["chosen"].astype(str),
            estimators=meta["estimators"],
            candidates=_under("candidate.", estimates),
            k_hat=columns["k_hat"],
            rungs=tuple(Rung(**rung) for rung in meta["rungs"]),
            family=meta["family"],
            work=meta["work"],
            plan=meta["plan"],
            seed=meta["seed"],
            kl_weight=meta["kl_weight"],
            groups=columns.get("group"),
            notes=tuple(meta["notes"]),
            fingerprint=columns.get("fingerprint"),
            refined=columns.get("refined"),
            provenance=meta.get("provenance", {}),
        )

    def _by_column(self) -> dict[str, Estimate]:
        """Every measured estimate under the name of its column."""
        rungs = {f"local.{name}": estimate for name, estimate in self.local.items()}
        rungs |= {f"shortfall.{name}": estimate for name, estimate in self.shortfall.items()}
        others = {f"candidate.{name}": estimate for name, estimate in self.candidates.items()}
        return {"elbo": self.elbo, **rungs, "log_evidence": self.log_evidence, **others}


def load_gaps(folder: str | Path) -> Gaps:
    """Load a saved `Gaps`, including its errors and their covariances.

    Raises:
        RunError: the folder holds no whole run, or one that another version of the package wrote.
    """
    return Gaps.from_columns(*store.read_run(folder))


def _estimate(name: str, meta: Mapping[str, Any], columns: Mapping[str, NDArray[Any]]) -> Estimate:
    """An estimate from its columns, under the keys of its draws."""
    label, side = meta["estimates"][name]
    noise = {_key(key): columns[f"{name}.noise{i}"].T for i, key in enumerate(meta["noise"][name])}
    shared = {_key(key): _correction(columns[f"{name}.shared{i}"]) for i, key in enumerate(meta["shared"][name])}
    return Estimate(label, columns[name], side=side, noise=noise, ids=columns["id"], shared=shared)


def _under(prefix: str, estimates: Mapping[str, Estimate]) -> dict[str, Estimate]:
    return {name.removeprefix(prefix): estimate for name, estimate in estimates.items() if name.startswith(prefix)}


def _correction(column: Array) -> Correction:
    """A correction from its column (N,): the deviations of the refined data, NaN where the value is predicted."""
    measured = np.isfinite(column)
    return Correction(column[measured], np.where(measured, np.cumsum(measured) - 1, -1))


def _key(key: Any) -> object:
    return tuple(key) if isinstance(key, list) else key
