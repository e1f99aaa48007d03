"""A family that nobody knows: the class of docs/families.md and its one line put it into ladder, table and verdict."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import elbowroom as er
from elbowroom.posteriors import FAMILIES, Family, register
from elbowroom.results import judge

from .. import scenarios
from ..statistics import assert_close_z

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "families.md").read_text(encoding="utf-8")
SHORTFALL = 0.02  # nats that a local fit may lack


@pytest.fixture
def isotropic() -> Iterator[type[Family]]:
    """The class of the page, registered for one test."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    namespace: dict[str, object] = {}
    try:
        exec(compile(code, "families.md", "exec"), namespace)
        yield FAMILIES["isotropic"]
    finally:
        FAMILIES.pop("isotropic", None)


def stretched(n: int = 50) -> tuple[er.LinearGaussian, Tensor]:
    """Independent latents, one of them known ten times as well as the others: a single scale costs a nat and more."""
    generator = torch.Generator().manual_seed(4)
    weight = torch.linalg.qr(torch.randn(6, 3, generator=generator))[0] * torch.tensor([8.0, 0.8, 0.8])
    model = er.LinearGaussian(weight, torch.zeros(6), 0.8)
    return model, model.sample_data(torch.randn(n, 3, generator=generator), None, generator)


def posterior(model: er.LinearGaussian, family: Family) -> er.Amortized:
    """The best encoder of one scale: its amortization gap is nothing."""

    def net(x: Tensor) -> Tensor:
        mean = model.posterior_mean(x)
        return torch.cat([mean, best_log_scale(model).expand(len(x), 1)], -1)

    return er.Amortized(net, family)


def best_log_scale(model: er.LinearGaussian) -> Tensor:
    """The best s^2 for a Gaussian posterior of precision A is D / tr(A)."""
    precision = model.precision()
    return 0.5 * torch.log(len(precision) / precision.trace())


def best_elbo(model: er.LinearGaussian, x: Tensor) -> Tensor:
    covariance = torch.exp(2 * best_log_scale(model)) * torch.eye(model.weight.shape[1])
    return model.exact_elbo(x, model.posterior_mean(x), covariance)


def test_its_rung_is_in_the_ladder_at_its_closed_form(isotropic: type[Family]) -> None:
    """Fails by chance with probability 2e-6 at most, by the helper's default."""
    model, x = stretched()
    plan = er.Plan(rungs=("isotropic", "diagonal", "full"))
    gaps = er.decompose(model, posterior(model, isotropic(3)), x, plan=plan)
    assert gaps.ladder == ("isotropic", "diagonal", "full")
    assert list(gaps.steps) == ["amortization", "isotropy", "factorization", "gaussianity + remainder"]
    rung, truth = gaps.local["isotropic"], best_elbo(model, x).numpy()
    assert truth.mean() - rung.mean < SHORTFALL + 6 * rung.mc_se
    assert_close_z(gaps.elbo.values, truth, gaps.elbo.mc_errors)
    cost = (model.best_elbo(x) - best_elbo(model, x)).mean().item()
    assert cost > 1.0
    assert gaps.steps["isotropy"].mean == pytest.approx(cost, abs=2 * SHORTFALL + 6 * gaps.steps["isotropy"].mc_se)
    total = sum(step.values for step in gaps.steps.values())
    np.testing.assert_allclose(total, gaps.inference.values, atol=1e-9)


def test_it_is_in_the_table_the_verdict_and_the_folder(isotropic: type[Family], tmp_path: Path) -> None:
    model, x = stretched()
    gaps = er.decompose(model, posterior(model, isotropic(3)), x, plan=er.Plan(rungs=("isotropic", "diagonal", "full")))
    table = str(gaps)
    assert "L[q*_isotropic]" in table
    assert "  + isotropy" in table
    assert "fit isotropic: 50 converged" in table
    findings = {finding.rule: finding.text for finding in judge(gaps)}
    assert "assuming one scale for all latents costs" in findings["isotropy"]
    assert "a scale for each latent can recover them" in findings["isotropy"]
    gaps.save(tmp_path / "run")
    del FAMILIES["isotropic"]  # as in a program that has never heard of it
    again = er.load_gaps(tmp_path / "run")
    assert str(again) == table
    assert [str(finding) for finding in judge(again)] == [str(finding) for finding in judge(gaps)]


def test_below_the_family_of_q_it_stands_beside_the_ladder(isotropic: type[Family]) -> None:
    planted = scenarios.no_gap(20)
    gaps = er.decompose(planted.model, planted.q, planted.x, plan=er.Plan(rungs=("isotropic", "diagonal")))
    assert gaps.ladder == ("diagonal",)
    assert "beside the ladder:\nL[q*_isotropic]" in str(gaps)


def test_two_families_of_one_name_or_place_are_refused(isotropic: type[Family]) -> None:
    for change in ({"place": 7}, {"name": "round"}):
        with pytest.raises(ValueError, match="has the name or the place in the ladder of IsotropicGaussian"):
            register(type("Other", (isotropic,), change))
    register(isotropic)  # again, which changes nothing


def test_a_plan_names_families_that_there_are() -> None:
    with pytest.raises(ValueError, match=r"rungs must be of \['diagonal', 'full', 'flow'\]"):
        er.Plan(rungs=("isotropic", "diagonal"))


def test_a_family_without_a_place_stands_beside_all_others(isotropic: type[Family]) -> None:
    """Nothing starts at it, and annealing does not either, though its members are Gaussians."""
    model, x = stretched(20)
    placeless = type("Placeless", (isotropic,), {"name": "placeless", "place": None})
    gaps = er.decompose(model, posterior(model, placeless(3)), x)
    assert gaps.ladder == ("placeless",)
    assert list(gaps.steps) == ["amortization", "remainder"]
    assert list(gaps.local) == ["diagonal", "full", "placeless"]
