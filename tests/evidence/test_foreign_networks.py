"""Networks of users: reached through whatever holds them, random in eval mode, or in another precision."""

import sys
import warnings
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import elbowroom as er

pytestmark = pytest.mark.usefixtures("single_precision")
X = torch.bernoulli(torch.full((60, 20), 0.5), generator=torch.Generator().manual_seed(0))
D = 4


class Slotted:
    """An object without a dictionary, inside which no module can be found."""

    __slots__ = ("net",)

    def __init__(self, net: nn.Module) -> None:
        self.net = net


def dropping() -> nn.Sequential:
    return nn.Sequential(nn.Linear(D, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 20))


def encoder() -> er.Amortized:
    return er.Amortized(nn.Linear(20, 2 * D), er.DiagonalGaussian(D))


def through_python_module(monkeypatch: pytest.MonkeyPatch, net: nn.Module, imported_inside: bool) -> Any:
    module = ModuleType("users_networks")
    monkeypatch.setattr(module, "decoder", net, raising=False)
    monkeypatch.setitem(sys.modules, "users_networks", module)

    def inside(z: Tensor) -> Any:
        import users_networks  # type: ignore[import-not-found]

        return users_networks.decoder(z)

    return inside if imported_inside else lambda z: module.decoder(z)


def test_modes_are_set_through_a_python_module_and_a_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    """And restored: dropout is off while the model is measured, and on again afterwards."""
    net = dropping()
    holder = SimpleNamespace(decoder=net)
    for decoder in (through_python_module(monkeypatch, net, False), lambda z: holder.decoder(z)):
        model = er.DecoderModel(decoder, "bernoulli", D)
        first, second = (er.elbo(model, er.Amortized(lambda x: x[:, :8], er.DiagonalGaussian(D)), X) for _ in range(2))
        np.testing.assert_array_equal(first.values, second.values)
        assert net.training


RANDOM = {
    "a slot": lambda monkeypatch: (lambda held: lambda z: held.net(z))(Slotted(dropping())),
    "an import inside the function": lambda monkeypatch: through_python_module(monkeypatch, dropping(), True),
    "noise of its own": lambda monkeypatch: lambda z: z @ torch.ones(D, 20) + torch.randn(len(z), 20),
}


@pytest.mark.parametrize("where", RANDOM)
@pytest.mark.parametrize("entry", ["decompose", "elbo", "iwae", "ais", "fit_local"])
def test_randomness_that_survives_eval_mode_is_refused_by_every_entry(
    where: str, entry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, q = er.DecoderModel(RANDOM[where](monkeypatch), "bernoulli", D), encoder()
    calls: dict[str, Any] = {
        "decompose": lambda: er.decompose(model, q, X, plan="quick"),
        "elbo": lambda: er.elbo(model, q, X),
        "iwae": lambda: er.iwae(model, q, X),
        "ais": lambda: er.ais(model, X),
        "fit_local": lambda: er.fit_local(er.DiagonalGaussian(D), model, X),
    }
    with pytest.raises(er.CheckError, match="log_likelihood must be deterministic in eval mode"):
        calls[entry]()


def test_a_random_encoder_is_refused_too() -> None:
    net = nn.Linear(20, 2 * D)
    q = er.Amortized(lambda x: net(x) + torch.randn(len(x), 2 * D), er.DiagonalGaussian(D))
    with pytest.raises(er.CheckError, match="q must be deterministic in eval mode"):
        er.elbo(er.DecoderModel(nn.Linear(D, 20), "bernoulli", D), q, X)


# ---- precision


def mixed(kind: str) -> tuple[er.DecoderModel, er.Amortized]:
    teacher, decoder, net = nn.Linear(20, 2 * D).double(), nn.Linear(D, 20), nn.Linear(20, 2 * D)
    double = nn.Linear(D, 20).double()
    family = er.DiagonalGaussian(D)
    return {
        "q's closure holds a double network": lambda: (
            er.DecoderModel(decoder, "bernoulli", D),
            er.Amortized(lambda x: teacher(x.double()).float(), family),
        ),
        "the decoder's closure holds one": lambda: (
            er.DecoderModel(lambda z: double(z.double()).float(), "bernoulli", D),
            er.Amortized(net, family),
        ),
        "a double encoder": lambda: (er.DecoderModel(decoder, "bernoulli", D), er.Amortized(teacher, family)),
        "a double decoder": lambda: (er.DecoderModel(double, "bernoulli", D), er.Amortized(net, family)),
    }[kind]()


@pytest.mark.parametrize(
    "kind",
    [
        "q's closure holds a double network",
        "the decoder's closure holds one",
        "a double encoder",
        "a double decoder",
    ],
)
def test_each_network_gets_its_own_precision(kind: str) -> None:
    """The ELBO is that of the same networks in double precision, up to the rounding of single."""
    model, q = mixed(kind)
    found = er.elbo(model, q, X, n_samples=200)
    assert er.decompose(model, q, X, plan="quick").elbo.finite.all()
    for module in (model, q):
        module.double()
    if "closure" not in kind:
        same = er.elbo(model, q, X.double(), n_samples=200)
        np.testing.assert_allclose(found.values, same.values, atol=1e-3)


def test_a_model_that_nothing_explains_is_left_out_without_a_warning() -> None:
    """Log weights of -inf on some data: they are flagged, and no arithmetic warns of them."""

    def log_likelihood(x: Tensor, z: Tensor) -> Tensor:
        impossible = (x[:, 0] > 0.5) & (z[..., 0] > -100)
        return torch.where(impossible, torch.full(z.shape[:2], -torch.inf), -0.5 * z.square().sum(-1))

    q = er.Amortized(nn.Linear(20, 4), er.DiagonalGaussian(2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gaps = er.decompose(er.FunctionModel(log_likelihood, 2), q, X, check=False)
    assert gaps.n_excluded == int((X[:, 0] > 0.5).sum())
    assert (gaps.flags[X[:, 0].numpy() > 0.5] & er.Flag.NOT_FINITE > 0).all()


@pytest.mark.parametrize("kl_weight", [1.0, 2.0])
def test_a_family_too_large_to_fit_says_so(kl_weight: float) -> None:
    size = 302
    family = er.FullGaussian(size)
    model = er.DecoderModel(nn.Linear(size, 20), "bernoulli", size)

    def net(x: Tensor) -> Tensor:
        return torch.zeros(len(x), family.context_size)

    gaps = er.decompose(model, er.Amortized(net, family), X, plan="quick", kl_weight=kl_weight)
    assert "q's own family (full) is not fitted to 302 latents" in " ".join(gaps.notes)
    assert list(gaps.steps) == ["inference"]
    with pytest.raises(TypeError, match=r"best member of q's own family \(full\), which was not fitted"):
        _ = gaps.amortization
