"""What a fit still lacks, and ELBOs made precise by gradients, against closed forms and plain Monte Carlo."""

import numpy as np
import pytest
import torch
from torch import Tensor

import elbowroom as er
from elbowroom.core import iterate_blocks, seeded
from elbowroom.evidence import elbo
from elbowroom.fits import assess, squared_norm
from elbowroom.fits.rounds import _has_ended
from elbowroom.fits.shortfall import FAR
from elbowroom.measure import PLANS, fit_rungs
from elbowroom.models import LinearGaussian
from elbowroom.posteriors import AffineMap, Budget, DiagonalGaussian, FullGaussian, Params
from elbowroom.results.verdict import SHORT

from .. import scenarios
from ..statistics import assert_close_z, assert_mean_is
from .test_local import correlated


def best(model: LinearGaussian, x: Tensor, full: bool) -> Params:
    """The parameters of the best Gaussian for each datum, in closed form."""
    mean, precision = model.posterior_mean(x), model.precision()
    if not full:
        return {"mean": mean, "log_scale": -0.5 * precision.diagonal().log().expand_as(mean)}
    tril = torch.linalg.cholesky(torch.linalg.inv(precision)).expand(len(x), -1, -1)
    return {"mean": mean, "log_scale": tril.diagonal(dim1=-2, dim2=-1).log(), "lower": tril.tril(-1)}


def exact(model: LinearGaussian, x: Tensor, params: Params) -> Tensor:
    tril = AffineMap.of_gaussian(params).scale
    return model.exact_elbo(x, params["mean"], tril @ tril.mT)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("known_metric", [False, True])
@pytest.mark.parametrize("off", [0.0, 0.03, 0.1])
def test_the_shortfall_is_that_of_the_closed_form(full: bool, known_metric: bool, off: float) -> None:
    """Means and scales off by so many posterior standard deviations, and log scales as much: within 5% and 5 errors."""
    model, x = correlated(50)
    params = best(model, x, full)
    scale = AffineMap.of_gaussian(best(model, x, True)).scale
    e = torch.randn(50, 3, generator=seeded(0, "off"), dtype=torch.float64)
    params["mean"] = params["mean"] + off * torch.einsum("nij,nj->ni", scale, e)
    params["log_scale"] = params["log_scale"] + off * e.flip(1)
    (block,) = iterate_blocks(x)
    family = FullGaussian(3) if full else DiagonalGaussian(3)
    metric = AffineMap.of_gaussian(best(model, x, True)) if known_metric and not full else None
    found = assess(model, block, family, params, 512, 0, "test", metric)
    lacks = (model.best_elbo(x, full=full) - exact(model, x, params)).mean().item()
    error = found.deviations.std(0).square().sum().sqrt().item() / 50 / np.sqrt(len(found.deviations))
    assert abs(found.shortfall.mean().item() - lacks) < 0.1 * lacks + 5 * error + 1e-9
    if off:
        assert lacks > 5 * error  # it would have been seen if it were zero


@pytest.mark.parametrize("full", [False, True])
def test_the_shortfall_of_a_far_fit_is_that_of_a_gaussian(full: bool) -> None:
    """Scales off by a factor of e: half a squared natural gradient would say half or twice of what is lacking."""
    model, x = correlated(50)
    params = best(model, x, full)
    e = torch.randn(50, 3, generator=seeded(0, "far"), dtype=torch.float64)
    params["mean"] = params["mean"] + 0.5 * params["log_scale"].exp() * e
    params["log_scale"] = params["log_scale"] + e.flip(1)
    (block,) = iterate_blocks(x)
    found = assess(model, block, FullGaussian(3) if full else DiagonalGaussian(3), params, 512, 0, "test")
    lacks = model.best_elbo(x, full=full) - exact(model, x, params)
    far = found.shortfall > FAR
    assert far.sum() > 10
    torch.testing.assert_close(found.shortfall[far], lacks[far], rtol=1e-6, atol=0.0)


def test_products_of_independent_groups_have_no_bias() -> None:
    """The plain square of the mean would be 1/4 too large."""
    draws = torch.randn(16, 4000, 4, generator=seeded(0, "groups"), dtype=torch.float64)
    value, deviations = squared_norm(draws + 0.5)
    assert_mean_is(value.numpy(), 1.0)
    z = (value - 1.0) / (deviations.std(0) / 4)
    assert 0.8 < z.square().median().item() / 0.45 < 1.3  # the median of a squared standard normal is 0.455


@pytest.mark.parametrize("full", [False, True])
def test_every_single_draw_gives_the_elbo_where_the_posterior_is_gaussian(full: bool) -> None:
    model, x = correlated(50)
    params = best(model, x, full)
    params["mean"] = params["mean"] + 0.5
    params["log_scale"] = params["log_scale"] - 0.3
    (block,) = iterate_blocks(x)
    family = FullGaussian(3) if full else DiagonalGaussian(3)
    found = assess(model, block, family, params, 128, 0, "test")
    torch.testing.assert_close(found.values, exact(model, x, params).expand_as(found.values), rtol=1e-9, atol=1e-9)


def test_controlled_elbos_agree_with_plain_ones_and_are_more_precise() -> None:
    """On curved posteriors, where a quadratic explains a part of log w only."""
    model, x = scenarios.curved(50)
    local = er.fit_local(er.FullGaussian(2), model, x).q
    params = {key: value.detach() for key, value in local.params.items()}
    (block,) = iterate_blocks(x)
    runs = [assess(model, block, FullGaussian(2), params, 256, seed, "test").values for seed in range(20)]
    means = torch.stack([values.mean(0) for values in runs])
    errors = torch.stack([values.std(0) / np.sqrt(len(values)) for values in runs])
    plain = elbo(model, local, x, 20_000, seed=9)
    assert_close_z(means.mean(0).numpy(), plain.values, np.hypot(errors.mean(0).numpy() / np.sqrt(20), plain.mc_errors))
    ratio = (means.std(0) / errors.mean(0)).square().mean().item()
    assert 0.75 < ratio < 1.3  # 950 degrees of freedom know it to 5%
    few = elbo(model, local, x, 256, seed=9)
    assert errors.mean().item() < few.mc_errors.mean()


@pytest.mark.parametrize("name", ["diagonal", "full"])
def test_the_ladder_tells_what_its_fits_lack(name: str, tmp_path: object) -> None:
    """It is saved, printed and taken into account by a comparison with the closed form."""
    planted = scenarios.correlated(100)
    gaps = er.decompose(planted.model, planted.q, planted.x)
    lacks = planted.model.best_elbo(planted.x, full=name == "full").numpy() - gaps.local[name].values
    found = gaps.shortfall[name]
    assert found.ids.tolist() == gaps.ids.tolist()
    errors = np.hypot(found.mc_errors, gaps.local[name].mc_errors)
    assert abs(found.mean - lacks.mean()) < 0.3 * abs(lacks.mean()) + 5 * np.sqrt((errors**2).sum()) / 100
    assert "more to be had" in str(gaps)
    gaps.save(f"{tmp_path}/run")
    assert er.load_gaps(f"{tmp_path}/run").shortfall == gaps.shortfall


def test_an_unfinished_fit_says_how_much_it_lacks() -> None:
    """A budget of one small step: the estimate is within 30% of the closed form, and the verdict speaks of it."""
    planted = scenarios.wrong_encoder(100)
    budget = Budget(n_steps=1, n_samples=4, learning_rate=0.01, max_rounds=1)
    plan = er.Plan(rungs=("diagonal",), budgets={"diagonal": budget}, multistart=None)
    gaps = er.decompose(planted.model, planted.q, planted.x, plan)
    lacks = (planted.model.best_elbo(planted.x).numpy() - gaps.local["diagonal"].values).mean()
    assert lacks > SHORT
    assert abs(gaps.shortfall["diagonal"].mean - lacks) < 0.3 * lacks
    finding = next(finding for finding in gaps.verdict() if finding.rule == "short fits")
    assert finding.nats == pytest.approx(gaps.shortfall["diagonal"].mean)


def test_draws_that_judge_a_fit_badly_do_not_keep_it_for_ever() -> None:
    """Every round is judged on the same draws. A datum that lacks nothing, but whose draws say 2.5, 3 and 4 errors more
    than the tolerance, ends after round 2, 4 and 8 (counted from 0); one that lacks a nat does not.
    """
    tolerance, error = 0.01, torch.full((4,), 0.02, dtype=torch.float64)
    short = tolerance + torch.tensor([2.5, 3.0, 4.0, 50.0], dtype=torch.float64) * error
    gains = torch.zeros(8, 4, dtype=torch.float64)
    ended = torch.stack([_has_ended(short - 1e-9, error, gains, tolerance, number) for number in range(30)])
    assert ended.long().argmax(0)[:3].tolist() == [2, 4, 8]
    assert not ended[:, 3].any()


def test_a_start_that_no_iterate_improves_on_ends() -> None:
    """The race of starts ends so near to the optimum that later iterates are worse beyond their tiny noise. Of 800 such
    fits five ran out of rounds.
    """
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 2, generator=generator, dtype=torch.float64).float()
    model = LinearGaussian(weight, torch.zeros(6, dtype=torch.float32), 0.5)
    x = torch.randn(200, 6, generator=generator, dtype=torch.float64).float()
    for seed in range(4):
        for block in iterate_blocks(x, 50):
            fit = fit_rungs(model, None, block, PLANS["standard"], seed, None)["full"]
            assert (fit.report.outcome == er.Outcome.CONVERGED).all()
