"""Fits of Gaussians as columns, in which a run folder keeps them for a plan that goes on from them."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..posteriors import rung_families
from ..results import TEMPERED, Columns, FitReport
from .plan import Plan
from .rungs import FittedRung, KnownFit

__all__ = ["as_columns", "fit_bytes", "known_fits"]

MOST_VALUES = 2**13  # parameters of a datum's fits that are kept, 32 kB; a full Gaussian of D latents has about D^2 / 2
BYTES_OF_A_VALUE = 4
PARAMS, REPORT, PRINT = ".params.", ".report.", "fingerprint"  # in the names of columns
COLUMNS_OF_REPORT = ("outcome", "steps", "work")


def as_columns(rungs: Mapping[str, FittedRung], prints: NDArray[np.int64]) -> Columns:
    """The fits of the Gaussians of a block; none if they are too large to be kept.

    Args:
        prints: (B,) the fingerprints of the data, padded rows included.
    """
    kept = {name: rung for name, rung in rungs.items() if rung.is_base and name != TEMPERED}
    columns: dict[str, NDArray[np.generic]] = {PRINT: prints}
    if sum(rung.family.context_size for rung in kept.values()) > MOST_VALUES:
        return {}
    for name, rung in kept.items():
        columns |= {f"{name}{PARAMS}{key}": _as_array(value) for key, value in rung.params.items()}
        columns |= {f"{name}{REPORT}{key}": getattr(rung.report, key) for key in COLUMNS_OF_REPORT}
    return columns


def fit_bytes(plan: Plan, size: int) -> int:
    """About how many bytes the fits of a datum of `size` latents take that are kept, in single precision."""
    kinds = [kind.for_rung(size) for kind in rung_families() if kind.name in plan.rungs and kind.is_gaussian]
    n_values = sum(family.context_size for family in kinds if family is not None)
    return 0 if n_values > MOST_VALUES else BYTES_OF_A_VALUE * n_values


def known_fits(columns: Columns, prints: NDArray[np.int64], like: Tensor) -> dict[str, KnownFit]:
    """The fits that `as_columns` made these of, by the name of the rung; none if they are those of other data.

    Args:
        prints: (B,) the fingerprints of the data, padded rows included.
        like: a tensor of the device and dtype of the parameters.
    """
    if not np.array_equal(columns.get(PRINT, ()), prints):
        return {}
    params: dict[str, dict[str, Tensor]] = {}
    for column, values in columns.items():
        name, _, key = column.partition(PARAMS)
        if key:
            params.setdefault(name, {})[key] = torch.from_numpy(values.copy()).to(like)
    reports = {name: FitReport(*(columns[f"{name}{REPORT}{key}"] for key in COLUMNS_OF_REPORT)) for name in params}
    return {name: (params[name], reports[name]) for name in params}


def _as_array(value: Tensor) -> NDArray[np.generic]:
    """The same numbers; arrays know no bfloat16."""
    exact = value if value.dtype == torch.float64 else value.float()
    array: NDArray[np.generic] = exact.cpu().numpy()
    return array
