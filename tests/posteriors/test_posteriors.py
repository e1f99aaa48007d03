"""Posteriors: amortized and local are one distribution, and foreign distributions keep their density."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, distributions, nn

from elbowroom.posteriors import (
    Amortized,
    CallablePosterior,
    CouplingFlow,
    DiagonalGaussian,
    FullGaussian,
    Local,
    VariationalDistribution,
    as_posterior,
)

from .test_families import ALL, FAMILIES, noise

S, N = 3, 4


class Encoder(nn.Module):
    """x (N, 5) to the context a family asks for."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.map = nn.Linear(5, width).double()
        with torch.no_grad():
            self.map.weight.copy_(0.3 * noise(width, 5, key="w"))
            self.map.bias.copy_(0.3 * noise(width, key="b"))

    def forward(self, x: Tensor, dose: Tensor | None = None) -> Tensor:
        return self.map(x if dose is None else x + dose[:, None])


def amortized(name: str, size: int = 3) -> Amortized:
    """A posterior of the named family, its weights as far from zero as training might leave it."""
    family = FAMILIES[name](size)
    q = Amortized(Encoder(family.context_size), family).double()
    with torch.no_grad():
        for key, value in q.weights.items():
            value.add_(0.4 * noise(*value.shape, key=key))
    return q


def draw(q: Any, x: Any, n: int = N) -> tuple[Tensor, Tensor]:
    made = q(x)
    z, log_q = made.rsample_and_log_q(noise(S, n, made.noise_size))
    return z.detach(), log_q.detach()


@ALL
def test_localizing_changes_nothing(name: str) -> None:
    """Free of the encoder, a row of parameters per datum: the same z and log q, so L[q] is unchanged at step 0."""
    q, x = amortized(name), noise(N, 5, key="x")
    local = q.localize(x)
    assert {len(value) for value in local.params.values()} == {N}
    for one, other in zip(draw(q, x), draw(local, None), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-12, atol=1e-12)
    for one, other in zip(draw(local, x), draw(local.localize(), None), strict=True):
        assert torch.equal(one, other)


@ALL
def test_a_local_row_moves_its_datum_alone(name: str) -> None:
    q, x = amortized(name), noise(N, 5, key="x")
    local = q.localize(x)
    before = draw(local, x)[0]
    with torch.no_grad():
        for value in local.params.values():
            value[1] += 0.1
    after = draw(local, x)[0]
    assert (after[:, 1] != before[:, 1]).any()
    assert torch.equal(after[:, [0, 2, 3]], before[:, [0, 2, 3]])
    assert torch.equal(draw(q, x)[0], draw(amortized(name), x)[0])


@ALL
def test_rows_are_those_of_their_data(name: str) -> None:
    q, x = amortized(name), noise(N, 5, key="x")
    index = torch.tensor([2, 0, 2])
    eps = noise(S, N, q.family.noise_size)
    local = q.localize(x)
    z, log_q = local(x).rsample_and_log_q(eps)
    for some in (local.rows(index)(x[index]), q.rows(index)(x[index])):
        z_some, log_q_some = some.rsample_and_log_q(eps[:, index])
        np.testing.assert_allclose(z_some.detach(), z[:, index].detach(), rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(log_q_some.detach(), log_q[:, index].detach(), rtol=1e-11)


@ALL
def test_what_is_trained_is_registered(name: str) -> None:
    """Every tensor of encoder and weights, or of every row, has a gradient."""
    x = noise(N, 5, key="x")
    for q in (amortized(name), amortized(name).localize(x)):
        made = q(x)
        z, log_q = made.rsample_and_log_q(noise(S, N, made.noise_size))
        (z.sin().sum() + log_q.sum()).backward()
        parameters = dict(q.named_parameters())
        read = {key for key in parameters if parameters[key].grad is not None}
        assert read == set(parameters)
        constant = made.detached()
        assert not any(value.requires_grad for value in constant.params.values())


@pytest.mark.parametrize("family", [DiagonalGaussian(3), FullGaussian(3), CouplingFlow(3)], ids=lambda f: f.name)
def test_a_local_posterior_starts_at_the_standard_normal(family: Any) -> None:
    local = Local(family, N)
    eps = noise(S, N, 3)
    z, log_q = local().rsample_and_log_q(eps)
    np.testing.assert_allclose(z.detach(), eps, rtol=1e-6)
    np.testing.assert_allclose(log_q.detach(), distributions.Normal(0.0, 1.0).log_prob(eps).sum(-1), rtol=1e-6)


def test_a_local_posterior_owns_its_rows() -> None:
    """What it was made from stays as it was when it is fitted."""
    params = {"mean": noise(N, 3, key="m"), "log_scale": noise(N, 3, key="s")}
    before = {key: value.clone() for key, value in params.items()}
    local = Local(DiagonalGaussian(3), N, params)
    with torch.no_grad():
        for value in local.params.values():
            value.add_(1.0)
    for key, value in params.items():
        assert torch.equal(value, before[key])


def test_an_encoder_may_return_mean_and_log_variance() -> None:
    family, x = DiagonalGaussian((3, 1)), noise(N, 5, key="x")
    one = Amortized(lambda x: torch.cat([x[:, :3], x[:, 1:4]], -1), family)
    pair = Amortized(lambda x: (x[:, :3, None], x[:, 1:4, None]), family)
    for a, b in zip(draw(one, x), draw(pair, x), strict=True):
        assert torch.equal(a, b)
    made = pair(x)
    assert torch.equal(made.params["mean"], x[:, :3])
    np.testing.assert_allclose((2 * made.params["log_scale"]).exp(), x[:, 1:4].exp(), rtol=1e-12)


def test_covariates_go_to_the_encoder() -> None:
    family = DiagonalGaussian(3)
    encoder = Encoder(6)
    x = {"x": noise(N, 5, key="x"), "dose": noise(N, key="dose")}
    expected = draw(Amortized(encoder, family), x["x"] + x["dose"][:, None])
    assert torch.equal(draw(Amortized(encoder, family, condition=["dose"]), x)[0], expected[0])
    assert torch.equal(draw(Amortized(encoder, family), x)[0], draw(Amortized(encoder, family), x["x"])[0])


def test_an_encoder_of_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match="diagonal posterior over 4 latents must emit 8 numbers per datum; got 6"):
        Amortized(Encoder(6), DiagonalGaussian(4))(noise(N, 5))


# ---- foreign distributions


def normals(x: Tensor) -> distributions.Distribution:
    return distributions.Normal(x[:, :3], x[:, 2:].exp())


def tril(x: Tensor) -> Tensor:
    return torch.diag_embed(x[:, 2:].exp()) + (x[:, :1, None] * torch.ones(3, 3, dtype=x.dtype)).tril(-1)


FOREIGN: dict[str, tuple[Any, str | None]] = {
    "normal": (normals, "diagonal"),
    "independent": (lambda x: distributions.Independent(normals(x), 1), "diagonal"),
    "shaped": (lambda x: distributions.Normal(x[:, :3].reshape(-1, 3, 1), 0.5), "diagonal"),
    "multivariate": (lambda x: distributions.MultivariateNormal(x[:, :3], scale_tril=tril(x)), "full"),
    "laplace": (lambda x: distributions.Laplace(x[:, :3], 0.5), None),
    "student": (lambda x: distributions.Independent(distributions.StudentT(5.0, x[:, :3], 0.5), 1), None),
    "mixture": (
        lambda x: distributions.MixtureSameFamily(
            distributions.Categorical(torch.ones(len(x), 2)),
            distributions.Independent(distributions.Normal(torch.stack([x[:, :3], -x[:, :3]], 1), 0.5), 1),
        ),
        None,
    ),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_torch_distribution_keeps_its_density(name: str) -> None:
    make, family = FOREIGN[name]
    q, x = as_posterior(make), noise(N, 5, key="x")
    made = q(x)
    before = torch.get_rng_state()
    z, log_q = made.rsample_and_log_q(noise(S, N, made.noise_size))
    assert torch.equal(torch.get_rng_state(), before)
    assert z.shape == (S, N, 3)
    expected = make(x).log_prob(z.unflatten(-1, (3, 1)) if name == "shaped" else z)
    expected = expected.flatten(2).sum(-1) if expected.ndim > 2 else expected
    np.testing.assert_allclose(log_q, expected, rtol=1e-9)
    np.testing.assert_allclose(made.log_prob(z), expected, rtol=1e-9)
    assert getattr(getattr(made, "family", None), "name", None) == family
    again = made.rsample_and_log_q(noise(S, N, made.noise_size))[0]
    assert torch.equal(again, z)
    other = made.rsample_and_log_q(noise(S, N, made.noise_size, key="other"))[0]
    assert not torch.isclose(other, z).any()


@pytest.mark.parametrize("name", FOREIGN)
def test_only_known_families_can_be_fitted(name: str) -> None:
    make, family = FOREIGN[name]
    q, x = as_posterior(make), noise(N, 5, key="x")
    assert isinstance(q, CallablePosterior)
    if family is None:
        with pytest.raises(TypeError, match="family is unknown"):
            q.localize(x)
        return
    local = q.localize(x)
    for one, other in zip(draw(q, x), draw(local, None), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


def test_posteriors_are_not_wrapped() -> None:
    for q in (amortized("DiagonalGaussian"), Local(DiagonalGaussian(3), 2), as_posterior(normals)):
        assert as_posterior(q) is q
    x = noise(N, 5, key="x")
    made = VariationalDistribution(DiagonalGaussian(3), {"mean": x[:, :3], "log_scale": x[:, 2:]})
    bare: Any = lambda x: made  # noqa: E731
    assert as_posterior(bare)(x) is made


def test_an_answer_that_is_no_distribution_is_refused() -> None:
    with pytest.raises(TypeError, match=r"must return a torch Distribution .*got Tensor"):
        as_posterior(lambda x: x)(noise(N, 5))


def test_a_callable_may_answer_with_a_distribution_that_has_no_density() -> None:
    """`log_prob` is asked for only where `has_density` says so."""

    class Bare:
        noise_size, has_density = 3, False

        def rsample_and_log_q(self, noise: Tensor) -> tuple[Tensor, Tensor]:
            return noise, -0.5 * noise.square().sum(-1)

    q = as_posterior(lambda x: Bare())  # type: ignore[arg-type, return-value]
    z, log_q = q(noise(N, 5, key="x")).rsample_and_log_q(noise(S, N, 3))
    assert z.shape == (S, N, 3)
    assert log_q.shape == (S, N)
