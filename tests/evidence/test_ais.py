"""AIS: unbiased weights on bounded targets, against quadrature, plain loops and the linear-Gaussian truth."""

import math
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, distributions

from elbowroom.core import BLOCK, normal, seeded, uniform
from elbowroom.evidence import (
    GROUP,
    AnnealingPath,
    AnnealingSchedule,
    GaussianBase,
    PriorBase,
    ais,
    ais_of,
    anneal,
    gaussian_base,
    hmc,
    inverse_temperatures,
    tune,
)
from elbowroom.fits import Fit
from elbowroom.models import FunctionModel, log_joint
from elbowroom.posteriors import AffineMap, CouplingFlow, DiagonalGaussian, FullGaussian, Local
from elbowroom.results import FitReport

from .. import reference
from ..models.test_models import linear, quadrature
from ..statistics import (
    assert_at_least_z,
    assert_at_most_z,
    assert_close_z,
    assert_distribution_is,
    assert_mean_at_least,
    assert_resolves,
)

annealing = import_module("elbowroom.evidence.ais")  # the room's attribute of that name is the function
DOUBLE = torch.empty(0, dtype=torch.float64)


def noise(*shape: int, key: str) -> Tensor:
    return normal(shape, seeded(0, "test-ais", key), DOUBLE)


# ---- a target of one latent: asymmetric, bimodal, its likelihood between 0.05 and 1.1


def two_bumps(x: Any, z: Tensor) -> Tensor:
    """Bounded above and below, so that w and 1 / w are bounded for chains that start at the prior."""
    z = z[..., 0]
    narrow = torch.exp(-0.5 * ((z - 1.2) / 0.25).square())
    wide = 0.6 * torch.exp(-0.5 * ((z + 1.0) / 0.6).square())
    return torch.log(0.05 + narrow + wide)


BUMPS = FunctionModel(two_bumps, 1)


def evidence() -> float:
    return quadrature(BUMPS, None, 1, n_points=4000).log_evidence


def exact_draws(n: int) -> Tensor:
    """Posterior draws (n, 1) by the inverse of the cumulative distribution on a grid."""
    grid = torch.linspace(-8, 8, 100_001, dtype=torch.float64)
    density = log_joint(BUMPS, torch.zeros(0), grid[:, None, None])[:, 0].exp()
    cumulative = torch.cumsum(density, 0) / density.sum()
    chance = uniform((n,), seeded(0, "test-ais", "exact"), DOUBLE)
    return grid[torch.searchsorted(cumulative, chance).clamp(max=100_000)][:, None]


def frozen(n: int, n_temperatures: int = 6, step: float = 0.8, n_leapfrog: int = 2) -> AnnealingPath:
    betas = inverse_temperatures("sigmoid", n_temperatures, n, DOUBLE)
    return AnnealingPath(betas, torch.full(betas.shape, step, dtype=torch.float64), n_leapfrog)


def prior(n: int) -> PriorBase:
    return PriorBase(BUMPS, torch.zeros(n, 1, dtype=torch.float64), n)


N_REPLICATES = 4000
SMALLEST = 0.04  # the relative bias of E[w] that the next tests resolve


def ratio_of(w: Tensor) -> tuple[float, float]:
    """Mean and error of independent columns' means, w (C, N) -> over N."""
    columns = w.mean(0)
    return columns.mean().item(), (columns.std() / math.sqrt(len(columns))).item()


def test_forward_weights_average_to_the_evidence() -> None:
    run = anneal(prior(N_REPLICATES), frozen(N_REPLICATES), GROUP, 0, ("test",))
    mean, error = ratio_of(torch.exp(run.log_w - evidence()))
    assert_resolves(error, SMALLEST)
    assert_close_z(mean, 1.0, error)


def test_reverse_weights_average_to_the_inverse_evidence() -> None:
    run = anneal(prior(N_REPLICATES), frozen(N_REPLICATES), GROUP, 0, ("test",), exact=exact_draws(N_REPLICATES))
    mean, error = ratio_of(torch.exp(evidence() - run.log_w))
    assert_resolves(error, SMALLEST)
    assert_close_z(mean, 1.0, error)
    assert (run.log_w.mean(0) - evidence()).mean() > 0


@pytest.mark.parametrize("start", ["exact", "far"])
def test_moves_within_the_posterior_keep_a_draw_exact_and_bring_a_tail_back(start: str) -> None:
    """From exact draws E[1/w] = 1/p(x) holds after the moves too; from a far tail they lower the upper bound, where
    moves that left another density invariant would fail the first.
    """
    z = exact_draws(N_REPLICATES)
    if start == "exact":
        path = frozen(N_REPLICATES, 2)  # whose last kernel but one is half way to the prior, were it used for the moves
        run = anneal(prior(N_REPLICATES), path, GROUP, 0, ("test",), exact=z, n_relax=10)
        mean, error = ratio_of(torch.exp(evidence() - run.log_w))
        assert_resolves(error, SMALLEST)
        assert_close_z(mean, 1.0, error)
        return
    model, x = linear(3, 2, 0.8)[0], noise(50, 3, key="x")
    base, path = PriorBase(model, x, 50), frozen(50)
    far = torch.full((50, 2), 6.0, dtype=torch.float64)
    still, moved = (anneal(base, path, GROUP, 0, ("test",), far, n_relax).log_w for n_relax in (0, 20))
    assert_mean_at_least((moved - still).mean(0).numpy(), 1.0)


def adapting_run(n: int) -> Tensor:
    """Log weights (1, n) of chains that each tune their own step while they carry the weight, driven by acceptance.

    What `ais` must never do: after a rejection a chain tries again with half the step until it is accepted.
    """
    base, path = prior(n), frozen(n)
    generator = seeded(0, "test-ais", "adapting")
    u = base.sample(1, generator)
    log_w = torch.zeros(1, n, dtype=torch.float64)
    for t in range(1, len(path.betas)):
        log_base, joint, *_ = base.evaluate(u)
        log_w = log_w + (path.betas[t] - path.betas[t - 1]) * (joint - log_base)
        density = annealing._tempered(base, path.betas[t])
        waiting, size = torch.ones(1, n, dtype=torch.bool), torch.full((n,), 3.0, dtype=torch.float64)
        for _ in range(6):
            momentum, chance = normal(u.shape, generator, u), uniform((1, n), generator, u)
            state, _ = hmc.step(hmc.init(u, density), momentum, chance, density, size, 1)
            moved = waiting & (state.z != u).any(-1)
            u = torch.where(moved[..., None], state.z, u)
            waiting, size = waiting & ~moved, size / 2
    return log_w


def test_adapting_on_the_chains_that_carry_the_weights_is_caught() -> None:
    """The same test, on a sampler that is wrong on purpose, fails by more than 6 standard errors."""
    n = GROUP * N_REPLICATES
    mean, error = ratio_of(torch.exp(adapting_run(n) - evidence()))
    assert abs(mean - 1) > 6 * error


# ---- the plain loop


@pytest.mark.parametrize("reverse", [False, True])
def test_a_run_is_the_plain_loop(reverse: bool) -> None:
    """The chains of one datum, step by step with differences for gradients, on the run's own noise."""
    n, d, n_steps = 3, 2, 4
    model, _ = linear(3, d, 0.8)
    x = noise(n, 3, key="x")
    frame = AffineMap(noise(n, d, key="c"), torch.linalg.cholesky(torch.eye(d).double() * 2).expand(n, d, d))
    base = GaussianBase(model, x, frame)
    path = replace(frozen(n, n_steps, n_leapfrog=3), step_sizes=0.2 + noise(n_steps + 1, n, key="steps").abs())
    exact = noise(n, d, key="exact") if reverse else None
    run = anneal(base, path, GROUP, 5, ("loop",), exact)
    generator = seeded(5, "loop", 0)
    u = base.sample(GROUP, generator)
    if exact is not None:
        u = frame.inverse(exact[None].expand(GROUP, n, d))
    kicks = [
        (normal(u.shape, generator, u, data_axis=1), uniform(u.shape[:2], generator, u, data_axis=1))
        for _ in range(n_steps - 1)
    ]
    for i in range(n):

        def log_base(v: np.ndarray) -> np.ndarray:
            return stats.norm.logpdf(v).sum(-1)

        def joint(v: np.ndarray, i: int = i) -> np.ndarray:
            z = frame.center[i] + torch.from_numpy(v) @ frame.scale[i].T
            value = log_joint(model, x[i : i + 1], z[:, None])[:, 0]
            return (value + torch.linalg.slogdet(frame.scale[i])[1]).numpy()

        def between(beta: float, v: np.ndarray) -> np.ndarray:
            return (1 - beta) * log_base(v) + beta * joint(v)

        v, log_w, betas = u[:, i].numpy(), np.zeros(GROUP), path.betas[:, i].tolist()
        order = range(n_steps, 0, -1) if reverse else range(1, n_steps + 1)
        for k, t in enumerate(order):
            log_w = log_w + (betas[t] - betas[t - 1]) * (joint(v) - log_base(v))
            kernel = t - 1 if reverse else t
            if 0 < kernel < n_steps:
                momentum, chance = (part[:, i].numpy() for part in kicks[k])
                density = lambda a, b=betas[kernel]: between(b, a)  # noqa: E731
                to, end = reference.leapfrog(density, v, momentum, path.step_sizes[kernel, i].item(), 3)
                change = density(to) - density(v) + ((momentum**2).sum(-1) - (end**2).sum(-1)) / 2
                v = np.where((np.log(chance) < change)[:, None], to, v)
        np.testing.assert_allclose(run.log_w[:, i], log_w, atol=1e-5)


def test_one_step_is_importance_sampling() -> None:
    model, _ = linear()
    x = noise(4, 5, key="x")
    for base in (PriorBase(model, x, 4), GaussianBase(model, x, frame_of(model, x))):
        path, _ = tune(base, AnnealingSchedule(n_temperatures=1), 4, noise(4, 3, key="like"), ("one",))
        run = anneal(base, path, GROUP, 0, ("one",))
        log_base, joint, *_ = base.evaluate(base.sample(GROUP, seeded(0, "one", 0)))
        np.testing.assert_allclose(run.log_w, joint - log_base, rtol=1e-12)


def test_the_budget_counts_gradients() -> None:
    """One where the chains start, n_leapfrog at each of the T - 1 kernels; weights are free."""
    base = prior(3)
    calls = []
    evaluate = base.evaluate
    base.evaluate = lambda u: calls.append(u.shape) or evaluate(u)  # type: ignore[func-returns-value, method-assign]
    anneal(base, frozen(3, n_temperatures=7, n_leapfrog=3), GROUP, 0, ("count",))
    assert len(calls) == 1 + 6 * 3


# ---- bases


def frame_of(model: Any, x: Tensor, shift: float = 0.0, scale: float = 1.0) -> AffineMap:
    tril = torch.linalg.cholesky(torch.linalg.inv(model.precision())) * scale
    return AffineMap(model.posterior_mean(x) + shift, tril.expand(len(x), -1, -1).contiguous())


def all_bases(model: Any, x: Tensor, shift: float = 0.5) -> dict[str, Any]:
    return {
        "prior": PriorBase(model, x, len(x)),
        "gaussian": GaussianBase(model, x, frame_of(model, x, shift, 1.3)),
    }


NAMES = pytest.mark.parametrize("name", ["prior", "gaussian"])


@NAMES
def test_a_base_and_the_joint_are_densities_of_its_coordinates(name: str) -> None:
    """Over u the base integrates to one and the joint to p(x): no volume is lost in whitening."""
    model, _ = linear(3, 1, 0.9)
    x = noise(2, 3, key="x1")
    base = all_bases(model, x)[name]
    u = torch.linspace(-18, 18, 4001, dtype=torch.float64)[:, None, None].expand(-1, 2, 1)
    log_base, joint, *_ = base.evaluate(u)
    step = math.log(36 / 4000)
    np.testing.assert_allclose(torch.logsumexp(log_base, 0) + step, 0.0, atol=1e-8)
    np.testing.assert_allclose(torch.logsumexp(joint, 0) + step, model.log_evidence(x), atol=1e-8)


@NAMES
def test_gradients_are_those_of_the_values(name: str) -> None:
    model, _ = linear()
    x, u = noise(4, 5, key="x"), noise(3, 4, 3, key="u")
    base = all_bases(model, x)[name]
    _, _, base_grad, joint_grad = base.evaluate(u)
    for axis in range(3):
        move = torch.zeros(3, dtype=torch.float64)
        move[axis] = 1e-5
        above, below = base.evaluate(u + move), base.evaluate(u - move)
        np.testing.assert_allclose(base_grad[..., axis], (above[0] - below[0]) / 2e-5, atol=1e-6, rtol=1e-6)
        np.testing.assert_allclose(joint_grad[..., axis], (above[1] - below[1]) / 2e-5, atol=1e-5, rtol=1e-6)
    assert not base_grad.requires_grad


@NAMES
def test_a_base_draws_from_its_density(name: str) -> None:
    model, _ = linear(3, 1, 0.9)
    x = noise(2, 3, key="x1")
    base = all_bases(model, x, shift=2.0)[name]
    grid = torch.linspace(-14, 14, 20_001, dtype=torch.float64)
    density = base.evaluate(grid[:, None, None].expand(-1, 2, 1))[0].exp()
    u = base.sample(5000, seeded(0, "draws", name))
    assert torch.equal(u, base.sample(5000, seeded(0, "draws", name)))
    for i in range(2):
        cumulative = torch.cumsum(density[:, i], 0) * 28 / 20_000
        cdf: Any = partial(np.interp, xp=grid.numpy(), fp=cumulative.numpy())
        assert_distribution_is(u[:, i, 0], cdf, n_comparisons=6)


@NAMES
def test_whitening_undoes_the_coordinates(name: str) -> None:
    model, _ = linear()
    x, u = noise(4, 5, key="x"), noise(3, 4, 3, key="u")
    base = all_bases(model, x)[name]
    gaussian = base if name == "gaussian" else getattr(base, "gaussian", None)
    z = u if gaussian is None else gaussian.coordinates(u)
    np.testing.assert_allclose(base.whiten(z), u, atol=1e-10)
    np.testing.assert_allclose(base.evaluate(u)[1] - log_joint(model, x, z), jacobian(gaussian), atol=1e-9)


def jacobian(gaussian: GaussianBase | None) -> Any:
    return 0.0 if gaussian is None else torch.linalg.slogdet(gaussian.coordinates.scale)[1].expand(3, 4)


@NAMES
def test_every_base_finds_the_truth(name: str) -> None:
    """Bounds whose average is within 0.03 nats below log p(x), and not above it."""
    model, plain = linear(4, 2, 0.8)
    _, drawn = plain.sample(200, seed=1)
    x = torch.from_numpy(drawn)
    base = all_bases(model, x)[name]
    path, _ = tune(base, AnnealingSchedule(n_temperatures=30, n_leapfrog=3), 200, noise(200, 2, key="like"), ("truth",))
    made = ais_of(anneal(base, path, 64, 0, ("truth", "run")), np.arange(200), "AIS", "key")
    below = made.values - model.log_evidence(x).numpy()
    assert made.side == "lower"
    assert_at_most_z(below.mean(), 0.0, made.mc_se, n_comparisons=3)
    assert below.mean() > -0.03
    assert_resolves(made.mc_se, 0.1)


def test_forward_is_below_and_reverse_above_the_truth() -> None:
    """A deliberately poor base, few temperatures: both miss by much more than their errors, on their own sides."""
    model, plain = linear(4, 2, 0.8)
    exact, drawn = plain.sample(400, seed=2)
    x, z = torch.from_numpy(drawn), torch.from_numpy(exact)
    truth = model.log_evidence(x)
    base = GaussianBase(model, x, frame_of(model, x, shift=1.5, scale=0.7))
    path, _ = tune(base, AnnealingSchedule(n_temperatures=4, n_leapfrog=1), 400, noise(400, 2, key="like"), ("poor",))
    forward = torch.logsumexp(anneal(base, path, GROUP, 0, ("f",)).log_w, 0) - math.log(GROUP) - truth
    run = anneal(base, path, GROUP, 0, ("r",), exact=z)
    reverse = math.log(GROUP) - torch.logsumexp(-run.log_w, 0) - truth
    for side, check in ((forward, assert_at_most_z), (reverse, assert_at_least_z)):
        error = side.std() / math.sqrt(400)
        check(side.mean(), 0.0, error)
        assert side.mean().abs() > 8 * error, "the base is not poor enough to see a wrong sign"


# ---- paths


def test_schedules_run_from_zero_to_one() -> None:
    for kind in ("linear", "sigmoid"):
        betas = inverse_temperatures(kind, 10, 3, DOUBLE)
        assert betas.shape == (11, 3)
        assert betas.dtype == torch.float64
        assert (betas[0] == 0).all()
        assert (betas[-1] == 1).all()
        assert (betas.diff(dim=0) > 0).all()
        np.testing.assert_allclose(betas + betas.flip(0), 1.0, atol=1e-12)
    np.testing.assert_allclose(inverse_temperatures("linear", 4, 1, DOUBLE)[:, 0], [0, 0.25, 0.5, 0.75, 1])
    fine = inverse_temperatures("sigmoid", 10, 1, DOUBLE).diff(dim=0)
    assert fine[0] < fine[5]
    t = np.linspace(-4, 4, 11)
    s = 1 / (1 + np.exp(-t))
    np.testing.assert_allclose(
        inverse_temperatures("sigmoid", 10, 1, DOUBLE)[:, 0], (s - s[0]) / (s[-1] - s[0]), atol=1e-12
    )


def test_an_adaptive_schedule_evens_the_spread() -> None:
    """Equal shares of the spread of log weights, half of it kept uniform: the worst step spreads less than before."""
    model, plain = linear(6, 2, 0.3)
    x = torch.from_numpy(plain.sample(40, seed=3)[1])
    base = PriorBase(model, x, 40)
    spreads = {}
    for kind in ("linear", "adaptive"):
        path, run = tune(
            base, AnnealingSchedule(n_temperatures=12, n_leapfrog=3, kind=kind), 40, noise(40, 2, key="like"), ("even",)
        )
        assert (path.betas.diff(dim=0) > 0).all()
        assert (path.betas[0] == 0).all()
        assert (path.betas[-1] == 1).all()
        spreads[kind] = (run.rate_std * path.betas.diff(dim=0)).amax(0).mean()
    assert spreads["adaptive"] < 0.5 * spreads["linear"]


def test_step_sizes_are_tuned_towards_their_acceptance() -> None:
    model, plain = linear(6, 2, 0.3)
    x = torch.from_numpy(plain.sample(20, seed=3)[1])
    base = GaussianBase(model, x, frame_of(model, x, 0.0, 4.0))
    rates = []
    for n_pilots in (0, 8):
        _, run = tune(
            base,
            AnnealingSchedule(n_temperatures=8, n_leapfrog=3, kind="linear", n_pilots=n_pilots),
            20,
            noise(20, 2, key="like"),
            ("size",),
        )
        rates.append((run.acceptance[:-1].mean().item() - 0.8) ** 2)
    assert rates[1] < 0.01
    assert rates[1] < rates[0]


def captured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[AnnealingPath, tuple[Any, ...]]]:
    """Every path that `anneal` is given, with the key and seed of its noise."""
    seen: list[tuple[AnnealingPath, tuple[Any, ...]]] = []
    true = annealing.anneal

    def spy(base: Any, path: AnnealingPath, n_chains: int, seed: int, key: tuple[Any, ...], **rest: Any) -> Any:
        seen.append((path, (seed, *key)))
        return true(base, path, n_chains, seed, key, **rest)

    monkeypatch.setattr(annealing, "anneal", spy)
    return seen


def test_the_path_does_not_move_with_the_seed_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = linear()
    x = noise(20, 5, key="x")
    seen = captured(monkeypatch)
    first, second = ais(model, x, n_temperatures=5, seed=0), ais(model, x, n_temperatures=5, seed=9)
    half = len(seen) // 2
    (one, key_one), (other, key_other) = seen[half - 1], seen[-1]
    assert torch.equal(one.betas, other.betas)
    assert torch.equal(one.step_sizes, other.step_sizes)
    assert key_one != key_other
    assert not np.isclose(first.values, second.values).any()
    assert np.array_equal(ais(model, x, n_temperatures=5, seed=0).values, first.values)


def test_the_reported_run_reuses_no_draw_of_the_pilot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seed 0 too, which is the pilot's own."""
    model, _ = linear()
    seen = captured(monkeypatch)
    ais(model, noise(2 * BLOCK, 5, key="x"), n_temperatures=5, seed=0)
    keys = [key for _, key in seen]
    assert len(set(keys)) == len(keys) == 8
    first = {seeded(key[0], *key[1:], 0).initial_seed() for key in keys}
    assert len(first) == 8


def test_chains_are_a_prefix_of_more_chains() -> None:
    base, path = prior(3), frozen(3)
    many = anneal(base, path, 40, 0, ("prefix",)).log_w
    assert many.shape == (40, 3)
    assert torch.equal(anneal(base, path, 21, 0, ("prefix",)).log_w, many[:21])
    assert not torch.equal(many[:16], many[16:32])


# ---- the door


def test_the_door_gives_lower_bounds_with_errors() -> None:
    model, plain = linear(4, 2, 0.8)
    x = torch.from_numpy(plain.sample(70, seed=4)[1])
    truth = model.log_evidence(x).numpy()
    frame = frame_of(model, x, 0.2, 1.1)
    params = {"mean": frame.center, "log_scale": frame.scale.diagonal(dim1=-2, dim2=-1).log()}
    full = Local(FullGaussian(2), 70, {**params, "lower": frame.scale.tril(-1)})
    diagonal = Local(DiagonalGaussian(2), 70, params)
    fit = Fit(full, FitReport(np.zeros(70, dtype=int), np.zeros(70, dtype=int), np.zeros(70)))
    for base in ("prior", diagonal, full, fit):
        made = ais(model, x, base, n_temperatures=20, n_chains=32)
        assert len(made) == 70
        assert made.side == "lower"
        assert_at_most_z(made.mean, truth.mean(), made.mc_se, n_comparisons=4)
        assert made.mean > truth.mean() - 0.1
    assert np.array_equal(ais(model, x, fit, 5).values, ais(model, x, full, 5).values)


def test_a_base_with_another_prior_is_sampled_and_scored() -> None:
    model, _ = linear(3, 1, 0.9)
    model.prior = distributions.Independent(distributions.Normal(torch.tensor([1.0]).double(), 2.0), 1)
    x = noise(30, 3, key="x1")
    truth = [quadrature(model, x[i : i + 1], 1, 25).log_evidence for i in range(30)]
    made = ais(model, x, n_temperatures=30, n_chains=64)
    assert_at_most_z(made.mean, np.mean(truth), made.mc_se)
    assert made.mean > np.mean(truth) - 0.03


def test_regions_without_a_number_are_rejected_and_counted() -> None:
    def walled(x: Tensor, z: Tensor) -> Tensor:
        return torch.where(z[..., 0] > 1.5, torch.nan, two_bumps(x, z))

    class Inside(PriorBase):
        def sample(self, n: int, generator: torch.Generator) -> Tensor:
            return super().sample(n, generator).clamp(max=1.4)

    run = anneal(Inside(FunctionModel(walled, 1), torch.zeros(5, 1).double(), 5), frozen(5, step=1.5), GROUP, 0, ("w",))
    assert (run.n_diverged > 0).all()
    assert torch.isfinite(run.log_w).all()
    assert torch.isfinite(run.acceptance).all()
    assert (anneal(prior(5), frozen(5), GROUP, 0, ("w",)).n_diverged == 0).all()


def test_a_datum_without_a_density_is_alone_in_it() -> None:
    model = FunctionModel(lambda x, z: torch.where(x[:, 0] > 2, torch.nan, -(z - x).square().sum(-1)), 2)
    x = noise(20, 2, key="x").clamp(max=1)
    expected = ais(model, x, n_temperatures=4).values
    x[7] = 5.0
    found = ais(model, x, n_temperatures=4)
    assert np.isnan(found.values[7])
    assert found.n_excluded == 1
    assert np.array_equal(np.delete(found.values, 7), np.delete(expected, 7))


def test_bases_without_a_gaussian_are_refused() -> None:
    model, _ = linear()
    x = noise(6, 5, key="x")
    with pytest.raises(TypeError, match="must be a Gaussian"):
        ais(model, x, Local(CouplingFlow(3), 6))
    with pytest.raises(TypeError, match="must be a Gaussian"):
        gaussian_base(model, x, dict(Local(CouplingFlow(3), 6).params))
    with pytest.raises(TypeError, match='base must be "prior"'):
        ais(model, x, base=DiagonalGaussian(3))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="sample_prior"):
        ais(FunctionModel(two_bumps, 1, lambda z, x: -z.square().sum(-1)), x)
