"""Progress is shown by default where somebody sees it, comes early, and long work is announced."""

import sys
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import elbowroom as er
from elbowroom.measure import progress as module
from elbowroom.measure.progress import reporting
from elbowroom.results import RunningMeans

MODEL = er.DecoderModel(nn.Linear(2, 6).double(), "bernoulli", 2)
Q = er.Amortized(nn.Linear(6, 4).double(), er.DiagonalGaussian(2))
X = (torch.rand(70, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) < 0.5).double()


def test_the_calls_begin_at_nothing_rise_and_end_at_all() -> None:
    calls: list[tuple[int, int]] = []
    er.decompose(MODEL, Q, X, plan="quick", progress=lambda done, total: calls.append((done, total)))
    done = [first for first, _ in calls]
    assert {total for _, total in calls} == {70}
    assert done == sorted(done)
    assert done[0] == 0
    assert done[-1] == 70
    assert len([it for it in done if 0 < it < 50]) >= 2  # within the first block


@pytest.mark.parametrize("off", [True, False])
def test_a_terminal_has_a_bar_unless_it_is_turned_off(
    off: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    er.decompose(MODEL, Q, X[:5], plan="quick", progress=False if off else None)
    assert ("measuring" in capsys.readouterr().err) != off


def test_a_notebook_has_a_line_that_is_cleared(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shell = type("ZMQInteractiveShell", (), {})()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setattr(module, "LINE_AFTER", 0.0)
    monkeypatch.setattr(module, "LINE_EVERY", 0.0)
    er.decompose(MODEL, Q, X[:5], plan="quick")
    written = capsys.readouterr().err
    assert "of 5 data" in written
    assert written.endswith(" \r")


def test_a_run_folder_has_a_log_with_a_line_for_each_interval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: clock[0])
    with reporting(False, 1000, is_warned=False, folder=tmp_path) as report:
        for seconds, done in ((30, 400.0), (61, 500.0), (90, 550.0), (121.5, 621.0), (200, 621.0)):
            clock[0] = float(seconds)
            report(done)
    lines = [line.split(" ", 1)[1] for line in (tmp_path / "progress.log").read_text().splitlines()]
    assert lines == [
        "500 of 1,000 data, 8.2 a second, about 1 min 1 s left",
        "621 of 1,000 data, 2 a second, about 3 min 10 s left",
        "621 of 1,000 data",
    ]


def test_means_that_are_known_so_far_are_those_of_the_data_so_far() -> None:
    """Of two blocks, and of data of which some are left out; a single datum has no error."""
    gaps = er.decompose(MODEL, Q, X, plan="quick", progress=False)
    means = RunningMeans()
    for rows in (slice(0, 50), slice(50, 70)):
        means.add(_rows(gaps, rows))
    for name, estimate in (("L[q]", gaps.elbo), ("amortization", gaps.amortization), ("log p(x)", gaps.log_evidence)):
        assert f"{name} {estimate.mean:.2f} +- {estimate.se:.2f}" in str(means)
    keep = np.arange(70) % 3 > 0
    masked = RunningMeans()
    masked.add(replace(gaps, elbo=gaps.elbo.where(keep)))
    kept = gaps.elbo.values[keep]
    assert f"L[q] {kept.mean():.2f} +- {kept.std(ddof=1) / len(kept) ** 0.5:.2f}" in str(masked)
    alone = RunningMeans()
    alone.add(_rows(gaps, slice(0, 1)))
    assert str(alone).startswith(f"L[q] {gaps.elbo.values[0]:.2f}, ")
    assert str(RunningMeans()) == ""


def _rows(gaps: er.Gaps, rows: slice) -> er.Gaps:
    meta, columns = gaps.to_columns()
    return er.Gaps.from_columns(meta, {name: column[rows] for name, column in columns.items()})


def test_the_log_and_the_line_below_the_bar_say_the_means(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also of blocks that were there before, and of those that other processes measure."""
    monkeypatch.setattr(module, "LOG_EVERY", 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    gaps = er.decompose(MODEL, Q, X, plan="quick", out=tmp_path)
    first = gaps.elbo.values[:50]
    known = f"L[q] {first.mean():.2f} +- {first.std(ddof=1) / 50**0.5:.2f}, amortization "
    lines = (tmp_path / "progress.log").read_text().splitlines()
    assert not any("L[q]" in line for line in lines if " 0 of 70 data" in line)
    assert any(known in line for line in lines if " 50 of 70 data" in line)
    assert known in capsys.readouterr().err
    (tmp_path / "progress.log").unlink()
    er.decompose(MODEL, Q, X, plan="quick", out=tmp_path)
    last = (tmp_path / "progress.log").read_text().splitlines()[-1]
    assert " 70 of 70 data" in last
    assert f"L[q] {gaps.elbo.mean:.2f} +- {gaps.elbo.se:.2f}" in last


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOG_EVERY", 0.0)
    (tmp_path / "progress.log").mkdir()
    assert len(er.decompose(MODEL, Q, X[:5], plan="quick", out=tmp_path / "run")) == 5
    assert " of 5 data" in (tmp_path / "run/progress.log").read_text()
    with reporting(False, 5, folder=tmp_path) as report:
        report(1.0)


def test_elsewhere_nothing_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    er.decompose(MODEL, Q, X[:5], plan="quick")
    out = capsys.readouterr()
    assert out.out == out.err == ""


@pytest.mark.parametrize(("seconds", "told"), [(11.0, True), (5.0, False)])
def test_work_of_more_than_ten_minutes_is_announced_once(
    seconds: float, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of a hundred data in 11 seconds is 18 minutes in all; before ten seconds nothing is foretold."""
    clock = iter([0.0, *([seconds] * 10)])
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with reporting(False, 100) as report:
            report(1.0)
            report(1.5)
    assert [("18 min" in str(it.message)) for it in caught] == [True] * told


def test_the_cost_is_foretold_for_all_data() -> None:
    """Within a factor of three on an idle machine; here only that it grows with the data and prints as a sentence."""
    few, many = er.estimate_cost(MODEL, Q, X[:5], plan="quick"), er.estimate_cost(MODEL, Q, X, plan="quick")
    assert few.sizes == (5,)
    assert many.seconds[0] > few.seconds[0] > 0
    assert str(many).startswith("70 data: about ")
    assert "log p(x) 0." in str(many)
    with pytest.raises(er.CheckError):
        er.estimate_cost(Q, MODEL, X)  # type: ignore[arg-type]


def test_one_datum_is_one_row_of_work() -> None:
    """The decoder sees 16 rows at a time for one datum, and not 800."""
    seen: list[int] = []
    net = nn.Linear(2, 6).double()

    def decoder(z: torch.Tensor) -> torch.Tensor:
        seen.append(len(z))
        return net(z)

    er.elbo(er.DecoderModel(decoder, "bernoulli", 2), Q, X[:1], check=False)
    assert max(seen) <= 16
