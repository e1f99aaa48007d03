"""The verdict on models with a planted cause, in both directions: it names what was planted, and nothing else.

The step rules may speak falsely where a step is two errors from zero by chance: at most 2.5% each, and far less with
their threshold of 0.25 nats. The planted gaps below are ten errors and more from their thresholds on either side.
"""

import dataclasses

import numpy as np

import elbowroom as er
from elbowroom.posteriors import Budget
from elbowroom.results import Flag, judge

from .. import scenarios


def rules(gaps, train=None):
    return [finding.rule for finding in judge(gaps, train)]


def measured(planted, **options):
    return er.decompose(planted.model, planted.q, planted.x, **options)


def test_nothing_to_lose_is_too_small_to_matter():
    findings = judge(measured(scenarios.no_gap(50)))
    assert [finding.rule for finding in findings] == ["too small"]
    assert "too small to matter" in findings[0].text


def test_a_wrong_encoder_is_amortization_and_nothing_else():
    findings = judge(measured(scenarios.wrong_encoder(50)))
    assert [finding.rule for finding in findings] == ["amortization"]
    assert "better encoder" in findings[0].text
    assert f"{findings[0].nats:.2f}" in findings[0].text


def test_a_correlated_posterior_is_factorization():
    findings = judge(measured(scenarios.correlated(50)))
    assert [finding.rule for finding in findings] == ["factorization"]
    assert "full-covariance" in findings[0].text


def test_two_modes_are_beyond_a_gaussian(monkeypatch):
    """That they are several is said where no mixture looks for them, as above 3 latents, and bases disagree."""
    monkeypatch.setattr("elbowroom.evidence.log_evidence.MAX_MIXTURE_SIZE", 0)
    model, x = scenarios.bimodal(50)
    x = x.abs() + 2.5
    q = er.fit_local(er.DiagonalGaussian(1), model, x).q
    found = rules(er.decompose(model, q, x))
    assert found[0] == "gaussianity + remainder"
    assert "modes" in found


def test_a_curved_posterior_is_gaussianity_that_a_flow_recovers():
    model, x = scenarios.curved()
    plan = er.Plan(name="flow", rungs=("diagonal", "full", "flow"))
    gaps = er.decompose(model, er.fit_local(er.DiagonalGaussian(2), model, x).q, x, plan)
    findings = judge(gaps)
    assert findings[0].rule == "gaussianity"
    assert "a flow posterior can recover" in findings[0].text


def test_a_beta_vae_shows_its_mismatch():
    planted = scenarios.beta_vae(4.0, 50)
    findings = {finding.rule: finding for finding in judge(measured(planted, kl_weight=4.0))}
    assert "mismatch" in findings
    assert "kl_weight 4" in findings["mismatch"].text
    assert "encoder" not in findings


def test_an_overfitted_encoder_shows_on_held_out_data_only():
    planted, heldout_x = scenarios.memorizer(50)
    train = measured(planted)
    heldout = er.decompose(planted.model, planted.q, heldout_x)
    assert rules(train) == ["too small"]
    findings = {finding.rule: finding for finding in judge(heldout, train)}
    assert "encoder generalization" in findings
    assert "overfits" in findings["encoder generalization"].text
    assert "encoder capacity" not in findings


def test_an_encoder_that_is_bad_everywhere_lacks_capacity_not_data():
    planted = scenarios.wrong_encoder(50)
    train = measured(planted)
    other = scenarios.linear(planted.model.weight, 50, shift=0.5, widen=2.0, seed=11)
    heldout = er.decompose(planted.model, planted.q, other.x)
    found = rules(heldout, train)
    assert "encoder capacity" in found
    assert "encoder generalization" not in found


def test_left_out_data_and_unreliable_errors_are_said_before_anything_else():
    gaps = measured(scenarios.wrong_encoder(50), plan="quick")
    values = gaps.log_evidence.values.copy()
    values[:5] = np.nan
    torn = dataclasses.replace(gaps, log_evidence=dataclasses.replace(gaps.log_evidence, values=values))
    assert rules(torn) == ["cannot tell"]
    doubted = dataclasses.replace(gaps, flags=np.full(50, int(Flag.ERROR_UNRELIABLE)))
    assert "unreliable evidence" in rules(doubted)


def test_one_datum_is_not_enough_to_tell():
    assert "cannot tell" in rules(measured(scenarios.no_gap(1), plan="quick"))


def test_the_rules_false_alarm_rate_on_models_without_a_cause():
    """20 models with no gap but the noise of 50 data: none is accused. A rate of 2.5% per step and model would give
    1 accusation; with the 0.25-nat threshold none is expected.
    """
    accused = 0
    for seed in range(20):
        planted = scenarios.linear(scenarios.no_gap(1).model.weight, 50, seed=seed)
        accused += rules(measured(planted, plan="quick", seed=seed)) != ["too small"]
    assert accused == 0


def test_an_unfinished_fit_is_not_taken_for_a_cause():
    """5 timid steps leave the amortization gap in the next step: nobody may call it factorization."""
    planted = scenarios.wrong_encoder(50)
    timid = Budget(n_steps=5, n_samples=4, learning_rate=0.02, max_rounds=1)
    budgets = dict.fromkeys(("diagonal", "full"), timid)
    found = rules(measured(planted, plan=er.Plan(name="hasty", budgets=budgets, multistart=None)))
    assert "unfinished fits" in found
    assert "factorization" not in found
