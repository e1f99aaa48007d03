"""HMC: reversible, volume-preserving, of second order, and it leaves its target alone."""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from elbowroom.core import normal, seeded, uniform
from elbowroom.evidence import hmc
from elbowroom.evidence.hmc import Evaluation, State

from .. import reference
from ..statistics import assert_detects, assert_distribution_is, assert_mean_is

C, N, D = 6, 3, 2
DOUBLE = torch.empty(0, dtype=torch.float64)


def noise(*shape: int, key: str) -> Tensor:
    return normal(shape, seeded(0, "test-hmc", key), DOUBLE)


class Counted:
    """A log density of which every call is counted; `value` maps (..., D) to (...)."""

    def __init__(self, value: Callable[[Tensor], Tensor]) -> None:
        self.value, self.calls = value, 0

    def __call__(self, z: Tensor) -> Evaluation:
        self.calls += 1
        with torch.enable_grad():
            point = z.detach().requires_grad_()
            value = self.value(point)
            (grad,) = torch.autograd.grad(value.sum(), point)
        return Evaluation(value.detach(), grad, (point.detach().sum(-1),))


def quartic(z: Tensor) -> Tensor:
    """A curved, asymmetric density without a name."""
    return -0.25 * (z[..., 0] ** 2 - 1) ** 2 - 0.5 * (z[..., 1] - 0.5 * z[..., 0]) ** 2 - 0.05 * z[..., 1] ** 4


def gaussian(z: Tensor) -> Tensor:
    return -0.5 * z.square().sum(-1)


def sizes(value: float, n: int = N) -> Tensor:
    return torch.full((n,), value, dtype=torch.float64)


def test_leapfrog_is_the_plain_loop() -> None:
    z, momentum, step = noise(C, N, D, key="z"), noise(C, N, D, key="p"), torch.tensor([0.1, 0.2, 0.3]).double()
    end, final = hmc.leapfrog(hmc.init(z, Counted(quartic)), momentum, Counted(quartic), step, 5)
    for i in range(N):
        plain_z, plain_p = reference.leapfrog(
            lambda v: quartic(torch.from_numpy(v)).numpy(), z[:, i].numpy(), momentum[:, i].numpy(), step[i].item(), 5
        )
        np.testing.assert_allclose(end.z[:, i], plain_z, atol=1e-7)
        np.testing.assert_allclose(final[:, i], plain_p, atol=1e-7)
    at = Counted(quartic)(end.z)
    np.testing.assert_allclose(end.at.value, at.value, rtol=1e-12)
    np.testing.assert_allclose(end.at.grad, at.grad, rtol=1e-12)


def test_leapfrog_reverses() -> None:
    density, step = Counted(quartic), sizes(0.3)
    start, momentum = hmc.init(noise(C, N, D, key="z"), density), noise(C, N, D, key="p")
    end, final = hmc.leapfrog(start, momentum, density, step, 20)
    back, last = hmc.leapfrog(end, -final, density, step, 20)
    np.testing.assert_allclose(back.z, start.z, atol=1e-10)
    np.testing.assert_allclose(last, -momentum, atol=1e-10)


def test_leapfrog_preserves_volume() -> None:
    def flow(both: Tensor) -> Tensor:
        z, p = both[:D][None, None], both[D:][None, None]
        density = lambda v: Evaluation(quartic(v), torch.func.grad(lambda u: quartic(u).sum())(v))  # noqa: E731
        end, final = hmc.leapfrog(State(z, density(z)), p, density, sizes(0.3, 1), 4)
        return torch.cat([end.z.flatten(), final.flatten()])

    jacobian = torch.func.jacrev(flow)(noise(2 * D, key="both"))
    assert abs(torch.linalg.slogdet(jacobian)[1].item()) < 1e-10


def test_the_energy_error_scales_as_the_square_of_the_step() -> None:
    """At a fixed trajectory length, half the step leaves a quarter of the error."""
    start, momentum = noise(400, N, D, key="z"), noise(400, N, D, key="p")
    errors = []
    for halvings in (0, 1, 2):
        density, step = Counted(quartic), sizes(0.1 / 2**halvings)
        _, info = hmc.step(hmc.init(start, density), momentum, torch.zeros(400, N), density, step, 10 * 2**halvings)
        errors.append(info.energy_error.square().mean().sqrt().item())
    for coarse, fine in pairwise(errors):
        assert coarse / fine == pytest.approx(4, rel=0.1)


def test_the_energy_error_is_the_change_of_energy() -> None:
    density, z, momentum = Counted(quartic), noise(C, N, D, key="z"), noise(C, N, D, key="p")
    end, final = hmc.leapfrog(hmc.init(z, density), momentum, density, sizes(0.7), 3)
    before = quartic(z) - momentum.square().sum(-1) / 2
    after = quartic(end.z) - final.square().sum(-1) / 2
    _, info = hmc.step(hmc.init(z, density), momentum, torch.ones(C, N), density, sizes(0.7), 3)
    np.testing.assert_allclose(info.energy_error, before - after, atol=1e-12)
    np.testing.assert_allclose(info.acceptance, (after - before).exp().clamp(max=1), rtol=1e-12)


@pytest.mark.parametrize("n_leapfrog", [1, 2, 7])
def test_a_leapfrog_step_costs_one_gradient(n_leapfrog: int) -> None:
    density = Counted(quartic)
    state = hmc.init(noise(C, N, D, key="z"), density)
    assert density.calls == 1
    for i in range(1, 4):
        chance = uniform((C, N), seeded(0, "u", i), DOUBLE)
        state, _ = hmc.step(state, noise(C, N, D, key=f"p{i}"), chance, density, sizes(0.5), n_leapfrog)
        assert density.calls == 1 + i * n_leapfrog


def test_the_state_holds_the_density_where_it_is() -> None:
    """Some chains moved and some stayed: value, gradient and parts belong to each one's own place."""
    density, z = Counted(quartic), noise(200, N, D, key="z")
    state = hmc.init(z, density)
    chance = uniform((200, N), seeded(0, "u"), DOUBLE)
    state, info = hmc.step(state, noise(200, N, D, key="p"), chance, density, sizes(1.2), 3)
    moved = (state.z != z).any(-1)
    assert 0.2 < moved.double().mean() < 0.95
    assert torch.equal(moved, chance < info.acceptance)
    fresh = density(state.z)
    assert torch.equal(state.at.value, fresh.value)
    assert torch.equal(state.at.grad, fresh.grad)
    assert torch.equal(state.at.parts[0], fresh.parts[0])


def step_once(z: Tensor, value: Callable[[Tensor], Tensor], step: float, n_leapfrog: int) -> tuple[Tensor, hmc.Info]:
    density = Counted(value)
    chance = uniform(z.shape[:2], seeded(0, "u"), DOUBLE)
    state, info = hmc.step(
        hmc.init(z, density), noise(*z.shape, key="p"), chance, density, sizes(step, z.shape[1]), n_leapfrog
    )
    return state.z, info


def test_a_step_leaves_its_target_alone() -> None:
    """From exact draws of a Gaussian, a step so coarse that a third is rejected gives exact draws again."""
    z, info = step_once(noise(5000, 4, 1, key="exact"), gaussian, 1.7, 2)
    assert 0.3 < info.acceptance.mean() < 0.9
    for column in z[..., 0].T:
        assert_distribution_is(column, stats.norm.cdf, n_comparisons=4)
    square = z.square().flatten()
    assert_mean_is(square, 1.0)
    assert_detects(square.mean(), 1.1, math.sqrt(2 / square.numel()))


def test_a_step_is_in_detailed_balance() -> None:
    """From exact draws, pairs (before, after) and (after, before) have one law: antisymmetric means vanish."""
    before = noise(20_000, 2, 1, key="exact")
    after, _ = step_once(before, gaussian, 1.6, 1)
    a, b = before.flatten(), after.flatten()
    for antisymmetric in (a**2 * b - b**2 * a, a**3 * b - b**3 * a, (a > 1).double() * b - (b > 1).double() * a):
        assert_mean_is(antisymmetric, 0.0, n_comparisons=3)


def test_chains_find_a_curved_target() -> None:
    """Moments after many steps from one point, against quadrature; chains are independent."""
    truth = reference.quadrature(lambda z: quartic(torch.from_numpy(z)).numpy(), 2)
    density = Counted(quartic)
    state = hmc.init(torch.zeros(1000, 4, 2, dtype=torch.float64), density)
    for i in range(60):
        chance = uniform((1000, 4), seeded(0, "u", i), DOUBLE)
        state, _ = hmc.step(state, noise(1000, 4, 2, key=f"p{i}"), chance, density, sizes(0.7, 4), 3)
    z = state.z.flatten(0, 1)
    assert_mean_is(z, truth.mean, n_comparisons=2)
    centered = z - torch.from_numpy(truth.mean)
    assert_mean_is(centered[:, :, None] * centered[:, None], truth.covariance, n_comparisons=2)


@pytest.mark.parametrize("bad", [torch.nan, -torch.inf, torch.inf])
def test_proposals_that_are_not_finite_are_rejected_and_counted(bad: float) -> None:
    def walled(z: Tensor) -> Tensor:
        return torch.where(z[..., 0] > 0.5, bad, gaussian(z))

    z = -noise(400, N, D, key="z").abs()
    density = Counted(walled)
    momentum = noise(400, N, D, key="p")
    proposal, _ = hmc.leapfrog(hmc.init(z, density), momentum, density, sizes(0.8), 1)
    crossed = proposal.z[..., 0] > 0.5
    assert 0.02 < crossed.double().mean() < 0.98
    state, info = hmc.step(hmc.init(z, density), momentum, torch.zeros(400, N), density, sizes(0.8), 1)
    assert torch.equal(info.diverged, crossed)
    assert (info.acceptance[crossed] == 0).all()
    assert torch.equal(state.z[crossed], z[crossed])
    assert torch.isfinite(state.at.value).all()
    assert torch.isfinite(state.at.grad).all()
    assert torch.isfinite(info.acceptance).all()


def test_a_step_size_belongs_to_its_target() -> None:
    density, z, momentum = Counted(gaussian), noise(C, N, D, key="z"), noise(C, N, D, key="p")
    state, _ = hmc.step(
        hmc.init(z, density), momentum, torch.zeros(C, N), density, torch.tensor([0.0, 0.1, 0.0]).double(), 1
    )
    assert torch.equal(state.z[:, [0, 2]], z[:, [0, 2]])
    assert (state.z[:, 1] != z[:, 1]).all()
