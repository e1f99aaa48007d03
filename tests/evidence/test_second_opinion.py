"""Reverse annealing from the ends of the chains: it agrees where the bound is right, and speaks up where it is not."""

import math

import numpy as np
import pytest
import torch

import elbowroom as er
from elbowroom.results import SECOND_OPINION, Flag

from .. import scenarios
from ..statistics import assert_rate_at_most

EVIDENCE = er.EvidencePlan(n_importance=1500, n_pilot=256, n_others=64, second_opinion=True)


def ill_conditioned(size: int, condition: float, n: int = 50) -> tuple[er.LinearGaussian, er.Amortized, torch.Tensor]:
    """A model whose posterior precision has this condition number, in directions that are no axes, and a q."""
    generator = torch.Generator().manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]
    weight = torch.diag((torch.logspace(0, math.log10(condition), size, dtype=torch.float64) - 1).sqrt()) @ rotation
    model = er.LinearGaussian(weight, torch.zeros(size, dtype=torch.float64), 1.0)
    z = torch.randn(n, size, generator=generator, dtype=torch.float64)
    x = z @ weight.T + torch.randn(n, size, generator=generator, dtype=torch.float64)
    return model, er.Amortized(lambda x: torch.zeros(len(x), 2 * size), er.DiagonalGaussian(size)), x


def test_it_agrees_where_the_bound_is_right() -> None:
    """50 data each at 8 seeds: none lies far from the truth, and the flags stay below 2%."""
    model, q, x = ill_conditioned(25, 30.0)
    truth, flagged, distances = model.log_evidence(x).numpy(), 0, []
    for seed in range(8):
        gaps = er.decompose(model, q, x, er.Plan(evidence=EVIDENCE), seed=seed)
        distances.append(gaps.candidates[SECOND_OPINION].values - truth)
        flagged += int((gaps.flags & Flag.SECOND_OPINION > 0).sum())
    assert np.abs(distances).max() < 0.1
    assert_rate_at_most(flagged, 400, 0.02)


def test_it_lies_above_a_bound_that_is_too_low() -> None:
    """Annealing of ten temperatures from a diagonal Gaussian, on a posterior that it cannot follow.

    The bound is more than a nat too low. The second opinion is higher, and the data are flagged by it.
    """
    model, q, x = ill_conditioned(25, 3000.0)
    plan = er.Plan(rungs=("diagonal",), evidence=EVIDENCE)
    gaps = er.decompose(model, q, x, plan)
    low = model.log_evidence(x).numpy() - gaps.log_evidence.values
    assert np.median(low) > 1.0
    opinion = gaps.candidates[SECOND_OPINION]
    assert (opinion.values > gaps.log_evidence.values).mean() > 0.9
    assert (gaps.flags & Flag.SECOND_OPINION > 0).mean() > 0.5
    assert opinion.side == "neither"
    assert "second opinion (reverse annealing, no bound)" in str(gaps)


def test_it_is_made_where_annealing_runs_and_nowhere_else() -> None:
    planted = scenarios.linear(torch.randn(30, 25, generator=torch.Generator().manual_seed(0)), 50)
    gaps = er.decompose(planted.model, planted.q, planted.x)
    annealed, opinion = gaps.candidates["ais"].finite, gaps.candidates[SECOND_OPINION].finite
    assert np.array_equal(annealed, opinion)
    assert 0 < opinion.sum() < 50
    assert gaps.work[f"evidence {SECOND_OPINION}"] > 0
    none = er.decompose(planted.model, planted.q, planted.x, "quick")
    assert SECOND_OPINION not in none.candidates


def test_it_is_saved_and_read_again(tmp_path) -> None:
    planted = scenarios.linear(torch.randn(30, 25, generator=torch.Generator().manual_seed(0)), 20)
    gaps = er.decompose(planted.model, planted.q, planted.x)
    gaps.save(tmp_path / "run")
    again = er.load_gaps(tmp_path / "run")
    np.testing.assert_array_equal(again.candidates[SECOND_OPINION].values, gaps.candidates[SECOND_OPINION].values)
    assert again.candidates[SECOND_OPINION].side == "neither"
    assert str(again).splitlines()[:8] == str(gaps).splitlines()[:8]


@pytest.mark.parametrize("start", ["local", "prior"])
def test_it_starts_from_any_base(start: str) -> None:
    model, q, x = ill_conditioned(2, 3.0, 20)
    plan = er.Plan(evidence=er.EvidencePlan(base=start, second_opinion=True))
    gaps = er.decompose(model, q, x, plan)
    found = gaps.candidates[SECOND_OPINION]
    assert np.abs(found.values - model.log_evidence(x).numpy()).mean() < 0.2
