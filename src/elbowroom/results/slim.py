"""Gaps in a third of the space, for those that are kept with a report."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .gaps import Gaps

__all__ = ["slim"]

BITS = 12  # of a deviation that are kept: it is known to two digits at best, and 12 bits are more than three


def slim(gaps: Gaps) -> Gaps:
    """The same, but that Monte Carlo deviations are rounded to a relative error of 1e-4; values stay as they are."""
    meta, columns = gaps.to_columns()
    return Gaps.from_columns(
        meta, {name: _rounded(column) if ".noise" in name else column for name, column in columns.items()}
    )


def _rounded(values: NDArray[Any]) -> NDArray[Any]:
    mantissa, exponent = np.frexp(values)
    return np.ldexp(np.round(mantissa * 2**BITS) / 2**BITS, exponent)
