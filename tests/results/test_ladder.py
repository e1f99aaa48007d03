"""The ladder as a record: its steps by name, merged ones, and what is said of a name that is not there."""

import numpy as np
import pytest

from elbowroom.results import Estimate, FitReport, Gaps, Rung, suggestion
from elbowroom.results.ladder import step_name

LOW, MIDDLE, HIGH = (
    Rung(name=name, place=place, step=step, members=f"a {name}", assumption=f"what a {name} takes", remedy="more")
    for place, (name, step) in enumerate((("low", "factorization"), ("middle", "gaussianity"), ("high", "couplings")))
)
BESIDE = Rung(name="beside", place=None, step="remainder", members="one beside", assumption="", remedy="")


def gaps(fitted: dict[str, float], family: str | None = "low") -> Gaps:
    """L[q] = -10 and log p(x) = 0 on two data, and these rungs between."""
    levels = {"elbo": -10.0, **fitted, "log p(x)": 0.0}
    estimates = {name: Estimate(name, np.full(2, value)) for name, value in levels.items()}
    nothing = np.zeros(2, dtype=np.int64)
    return Gaps(
        elbo=estimates["elbo"],
        local={name: estimates[name] for name in fitted},
        log_evidence=estimates["log p(x)"],
        shortfall={},
        fits={name: FitReport(nothing, nothing, np.zeros(2)) for name in fitted},
        flags=nothing,
        chosen=np.full(2, "iwae"),
        estimators={"iwae": "importance sampling"},
        candidates={},
        k_hat=np.zeros(2),
        rungs=(LOW, MIDDLE, HIGH, BESIDE),
        family=family,
        work={"elbo": 1.0},
        plan="quick",
        seed=0,
    )


@pytest.mark.parametrize(
    ("fitted", "family", "steps"),
    [
        ({"low": -6, "middle": -3, "high": -1}, "low", [4, 3, 2, 1]),
        ({"low": -6, "middle": -3, "high": -1}, "middle", [7, 2, 1]),
        ({"low": -6, "middle": -3}, "low", [4, 3, 3]),
        ({"low": -6, "high": -1}, "low", [4, 5, 1]),
        ({"low": -6}, "low", [4, 6]),
        ({"low": -6, "beside": -2}, "beside", [8, 2]),
        ({"low": -6}, None, [10]),
        ({"low": -6, "tempered": -7}, "low", [3, 1, 6]),
    ],
)
def test_the_steps_are_those_between_the_rungs_that_were_fitted(
    fitted: dict[str, float], family: str | None, steps: list[float]
) -> None:
    ladder = gaps(fitted, family)
    assert [step.mean for step in ladder.steps.values()] == steps
    assert sum(steps) == ladder.inference.mean == 10
    assert len(ladder.merged_rungs) == len(ladder.ladder)


def test_a_merged_step_has_the_names_of_all_that_it_leaves() -> None:
    assert list(gaps({"low": -6}).steps) == ["amortization", "factorization + gaussianity + remainder"]
    assert list(gaps({"low": -6, "high": -1}).steps)[1:] == ["factorization + gaussianity", "remainder"]
    assert step_name([HIGH], to_evidence=True) == "remainder"
    assert step_name([MIDDLE], to_evidence=False) == "gaussianity"


def test_steps_are_attributes() -> None:
    ladder = gaps({"low": -6, "middle": -3, "high": -1})
    assert ladder.factorization.mean == 3
    assert ladder.gaussianity.mean == 2
    assert ladder.remainder.mean == 1
    assert ladder.approximation.mean == 6


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("factorization", r'not measured on its own.*Ask for it with plan="standard"\.'),
        ("gaussianity", r'not measured on its own.*Ask for it with plan="flow"\.'),
        ("mismatch", r"Ask for it with kl_weight=\."),
        ("amortisation", r"'amortisation'\. Did you mean \"amortization\"\?$"),
        ("log_evidense", r"'log_evidense'\. Did you mean \"log_evidence\"\?$"),
        ("xyz", r"Gaps has no attribute 'xyz'\.$"),
    ],
)
def test_a_name_that_is_not_there_gets_advice(name: str, message: str) -> None:
    with pytest.raises(AttributeError, match=message):
        getattr(gaps({"low": -6}), name)


def test_the_paper_s_gaps_need_a_known_family() -> None:
    for name in ("amortization", "approximation"):
        with pytest.raises(TypeError, match="only `inference` was measured"):
            getattr(gaps({"low": -6}, None), name)


def test_suggestions_are_made_where_something_is_like_it() -> None:
    assert suggestion("standart", ["quick", "standard"]) == ' Did you mean "standard"?'
    assert suggestion("thorough", ["quick", "standard"]) == ""
