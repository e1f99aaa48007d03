"""Flows of zuko: exact densities, one pass a draw, and what importing zuko does kept out of the process."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

import elbowroom as er
from elbowroom.core import normal, seeded
from elbowroom.posteriors import ZUKO_KINDS, ZukoPosterior, zuko_posterior

from ..scenarios import correlated

S, N = 3, 4
DOUBLE = torch.empty(0, dtype=torch.float64)
ALL = pytest.mark.parametrize("kind", ZUKO_KINDS)


def noise(*shape: int, key: str = "noise") -> Tensor:
    return normal(shape, seeded(0, "test-flows", key), DOUBLE)


class Encoder(nn.Module):
    """x (N, 5) to a random linear answer; `dose`, where given, is added to x."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.3 * noise(5, width, key="w"))

    def forward(self, x: Tensor, dose: Tensor | None = None) -> Tensor:
        return (x if dose is None else x + dose[:, None]) @ self.weight


def posterior(kind: str, size: int = 3, moved: float = 0.2, **options: Any) -> ZukoPosterior:
    """The flow as training could have left it: `moved` away from where it starts."""
    q = zuko_posterior(kind, Encoder(2 * size + 4), size, n_features=4, hidden=(8, 8), **options).double()
    with torch.no_grad():
        for name, value in q.transform.named_parameters():
            value.add_(moved * noise(*value.shape, key=name))
    return q


@ALL
@pytest.mark.parametrize("size", [1, 2, 3])
def test_log_q_is_the_noise_minus_the_log_determinant(kind: str, size: int) -> None:
    """log q(z) = log N(noise) - log |dz / dnoise|, the Jacobian of the whole map by autograd."""
    q, x, eps = posterior(kind, size), noise(N, 5, key="x"), noise(S, N, size)
    z, log_q = q(x).rsample_and_log_q(eps)
    assert (z.shape, log_q.shape) == ((S, N, size), (S, N))
    for s in range(S):
        for i in range(N):
            made = q(x[i : i + 1])
            jacobian = torch.autograd.functional.jacobian(
                lambda e, made=made: made.rsample_and_log_q(e[None, None])[0][0, 0], eps[s, i]
            )
            expected = stats.norm.logpdf(eps[s, i].numpy()).sum() - torch.linalg.slogdet(jacobian)[1].item()
            assert log_q[s, i].item() == pytest.approx(expected, rel=1e-9)


@ALL
def test_log_prob_inverts_the_draw(kind: str) -> None:
    q, x = posterior(kind, 4), noise(N, 5, key="x")
    made = q(x)
    assert made.has_density
    z, log_q = made.rsample_and_log_q(noise(S, N, made.noise_size))
    np.testing.assert_allclose(made.log_prob(z).detach(), log_q.detach(), rtol=1e-8)


@ALL
def test_it_starts_at_the_diagonal_gaussian(kind: str) -> None:
    q, x, eps = posterior(kind, moved=0.0), noise(N, 5, key="x"), noise(S, N, 3)
    mean, log_var, _ = q.net(x).split([3, 3, 4], -1)
    z, log_q = q(x).rsample_and_log_q(eps)
    np.testing.assert_allclose(z.detach(), (mean + (log_var / 2).exp() * eps).detach(), rtol=1e-9)
    expected = stats.norm.logpdf(z.detach(), mean.detach(), (log_var / 2).exp().detach()).sum(-1)
    np.testing.assert_allclose(log_q.detach(), expected, rtol=1e-9)


@ALL
def test_a_datum_is_alone(kind: str) -> None:
    q, x, eps = posterior(kind), noise(N, 5, key="x"), noise(S, N, 3)
    index = torch.tensor([2, 0, 2])
    for one, other in zip(
        q(x).rsample_and_log_q(eps), q.rows(index)(x[index]).rsample_and_log_q(eps[:, index]), strict=True
    ):
        np.testing.assert_allclose(other.detach(), one[:, index].detach(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("kind", "draw", "score"), [("iaf", 1, 5), ("nsf", 1, 5), ("maf", 5, 1)])
def test_the_cheap_direction_is_as_declared(kind: str, draw: int, score: int) -> None:
    """Passes through each network: one, or one per latent and one more for the determinant."""
    q, x = posterior(kind, 4, n_transforms=2), noise(N, 5, key="x")
    passes = [0]

    def count(*_: Any) -> None:
        passes[0] += 1

    for name, module in q.transform.named_modules():
        if name.endswith("hyper"):
            module.register_forward_hook(count)
    made = q(x)
    z, _ = made.rsample_and_log_q(noise(S, N, 4))
    assert passes == [2 * draw]
    made.log_prob(z)
    assert passes == [2 * (draw + score)]


@ALL
def test_networks_are_seeded_and_trained(kind: str) -> None:
    before = torch.get_rng_state()
    one, same, other = (posterior(kind, moved=0.0, seed=seed).transform.state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)
    q = posterior(kind)
    z, log_q = q(noise(N, 5, key="x")).rsample_and_log_q(noise(S, N, 3))
    (z.sin().sum() + log_q.sum()).backward()
    for name, value in q.named_parameters():
        assert value.grad is not None, name
        assert (value.grad != 0).any(), name


def test_covariates_and_shapes_of_the_latents() -> None:
    x = {"x": noise(N, 5, key="x"), "dose": noise(N, key="dose")}
    q = zuko_posterior("iaf", Encoder(10), (3, 1), n_features=4, hidden=(8,), condition=["dose"]).double()
    assert q.context_size == 10
    eps = noise(S, N, 3)
    plain = zuko_posterior("iaf", q.net, 3, n_features=4, hidden=(8,)).double()
    z = plain(x["x"] + x["dose"][:, None]).rsample_and_log_q(eps)[0]
    assert torch.equal(q(x).rsample_and_log_q(eps)[0], z)


@ALL
def test_it_is_measured_like_any_posterior(kind: str) -> None:
    """The encoder's mean is the posterior's, its variances the best: what is lost is closed form, and one step."""
    truth = correlated(40)
    encoder = truth.q.net

    def net(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_var = encoder(x)
        return mean, log_var, torch.ones(len(x), 2)

    q = zuko_posterior(kind, net, 3, n_features=2, hidden=(8,))
    assert er.check(truth.model, q, truth.x) == []
    plain = er.elbo(truth.model, truth.q, truth.x, n_samples=64)
    np.testing.assert_allclose(er.elbo(truth.model, q, truth.x, n_samples=64).values, plain.values, rtol=1e-6)
    gaps = er.decompose(truth.model, q, truth.x, plan="quick")
    assert gaps.family is None
    assert "the family of q is unknown" in " ".join(gaps.notes)
    evidence = truth.model.log_evidence(truth.x)
    np.testing.assert_allclose(gaps.inference.values, evidence - truth.elbo, atol=1.0)
    assert gaps.inference.mean == pytest.approx((evidence - truth.elbo).mean().item(), abs=0.2)


def test_a_foreign_transform_will_do() -> None:
    """A zuko flow as it comes, from data to noise: its inverse makes z."""
    zuko_posterior("iaf", Encoder(8), 2, n_features=4)  # imports zuko, and leaves validation as it was
    import zuko

    flow = zuko.flows.NSF(2, 4, passes=2, hidden_features=(8,))
    q = ZukoPosterior(Encoder(8), flow.transform.inv, 2, 4).double()
    x = noise(N, 5, key="x")
    z, log_q = q(x).rsample_and_log_q(noise(S, N, 2))
    mean, log_var, features = q.net(x).split([2, 2, 4], -1)
    expected = flow(features).log_prob((z - mean) * (-log_var / 2).exp()) - log_var.sum(-1) / 2
    np.testing.assert_allclose(log_q.detach(), expected.detach(), rtol=1e-8)


def test_what_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"kind must be one of .*; got 'glow'"):
        zuko_posterior("glow", Encoder(8), 2)
    with pytest.raises(ValueError, match="zuko posterior over 2 latents must emit 36 numbers per datum; got 8"):
        zuko_posterior("iaf", Encoder(8), 2)(noise(N, 5))
    monkeypatch.setitem(sys.modules, "zuko", None)
    with pytest.raises(ImportError, match=r"^flows by name need zuko .*: pip install elbowroom\[flows\]$"):
        zuko_posterior("iaf", Encoder(8), 2)


VALIDATION = """
import torch
from elbowroom.posteriors import zuko_posterior
for kept in (True, False):
    torch.distributions.Distribution.set_default_validate_args(kept)
    zuko_posterior("nsf", torch.nn.Linear(5, 8), 2, n_features=4)
    assert torch.distributions.Distribution._validate_args is kept
"""


def test_the_import_leaves_validation_as_it_was() -> None:
    run = subprocess.run([sys.executable, "-W", "error", "-c", VALIDATION], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
