"""Amortized flows are bounds: never above log p(x), and trained ones so near below it that a lost term would show.

Each is trained on a model whose log p(x) is known, in closed form or on a grid. A term missing from log q, such as
log q(v0|z0) or one log-determinant, is what training would exploit: L[q] then ends above log p(x), or far below.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import elbowroom as er
from elbowroom.core import forked, normal, seeded
from elbowroom.evidence import log_weights
from elbowroom.posteriors import as_family, zuko_posterior

from ..scenarios import on_grid
from ..statistics import assert_mean_at_most, assert_resolves

N, N_SAMPLES = 8, 4000
STEPS = {"linear": 120, "bent": 200}
NEAR = 0.15  # nats below log p(x) that these steps may leave
LATENTS, FEATURES = 2, 4


def network(n_in: int, n_out: int) -> nn.Module:
    with forked(0):
        return nn.Sequential(nn.Linear(n_in, 16), nn.ELU(), nn.Linear(16, n_out))


def family(name: str, **options: Any) -> Callable[[int], nn.Module]:
    def build(n_in: int) -> nn.Module:
        made = as_family(name, LATENTS, n_features=FEATURES, **options)
        return er.Amortized(network(n_in, made.context_size), made)

    return build


def zuko(kind: str) -> Callable[[int], nn.Module]:
    def build(n_in: int) -> nn.Module:
        net = network(n_in, 2 * LATENTS + FEATURES)
        return zuko_posterior(kind, net, LATENTS, n_features=FEATURES, n_transforms=2, hidden=(16,))

    return build


POSTERIORS = {
    "flow": family("flow", hidden=16),
    "auxiliary": family("auxiliary", hidden=16),
    "auxiliary-sigmoid": family("auxiliary-sigmoid", hidden=16),
    "iaf": zuko("iaf"),
    "nsf": zuko("nsf"),
    "maf": zuko("maf"),
}


@cache
def linear() -> tuple[Any, Tensor, Tensor]:
    """A correlated posterior in closed form."""
    weight = torch.tensor([[1.2, 0.9], [0.4, 1.0], [-0.3, 0.2]])
    model = er.LinearGaussian(weight, torch.tensor([0.1, -0.2, 0.3]), 0.8)
    like = torch.empty(0)
    z, eps = (normal((N, size), seeded(0, "bounds", size), like) for size in (LATENTS, 3))
    x = z @ weight.T + model.bias + 0.8 * eps
    return model, x, model.log_evidence(x)


@cache
def bent() -> tuple[Any, Tensor, Tensor]:
    """x1 ~ z1, x2 ~ z2 + z1^2 / 2: a bent posterior, log p(x) on a grid."""

    def means(z: Tensor) -> Tensor:
        return torch.stack([z[..., 0], z[..., 1] + z[..., 0].square() / 2], -1)

    def log_likelihood(x: Tensor, z: Tensor) -> Tensor:
        return torch.distributions.Normal(means(z), 0.7).log_prob(x).sum(-1)

    model = er.FunctionModel(log_likelihood, LATENTS)
    z, eps = (normal((N, LATENTS), seeded(0, "bounds", key), torch.empty(0)) for key in ("z", "eps"))
    x = means(z) + 0.7 * eps
    return model, x, on_grid(model, x)


MODELS = {"linear": linear, "bent": bent}
PAIRS = [(kind, name) for kind in MODELS for name in POSTERIORS]


def draws(model: Any, q: Any, x: Tensor, n: int, key: str, step: int = 0) -> Tensor:
    """(n, N) log weights."""
    made = q(x)
    return log_weights(model, made, x, normal((n, len(x), made.noise_size), seeded(0, key, step), x))


def train(model: Any, q: nn.Module, x: Tensor, n_steps: int) -> None:
    optimizer = torch.optim.Adam(q.parameters(), lr=0.03)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
    for step in range(n_steps):
        optimizer.zero_grad()
        (-draws(model, q, x, 16, "train", step).mean()).backward()
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("name", POSTERIORS)
@pytest.mark.parametrize("kind", MODELS)
def test_a_flow_with_any_parameters_is_a_bound(kind: str, name: str) -> None:
    model, x, truth = MODELS[kind]()
    q = POSTERIORS[name](x.shape[1])
    with torch.no_grad():
        for key, value in q.named_parameters():
            value.add_(0.2 * normal(tuple(value.shape), seeded(0, "bounds", key), value))
        assert_mean_at_most(draws(model, q, x, N_SAMPLES, "random"), truth, n_comparisons=len(PAIRS))


@pytest.mark.parametrize(("kind", "name"), PAIRS)
def test_a_trained_flow_comes_near_the_evidence_from_below(kind: str, name: str) -> None:
    model, x, truth = MODELS[kind]()
    q = POSTERIORS[name](x.shape[1])
    train(model, q, x, STEPS[kind])
    with torch.no_grad():
        log_w = draws(model, q, x, N_SAMPLES, "test")
    assert_mean_at_most(log_w, truth, n_comparisons=len(PAIRS))
    gap = (truth - log_w).mean(1)
    assert_resolves(gap.std() / math.sqrt(N_SAMPLES), 0.05)
    assert_mean_at_most(gap, NEAR, n_comparisons=len(PAIRS))
    with pytest.raises(AssertionError, match="is above"):  # 0.2 nats too many would be seen
        assert_mean_at_most((log_w + 0.2 - truth).mean(1), 0.0, n_comparisons=len(PAIRS))
