"""Local fits: the closed-form optimum, bad starts, and data that do not feel each other."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from elbowroom.core import iterate_blocks, normal, seeded
from elbowroom.evidence import elbo
from elbowroom.fits import MULTISTART, Problem, best_start, fit_block, fit_local, refine
from elbowroom.models import DecoderModel, FunctionModel, LinearGaussian, Tempered, latent_size, likelihoods
from elbowroom.posteriors import (
    Amortized,
    AuxiliaryFlow,
    Budget,
    CouplingFlow,
    DiagonalGaussian,
    Family,
    FullGaussian,
    Local,
    scale_tril,
)
from elbowroom.results import Outcome

from .. import reference
from ..models.test_models import linear, quadrature
from ..statistics import assert_at_least_z, assert_at_most_z

DOUBLE = torch.empty(0, dtype=torch.float64)


def noise(*shape: int, key: str) -> Tensor:
    return normal(shape, seeded(0, "test-local", key), DOUBLE)


def correlated(n: int = 30) -> tuple[LinearGaussian, Tensor]:
    """A model whose posterior is far from factorized (the best diagonal loses 0.5 nats or more), and its data."""
    plain = reference.LinearGaussian(
        np.array([[2.0, 1.6, 0.0], [0.0, 1.0, 0.9], [0.3, 0.0, 1.5], [1.0, 1.0, 1.0]]), np.zeros(4), 0.7
    )
    model = LinearGaussian(torch.from_numpy(plain.weight), torch.from_numpy(plain.bias), plain.scale)
    return model, torch.from_numpy(plain.sample(n, seed=0)[1])


def exact(model: LinearGaussian, x: Tensor, q: Local | None) -> Tensor:
    """The ELBO of a fitted Gaussian in closed form, without Monte Carlo."""
    params = values(q)
    tril = scale_tril(params)
    return model.exact_elbo(x, params["mean"], tril @ tril.mT)


def values(q: Local | None) -> dict[str, Tensor]:
    """The fitted parameters, as constants."""
    assert q is not None
    return {key: value.detach() for key, value in q.params.items()}


def constant(mean: float, log_var: float, d: int = 3) -> Amortized:
    """An encoder that answers the same for every datum."""
    return Amortized(lambda x: x.new_tensor([mean] * d + [log_var] * d).expand(len(x), -1), DiagonalGaussian(d))


# ---- the optimum


MARGINS = {"diagonal": 0.02, "full": 0.01}  # nats that an average fit may stay below the closed-form optimum
FAMILIES = {"diagonal": DiagonalGaussian(3), "full": FullGaussian(3)}
BOTH = pytest.mark.parametrize("name", FAMILIES)


@BOTH
@pytest.mark.parametrize("start", ["none", "poor", "far", "wide", "nan", "absurd"])
def test_fits_reach_the_best_of_their_family(name: str, start: str) -> None:
    """From any start, a NaN or an absurd answer of the encoder included: those begin at the prior."""
    model, x = correlated()
    init = {
        "none": None,
        "poor": constant(0.3, -0.5),
        "far": constant(3.0, 0.0),
        "wide": constant(0.0, 5.0),
        "nan": constant(math.nan, 0.0),
        "absurd": constant(1e6, 80.0),
    }[start]
    fit = fit_local(FAMILIES[name], model, x, init)
    assert isinstance(fit.q, Local)
    short = model.best_elbo(x, full=name == "full") - exact(model, x, fit.q)
    assert short.min() > -1e-9
    assert short.mean() < MARGINS[name]
    assert short.max() < 10 * MARGINS[name]
    assert set(fit.outcome.tolist()) <= {Outcome.CONVERGED, Outcome.RAN_OUT}
    assert (fit.outcome == Outcome.CONVERGED).mean() > 0.8


@pytest.mark.parametrize("log_var", [-6.0, -8.0])
def test_an_overconfident_encoder_is_no_bad_start(log_var: float) -> None:
    """Scales 6 and 16 times too small: whatever a fit that claims to have converged misses is a false amortization."""
    model, x = correlated()
    fit = fit_local(DiagonalGaussian(3), model, x, constant(0.0, log_var))
    short = (model.best_elbo(x) - exact(model, x, fit.q)).numpy()
    assert short[fit.outcome == Outcome.CONVERGED].max() < 10 * MARGINS["diagonal"] / 2
    assert short.mean() < MARGINS["diagonal"]


def test_the_families_are_told_apart() -> None:
    """The margins above would not hide a diagonal answer under the name of the full one."""
    model, x = correlated()
    assert (model.best_elbo(x, full=True) - model.best_elbo(x)).min() > 0.4


def test_the_evaluated_elbo_is_that_of_the_fit() -> None:
    """Fresh samples agree with the closed form of what was fitted: the answer is in z, not in the fit's coordinates."""
    model, x = correlated(10)
    for family in FAMILIES.values():
        fit = fit_local(family, model, x, constant(1.0, 0.0))
        made = elbo(model, fit.q, x, 1000, seed=5)
        errors = np.maximum(made.mc_errors, 1e-6)
        assert_at_most_z(np.abs(made.values - exact(model, x, fit.q).numpy()), 0.0, errors, n_comparisons=4)


def test_a_fit_of_a_tempered_model_follows_its_own_optimum() -> None:
    """What a beta-VAE's encoder aims at: the loss under the true model is the closed-form mismatch."""
    model, x = correlated()
    fit = fit_local(DiagonalGaussian(3), Tempered(model, 4.0), x)
    np.testing.assert_allclose(exact(model, x, fit.q).mean(), model.best_elbo(x, kl_weight=4.0).mean(), atol=0.05)
    assert (model.best_elbo(x) - model.best_elbo(x, kl_weight=4.0)).mean() > 0.3


@pytest.mark.parametrize("size", [30, 100])
def test_many_correlated_latents_are_fitted_without_curvature(size: int) -> None:
    """A full Gaussian has D (D + 1) / 2 numbers to find, from gradients alone. Then a diagonal one, in its coordinates:
    in its own it zigzags across the correlations and ends hundreds of nats short.
    """
    weight = noise(size, size, key="many") / math.sqrt(size) + torch.ones(size, 1) * noise(size, key="common") / 2
    model = LinearGaussian(weight, torch.zeros(size).double(), 0.7)
    x = model.sample_data(noise(20, size, key="z"), None, seeded(0))
    assert (model.best_elbo(x, full=True) - model.best_elbo(x)).mean() > 5.0
    fit = fit_local(FullGaussian(size), model, x)
    assert (model.best_elbo(x, full=True) - exact(model, x, fit.q)).mean() < 2 * MARGINS["full"]
    (block,) = iterate_blocks(x, 20)
    params, *_ = fit_block(DiagonalGaussian(size), model, block, values(fit.q), 0)
    diagonal = Local(DiagonalGaussian(size), 20, params)
    assert (model.best_elbo(x) - exact(model, x, diagonal)).mean() < 10 * MARGINS["diagonal"]


def two_basins(x: Tensor, z: Tensor) -> Tensor:
    """A narrow mode at 3 that an encoder may sit in, and one 12 nats higher at -1."""
    near = -0.5 * ((z - 3.0) / 0.1).square().sum(-1)
    far = 12.0 - 0.5 * ((z + 1.0) / 0.15).square().sum(-1)
    return torch.logaddexp(near, far)


def test_a_race_leaves_a_basin_that_no_fit_leaves() -> None:
    """From the encoder's answer every datum stays in the wrong mode; the prior's start finds the other and wins. Where
    the encoder is right, it keeps the start.
    """
    model, x = FunctionModel(two_basins, 2), torch.zeros(20, 1, dtype=torch.float64)
    (block,) = iterate_blocks(x, 20)
    wrong, right = constant(3.0, -5.0, 2), constant(-1.0, -2.0, 2)
    stuck, _ = best_start(wrong, model, block, 0, None)
    small = Budget(n_steps=60, n_samples=2, learning_rate=0.5, max_rounds=2)
    params, *_ = fit_block(DiagonalGaussian(2), model, block, dict(stuck), 0, small)
    assert (params["mean"] > 2.5).all()
    start, cost = best_start(wrong, model, block, 0, MULTISTART)
    assert (start["mean"] < 0).all()
    assert 0 < cost < 400
    kept, _ = best_start(right, model, block, 0, MULTISTART)
    assert (kept["mean"] + 1.0).abs().max() < 0.5


# ---- data by themselves


@BOTH
def test_a_datum_alone_fits_as_in_its_batch(name: str) -> None:
    """Up to rounding, because the rows of a product differ with the batch; the noise is that of the row."""
    model, x = correlated(20)
    (block,) = iterate_blocks(x, 20)
    start = {"mean": noise(20, 3, key="start"), "log_scale": torch.zeros(20, 3, dtype=torch.float64)}
    budget = Budget(n_steps=40, n_samples=4, learning_rate=0.05, max_rounds=2)
    params, report = fit_block(FAMILIES[name], model, block, dict(start), 0, budget)
    strange = x.clone()
    strange[torch.arange(20) != 7] = 40.0 * noise(19, 4, key="strange")
    (other,) = iterate_blocks(strange, 20)
    again, report_again = fit_block(FAMILIES[name], model, other, dict(start), 0, budget)
    assert report.outcome[7] == report_again.outcome[7]
    for key, value in params.items():
        np.testing.assert_allclose(again[key][7], value[7], rtol=1e-7, atol=1e-9)


@BOTH
def test_data_that_leave_do_not_shift_the_draws_of_those_that_stay(name: str) -> None:
    """The first 7 of 20 start at their optimum, or far from it; the others go on for rounds and end the same."""
    model, x = correlated(20)
    (block,) = iterate_blocks(x, 20)
    best = {"mean": model.posterior_mean(x), "log_scale": -0.5 * model.precision().diagonal().log().expand(20, 3)}
    budget, ends = Budget(n_steps=20, n_samples=4, learning_rate=0.1, max_rounds=6, n_evaluation=16), []
    for shift in (0.0, 4.0):
        start = {key: value.clone() for key, value in best.items()}
        start["mean"][:7] += shift
        start["mean"][7:] += 4.0
        params, report = fit_block(FAMILIES[name], model, block, start, 0, budget)
        ends.append((params, report.outcome, report.steps))
    (early, ended, steps), (other, ended_too, steps_too) = ends
    assert steps[:7].min() < steps[7:].max()
    assert np.array_equal(steps[7:], steps_too[7:])
    assert np.array_equal(ended[7:], ended_too[7:])
    for key, value in early.items():
        np.testing.assert_allclose(other[key][7:], value[7:], rtol=1e-7, atol=1e-9)


def test_a_datum_is_always_judged_on_the_same_noise() -> None:
    """Whichever data are still in the batch."""
    model, x = correlated(20)
    (block,) = iterate_blocks(x, 20)
    problem = Problem(family=DiagonalGaussian(3), model=model, block=block, like=x, seed=0)
    params = {"mean": noise(20, 3, key="m"), "log_scale": noise(20, 3, key="s")}
    every, some = problem.evaluate(params, torch.arange(20), 40), torch.tensor([3, 11, 12])
    left = problem.evaluate({key: value[some] for key, value in params.items()}, some, 40)
    np.testing.assert_allclose(left, every[some], rtol=1e-12)


@BOTH
def test_rows_are_bit_identical_whatever_follows_them(name: str) -> None:
    model, x = correlated(70)
    budget = Budget(n_steps=12, n_samples=4, learning_rate=0.05, max_rounds=2)
    few, many = (fit_local(FAMILIES[name], model, part, budget=budget) for part in (x[:50], x))
    for key, value in values(few.q).items():
        assert torch.equal(values(many.q)[key][:50], value)
    assert len(many.outcome) == 70
    assert np.array_equal(many.outcome[:50], few.outcome)


def failing(bad: float, where: str) -> FunctionModel:
    """log p(x|z) that fails for data marked by x[:, 0] > 9: everywhere, or only in its gradient."""

    def log_likelihood(x: Tensor, z: Tensor) -> Tensor:
        value = -2 * (z - x[:, 1:]).square().sum(-1)
        marked = x[:, 0] > 9
        if where == "gradient":
            return value + ((z - z.detach()).abs().sum(-1) + torch.where(marked, 0.0, 1.0)).sqrt()
        return torch.where(marked, torch.full_like(value, bad), value)

    return FunctionModel(log_likelihood, 3)


@BOTH
@pytest.mark.parametrize(("bad", "where"), [(math.nan, "value"), (-math.inf, "value"), (0.0, "gradient")])
def test_data_that_diverge_are_named_and_touch_no_others(name: str, bad: float, where: str) -> None:
    model, budget = failing(bad, where), Budget(n_steps=40, n_samples=4, learning_rate=0.05, max_rounds=2)
    x = noise(20, 4, key="x").clamp(max=2)
    clean = fit_local(FAMILIES[name], model, x, budget=budget)
    x[[3, 11], 0] = 10.0
    fit = fit_local(FAMILIES[name], model, x, budget=budget)
    marked = np.isin(np.arange(20), [3, 11])
    assert (fit.outcome[marked] == Outcome.DIVERGED).all()
    assert (clean.outcome != Outcome.DIVERGED).all()
    assert np.array_equal(fit.outcome[~marked], clean.outcome[~marked])
    for key, value in values(fit.q).items():
        np.testing.assert_allclose(value[~marked], values(clean.q)[key][~marked], rtol=1e-7, atol=1e-9)
        assert torch.isfinite(value).all()


def test_the_best_iterate_is_kept() -> None:
    """Steps far too large to settle: not clearly below the start on the noise of the check, hence barely in truth."""
    model, x = correlated()
    best = fit_local(DiagonalGaussian(3), model, x).q
    before = exact(model, x, best)
    (block,) = iterate_blocks(x, 30)
    start = {key: value.clone() for key, value in values(best).items()}
    budget = Budget(n_steps=10, n_samples=2, learning_rate=30.0, max_rounds=2, n_evaluation=256)
    params, report = fit_block(DiagonalGaussian(3), model, block, start, 0, budget)
    after = exact(model, x, Local(DiagonalGaussian(3), 30, params))
    assert (before - after).max() < 0.3
    assert report.outcome.shape == (30,)


def test_steps_and_work_are_counted() -> None:
    """Converged data leave the batch: gradients counted at the model, a unit for each sample with a gradient."""
    model, x = correlated(50)
    rows = []

    def log_likelihood(x: Tensor, z: Tensor) -> Tensor:
        rows.append(z.shape[0] * z.shape[1] * (1.0 if torch.is_grad_enabled() else 0.5))
        return model.log_likelihood(x, z)

    best = {"mean": model.posterior_mean(x), "log_scale": -0.5 * model.precision().diagonal().log().expand(50, 3)}
    best["mean"][25:] += 1.0  # half of the data start at their optimum, and most of them leave after a round
    budget = replace(DiagonalGaussian.budget, max_rounds=4)
    start = Local(DiagonalGaussian(3), 50, best)
    fit = fit_local(DiagonalGaussian(3), FunctionModel(log_likelihood, 3), x, start, budget=budget)
    assert sum(rows) == pytest.approx(50 * fit.work.mean(), rel=0.1)
    assert set(fit.steps.tolist()) <= {budget.n_steps * (i + 1) for i in range(budget.max_rounds)}
    assert (fit.steps[fit.outcome == Outcome.RAN_OUT] == budget.n_steps * budget.max_rounds).all()
    assert np.median(fit.steps[:25]) == budget.n_steps
    assert fit.steps[25:].mean() > fit.steps[:25].mean() + 2


def test_no_budget_is_the_start() -> None:
    """The encoder's answer, or the prior for a datum where the prior is better."""
    model, x = correlated()
    fit = fit_local(
        DiagonalGaussian(3), model, x, constant(0.2, -1.0), budget=Budget(n_steps=0, n_samples=4, learning_rate=0.1)
    )
    mean, log_scale = values(fit.q)["mean"], values(fit.q)["log_scale"]
    kept = mean[:, 0] != 0
    assert 0 < kept.sum() < 30
    np.testing.assert_allclose(mean[kept], 0.2)
    np.testing.assert_allclose(log_scale[kept], -0.5, rtol=1e-12)
    assert (mean[~kept] == 0).all()
    assert (log_scale[~kept] == 0).all()


# ---- gradients


@BOTH
def test_gradients_vanish_where_q_is_exact(name: str) -> None:
    """Sticking the landing: at the posterior of a factorized model nothing but rounding moves a fit. With the score's
    noise left in, the first step would be a whole one of 0.01, kept by those data whose evaluation noise likes it.
    """
    model = LinearGaussian(torch.diag(torch.tensor([2.0, 1.0, 0.5]).double()), torch.zeros(3).double(), 0.5)
    x = noise(10, 3, key="x")
    (block,) = iterate_blocks(x, 10)
    start = {"mean": model.posterior_mean(x), "log_scale": -0.5 * model.precision().diagonal().log().expand(10, 3)}
    budget = Budget(n_steps=1, n_samples=2, learning_rate=0.01, max_rounds=1)
    params, *_ = fit_block(FAMILIES[name], FunctionModel(model.log_likelihood, 3), block, dict(start), 0, budget)
    np.testing.assert_allclose(params["mean"], start["mean"], atol=1e-6)
    np.testing.assert_allclose(params["log_scale"], start["log_scale"], atol=1e-6)


def test_draws_are_antithetic() -> None:
    """The samples of a step come in pairs that mirror each other in q's mean. (Checks have 8 draws, steps 6.)"""
    model, x = correlated(10)
    seen: list[Tensor] = []

    def log_likelihood(x: Tensor, z: Tensor) -> Tensor:
        if torch.is_grad_enabled() and len(z) == 6:
            seen.append(z.detach())
        return model.log_likelihood(x, z)

    fit_local(
        DiagonalGaussian(3),
        FunctionModel(log_likelihood, 3),
        x,
        budget=Budget(n_steps=3, n_samples=6, learning_rate=0.1, max_rounds=1),
    )
    assert len(seen) == 3
    for z in seen:
        middle = (z[:3] + z[3:]) / 2
        np.testing.assert_allclose(middle, middle[:1].expand_as(middle), atol=1e-12)
        assert (z[:3] - middle).std() > 0.1


# ---- other models and families


def test_a_convolutional_gaussian_decoder_is_fitted() -> None:
    """No MLP, no Bernoulli: strided convolutions on (2, 2, 2) latents, against the same by its flattened weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        decoder = nn.ConvTranspose2d(2, 1, 2, stride=2).double()
    model = DecoderModel(decoder, likelihoods.gaussian(0.5), (2, 2, 2))
    eye = torch.eye(8, dtype=torch.float64)
    bias = decoder(torch.zeros(1, 2, 2, 2).double()).detach().flatten()
    weight = (decoder(eye.reshape(8, 2, 2, 2)).detach().flatten(1) - bias).T
    flat = LinearGaussian(weight, bias, 0.5)
    z = noise(12, 8, key="z")
    x = flat.sample_data(z, None, seeded(0))
    images = x.reshape(12, 1, 4, 4)
    for name, family in (("diagonal", DiagonalGaussian((2, 2, 2))), ("full", FullGaussian((2, 2, 2)))):
        fit = fit_local(family, model, images)
        assert (flat.best_elbo(x, full=name == "full") - exact(flat, x, fit.q)).mean() < MARGINS[name]


def banana(x: Tensor, z: Tensor) -> Tensor:
    """A curved posterior in two dimensions."""
    return -0.5 * ((z[..., 1] - z[..., 0].square() + x[:, 0]) / 0.3).square() - math.log(0.3)


def turned_banana(size: int) -> FunctionModel:
    """The same posterior in two oblique directions of more latents, and the prior in all others: log p(x) is the same,
    and so is what a Gaussian loses.
    """
    plane = torch.linalg.qr(noise(size, 2, key="plane")).Q
    return FunctionModel(lambda x, z: banana(x, z @ plane), size)


@pytest.mark.parametrize(("size", "share"), [(2, 0.8), (12, 0.5)])
def test_a_flow_closes_the_gap_of_a_curved_posterior(size: int, share: float) -> None:
    """At least this share of log p(x) - L[q*_full] of each datum, log p(x) by quadrature; never above it. With 12
    latents and a flow of rank 2, only if the two bent directions are found.

    Over eight seeds the datum with the least had 0.95 to 0.99 of it with 2 latents, and 0.83 +- 0.07 with 12: one run
    in some 100,000 fails.
    """
    flat, model = FunctionModel(banana, 2), turned_banana(size)
    x = torch.linspace(-1, 1.5, 4, dtype=torch.float64)[:, None]  # above, a Gaussian on one of two arms is the best
    truth = np.array([quadrature(flat, row[None], 2, 9, 900).log_evidence for row in x])
    full = fit_local(FullGaussian(size), model, x).q
    family = CouplingFlow(size, n_couplings=8, rank=2)
    fit = fit_local(family, model, x, full)
    flow, gaussian = elbo(model, fit.q, x, 20_000, seed=3), elbo(model, full, x, 20_000, seed=4)
    assert (truth - gaussian.values).min() > 0.2
    closed = flow - gaussian
    assert_at_least_z(closed.values, share * (truth - gaussian.values), closed.mc_errors)
    assert_at_most_z(flow.values, truth, flow.mc_errors)
    assert (fit.outcome != Outcome.DIVERGED).all()


def test_the_rate_of_a_flow_rises_and_falls_within_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """With every direction 1 a parameter moves by the sum of the rates: a rise in a tenth of the steps, a cosine."""
    monkeypatch.setattr("elbowroom.fits.adam._direction", lambda moments, grad, t: torch.ones_like(grad))
    model, family = FunctionModel(banana, 2), CouplingFlow(2, hidden=4)
    (block,) = iterate_blocks(torch.zeros(2, 1, dtype=torch.float64), 2)
    zeros = torch.zeros(2, 2, dtype=torch.float64)
    start = family.at(zeros, zeros.clone(), seeded(0, "start"))
    problem, rates = Problem(family=family, model=model, block=block, like=zeros, seed=0), torch.tensor([0.001, 0.002])
    moved, finite = problem.adam(
        start, torch.arange(2), Budget(n_steps=40, n_samples=4, learning_rate=0.001), 0, rates.double()
    )
    total = sum(min(1.0, (t + 1) / 4) * 0.5 * (1 + math.cos(math.pi * t / 40)) for t in range(40))
    assert finite.all()
    shift = (moved["coupling0_b1"] - start["coupling0_b1"]).flatten(1)
    torch.testing.assert_close(shift, (total * rates.double())[:, None].expand_as(shift))


def test_the_rotation_of_a_flow_stays_one() -> None:
    """Its determinant is not counted, so neither a fit nor an optimizer of the user's may move it."""
    model, x = turned_banana(3), torch.zeros(4, 1, dtype=torch.float64)
    full = fit_local(FullGaussian(3), model, x).q
    q = fit_local(
        CouplingFlow(3),
        model,
        x,
        full,
        budget=Budget(n_steps=20, n_samples=4, learning_rate=0.01, max_rounds=1, n_evaluation=16),
    ).q
    rotation = values(q)["rotation"]
    np.testing.assert_allclose(rotation @ rotation.mT, torch.eye(3).expand(4, 3, 3), atol=1e-12)
    assert (rotation - torch.eye(3)).abs().amax() > 0.1
    assert q is not None
    assert [key for key, value in q.params.items() if not value.requires_grad] == ["rotation"]


def test_a_flow_that_fails_on_some_data_touches_no_others() -> None:
    """Their rotation cannot be known; they keep their Gaussian."""
    x = noise(12, 4, key="x").clamp(max=2)
    x[[3, 11], 0] = 10.0
    budget = Budget(n_steps=20, n_samples=4, learning_rate=0.01, max_rounds=2, n_evaluation=16)
    fit = fit_local(CouplingFlow(3, hidden=8), failing(0.0, "gradient"), x, budget=budget)
    marked = np.isin(np.arange(12), [3, 11])
    assert np.array_equal(fit.outcome == Outcome.DIVERGED, marked)
    for value in values(fit.q).values():
        assert torch.isfinite(value).all()


def test_an_auxiliary_flow_does_not_end_below_its_start() -> None:
    model, x = FunctionModel(banana, 2), torch.linspace(-1, 2, 12, dtype=torch.float64)[:, None]
    diagonal = fit_local(DiagonalGaussian(2), model, x).q
    budget = Budget(n_steps=200, n_samples=16, learning_rate=0.01, max_rounds=3, n_evaluation=128)
    fit = fit_local(AuxiliaryFlow(2, hidden=20), model, x, init=diagonal, budget=budget)
    gain = elbo(model, fit.q, x, 4000, seed=3) - elbo(model, diagonal, x, 4000, seed=4)
    assert_at_least_z(gain.values, 0.0, gain.mc_errors)
    assert gain.mean > 0.05


@pytest.mark.parametrize("make", [partial(CouplingFlow, hidden=6), AuxiliaryFlow], ids=["coupling", "auxiliary"])
def test_a_flow_that_holds_the_full_gaussian_starts_there(make: Callable[[int], Family]) -> None:
    """The diagonal Gaussian of its marginals would lose 0.5 nats or more, which one step cannot recover."""
    model, x = correlated()
    d = latent_size(model)
    full = fit_local(FullGaussian(d), model, x).q
    few = Budget(n_steps=1, n_samples=16, learning_rate=1e-6, max_rounds=1, n_evaluation=64)
    flow = fit_local(make(d), model, x, init=full, budget=few).q
    lost = elbo(model, full, x, 2000, seed=3) - elbo(model, flow, x, 2000, seed=4)
    assert lost.mean < 0.02  # draws of both have the same weight, that of the exact posterior


# ---- refinement


def test_refining_improves_a_bad_encoder() -> None:
    model, x = correlated()
    q = constant(1.5, 1.0)
    refined = refine(model, q, x, steps=20)
    before = exact(model, x, q.localize(x))
    assert (exact(model, x, refined) > before - 0.1).all()
    assert (exact(model, x, refined) - before).mean() > 10.0
    few = refine(model, q, x, steps=3)
    assert exact(model, x, few).mean() < exact(model, x, refined).mean()


def nearly_best(model: LinearGaussian, width: int) -> nn.Linear:
    """An encoder whose Gaussian is off the best diagonal one by a little: better than the prior for every datum."""
    encoder = nn.Linear(4, width).double()
    with torch.no_grad():
        encoder.weight.copy_(0.001 * noise(width, 4, key="w"))
        encoder.bias.copy_(0.01 * noise(width, key="b"))
        encoder.weight[:3] += torch.linalg.solve(model.precision(), model.weight.T) / model.scale**2
        encoder.bias[3:6] -= model.precision().diagonal().log()
    return encoder


@pytest.mark.parametrize(
    "family",
    [DiagonalGaussian(3), FullGaussian(3), CouplingFlow(3, hidden=6), AuxiliaryFlow(3, hidden=6)],
    ids=lambda family: family.name,
)
def test_no_refinement_is_the_encoders_answer(family: Any) -> None:
    """Start at the encoder's answer: zero steps leave L[q] as it was, for every family."""
    model, x = correlated(10)
    q = Amortized(nearly_best(model, family.context_size), family).double()
    with torch.no_grad():
        for key, value in q.weights.items():
            value.add_(0.02 * noise(*value.shape, key=key))
    refined = refine(model, q, x, steps=0)
    np.testing.assert_allclose(elbo(model, refined, x, 16).values, elbo(model, q, x, 16).values, rtol=1e-6)


def test_a_posterior_without_a_family_cannot_be_refined() -> None:
    model, x = correlated(5)
    foreign: Any = lambda x: torch.distributions.Laplace(x[:, :3], 1.0)  # noqa: E731
    with pytest.raises(ValueError, match="known family"):
        refine(model, foreign, x)


def test_a_wide_or_narrow_model_is_no_harder() -> None:
    """The same optimum in other units of x, and in one latent."""
    for n_latents, scale in ((1, 0.05), (3, 5.0)):
        model, plain = linear(5, n_latents, scale)
        x = torch.from_numpy(plain.sample(20, seed=1)[1])
        fit = fit_local(DiagonalGaussian(n_latents), model, x)
        assert (model.best_elbo(x) - exact(model, x, fit.q)).mean() < 0.02


def test_a_fit_goes_on_from_networks_of_another_size() -> None:
    """All of a start that is a member of the family is taken, whatever the width of its networks."""
    model, x = correlated(20)
    wide = fit_local(
        CouplingFlow(3, hidden=24, n_features=4), model, x, budget=Budget(n_steps=30, n_samples=4, learning_rate=0.01)
    )
    still = Budget(n_steps=0, n_samples=4, learning_rate=0.01)
    narrow = fit_local(CouplingFlow(3, hidden=8, n_features=4), model, x, init=wide.q, budget=still)
    a, b = (elbo(model, q, x, n_samples=64, seed=1) for q in (wide.q, narrow.q))
    np.testing.assert_allclose(a.values, b.values, rtol=1e-9)
