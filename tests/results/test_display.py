"""How results are shown, as text and as HTML, and that they compare by value."""

from dataclasses import replace

import numpy as np
import pytest

from elbowroom.results import (
    Comparison,
    Correction,
    Estimate,
    Finding,
    FitReport,
    Flag,
    Listing,
    Outcome,
    Verdict,
    aligned,
    compare,
    html_list,
    html_table,
)

from .test_ladder import gaps


def estimate(name: str = "L[q]", shift: float = 0.0) -> Estimate:
    values = np.array([-1.0, -2.0, np.nan]) + shift
    return Estimate(name, values, side="lower", noise={"k": np.full((2, 3), 0.1)}, ids=np.array([4, 5, 6]))


def report() -> FitReport:
    outcome = np.array([Outcome.CONVERGED, Outcome.CONVERGED, Outcome.RAN_OUT])
    return FitReport(outcome, np.array([90, 90, 540]), np.array([360.0, 360.0, 2160.0]))


def test_an_estimate_is_a_sentence() -> None:
    assert repr(estimate()) == "L[q] >= -1.500 nats (se 0.500, mc 0.100, 1 of 3 left out)"
    assert repr(Estimate("L[q]", np.zeros(2))) == "L[q] = 0.000 nats (se 0.000, mc 0.000)"


def test_a_single_result_is_a_table_of_one_row_in_html() -> None:
    shown = estimate()._repr_html_()
    assert shown.startswith("<table><thead><tr><th></th><th></th><th>nats</th><th>se</th><th>mc</th><th>data</th>")
    assert ">L[q]</td>" in shown
    assert "-1.500" in shown
    assert "960" in report()._repr_html_()
    assert "apart" in Comparison(1.0, 0.1, float("nan"), np.empty(0))._repr_html_()


def test_a_fit_counts_how_it_ended() -> None:
    assert repr(report()) == "3 fits: 2 converged, 1 ran out; 960 decoder gradients per datum"


def test_results_by_name_are_a_table() -> None:
    assert repr(Listing(first=estimate(), second=estimate(shift=100.0))).splitlines() == [
        "              nats     se     mc  data",
        "first   >=  -1.500  0.500  0.100     3",
        "second  >=  98.500  0.500  0.100     3",
    ]
    assert repr(Listing(full=report())).splitlines()[1].split() == ["full", "2", "1", "0", "0", "240", "960"]
    assert repr(Listing()) == ""


def test_a_flag_is_its_name() -> None:
    assert [str(Flag(value)) for value in (0, 8, 24)] == ["0", "ERROR_UNRELIABLE", "ERROR_UNRELIABLE|BASES_DISAGREE"]


def test_a_verdict_is_wrapped() -> None:
    verdict = Verdict([Finding("rule", "word " * 50), Finding("rule", "short")])
    assert [len(line) <= 100 for line in repr(verdict).splitlines()] == [True] * 4
    assert [line[:3] for line in repr(verdict).splitlines()] == ["- w", "  w", "  w", "- s"]


def test_a_comparison_says_whether_it_is_paired() -> None:
    same, other = gaps({"low": -6}), gaps({"low": -5})
    assert "2 paired" in repr(compare(same, other))
    assert repr(compare(same, other)["elbo"]) == "+0.000 nats (se 0.000, paired over 2 data)"
    assert Comparison(1.0, 0.1, float("nan"), np.empty(0)).row() == ("+1.000", "0.100", "-", "apart")


def test_gaps_are_their_table_and_html() -> None:
    ladder = gaps({"low": -6, "middle": -3})
    assert repr(ladder) == str(ladder)
    assert len(repr(ladder)) < 2000
    html = ladder._repr_html_()
    assert html.count("<tr>") == 1 + 7
    assert "&emsp;+ factorization" in html
    assert "<li>fit low: 2 converged</li>" in html
    assert "<li>" in ladder.verdict()._repr_html_()
    assert repr(ladder.verdict()).startswith("- ")


def test_a_long_label_goes_on_below_and_breaks_no_column() -> None:
    lines = str(gaps({"low": -6})).splitlines()
    assert max(map(len, lines[:6])) <= 60
    at = lines.index(next(line for line in lines if line.startswith("  + factorization")))
    assert lines[at].split()[-1] == "60%"
    assert lines[at + 1] == "    gaussianity + remainder"
    ends = {len(line) for line in lines[1 : at + 1] if line.endswith("%")}
    assert len(ends) == 1


def test_html_is_escaped() -> None:
    assert "<b>" not in html_table([("a", "b"), ("<b>", "1 < 2")], ["<i>"])
    assert html_list([]) == ""
    assert list(aligned([("a", "bb"), ("cc", "d")])) == ["a   bb", "cc   d"]


@pytest.mark.parametrize(
    ("make", "change"),
    [
        (estimate, {"values": np.zeros(3)}),
        (estimate, {"noise": {"other": np.full((2, 3), 0.1)}}),
        (estimate, {"side": "upper"}),
        (report, {"steps": np.zeros(3, dtype=np.int64)}),
        (lambda: Correction(np.ones(2), np.array([0, -1, 1])), {"deviations": np.ones(3)}),
        (lambda: Comparison(1.0, 0.1, float("nan"), np.ones(2)), {"mean": 2.0}),
        (lambda: gaps({"low": -6}), {"seed": 1}),
        (lambda: gaps({"low": -6}), {"elbo": estimate()}),
        (lambda: gaps({"low": -6}), {"groups": np.array(["a", "b"])}),
    ],
)
def test_results_are_equal_where_their_fields_are(make, change) -> None:
    a, b = make(), make()
    assert (a == b) is True
    assert (a != b) is False
    assert (a == replace(a, **change)) is False
    assert (a == "another thing") is False
