"""Claims are decided by their errors; every experiment reads from top to bottom, and its page says what was found."""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
import torch
from scipy import stats

import elbowroom as er
from elbowroom.experiments import (
    EXPERIMENTS,
    LADDERS,
    SCALES,
    Claim,
    Decision,
    Experiment,
    Findings,
    NamedArrays,
    Scale,
    Trained,
    claims_page,
    decide,
    decide_between,
    experiment_page,
    over_trainings,
)
from elbowroom.experiments.claims import decide_over
from elbowroom.experiments.tables import LADDER_HEADER
from elbowroom.results import FitReport

CLAIM = Claim(name="c", says="it is so", estimand="one minus other", data="images")
TINY = er.Plan(
    rungs=("diagonal",),
    n_elbo=32,
    evidence=er.EvidencePlan(n_importance=64, n_pilot=32, annealing=None, n_others=16),
    multistart=None,
)


@pytest.mark.parametrize(
    ("mean", "verdict"), [(1.0, "holds"), (-1.0, "does not hold"), (0.1, "cannot tell"), (-0.1, "cannot tell")]
)
def test_two_standard_errors_decide(mean: float, verdict: str) -> None:
    """Values with a mean as it is given and a standard error of 0.2."""
    values = np.array([-1.0, 1.0] * 13)[:26]
    values = mean + 0.2 * values * np.sqrt(25)
    found = decide(CLAIM, er.Estimate("x", values))
    assert found.mean == pytest.approx(mean)
    assert found.se == pytest.approx(0.2)
    assert found.verdict == verdict
    assert found.errors == pytest.approx(mean / 0.2)


def test_data_without_a_value_are_not_counted_and_fits_that_ran_out_are() -> None:
    fits = FitReport(np.array([0, 1, 1, 2]), np.zeros(4, dtype=np.int64), np.zeros(4))
    found = decide(CLAIM, er.Estimate("x", np.array([1.0, np.nan, 3.0, 2.0])), fits, fits)
    assert (found.n, found.ran_out) == (3, (4, 8))


@pytest.mark.parametrize(("n", "verdict"), [(1, "cannot tell"), (9, "cannot tell"), (10, "holds")])
def test_nothing_is_told_of_fewer_than_ten_data(n: int, verdict: str) -> None:
    assert decide(CLAIM, er.Estimate("x", np.linspace(5.0, 6.0, n))).verdict == verdict


def test_the_errors_of_two_samples_add() -> None:
    one, other = er.Estimate("x", np.array([1.0, 3.0, 5.0])), er.Estimate("y", np.array([0.0, 1.0, 2.0, 3.0]))
    found = decide_between(CLAIM, [one], [other])
    assert found.mean == pytest.approx(1.5)
    assert found.se == pytest.approx(np.hypot(one.se, other.se))
    assert found.n == 7
    more = decide_between(CLAIM, [one, other], [other])
    assert (more.mean, more.n) == (pytest.approx(3.0), 11)
    assert more.se == pytest.approx(np.sqrt(one.se**2 + 2 * other.se**2))


def test_trainings_are_judged_by_what_differs_between_them_too() -> None:
    """Three means of 1.0, 1.1 and 1.2 with an error of the data of 0.1: sd 0.1, so the error is that of both."""
    one = decide(CLAIM, er.Estimate("x", np.linspace(0.0, 2.0, 12)))
    three = [replace(one, mean=mean, se=0.1, ran_out=(1, 12)) for mean in (1.0, 1.1, 1.2)]
    found = decide_over(three)
    assert (found.mean, found.se, found.spread) == (pytest.approx(1.1), pytest.approx(0.1), pytest.approx(0.1))
    assert (found.n, found.n_runs, found.ran_out) == (12, 3, (3, 36))
    assert found.errors == pytest.approx(1.1 / np.hypot(0.1, 0.1 / np.sqrt(3)))
    limits = np.array([2.0, stats.t.isf(stats.norm.sf(2), 2)])  # a quarter of the variance is of the trainings
    assert found.needed == pytest.approx(np.sqrt(limits**2 @ [0.75, 0.25]))
    assert decide_over([one]) is one


@pytest.mark.parametrize(("of_data", "of_trainings"), [(0.0, 1.0), (0.3, 1.0), (1.0, 1.0), (1.0, 0.1)])
def test_of_claims_that_are_zero_few_are_decided(of_data: float, of_trainings: float) -> None:
    """Two errors leave 4.55%, or less where both kinds of error count: of 4,000, 0.33% is the standard error."""
    rng, n = np.random.default_rng(0), 4_000
    errors, trainings = rng.normal(0, of_data, n), rng.normal(0, of_trainings, (n, 3))
    decided = 0
    for error, each in zip(errors, trainings, strict=True):
        runs = [Decision(claim=CLAIM, mean=error + one, se=of_data, n=50, ran_out=(0, 0)) for one in each]
        decided += decide_over(runs).verdict != "cannot tell"
    assert decided / n < 0.0455 + 4 * 0.0033
    if not of_data:
        assert decided / n > 0.0455 - 4 * 0.0033


def test_an_experiment_on_two_trainings_has_the_rows_of_both() -> None:
    one = run_once("decoder-size").findings
    both = over_trainings([one, one])
    assert [row[0] for row in both.rows[len(one.rows) :]] == [f"{row[0]}, seed 1" for row in one.rows]
    assert [row[1:] for row in both.rows] == [row[1:] for row in (*one.rows, *one.rows)]
    assert [(each.n_runs, each.spread) for each in both.decisions] == [(2, 0.0)]
    page = experiment_page(EXPERIMENTS["decoder-size"], both, "figure.png", {})
    assert "with a standard deviation of 0.00 between 2 trainings" in page
    assert "| 2 runs |" in page


ABOUT = {
    **{f"amortization-is-larger-{data}": (f"{data}-ffg",) for data in ("mnist", "fashion", "cifar")},
    **{f"decoder-fits-its-q-{data}": (f"{data}-ffg", f"{data}-af") for data in ("mnist", "fashion", "cifar")},
    "annealing-makes-posteriors-less-gaussian-ffg": ("fashion-brief", "fashion-no-annealing"),
    "annealing-makes-posteriors-less-gaussian-af": ("fashion-brief-af", "fashion-no-annealing-af"),
    "annealing-raises-elbo-ffg": ("fashion-brief", "fashion-no-annealing"),
    "annealing-raises-elbo-af": ("fashion-brief-af", "fashion-no-annealing-af"),
    **{
        f"fashion-linear-{q}-lowers-amortization-{name}": ("fashion-linear-ffg", f"fashion-linear-{q}")
        for q in ("full", "af", "flow")
        for name in ("train", "heldout")
    },
    "fashion-encoder-full-has-the-higher-elbo": ("fashion-encoder-diagonal", "fashion-encoder-full"),
    "fashion-encoder-flow-has-the-higher-elbo": ("fashion-encoder-diagonal", "fashion-encoder-flow"),
    "flow-lowers-amortization-at-equal-size": ("fashion-encoder-diagonal", "fashion-encoder-flow"),
    "more-images-lower-amortization-heldout": ("fashion-data-1000", "fashion-encoder-diagonal"),
    "few-images-are-overfitted": ("fashion-data-1000", "fashion-encoder-diagonal"),
    "with-all-images-amortization-is-capacity": ("fashion-encoder-diagonal",),
    "the-encoder-overfits": ("fashion-epochs",),
    "the-encoder-overfits-more-with-time": ("fashion-epochs", "fashion-epochs/epoch-10"),
    "a-larger-encoder-overfits-more": ("fashion-epochs", "fashion-epochs-large-encoder"),
    "a-larger-encoder-loses-less-in-training": ("fashion-epochs", "fashion-epochs-large-encoder"),
    "the-decoder-overfits-with-time": ("fashion-epochs-large-decoder", "fashion-epochs-large-decoder/epoch-10"),
}  # the claims that a further training of these models decides; the others take all models of their experiment
WITH_PARTS = [
    name for name, experiment in EXPERIMENTS.items() if any(claim.name in ABOUT for claim in experiment.claims)
]
PARTS = [(name, ABOUT[claim.name]) for name in WITH_PARTS for claim in EXPERIMENTS[name].claims]
WITHOUT = [
    (name, tuple(model for model in EXPERIMENTS[name].models if model != left_out))
    for name in WITH_PARTS
    for left_out in EXPERIMENTS[name].models
    if any(left_out not in ABOUT[claim.name] for claim in EXPERIMENTS[name].claims)
]


def test_a_claim_says_which_models_it_is_about() -> None:
    for experiment in EXPERIMENTS.values():
        for claim in experiment.claims:
            assert set(claim.models) == set(ABOUT.get(claim.name, ()))
            assert set(claim.models) <= set(experiment.models)


@pytest.mark.parametrize(("name", "there"), sorted({*PARTS, *WITHOUT}))
def test_a_further_training_of_some_models_decides_the_claims_about_them(name: str, there: Sequence[str]) -> None:
    """By the same numbers as with all, and by no other model."""
    lab, experiment, all_ = OfSome(there), EXPERIMENTS[name], run_once(name).findings
    decided = [claim for claim in experiment.claims if set(ABOUT[claim.name]) <= set(there)]
    assert decided
    some = experiment.run(lab)
    assert {each.claim.name for each in some.decisions} == {claim.name for claim in decided}
    assert set(lab.asked) == {model for claim in decided for model in ABOUT[claim.name]}
    means = {decision.claim: decision.mean for decision in all_.decisions}
    assert [each.mean for each in some.decisions] == pytest.approx(
        [means[each.claim] for each in some.decisions], nan_ok=True
    )
    both = over_trainings([all_, some])
    assert [each.claim for each in both.decisions] == [each.claim for each in all_.decisions]
    assert [each.n_runs for each in both.decisions] == [1 + (each.claim in decided) for each in all_.decisions]


@pytest.mark.parametrize("name", ["annealing", "flow-amortization", "encoder-ladder"])
def test_arrays_of_a_further_training_that_no_claim_takes_leave_a_cell_if_they_are_not_kept(name: str) -> None:
    class OfLadders(Stand):
        def has(self, models: Sequence[str], takes: Sequence[str] = (LADDERS,)) -> bool:
            return list(takes) == [LADDERS]

    first, further = run_once(name).findings, EXPERIMENTS[name].run(lab := OfLadders())
    assert lab.taken == {LADDERS}
    assert [row[:-1] for row in further.rows] == [row[:-1] for row in first.rows]
    assert {row[-1] for row in further.rows} == {"not kept"}
    assert "not kept" not in {row[-1] for row in first.rows}
    assert [each.mean for each in further.decisions] == pytest.approx([each.mean for each in first.decisions])


class Stand:
    """A lab in which each model is a linear-Gaussian one: every experiment can be run in a second."""

    scale: Scale = SCALES["cpu"]

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.taken: set[str] = set()
        self.made: list[NamedArrays] = []

    def has(self, models: Sequence[str], takes: Sequence[str] = (LADDERS,)) -> bool:
        return True

    def gaps(self, model: str) -> Mapping[str, er.Gaps]:
        self.asked.append(model)
        self.taken.add(LADDERS)
        return ladders_of(model)

    def gaps_of(self, models: Sequence[str]) -> Mapping[str, Mapping[str, er.Gaps]]:
        return {model: self.gaps(model) for model in models}

    def arrays(self, model: str, name: str, make: Callable[[Trained], NamedArrays]) -> NamedArrays:
        self.asked.append(model)
        self.taken.add(name)
        self.made.append(make(stand_in(model)[0]))
        return self.made[-1]

    def arrays_of(
        self, models: Sequence[str], name: str, make: Callable[[Trained], NamedArrays]
    ) -> Mapping[str, NamedArrays]:
        return {model: self.arrays(model, name, make) for model in models}


@cache
def ladders_of(model: str) -> Mapping[str, er.Gaps]:
    trained, plan = stand_in(model)
    return {
        name: er.decompose(trained.model, trained.q, x, plan, ids=range(start, start + len(x)), progress=False)
        for start, (name, x) in zip((0, 6), trained.images.items(), strict=True)
    }


@cache
def stand_in(model: str) -> tuple[Trained, er.Plan]:
    scale = 0.5 + 0.1 * (len(model) % 5)
    weight = torch.randn(4, 2, generator=torch.Generator().manual_seed(len(model)), dtype=torch.float64)
    truth = er.LinearGaussian(weight, torch.zeros(4, dtype=torch.float64), scale)
    family = er.AuxiliaryFlow(2, hidden=4) if model.endswith("af") else er.DiagonalGaussian(2)
    with torch.random.fork_rng():
        torch.manual_seed(sum(map(ord, model)))
        net = torch.nn.Linear(4, family.context_size, dtype=torch.float64)
    short = er.Budget(n_steps=2, n_samples=4, learning_rate=0.01, max_rounds=1)
    plan = replace(TINY, budgets={family.name: short} if model.endswith("af") else {})
    x = torch.randn(12, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    images = {"train": x[:6], "heldout": x[6:]}
    return Trained(model=truth, q=er.Amortized(net, family), images=images), plan


class OfSome(Stand):
    """A lab that has some models alone, as of a further training."""

    def __init__(self, models: Sequence[str]) -> None:
        super().__init__()
        self.models = models

    def has(self, models: Sequence[str], takes: Sequence[str] = (LADDERS,)) -> bool:
        return set(models) <= set(self.models)


@dataclass(frozen=True)
class Ran:
    """An experiment that was run in a lab of stand-ins."""

    experiment: Experiment
    lab: Stand
    findings: Findings

    @property
    def is_of_ladders(self) -> bool:
        """Whether its table has a row for each ladder."""
        return tuple(self.findings.header[: len(LADDER_HEADER)]) == LADDER_HEADER


@cache
def run_once(name: str) -> Ran:
    lab = Stand()
    return Ran(EXPERIMENTS[name], lab, EXPERIMENTS[name].run(lab))


@pytest.fixture(params=EXPERIMENTS)
def ran(request: pytest.FixtureRequest) -> Ran:
    return run_once(request.param)


def test_an_experiment_decides_all_its_claims_on_the_models_that_it_names(ran: Ran) -> None:
    decisions = ran.findings.decisions
    assert sorted(set(ran.lab.asked)) == sorted(ran.experiment.models)
    assert set(ran.experiment.takes) == ran.lab.taken - {"latents", "parameters"}  # which are shown beside claims
    assert {decision.claim.name for decision in decisions} == {claim.name for claim in ran.experiment.claims}
    assert len(decisions) == len(ran.experiment.claims)
    assert all(len(row) == len(ran.findings.header) for row in ran.findings.rows)
    if ran.is_of_ladders:
        assert len(ran.findings.rows) == 2 * len(ran.experiment.models)  # one for each set


def test_the_page_of_an_experiment_says_what_was_found(ran: Ran) -> None:
    experiment, findings = ran.experiment, ran.findings
    page = experiment_page(experiment, findings, "figure.png", {"command": "`elbowroom paper`"})
    assert experiment.question in page
    assert "section beyond" not in page
    assert f"![{experiment.name}](figure.png)" in page
    for decision in findings.decisions:
        assert f"{decision.mean:+.2f}" in page
        assert f"**{decision.verdict}**" in page
        assert f"\n- {decision.claim.whose} that {decision.claim.says}" in page
    assert not re.search(r"\bthe (\d|L\[|KL\(|log p)", page.split("## What was decided")[1])
    assert page.count("`ran out` counts") == 1
    tables = [line for line in page.splitlines() if line.startswith("|")]
    assert len(tables) == 2 + len(findings.rows) + 2 + len(findings.decisions)


def test_the_figure_shows_what_was_found(ran: Ran) -> None:
    figure = pytest.importorskip("matplotlib.figure").Figure()
    ran.findings.draw(figure)
    figure.savefig(io.BytesIO())
    assert 6 <= figure.get_size_inches()[0] <= 7  # a page's column
    if ran.is_of_ladders:
        widths = [bar.get_width() for bar in figure.axes[0].patches if bar.get_width()]
        assert len(widths) == 2 * len(ran.findings.rows)  # a bar for each gap


@pytest.mark.parametrize("name", ["flow-amortization", "encoder-ladder"])
def test_parameters_of_encoders_stand_beside_their_gaps(name: str) -> None:
    ran = run_once(name)
    at = list(ran.findings.header).index("parameters")
    for row in ran.findings.rows:
        assert row[at] == ("1,662" if row[0].endswith("af") else "20")  # 4 x 4 + 4, and what the flow's networks have


def test_sandwiches_at_equal_work_hold_what_a_model_knows() -> None:
    """Linear-Gaussian models know log p(x): the widths are noise around zero, or above."""
    for found in run_once("certificate").lab.made:
        own, other = found["work"]
        assert 1 <= other / own < 1.25  # temperatures are whole, and what they have nothing to do with comes on top
        assert found["upper"] - found["lower"] == pytest.approx(found["width"])
        assert (np.abs(found["width"]) < 2).all()


def test_planes_know_a_gaussian_posterior() -> None:
    """Of a linear-Gaussian model the evidence and all divergences from the Gaussians have closed forms."""
    (found,) = run_once("posterior-2d").lab.made
    trained, _ = stand_in("mnist-2d")
    truth, x = trained.model, trained.images["train"]
    assert isinstance(truth, er.LinearGaussian)
    log_p = truth.log_evidence(x)
    assert found["log_evidence"] == pytest.approx(log_p.numpy(), abs=1e-4)
    params = trained.q(x).detached().params
    reached = truth.exact_elbo(x, params["mean"], torch.diag_embed((2 * params["log_scale"]).exp()))
    exact = [(log_p - elbo).numpy() for elbo in (reached, truth.best_elbo(x), truth.best_elbo(x, full=True))]
    assert found["kl"][0] == pytest.approx(exact[0], abs=1e-3)  # no fit: quadrature alone
    for kl, least in zip(found["kl"][1:3], exact[1:], strict=True):
        assert (kl > least - 1e-3).all()
        assert kl == pytest.approx(least, abs=0.02)  # what a local fit may lack, and the quadrature
    assert found["mass"] == pytest.approx(1.0, abs=1e-3)


def test_names_of_claims_are_unique_and_the_page_has_them_all() -> None:
    claims = [claim for experiment in EXPERIMENTS.values() for claim in experiment.claims]
    assert len({claim.name for claim in claims}) == len(claims)
    decisions = [Decision(claim=claim, mean=1.0, se=0.1, n=30, ran_out=(0, 30)) for claim in claims]
    page = claims_page({"all": decisions})
    assert "no fits" not in page
    assert "| no fits | **holds** |" in claims_page({"all": [replace(decisions[0], ran_out=(0, 0))]})
    assert page.count("**holds**") == len(claims)
    assert page.count("one run") == len(claims)
