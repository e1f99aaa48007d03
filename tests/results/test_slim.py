"""Rows that are kept with a report take less room, and say the same."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import elbowroom as er
from elbowroom.results import load_gaps, slim

from ..measure.test_kept_runs import PLAN, data, setting

TOLERANCE = 2.0**-12  # of an error made of rounded deviations; the error of a difference is compared with its terms


@pytest.fixture(scope="module")
def gaps() -> er.Gaps:
    return er.decompose(*setting(), data(100), PLAN, progress=False)


def test_values_stay_and_errors_hardly_change(gaps: er.Gaps) -> None:
    kept = slim(gaps)
    assert kept != gaps
    for name in ("elbo", "log_evidence", "amortization", "approximation", "inference"):
        before, after = getattr(gaps, name), getattr(kept, name)
        np.testing.assert_array_equal(after.values, before.values)
        assert after.se == before.se
        assert after.mc_se != before.mc_se
        assert after.mc_se == pytest.approx(before.mc_se, rel=TOLERANCE)
        terms = gaps.elbo.mc_errors + gaps.log_evidence.mc_errors
        assert (abs(after.mc_errors - before.mc_errors) <= TOLERANCE * terms).all()
    rest = {name: getattr(gaps, name) for name in ("flags", "chosen", "k_hat", "fingerprint")}
    assert all(np.array_equal(getattr(kept, name), values) for name, values in rest.items())


def test_what_is_no_number_or_zero_stays(gaps: er.Gaps) -> None:
    (key, noise), *_ = gaps.elbo.noise.items()
    odd = noise.copy()
    odd[:4, 0] = 0.0, np.nan, np.inf, -np.inf
    kept = slim(replace(gaps, elbo=replace(gaps.elbo, noise={key: odd})))
    np.testing.assert_array_equal(kept.elbo.noise[key][:4, 0], odd[:4, 0])


def test_they_are_loaded_as_they_were_and_take_half_the_room(gaps: er.Gaps, tmp_path: Path) -> None:
    kept = slim(gaps)
    assert slim(kept) == kept
    kept.save(tmp_path / "slim")
    gaps.save(tmp_path / "whole")
    assert load_gaps(tmp_path / "slim") == kept
    size, whole = (
        sum(path.stat().st_size for path in (tmp_path / name / "data").iterdir()) for name in ("slim", "whole")
    )
    assert size < whole / 2
