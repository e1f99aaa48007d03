"""Families: one table, each entry with random weights against autograd, its own inverse and quadrature."""

import inspect
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.nn.functional import elu, logsigmoid

import elbowroom.posteriors as posteriors
from elbowroom.core import normal, seeded
from elbowroom.models import log_joint
from elbowroom.posteriors import (
    AffineMap,
    AuxiliaryFlow,
    CouplingFlow,
    DiagonalGaussian,
    Family,
    FullGaussian,
    Params,
    as_family,
    copy_per_datum,
    scale_tril,
)

from ..models.test_models import linear
from ..statistics import assert_at_most_z, assert_mean_at_least

S, N = 3, 4
DOUBLE = torch.empty(0, dtype=torch.float64)

FAMILIES: dict[str, Callable[[int], Family]] = {
    "DiagonalGaussian": DiagonalGaussian,
    "FullGaussian": FullGaussian,
    "CouplingFlow": lambda d: CouplingFlow(d, n_couplings=5, hidden=6, n_features=3),
    "CouplingFlow (rank 2)": lambda d: CouplingFlow(d, n_couplings=4, hidden=6, n_features=3, rank=2),
    "CouplingFlow (one)": lambda d: CouplingFlow(d, n_couplings=1, hidden=4, n_features=2),
    "AuxiliaryFlow": lambda d: AuxiliaryFlow(d, hidden=7, n_features=3),
    "AuxiliaryFlow (sigmoid)": lambda d: AuxiliaryFlow(d, n_steps=3, hidden=5, n_features=2, scale="sigmoid"),
}
ALL = pytest.mark.parametrize("name", FAMILIES)
DENSE = pytest.mark.parametrize("name", [name for name in FAMILIES if not name.startswith("Auxiliary")])
AUXILIARY = pytest.mark.parametrize("name", [name for name in FAMILIES if name.startswith("Auxiliary")])
SIZES = pytest.mark.parametrize("size", [2, 3, 5])


def noise(*shape: int, key: str = "noise") -> Tensor:
    return normal(shape, seeded(0, "test-families", key), DOUBLE)


def random_weights(family: Family) -> Params:
    """Shared weights with no zero weights left: what training could have made of it."""
    weights = {key: value.double() for key, value in family.shared_weights(seeded(0, "bank")).items()}
    return {key: value + 0.4 * noise(*value.shape, key=key) for key, value in weights.items()}


def random_params(family: Family, n: int = N, local: bool = False) -> Params:
    """Parameters of n data by the amortized road, or a row of everything for each."""
    params = family.condition(random_weights(family), 0.7 * noise(n, family.context_size, key="context"))
    if not local:
        return params
    made = {key: value + 0.1 * noise(n, *value.shape[1:], key=f"{key}-local") for key, value in params.items()}
    if isinstance(family, CouplingFlow):
        square = noise(n, family.size, family.size, key="square")
        made |= {"lower": 0.3 * square.tril(-1), "rotation": torch.linalg.qr(square).Q}
    return made


def gentle(params: Params) -> Params:
    """The same flow with an eighth of its conditioners' answers, and a narrow r(v|z): what a grid can hold."""
    made = {key: value / 8 if key.endswith(("_w2", "_b2")) else value for key, value in params.items()}
    if "reverse_b2" in made:
        made["reverse_b2"] = torch.tensor([[0.1, -3.0]], dtype=torch.float64)
    return made


def test_the_table_is_complete() -> None:
    """Every public concrete family has a row here."""
    public = (getattr(posteriors, name) for name in posteriors.__all__)
    kinds = {kind for kind in public if inspect.isclass(kind) and issubclass(kind, Family) and kind is not Family}
    tested = {type(make(3)) for make in FAMILIES.values()}
    assert kinds == tested, f"families without a row in FAMILIES: {sorted(kind.__name__ for kind in kinds - tested)}"


@ALL
@SIZES
def test_sizes_are_as_declared(name: str, size: int) -> None:
    family = FAMILIES[name](size)
    z, log_q = family.rsample_and_log_q(random_params(family), noise(S, N, family.noise_size))
    assert z.shape == (S, N, size)
    assert log_q.shape == (S, N)
    assert FAMILIES[name](size).size == size


@ALL
def test_a_datum_reads_its_own_parameters_and_noise(name: str) -> None:
    family = FAMILIES[name](3)
    params, eps = random_params(family, local=True), noise(S, N, family.noise_size)
    z, log_q = family.rsample_and_log_q(params, eps)
    for i in range(N):
        row = {key: value[i : i + 1] for key, value in params.items()}
        z_i, log_q_i = family.rsample_and_log_q(row, eps[:, i : i + 1])
        np.testing.assert_allclose(z_i, z[:, i : i + 1], rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(log_q_i, log_q[:, i : i + 1], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(family.rsample_and_log_q(params, eps[1:2])[0], z[1:2], rtol=1e-10, atol=1e-12)


@ALL
def test_shared_weights_are_those_weights_copied_for_each(name: str) -> None:
    family = FAMILIES[name](3)
    shared, eps = random_params(family), noise(S, N, family.noise_size)
    assert any(len(value) == 1 for value in shared.values()) or not random_weights(family)
    for one, other in zip(
        family.rsample_and_log_q(shared, eps), family.rsample_and_log_q(copy_per_datum(shared, N), eps), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)


@ALL
def test_every_parameter_moves_the_weight(name: str) -> None:
    """A bias that is never optimized, or a network that is never read, has no gradient here."""
    family = FAMILIES[name](3)
    weights = {key: value.requires_grad_() for key, value in random_weights(family).items()}
    context = (0.7 * noise(N, family.context_size, key="context")).requires_grad_()
    z, log_q = family.rsample_and_log_q(family.condition(weights, context), noise(S, N, family.noise_size))
    grads = torch.autograd.grad((z.sin().sum(-1) + log_q).sum(), [context, *weights.values()])
    for key, grad in zip(["context", *weights], grads, strict=True):
        assert (grad != 0).any(), key
    assert (grads[0] != 0).all()


# ---- families with a density


@DENSE
@SIZES
@pytest.mark.parametrize("local", [False, True])
def test_log_q_is_the_noise_minus_the_log_determinant(name: str, size: int, local: bool) -> None:
    """log q(z) = log N(noise) - log |dz / dnoise|, the Jacobian by autograd."""
    family = FAMILIES[name](size)
    params, eps = random_params(family, local=local), noise(S, N, size)
    _, log_q = family.rsample_and_log_q(params, eps)
    for s in range(S):
        for i in range(N):
            row = {key: value[i : i + 1] if len(value) > 1 else value for key, value in params.items()}
            jacobian = torch.func.jacrev(lambda e, row=row: family.rsample_and_log_q(row, e[None, None])[0][0, 0])(
                eps[s, i]
            )
            expected = stats.norm.logpdf(eps[s, i].numpy()).sum() - torch.linalg.slogdet(jacobian)[1].item()
            assert log_q[s, i].item() == pytest.approx(expected, rel=1e-9)


@DENSE
@SIZES
@pytest.mark.parametrize("local", [False, True])
def test_log_prob_inverts_the_draw(name: str, size: int, local: bool) -> None:
    family = FAMILIES[name](size)
    params = random_params(family, local=local)
    z, log_q = family.rsample_and_log_q(params, noise(S, N, size))
    np.testing.assert_allclose(family.log_prob(params, z), log_q, rtol=1e-8)


@DENSE
def test_the_density_integrates_to_one(name: str) -> None:
    family = FAMILIES[name](2)
    params = gentle(random_params(family, n=2, local=True))
    params["log_scale"] = params["log_scale"].clamp(-0.5, 0.5)
    axis = torch.linspace(-25, 25, 1001, dtype=torch.float64)
    z = torch.cartesian_prod(axis, axis)[:, None].expand(-1, 2, -1)
    total = torch.logsumexp(family.log_prob(params, z), 0) + 2 * math.log(50 / 1000)
    np.testing.assert_allclose(total, 0.0, atol=1e-4)


def test_a_coupling_flow_of_low_rank_is_gaussian_elsewhere() -> None:
    """Outside the first `rank` directions of its rotation, z is what the Gaussian makes of the noise."""
    family = CouplingFlow(5, hidden=6, rank=3)
    params, eps = random_params(family, local=True), noise(S, N, 5)
    z, _ = family.rsample_and_log_q(params, eps)
    white = torch.linalg.solve_triangular(scale_tril(params), (z - params["mean"])[..., None], upper=False)
    u = (params["rotation"].mT @ white)[..., 0]
    np.testing.assert_allclose(u[..., 3:], eps[..., 3:], atol=1e-12)
    assert (u[..., :3] != eps[..., :3]).all()


def test_gaussians_are_those_of_scipy() -> None:
    full, diagonal = FullGaussian(3), DiagonalGaussian(3)
    z = noise(S, N, 3, key="z")
    params = random_params(full)
    covariance = scale_tril(params) @ scale_tril(params).mT
    assert torch.equal(scale_tril(params), scale_tril(params).tril())
    for i in range(N):
        expected = stats.multivariate_normal(params["mean"][i], covariance[i]).logpdf(z[:, i])
        np.testing.assert_allclose(full.log_prob(params, z)[:, i], expected, rtol=1e-9)
    context = noise(N, 6, key="context")
    made = diagonal.condition({}, context)
    expected = stats.norm.logpdf(z.numpy(), context[:, :3].numpy(), np.exp(context[:, 3:].numpy() / 2)).sum(-1)
    np.testing.assert_allclose(diagonal.log_prob(made, z), expected, rtol=1e-12)


@pytest.mark.parametrize("name", [name for name in FAMILIES if "sigmoid" not in name])
def test_at_a_gaussian_it_is_that_gaussian(name: str) -> None:
    """The start of every local fit: z = mean + scale noise, and a weight that is the Gaussian's."""
    family = FAMILIES[name](3)
    mean, log_scale = noise(N, 3, key="mean"), 0.5 * noise(N, 3, key="log_scale")
    params = family.at(mean.clone(), log_scale.clone(), seeded(0, "at"))
    assert {len(value) for value in params.values()} == {N}
    eps = noise(S, N, family.noise_size)
    z, log_q = family.rsample_and_log_q(params, eps)
    expected = mean + log_scale.exp() * eps[..., :3]
    np.testing.assert_allclose(z, expected, rtol=1e-12)
    np.testing.assert_allclose(log_q, stats.norm.logpdf(expected, mean, log_scale.exp()).sum(-1), rtol=1e-10)


# ---- the auxiliary flow


def plain_auxiliary(family: AuxiliaryFlow, params: Params, eps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(z, v, log r(v|z)) of one datum and one draw eps (2 D,), written out from the paper's section 3.2."""

    def net(name: str, h: Tensor) -> tuple[Tensor, Tensor]:
        h = elu(h @ params[f"{name}_w1"][0] + params[f"{name}_b1"][0])
        out = h @ params[f"{name}_w2"][0] + params[f"{name}_b2"][0]
        return out[: family.size], out[family.size :]

    def bounded(raw: Tensor) -> Tensor:
        return 2 * torch.tanh(raw / 2)

    z = params["mean"][0] + torch.exp(params["log_scale"][0]) * eps[: family.size]
    mean, raw = net("forward", z)
    v = mean + torch.exp(bounded(raw)) * eps[family.size :]
    for i in range(family.n_steps):
        raw, shift = net(f"v{i}", z)
        v = v * torch.exp(bounded(raw) if family.scale == "exp" else logsigmoid(raw)) + shift
        raw, shift = net(f"z{i}", v)
        z = z * torch.exp(bounded(raw) if family.scale == "exp" else logsigmoid(raw)) + shift
    mean, raw = net("reverse", z)
    log_r = torch.distributions.Normal(mean, torch.exp(bounded(raw))).log_prob(v).sum()
    return z, v, log_r


@AUXILIARY
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("local", [False, True])
def test_the_auxiliary_weight_counts_every_determinant(name: str, size: int, local: bool) -> None:
    """log q(z, v) - log r(v|z), q(z, v) from the noise by autograd's Jacobian of the whole map to (z, v)."""
    family = FAMILIES[name](size)
    assert isinstance(family, AuxiliaryFlow)
    params, eps = random_params(family, local=local), noise(S, N, 2 * size)
    z, log_q = family.rsample_and_log_q(params, eps)
    for i in range(N):
        row = {key: value[i : i + 1] if len(value) > 1 else value for key, value in params.items()}
        plain_z, _, log_r = plain_auxiliary(family, row, eps[1, i])
        jacobian = torch.func.jacrev(lambda e, row=row: torch.cat(plain_auxiliary(family, row, e)[:2]))(eps[1, i])
        expected = stats.norm.logpdf(eps[1, i].numpy()).sum() - torch.linalg.slogdet(jacobian)[1].item() - log_r.item()
        np.testing.assert_allclose(z[1, i], plain_z, rtol=1e-10)
        assert log_q[1, i].item() == pytest.approx(expected, rel=1e-9)


@AUXILIARY
def test_the_auxiliary_flow_bounds_the_evidence(name: str) -> None:
    model, _ = linear(4, 2, 1.5)
    x = noise(N, 4, key="x")
    family = FAMILIES[name](2)
    z, log_q = family.rsample_and_log_q(random_params(family), noise(4000, N, 4))
    log_w = log_joint(model, x, z) - log_q
    error = log_w.std(0) / math.sqrt(4000)
    assert_at_most_z(log_w.mean(0), model.log_evidence(x), error)


@AUXILIARY
def test_the_auxiliary_weight_is_unbiased(name: str) -> None:
    """E[f(z) / exp(log_q)] is the integral of f, by quadrature over the two noises of a single latent."""
    family = FAMILIES[name](1)
    params = gentle(random_params(family, n=1))
    axis = torch.linspace(-25, 25, 1001, dtype=torch.float64)
    eps = torch.cartesian_prod(axis, axis)[:, None]
    z, log_q = family.rsample_and_log_q(params, eps)
    near = torch.tensor([[[0.0, 0.0]], [[0.1, 0.0]]], dtype=torch.float64)
    at = family.rsample_and_log_q(params, near)[0]
    log_f = torch.distributions.Normal(at[0], 3 * (at[1] - at[0]).abs()).log_prob(z).sum(-1)
    log_noise = -0.5 * eps.square().sum(-1) - math.log(2 * math.pi)
    total = torch.logsumexp(log_noise + log_f - log_q, 0) + 2 * math.log(50 / 1000)
    np.testing.assert_allclose(total, 0.0, atol=1e-4)


def test_the_papers_scales_only_contract() -> None:
    family = AuxiliaryFlow(3, scale="sigmoid")
    params = family.at(torch.zeros(N, 3), torch.zeros(N, 3), seeded(0))
    z, _ = family.rsample_and_log_q(params, noise(S, N, 6).to(params["mean"]))
    np.testing.assert_allclose(z, noise(S, N, 6)[..., :3] / 4, rtol=1e-6)


def full_gaussian(size: int, correlation: float) -> Params:
    """N Gaussians of 0.1 to 1 standard deviations whose latents have random correlations, the larger the stronger."""
    lower = correlation * noise(N, size, size, key="lower").tril(-1)
    scale = torch.logspace(-1, 0, size, dtype=torch.float64)
    tril = scale[:, None] * (torch.eye(size) + lower)
    return {
        "mean": noise(N, size, key="mean"),
        "log_scale": tril.diagonal(dim1=-2, dim2=-1).log(),
        "lower": tril.tril(-1),
    }


@pytest.mark.parametrize(("scale", "correlation"), [("exp", 0.1), ("exp", 0.6), ("sigmoid", 0.1)])
def test_an_auxiliary_flow_can_start_at_a_full_gaussian(scale: str, correlation: float) -> None:
    """Every single draw then has the Gaussian's own log density, since r(v|z) is exact."""
    family, start = AuxiliaryFlow(5, scale=scale), full_gaussian(5, correlation)
    z, log_q = family.rsample_and_log_q(family.started_at(start, seeded(0)), noise(200, N, 10))
    expected = FullGaussian(5).log_prob(start, z)
    np.testing.assert_allclose(log_q, expected, atol=1e-8)
    spread = (z - start["mean"]).square().mean((0, 1))
    assert (spread > 1e-3).all()


def test_where_r_cannot_follow_the_bound_of_that_start_is_lower() -> None:
    """Scales that only contract cannot make r(v|z) narrow enough for a posterior of strong correlations."""
    family, start = AuxiliaryFlow(5, scale="sigmoid"), full_gaussian(5, 1.5)
    z, log_q = family.rsample_and_log_q(family.started_at(start, seeded(0)), noise(4000, N, 10))
    excess = log_q - FullGaussian(5).log_prob(start, z)
    assert_mean_at_least(excess.flatten().numpy(), 0.0)
    assert excess.mean() > 0.01


def test_a_narrow_auxiliary_flow_starts_at_the_diagonal_gaussian() -> None:
    start = full_gaussian(5, 0.3)
    params = AuxiliaryFlow(5, hidden=4).started_at(start, seeded(0))
    torch.testing.assert_close(params["log_scale"], start["log_scale"])
    assert not params["z1_w2"].any()


def test_an_auxiliary_flow_has_no_density() -> None:
    family = AuxiliaryFlow(2)
    assert not family.has_density
    with pytest.raises(TypeError, match="no density"):
        family.log_prob({}, noise(S, N, 2))


def test_impossible_families_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 latent dimensions"):
        CouplingFlow(1)
    with pytest.raises(ValueError, match="scale must be"):
        AuxiliaryFlow(2, scale="tanh")
    with pytest.raises(ValueError, match="latent_shape"):
        DiagonalGaussian(0)


def test_a_configuration_names_its_family() -> None:
    kinds = {name: type(as_family(name, 3)) for name in ("diagonal", "full", "flow", "auxiliary", "auxiliary-sigmoid")}
    assert list(kinds.values()) == [DiagonalGaussian, FullGaussian, CouplingFlow, AuxiliaryFlow, AuxiliaryFlow]
    auxiliary = [vars(as_family(name, (3, 1), hidden=5)) for name in ("auxiliary", "auxiliary-sigmoid")]
    assert [(made["scale"], made["size"], made["hidden"]) for made in auxiliary] == [("exp", 3, 5), ("sigmoid", 3, 5)]
    with pytest.raises(ValueError, match=r"family must be one of .*; got 'iaf'"):
        as_family("iaf", 3)


def test_couplings_move_one_half_and_read_the_other() -> None:
    """The halves by their rule: 0, 2, 4.. against the rest, twice, then 0, 3, 4, 7.. against the rest, twice."""
    family = CouplingFlow(9, n_couplings=4, hidden=5, n_features=2, rank=7)
    params = random_params(family) | {"mean": torch.zeros(1, 9), "log_scale": torch.zeros(1, 9)}
    for i, moved in enumerate([{0, 2, 4, 6}, {1, 3, 5}, {0, 3, 4}, {1, 2, 5, 6}]):
        alone = {
            key: value if key.startswith(f"coupling{i}") or not key.endswith(("_w2", "_b2")) else 0 * value[:1]
            for key, value in params.items()
        }

        def draw(e: Tensor, alone: Params = alone) -> Tensor:
            return family.rsample_and_log_q(alone, e.expand(1, N, 9))[0][0, 0]

        change = torch.func.jacrev(draw)(noise(9)) - torch.eye(9)
        assert set(change.abs().sum(1).nonzero().flatten().tolist()) == moved
        read = (change - change.diagonal().diag()).abs().sum(0)
        assert set(read.nonzero().flatten().tolist()) == set(range(7)) - moved


def test_a_wild_step_cannot_overflow() -> None:
    """Conditioner outputs of 1e6 scale a coordinate by at most e^2."""
    family = CouplingFlow(3, n_couplings=2, hidden=4, n_features=2)
    params = random_params(family)
    params |= {key: value * 1e6 for key, value in params.items() if key.endswith("_w2")}
    assert torch.isfinite(family.rsample_and_log_q(params, noise(S, N, 3))[1]).all()


# ---- coordinates


def whitening(n: int = N, d: int = 3, diagonal: bool = False) -> AffineMap:
    tril = noise(n, d, d, key="tril").tril(-1) + torch.diag_embed(noise(n, d, key="scale").exp())
    scale = torch.diag_embed(tril.diagonal(dim1=-2, dim2=-1)) if diagonal else tril
    return AffineMap(noise(n, d, key="center"), scale)


def test_coordinates_invert_and_count_their_volume() -> None:
    frame, u = whitening(), noise(S, N, 3)
    z = frame(u)
    np.testing.assert_allclose(frame.inverse(z), u, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(frame.log_det, torch.linalg.slogdet(frame.scale)[1], rtol=1e-12)
    np.testing.assert_allclose(z[1, 2], frame.center[2] + frame.scale[2] @ u[1, 2], rtol=1e-12)
    index = torch.tensor([2, 0])
    np.testing.assert_allclose(frame.rows(index)(u[:, index]), z[:, index], rtol=1e-12)


@DENSE
def test_coordinates_compose_into_the_same_distribution(name: str) -> None:
    family = FAMILIES[name](3)
    frame = whitening(diagonal=name == "DiagonalGaussian")
    params = family.at(noise(N, 3, key="mean"), 0.3 * noise(N, 3, key="ls"), seeded(0, "at"))
    params = {key: value + 0.3 * noise(*value.shape, key=f"{key}-c") for key, value in params.items()}
    eps = noise(S, N, 3)
    u, log_q = family.rsample_and_log_q(params, eps)
    z, log_q_z = family.rsample_and_log_q(frame.compose(params), eps)
    np.testing.assert_allclose(z, frame(u), rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(log_q_z, log_q - frame.log_det, rtol=1e-9)
