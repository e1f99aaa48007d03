"""Fits that are kept are the same numbers when they are read, in any precision."""

import numpy as np
import pytest
import torch

import elbowroom as er
from elbowroom.measure import FittedRung
from elbowroom.measure.known_fits import as_columns, fit_bytes, known_fits
from elbowroom.results import FitReport

PRINTS = np.arange(3)
REPORT = FitReport(np.array([0, 1, 2]), np.array([3, 4, 5]), np.array([0.5, 1.5, 2.5]))


def rung(kind: type[er.Family], dtype: torch.dtype, size: int = 2) -> FittedRung:
    generator = torch.Generator().manual_seed(0)
    family = kind(size)
    mean, log_scale = (torch.randn(3, size, generator=generator).to(dtype) for _ in range(2))
    params = dict(family.at(mean, log_scale, generator))
    return FittedRung(family=family, params=params, report=REPORT, metric=None)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_parameters_and_reports_come_back(dtype: torch.dtype) -> None:
    rungs = {kind.name: rung(kind, dtype) for kind in (er.DiagonalGaussian, er.FullGaussian)}
    found = known_fits(as_columns(rungs, PRINTS), PRINTS, torch.empty(0, dtype=dtype))
    assert found.keys() == rungs.keys()
    for name, (params, report) in found.items():
        assert all(torch.equal(params[key], value) for key, value in rungs[name].params.items())
        assert all(value.dtype == dtype for value in params.values())
        for key in ("outcome", "steps", "work"):
            np.testing.assert_array_equal(getattr(report, key), getattr(REPORT, key))


def test_flows_are_not_kept_nor_is_what_is_of_other_data() -> None:
    flow = {"flow": rung(er.CouplingFlow, torch.float32)}
    assert known_fits(as_columns(flow, PRINTS), PRINTS, torch.empty(0)) == {}
    both = as_columns({"diagonal": rung(er.DiagonalGaussian, torch.float32)}, PRINTS)
    assert known_fits(both, PRINTS + 1, torch.empty(0)) == {}
    assert known_fits({}, PRINTS, torch.empty(0)) == {}


@pytest.mark.parametrize(("size", "n_values"), [(50, 100 + 1325), (124, 248 + 7874), (125, 0)])
def test_what_fits_will_take(size: int, n_values: int) -> None:
    """A diagonal and a full Gaussian; those of more than 124 latents have too many parameters."""
    assert fit_bytes(er.Plan(), size) == 4 * n_values
