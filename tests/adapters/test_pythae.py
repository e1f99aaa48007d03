"""Models of pythae, trained here for a few steps: our ELBO is that of their own loss. Needs the extra `pythae`."""

import importlib
import os
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import elbowroom as er

pytestmark = [
    pytest.mark.usefixtures("single_precision"),
    pytest.mark.adapters,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:trained with beta", "ignore:.*is not trained on the ELBO"),
]
SHAPE, D, N = (1, 4, 5), 3, 300
LOSSES = ["mse", "bce"]
NAMES = ["VAE", "BetaVAE", "VAMP", "IWAE", "MIWAE", "CIWAE", "PIWAE", "BetaTCVAE", "DisentangledBetaVAE", "FactorVAE"]


@pytest.fixture(scope="module")
def models() -> Any:
    """The library's classes. In the environment of `make adapters` they must be there."""
    if os.environ.get("ELBOWROOM_ADAPTERS"):
        return importlib.import_module("pythae.models")
    return pytest.importorskip("pythae.models")


def data() -> Tensor:
    z = torch.randn(N, D, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(D, 20, generator=torch.Generator().manual_seed(1))
    return (
        (torch.rand(N, 20, generator=torch.Generator().manual_seed(2)) < (2 * z @ weight).sigmoid())
        .float()
        .reshape(N, *SHAPE)
    )


def trained(models: Any, name: str, **config: Any) -> Any:
    """A model of pythae after thirty steps of its own loss, in train mode."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        settings = getattr(models, f"{name}_Config", None) or getattr(models, f"{name}Config")
        model = getattr(models, name)(settings(input_dim=SHAPE, latent_dim=D, **config))
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        if name != "FactorVAE":
            for _ in range(30):
                optimizer.zero_grad()
                model({"data": data()}, epoch=1, dataset_size=N).loss.backward()
                optimizer.step()
    return model.train()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", NAMES)
def test_the_elbo_is_that_of_the_models_own_loss(models: Any, name: str, loss: str) -> None:
    """Within four errors (false alarms: 1e-4 each). The model is left in train mode, with its weights."""
    source = trained(models, name, reconstruction_loss=loss)
    before = {key: value.clone() for key, value in source.state_dict().items()}
    model, q = er.pythae(source, data())
    assert source.training
    assert all(torch.equal(value, before[key]) for key, value in source.state_dict().items())
    assert er.decompose(model, q, data()[:20], plan="quick").amortization.mean > 0


def test_a_beta_has_two_readings(models: Any) -> None:
    source = trained(models, "BetaVAE", reconstruction_loss="mse", beta=4.0)
    with pytest.warns(UserWarning, match=r"kl_weight=4 .*sigma=\"implied\""):
        unit, q = er.pythae(source, data())
    implied, _ = er.pythae(source, data(), sigma="implied")
    assert unit.likelihood.constant_scale == 1.0
    assert implied.likelihood.constant_scale == 2.0
    assert er.elbo(unit, q, data()).mean != er.elbo(implied, q, data()).mean


def test_a_vamp_prior_is_normalized_and_sampled(models: Any) -> None:
    """exp(log p(z)) integrates to one by importance sampling (false alarms: 1e-6); its sandwich is narrow."""
    model, q = er.pythae(trained(models, "VAMP", number_components=10))
    prior: Any = model.prior
    with torch.no_grad():
        z = 3 * torch.randn(1, 40_000, D, generator=torch.Generator().manual_seed(3))
        log_w = prior.log_prob(z)[0] - torch.distributions.Normal(0.0, 3.0).log_prob(z[0]).sum(-1)
    assert abs(log_w.exp().mean() - 1) < 5 * log_w.exp().std() / 200
    assert er.sandwich(model, 20, q).width.mean < 0.5


@pytest.mark.parametrize("loss", LOSSES)
def test_the_q_of_a_vae_iaf_is_a_flow(models: Any, loss: str) -> None:
    """Its ELBO is that of its own loss, log q(z) at its draws is what they came with, and only inference is a step."""
    source = trained(models, "VAE_IAF", reconstruction_loss=loss)
    model, q = er.pythae(source, data())
    with torch.no_grad():
        distribution = q(data()[:7])
        z, log_q = distribution.rsample_and_log_q(torch.randn(4, 7, D, generator=torch.Generator().manual_seed(4)))
        torch.testing.assert_close(distribution.log_prob(z), log_q, rtol=1e-4, atol=1e-4)
    gaps = er.decompose(model, q, data()[:20], plan="quick")
    assert gaps.family is None
    assert list(gaps.steps) == ["inference"]
    assert gaps.inference.mean > 0
    assert source.training


@pytest.mark.parametrize("name", ["AE", "WAE_MMD", "VQVAE", "RAE_L2", "Adversarial_AE", "VAEGAN", "SVAE", "VAE_LinNF"])
def test_what_has_no_density_is_refused_by_name(models: Any, name: str) -> None:
    kind = getattr(models, name)
    with pytest.raises(TypeError, match=f"{name} of pythae cannot be measured: "):
        er.pythae(kind.__new__(kind))


def test_a_subclass_of_the_users_own_is_recognized(models: Any) -> None:
    class Mine(models.VAE):
        pass

    source = trained(models, "VAE")
    source.__class__ = Mine
    assert er.pythae(source, data())[0].latent_shape == (D,)


def test_what_is_not_of_pythae_is_named() -> None:
    with pytest.raises(TypeError, match=r"one of VAE, .*got Linear.*er\.plain"):
        er.pythae(nn.Linear(2, 2))
