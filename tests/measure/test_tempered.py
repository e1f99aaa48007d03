"""The rung of a beta-VAE's own objective, and the split of amortization into encoder and mismatch, in closed form."""

import math

import pytest
import torch

import elbowroom as er

PROMISE = 0.05  # nats, on the mean of 50 data
CASES = [(4.0, 2, 1.0), (4.0, 10, 10.0), (4.0, 30, 100.0), (4.0, 30, 1000.0), (2.0, 5, 30.0), (10.0, 20, 300.0)]


@pytest.mark.parametrize(("kl_weight", "size", "condition"), CASES)
def test_the_best_q_of_another_objective_is_that_of_the_closed_form(
    kl_weight: float, size: int, condition: float
) -> None:
    """L is not stationary at this q, so errors of its fit enter at first order: they were up to 2.6 nats.

    The encoder is off by half a standard deviation of that q in every mean.
    """
    g = torch.Generator().manual_seed(0)
    scales = torch.logspace(0, -math.log10(condition), size, dtype=torch.float64)
    weight = torch.randn(2 * size, size, generator=g, dtype=torch.float64) / math.sqrt(2 * size) * scales
    weight = weight @ torch.linalg.qr(torch.randn(size, size, generator=g, dtype=torch.float64))[0]
    exact = er.LinearGaussian(weight, torch.zeros(2 * size, dtype=torch.float64), 0.05)
    x = exact.sample_data(torch.randn(50, size, generator=g, dtype=torch.float64), None, g)
    scale = exact.precision(kl_weight).diagonal().rsqrt()
    answer, log_scale = exact.posterior_mean(x, kl_weight) + 0.5 * scale, scale.log().expand(50, -1)
    single = er.LinearGaussian(weight.float(), torch.zeros(2 * size, dtype=torch.float32), 0.05)
    q = er.Local(er.DiagonalGaussian(size), 50, {"mean": answer.float(), "log_scale": log_scale.float()})
    gaps = er.decompose(single, q, x.float(), kl_weight=kl_weight)
    best, tempered = (exact.best_elbo(x, kl_weight=b).mean().item() for b in (1.0, kl_weight))
    elbo = exact.exact_elbo(x, answer, torch.diag(scale.square())).mean().item()
    assert gaps.local["tempered"].mean == pytest.approx(tempered, abs=PROMISE)
    assert gaps.encoder.mean == pytest.approx(tempered - elbo, abs=PROMISE)
    assert gaps.mismatch.mean == pytest.approx(best - tempered, abs=PROMISE)
