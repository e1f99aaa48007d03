"""A ladder with one row per datum, for those who have pandas or xarray.

The columns, whose names do not change within a `FRAME_SCHEMA`, are

    id                    the datum
    group                 its label, if there are groups
    elbo                  L[q]
    local_NAME            the ELBO of the best q of a rung, such as local_diagonal
    log_evidence          the best lower bound of log p(x)
    inference, STEP       the inference gap, and each step of the ladder, such as amortization
    shortfall_NAME        what the fit of a Gaussian rung still lacks
    outcome_NAME          how that fit ended, as a word
    chosen                the name of the estimator that gave log_evidence
    k_hat                 Pareto k-hat of the importance weights
    flags                 the names of the datum's flags, joined by commas; empty where there are none
    refined               whether the costlier plan measured it, where only a sample was

Each of the first numbers is in nats, and has beside it its Monte Carlo error under the same name and `_mc`.
"""

from __future__ import annotations  # signatures in help() then show types by their names

from collections.abc import Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .estimate import Estimate
from .ladder import Ladder
from .outcomes import Flag, Outcome

if TYPE_CHECKING:
    import pandas
    import xarray

__all__ = ["FRAME_SCHEMA", "as_dataframe", "as_dataset"]

FRAME_SCHEMA = 1


def as_dataframe(ladder: Ladder) -> pandas.DataFrame:
    """One row per datum, with `id` as the index; `attrs` hold the schema, the plan, the seed and the sides.

    Raises:
        ImportError: pandas is not installed.
    """
    columns = _columns(ladder)
    index = _library("pandas").Index(columns.pop("id"), name="id")
    frame: pandas.DataFrame = _library("pandas").DataFrame(columns, index=index)
    frame.attrs = _attributes(ladder) | {"sides": {name: estimate.side for name, estimate in _estimates(ladder)}}
    return frame


def as_dataset(ladder: Ladder) -> xarray.Dataset:
    """Variables along the dimension `id`; each number in nats has its unit and its side as attributes.

    Raises:
        ImportError: xarray is not installed.
    """
    columns, sides = _columns(ladder), {name: estimate.side for name, estimate in _estimates(ladder)}
    ids = columns.pop("id")
    variables = {}
    for name, values in columns.items():
        unit = {"units": "nats"} if name.removesuffix("_mc") in sides else {}
        variables[name] = ("id", values, unit | ({"side": sides[name]} if name in sides else {}))
    data: xarray.Dataset = _library("xarray").Dataset(variables, {"id": ids}, _attributes(ladder))
    return data


def _estimates(ladder: Ladder) -> Iterator[tuple[str, Estimate]]:
    """The numbers in nats, by the names of their columns."""
    yield "elbo", ladder.elbo
    yield from ((f"local_{name}", estimate) for name, estimate in ladder.local.items())
    yield "log_evidence", ladder.log_evidence
    yield "inference", ladder.inference
    yield from ((name, step) for name, step in ladder.steps.items() if name != "inference")
    yield from ((f"shortfall_{name}", estimate) for name, estimate in ladder.shortfall.items())


def _columns(ladder: Ladder) -> dict[str, NDArray[Any]]:
    """The columns (N,) by name, in order."""
    columns: dict[str, NDArray[Any]] = {"id": ladder.ids}
    if ladder.groups is not None:
        columns["group"] = np.asarray(ladder.groups)
    for name, estimate in _estimates(ladder):
        columns[name], columns[f"{name}_mc"] = estimate.values, estimate.mc_errors
    for name, fit in ladder.fits.items():
        columns[f"outcome_{name}"] = np.array([Outcome(value).name.lower() for value in fit.outcome], dtype=object)
    columns["chosen"], columns["k_hat"] = ladder.chosen.astype(object), ladder.k_hat
    names = [",".join(str(flag.name) for flag in Flag if value & flag) for value in ladder.flags.tolist()]
    columns["flags"] = np.array(names, dtype=object)
    if ladder.refined is not None:
        columns["refined"] = ladder.refined
    return columns


def _attributes(ladder: Ladder) -> dict[str, Any]:
    return {"schema": FRAME_SCHEMA, "plan": ladder.plan, "seed": ladder.seed, "notes": list(ladder.notes)}


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(f"this needs {name}, which is not installed: pip install {name}") from error
