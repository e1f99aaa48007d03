"""The sandwich: both sides against the closed form, and a z that made x which no tuned object may know."""

import importlib

import numpy as np
import pytest
import torch

import elbowroom as er
from elbowroom.core import iterate_blocks, observed
from elbowroom.measure import PLANS
from elbowroom.models import log_joint
from elbowroom.posteriors import Budget

from .. import scenarios
from ..statistics import assert_mean_at_least, assert_mean_at_most

sandwiches = importlib.import_module("elbowroom.measure.sandwich")


def test_the_truth_lies_between_the_bounds():
    """On the linear-Gaussian model; the base is only diagonal, so that both bounds have something to lose."""
    model = scenarios.correlated(1).model
    plan = er.Plan(name="loose", rungs=("diagonal",))
    found = er.sandwich(model, n=200, plan=plan)
    log_p = model.log_evidence(observed(found.x)).numpy()
    assert_mean_at_most(found.lower.values - log_p, 0.0)
    assert_mean_at_least(found.upper.values - log_p, 0.0)
    assert found.width.mean < 0.1
    assert found.lower.side == "lower"
    assert found.upper.side == found.width.side == "upper"
    assert np.isnan(found.upper.mc_errors).all()  # one exact draw: a single value has no error of its own
    assert np.isfinite(found.width.se)


def test_a_sandwich_whose_base_was_not_fitted_holds_on_both_sides():
    """Without fits the base is the prior's scale. Its 24 temperatures make up for that: over six seeds its mean width
    was 0.02 +- 0.02 nats above that from fits, so that nothing is said of the widths.
    """
    model = scenarios.correlated(1).model
    hasty = Budget(n_steps=0, n_samples=4, learning_rate=0.01)
    plan = er.Plan(name="none", rungs=("diagonal",), budgets={"diagonal": hasty}, multistart=None)
    loose = er.sandwich(model, n=100, plan=plan)
    log_p = model.log_evidence(observed(loose.x)).numpy()
    assert_mean_at_least(loose.upper.values - log_p, 0.0)
    assert_mean_at_most(loose.lower.values - log_p, 0.0)


@pytest.mark.parametrize(("base", "expected"), [("local", 24), ("prior", 9)])
def test_annealing_from_the_prior_has_the_temperatures_of_its_plan(base, expected):
    evidence = er.EvidencePlan(base=base, annealing=er.AnnealingSchedule(n_temperatures=9))
    plan = sandwiches._gaussian_plan(er.Plan(name="nine", evidence=evidence))
    assert plan.evidence.annealing.n_temperatures == expected


def test_another_z_leaves_the_tuned_objects_and_the_lower_bound_alone(monkeypatch):
    planted = scenarios.correlated(50)
    (block,) = iterate_blocks(planted.x)
    paths = []
    true = sandwiches.reverse_bound

    def watching(block, base, path, z, n_chains, seed):
        paths.append((path, base.coordinates))
        return true(block, base, path, z, n_chains, seed)

    monkeypatch.setattr(sandwiches, "reverse_bound", watching)
    made = [
        sandwiches._block_bounds(planted.model, None, block, PLANS["standard"], 0, z)
        for z in (torch.zeros(50, 3), torch.randn(50, 3))
    ]
    (first, base), (second, other_base) = paths
    assert torch.equal(first.betas, second.betas)
    assert torch.equal(first.step_sizes, second.step_sizes)
    assert first.n_leapfrog == second.n_leapfrog
    assert torch.equal(base.center, other_base.center)
    assert torch.equal(base.scale, other_base.scale)
    np.testing.assert_array_equal(made[0][0].values, made[1][0].values)
    assert (made[0][1].values != made[1][1].values).any()  # it did reach the reverse run, whose moves all but forget it


def test_the_simulated_data_are_draws_of_the_model_and_do_not_depend_on_n():
    model = scenarios.no_gap(1).model
    few, many = er.sandwich(model, n=20, plan="quick"), er.sandwich(model, n=70, plan="quick")
    assert torch.equal(observed(few.x), observed(many.x)[:20])
    assert torch.equal(few.z, many.z[:20])
    np.testing.assert_array_equal(few.lower.values, many.lower.values[:20])
    residual = (observed(many.x) - many.z @ model.weight.T - model.bias) / model.scale
    assert_mean_at_most(residual.numpy().ravel() ** 2, 1.3)
    assert_mean_at_least(residual.numpy().ravel() ** 2, 0.7)


def test_covariates_are_lent_by_other_data():
    torch.manual_seed(0)

    class Decoder(torch.nn.Module):
        def forward(self, z, c):
            return z @ torch.ones(2, 4) + c

    model = er.DecoderModel(Decoder(), er.likelihoods.gaussian(0.5), 2, condition=("c",))
    like = {"x": torch.zeros(7, 4), "c": torch.full((7, 1), 100.0)}
    found = er.sandwich(model, n=9, like=like, plan="quick")
    assert set(found.x) == {"x", "c"}
    assert (observed(found.x) > 50).all()
    assert torch.isfinite(log_joint(model, found.x, found.z[None])).all()


def test_a_model_that_cannot_simulate_is_refused():
    model = er.FunctionModel(lambda x, z: -z.square().sum(-1), 2)
    with pytest.raises(TypeError, match="the model needs sample_data"):
        er.sandwich(model, n=3)


def test_wide_data_are_flagged(monkeypatch):
    monkeypatch.setattr(sandwiches, "MAX_WIDTH", -1e9)
    found = er.sandwich(scenarios.no_gap(1).model, n=3, plan="quick")
    assert (found.flags & sandwiches.Flag.WIDE > 0).all()
    assert "3 flagged" in str(found)
