"""Bounds: exact weights where q is the posterior, closed forms elsewhere, and nothing that N or a caller can change."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, distributions, nn

from elbowroom.core import iterate_blocks, normal, seeded
from elbowroom.evidence import AnnealingSchedule, ais, bounds, elbo, elbo_of, iwae, iwae_of
from elbowroom.fits import fit_local, refine
from elbowroom.measure import check
from elbowroom.models import DecoderModel, FunctionModel, LinearGaussian
from elbowroom.posteriors import Amortized, Budget, DiagonalGaussian, FullGaussian, Local

from .. import reference
from ..models.test_models import linear
from ..statistics import assert_at_most_z, assert_close_z, assert_resolves

DOUBLE = torch.empty(0, dtype=torch.float64)


def noise(*shape: int, key: str) -> Tensor:
    return normal(shape, seeded(0, "test-bounds", key), DOUBLE)


def exact_posterior(model: LinearGaussian, x: Tensor) -> Local:
    tril = torch.linalg.cholesky(torch.linalg.inv(model.precision())).expand(len(x), -1, -1)
    params = {
        "mean": model.posterior_mean(x),
        "log_scale": tril.diagonal(dim1=-2, dim2=-1).log(),
        "lower": tril.tril(-1),
    }
    return Local(FullGaussian(tril.shape[-1]), len(x), params)


def rough_posterior(model: LinearGaussian, x: Tensor, shift: float = 0.2) -> tuple[Local, Tensor, Tensor]:
    """A diagonal q off the best by `shift`, with its mean and covariance."""
    mean = model.posterior_mean(x) + shift
    variance = (1.3 / model.precision().diagonal()).expand(len(x), -1)
    q = Local(DiagonalGaussian(mean.shape[1]), len(x), {"mean": mean, "log_scale": 0.5 * variance.log()})
    return q, mean, torch.diag_embed(variance)


def autoencoder(dropout: bool = True) -> tuple[DecoderModel, Amortized]:
    """A small Bernoulli model whose modules are in different modes, one of its parameters frozen."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        hidden = [nn.Dropout(0.5)] if dropout else []
        decoder = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), *hidden, nn.Linear(8, 6)).double()
        encoder = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), *hidden, nn.Linear(8, 6)).double()
    encoder.eval()
    encoder[0].train()
    decoder[0].weight.requires_grad_(False)
    return DecoderModel(decoder, "bernoulli", 3), Amortized(encoder, DiagonalGaussian(3))


def bits(n: int) -> Tensor:
    return (noise(n, 6, key="bits") > 0).double()


# ---- truth


@pytest.mark.parametrize(("n_data_dims", "n_latents"), [(5, 3), (2, 4), (30, 1)])
def test_with_the_posterior_every_weight_is_the_evidence(n_data_dims: int, n_latents: int) -> None:
    """No statistics: log p(x, z) - log p(z|x) does not depend on z."""
    model, plain = linear(n_data_dims, n_latents)
    x = 2 * noise(7, n_data_dims, key="x")
    q, truth = exact_posterior(model, x), plain.log_evidence(x.numpy())
    log_w = bounds.log_weights(model, q(x), x, noise(20, 7, n_latents, key="eps"))
    assert log_w.dtype == torch.float64
    np.testing.assert_allclose(log_w.detach(), np.broadcast_to(truth, (20, 7)), atol=1e-9)
    for made in (elbo(model, q, x, 10), iwae(model, q, x, 10)):
        np.testing.assert_allclose(made.values, truth, atol=1e-9)
        assert made.mc_errors.max() < 1e-9
        assert made.mean == pytest.approx(truth.mean(), abs=1e-9)


def test_the_elbo_is_its_closed_form() -> None:
    model, _ = linear()
    x = noise(60, 5, key="x")
    q, mean, covariance = rough_posterior(model, x)
    made = elbo(model, q, x, n_samples=5000)
    truth = model.exact_elbo(x, mean, covariance).numpy()
    assert made.side == "unbiased"
    assert_close_z(made.values, truth, made.mc_errors)
    assert_close_z(made.mean, truth.mean(), made.mc_se)
    assert_resolves(made.mc_se, 0.05)
    other = elbo(model, q, x, n_samples=5000, seed=1)
    assert not np.isclose(other.values, made.values).any()
    assert_close_z(other.values - made.values, 0.0, np.hypot(made.mc_errors, other.mc_errors))


# ---- functions of log weights


def test_bounds_are_the_plain_loops() -> None:
    log_w = 3 * noise(24, 5, key="log_w") - 100
    for i in range(5):
        column = log_w[:, i].numpy()
        assert iwae_of(log_w, torch.arange(5)).values[i] == pytest.approx(reference.iwae(column, 24)[0], rel=1e-12)
        assert elbo_of(log_w, torch.arange(5)).values[i] == pytest.approx(column.mean(), rel=1e-12)
    np.testing.assert_allclose(
        elbo_of(log_w, torch.arange(5)).mc_errors, (log_w.std(0) / math.sqrt(24)).numpy(), rtol=1e-10
    )
    w = torch.exp(log_w - torch.logsumexp(log_w, 0)) * 24
    np.testing.assert_allclose(
        iwae_of(log_w, torch.arange(5)).mc_errors, (w.std(0) / math.sqrt(24)).numpy(), rtol=1e-10
    )
    assert iwae_of(log_w, torch.arange(5)).side == "lower"


def test_iwae_with_one_sample_is_the_elbo() -> None:
    model, q = autoencoder()
    x = bits(60)
    np.testing.assert_allclose(iwae(model, q, x, 1).values, elbo(model, q, x, 1).values, rtol=1e-14)
    assert np.isnan(iwae(model, q, x, 1).mc_se)


def test_iwae_rises_to_the_evidence_and_not_above() -> None:
    """Averages over 1,000 data of one model: each K is above the last, none above the mean of log p(x)."""
    model, plain = linear(4, 2, 1.0)
    _, drawn = plain.sample(1000, seed=0)
    x = torch.from_numpy(drawn)
    q, *_ = rough_posterior(model, x, shift=0.5)
    truth = model.log_evidence(x).numpy()
    below = [(iwae(model, q, x, k).values - truth) for k in (1, 8, 64)]
    for lower, higher in pairwise(below):
        rise = higher - lower
        assert rise.mean() > 6 * rise.std() / math.sqrt(1000)
    assert_at_most_z(below[-1].mean(), 0.0, below[-1].std() / math.sqrt(1000))
    assert below[-1].mean() > -0.15


def test_draws_in_common_cancel_between_bounds() -> None:
    """The same K draws serve both: their difference knows its error better than either bound does."""
    model, _ = linear()
    x = noise(40, 5, key="x")
    q, *_ = rough_posterior(model, x)
    low, high = elbo(model, q, x, 256), iwae(model, q, x, 256)
    assert (low - low).mc_se == 0
    assert set(low.noise) == set(high.noise)
    differences = [(iwae(model, q, x, 256, seed=s) - elbo(model, q, x, 256, seed=s)) for s in range(40)]
    spread = np.std([d.mean for d in differences], ddof=1)
    assert np.mean([d.mc_se for d in differences]) == pytest.approx(spread, rel=0.5)


# ---- what may not matter


@pytest.mark.parametrize(
    "estimate",
    [
        lambda model, q, x: elbo(model, q, x, 20),
        lambda model, q, x: iwae(model, q, x, 20),
        lambda model, q, x: ais(model, x, n_temperatures=4, n_chains=5),
        lambda model, q, x: ais(model, x, q.localize(x), n_temperatures=4, n_chains=5),
        lambda model, q, x: elbo(model, lambda v: distributions.Laplace(v[:, :3], 1.0), x, 20),
    ],
    ids=["elbo", "iwae", "ais-prior", "ais-local", "foreign"],
)
def test_data_beside_a_datum_do_not_change_a_bit(estimate: Callable[..., Any], request: pytest.FixtureRequest) -> None:
    """Rows 0..49 of 50 and of 130 data; the last blocks of 130 and of 117 data are computed by units of 32 and 24 rows.

    A foreign distribution draws for all rows of its unit at once, so the unit must be the same: that of 126 data is.
    """
    model, q = autoencoder()
    x = bits(130)
    few, many = estimate(model, q, x[:50]), estimate(model, q, x)
    assert len(many) == 130
    assert np.array_equal(many.values[:50], few.values)
    assert np.array_equal(many.mc_errors[:50], few.mc_errors)
    n = 126 if "foreign" in request.node.name else 117
    assert np.array_equal(estimate(model, q, x[:n]).values, many.values[:n])
    assert many.ids.tolist() == list(range(130))


def test_samples_are_a_prefix_of_more_samples() -> None:
    """Noise is keyed by group, so a K that is no multiple of 16 is cut from the same draws."""
    model, q = autoencoder()
    (block,) = iterate_blocks(bits(50))
    dist = q.eval()(block.x)
    model.eval()
    many = bounds.block_log_weights(model, dist, block, 40, 0, "elbo")
    assert many.shape == (40, 50)
    assert torch.equal(bounds.block_log_weights(model, dist, block, 21, 0, "elbo"), many[:21])
    assert not torch.equal(bounds.block_log_weights(model, dist, block, 40, 0, "other"), many)
    assert not torch.equal(many[:16], many[16:32])


def test_no_two_data_share_their_draws() -> None:
    """The same row a hundred times: a value in one block is not found again, in that block or the next."""
    model, q = autoencoder()
    x = bits(1).expand(100, -1).contiguous()
    for made in (elbo(model, q, x, 8), iwae(model, q, x, 8), ais(model, x, n_temperatures=3, n_chains=2)):
        assert len(set(made.values.round(12))) == 100


def test_kinds_of_data_give_the_same_numbers() -> None:
    model, q = autoencoder()
    x = bits(60)
    expected = elbo(model, q, x, 8).values
    pairs = torch.utils.data.TensorDataset(x, torch.zeros(60))
    for other in (
        x.numpy(),
        {"x": x},
        pairs,
        torch.utils.data.DataLoader(pairs, batch_size=7, shuffle=True),
        x.float(),
    ):
        assert np.array_equal(elbo(model, q, other, 8).values, expected)


TINY = Budget(n_steps=4, n_samples=2, learning_rate=0.1, max_rounds=1, n_evaluation=4)
ESTIMATORS: dict[str, Callable[..., Any]] = {
    "elbo": lambda model, q, x: elbo(model, q, x, 4),
    "iwae": lambda model, q, x: iwae(model, q, x, 4),
    "ais": lambda model, q, x: ais(model, x, n_temperatures=3, n_chains=2),
    "fit_local": lambda model, q, x: fit_local(DiagonalGaussian(3), model, x, init=q, budget=TINY),
    "fit_full": lambda model, q, x: fit_local(FullGaussian(3), model, x, init=q, budget=TINY),
    "refine": lambda model, q, x: refine(model, q, x, steps=2),
    "check": lambda model, q, x: check(model, q, x),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_users_state_is_left_as_it_was(name: str) -> None:
    model, q = autoencoder(dropout=name != "check")
    things = {"model": model, "q": q}
    for thing in things.values():
        for parameter in thing.parameters():
            parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None

    def snapshot() -> list[Any]:
        found: list[Any] = [torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads()]
        for thing in things.values():
            found += [(key, module.training) for key, module in thing.named_modules()]
            for key, value in thing.named_parameters():
                grad = None if value.grad is None else value.grad.tolist()
                found.append((key, value.requires_grad, value.tolist(), grad))
        return found

    torch.manual_seed(3)
    before, rng, numpy_rng = snapshot(), torch.get_rng_state(), str(np.random.get_state())
    ESTIMATORS[name](model, q, bits(60))
    assert snapshot() == before
    assert torch.equal(torch.get_rng_state(), rng)
    assert str(np.random.get_state()) == numpy_rng


@pytest.mark.parametrize("name", [name for name in ESTIMATORS if name != "check"])
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_a_callers_grad_mode_does_not_matter(name: str, context: Callable[[], Any]) -> None:
    model, q = autoencoder()
    expected = ESTIMATORS[name](model, q, bits(20))
    with context():
        found = ESTIMATORS[name](model, q, bits(20))
    if hasattr(expected, "values"):
        assert np.array_equal(found.values, expected.values)
    else:
        local, other = (getattr(fit, "q", fit) for fit in (expected, found))
        for key, value in local.params.items():
            assert torch.equal(value, other.params[key])


def test_the_result_does_not_depend_on_the_global_generator() -> None:
    model, q = autoencoder()
    torch.manual_seed(0)
    first = elbo(model, q, bits(20), 8).values
    torch.manual_seed(1)
    assert np.array_equal(elbo(model, q, bits(20), 8).values, first)


# ---- what goes wrong


def test_a_datum_without_a_number_is_counted_and_alone() -> None:
    def log_likelihood(x: Tensor, z: Tensor) -> Tensor:
        value = -(z - x).square().sum(-1)
        return torch.where(x[:, 0] > 2, torch.nan, value)

    x = noise(60, 2, key="x").clamp(max=1.9)
    x[[3, 55]] = 5.0
    q = Local(DiagonalGaussian(2), 60)
    clean = x.clone()
    clean[[3, 55]] = 0.0
    for estimate in (elbo, iwae):
        made = estimate(FunctionModel(log_likelihood, 2), q, x, 8)
        other = estimate(FunctionModel(log_likelihood, 2), q, clean, 8)
        assert made.n_excluded == 2
        assert np.isnan(made.values[[3, 55]]).all()
        kept = made.finite
        assert np.array_equal(made.values[kept], other.values[kept])
        assert made.mean == pytest.approx(other.values[kept].mean())


@pytest.mark.parametrize("n", [10, 30])
def test_a_local_posterior_of_other_data_is_refused(n: int) -> None:
    """Fewer rows would end in an index error, more in the wrong datum's row without a word."""
    model, _ = linear()
    q = Local(DiagonalGaussian(3), n)
    for estimate in (elbo, iwae):
        with pytest.raises(ValueError, match=f"{n}.*20"):
            estimate(model, q, noise(20, 5, key="x"))
    with pytest.raises(ValueError, match=f"{n}.*20"):
        ais(model, noise(20, 5, key="x"), base=q)


def test_a_density_that_is_not_summed_is_refused() -> None:
    model = FunctionModel(lambda x, z: -(z - x).square(), 2)
    with pytest.raises(ValueError, match="Sum over pixels"):
        elbo(model, Local(DiagonalGaussian(2), 5), noise(5, 2, key="x"), 8)


def test_the_default_schedule_is_the_documented_one() -> None:
    assert AnnealingSchedule() == AnnealingSchedule(
        n_temperatures=10, n_leapfrog=2, n_chains=16, kind="adaptive", n_pilots=2
    )
