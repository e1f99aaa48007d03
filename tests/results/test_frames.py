"""One row per datum for pandas and xarray: the numbers of the table, under names that do not change."""

import sys
from typing import Any

import numpy as np
import pytest

import elbowroom as er
from elbowroom.results import Flag, Outcome
from elbowroom.results.frames import FRAME_SCHEMA

from ..measure.test_kept_runs import PLAN, data, setting

COLUMNS = [
    "group", "elbo", "elbo_mc", "local_diagonal", "local_diagonal_mc", "log_evidence", "log_evidence_mc",
    "inference", "inference_mc", "amortization", "amortization_mc", "factorization + gaussianity + remainder",
    "factorization + gaussianity + remainder_mc", "shortfall_diagonal", "shortfall_diagonal_mc", "outcome_diagonal",
    "chosen", "k_hat", "flags",
]  # fmt: skip


@pytest.fixture(scope="module")
def gaps() -> er.Gaps:
    groups = ["even", "odd"] * 30
    ids = list(range(100, 160))
    return er.decompose(*setting(), data(60), PLAN, groups=groups, ids=ids, progress=False)


def test_a_dataframe_has_the_numbers_of_the_table(gaps: er.Gaps) -> None:
    frame = gaps.to_dataframe()
    assert list(frame.columns) == COLUMNS
    assert frame.index.name == "id"
    assert list(frame.index) == list(range(100, 160))
    assert frame["amortization"].mean() == pytest.approx(gaps.amortization.mean)
    assert np.array_equal(frame["log_evidence_mc"], gaps.log_evidence.mc_errors)
    assert frame.groupby("group")["elbo"].mean()["odd"] == pytest.approx(gaps.elbo.values[1::2].mean())
    assert frame.attrs["schema"] == FRAME_SCHEMA
    assert frame.attrs["sides"]["amortization"] == gaps.amortization.side


def test_flags_and_outcomes_are_words(gaps: er.Gaps) -> None:
    frame = gaps.to_dataframe()
    for value, words in zip(gaps.flags, frame["flags"], strict=True):
        assert {str(flag.name) for flag in Flag if value & flag} == set(filter(None, words.split(",")))
    ends = [Outcome(end).name.lower() for end in gaps.fits["diagonal"].outcome]
    assert list(frame["outcome_diagonal"]) == ends


def test_a_dataset_has_the_same_columns_with_units(gaps: er.Gaps) -> None:
    data, frame = gaps.to_xarray(), gaps.to_dataframe()
    assert list(data.data_vars) == COLUMNS
    assert data.sizes == {"id": 60}
    for name in COLUMNS:
        assert np.array_equal(data[name].values, frame[name].values), name
    assert data["elbo"].attrs == {"units": "nats", "side": "unbiased"}
    assert data["elbo_mc"].attrs == {"units": "nats"}
    assert "units" not in data["k_hat"].attrs


def test_a_refined_run_says_which_data_were_refined() -> None:
    plan = er.Plan(rungs=("diagonal",), n_elbo=64)
    frame = er.decompose(*setting(), data(60), PLAN, refine_on=20, refine_plan=plan, progress=False).to_dataframe()
    assert frame["refined"].sum() == 20
    assert set(frame["outcome_diagonal"]) <= {end.name.lower() for end in Outcome}


@pytest.mark.parametrize(("method", "library"), [("to_dataframe", "pandas"), ("to_xarray", "xarray")])
def test_a_library_that_is_not_there_is_named(
    gaps: er.Gaps, method: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    convert: Any = getattr(gaps, method)
    with pytest.raises(ImportError, match=f"this needs {library}, which is not installed: pip install {library}"):
        convert()
