"""One draw that carries an estimate is never called reliable, and no error that is unknown enters a mean unsaid."""

import math

import numpy as np
import pytest
import torch

import elbowroom as er
from elbowroom.evidence import are_believable, k_hat, k_hat_threshold
from elbowroom.results import Flag

from ..statistics import assert_rate_at_least


def weights(log_sd: float, outlier: float, n_draws: int, n_sets: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    log_w = log_sd * torch.randn(n_draws, n_sets, generator=generator, dtype=torch.float64)
    log_w[0] = outlier
    return log_w


@pytest.mark.parametrize(("log_sd", "outlier", "n_draws"), [(0.3, 9.0, 2000), (0.1, 7.5, 1000), (0.6, 10.0, 4000)])
def test_an_outlier_that_k_hat_does_not_see_is_not_believed(log_sd: float, outlier: float, n_draws: int) -> None:
    """k-hat passes most such sets, whose effective sample size is below 10."""
    log_w = weights(log_sd, outlier, n_draws, 200)
    passed = int((k_hat(log_w) <= k_hat_threshold(n_draws)).sum())
    assert_rate_at_least(passed, 200, 0.5)
    assert not are_believable(log_w).any()


def test_even_weights_are_believed() -> None:
    assert are_believable(weights(0.3, 0.0, 2000, 200)).mean() > 0.95


def near_deterministic(sigma: float, n: int, power: int) -> tuple[er.DecoderModel, er.Amortized, torch.Tensor]:
    """x = z^power + sigma e, with an encoder on the positive root."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(n, 1, generator=generator, dtype=torch.float64)
    x = z**power + sigma * torch.randn(n, 1, generator=generator, dtype=torch.float64)
    model = er.DecoderModel(lambda z: z**power, er.likelihoods.gaussian(sigma), 1)

    def net(x: torch.Tensor) -> torch.Tensor:
        root = x.clamp(min=1e-2) ** (1 / power)
        return torch.cat([root, torch.full_like(x, 2 * math.log(sigma))], -1)

    return model, er.Amortized(net, er.DiagonalGaussian(1)), x


def truth_of(x: torch.Tensor, sigma: float, power: int) -> np.ndarray:
    grid = torch.linspace(-8, 8, 400_001, dtype=torch.float64)
    residual = (x - grid**power) / sigma
    log_joint = -0.5 * residual.square() - 0.5 * grid.square() - math.log(2 * math.pi * sigma)
    return (torch.logsumexp(log_joint, 1) + math.log(16 / 400_000)).numpy()


@pytest.mark.parametrize(("sigma", "power"), [(0.003, 2), (0.001, 2), (0.003, 4)])
def test_no_unflagged_datum_lies_far_above_the_truth(sigma: float, power: int) -> None:
    """Before the effective sample size was looked at, 20 of 1,000 data lay up to 2.2 nats above, unflagged."""
    model, q, x = near_deterministic(sigma, 200, power)
    gaps = er.decompose(model, q, x, plan="quick")
    above = gaps.log_evidence.values - truth_of(x, sigma, power)
    believed = gaps.flags & (Flag.ERROR_UNRELIABLE | Flag.BASES_DISAGREE) == 0
    assert (above[believed] < 1.0).all()


def test_a_mean_of_unknown_errors_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sign stands beside the mc of log p(x) and of the step to it, and nowhere else; the rest's mean is told."""
    monkeypatch.setattr("elbowroom.evidence.log_evidence.MAX_MIXTURE_SIZE", 0)  # nothing that solves this model
    model, q, x = near_deterministic(0.003, 50, 2)
    gaps = er.decompose(model, q, x, plan="quick")
    assert 0 < gaps.is_doubtful.sum() < 50
    lines = str(gaps).splitlines()
    marked = [line for line in lines if "?" in line.split("  (")[0] and "+-" not in line]
    rows = [line for line in marked if line.lstrip().startswith(("log p(x)", "+ "))]
    assert len([line for line in rows if line.startswith("log p(x)")]) == 1
    assert not any(line.startswith("L[q") for line in marked)
    rest = gaps.log_evidence.where(~gaps.is_doubtful)
    note = next(line for line in lines if "is not to be believed" in line)
    assert f"the errors of {int(gaps.is_doubtful.sum())} data are unknown" in note
    assert f"without them it is {rest.mean:.3f}" in note
    summary = gaps.to_dict()
    believed = {row["name"]: row["mc_se_believed"] for row in summary["rows"]}
    assert not believed["log p(x)"]
    assert believed["L[q]"]
    assert summary["without_doubtful"]["mean"] == pytest.approx(rest.mean)
