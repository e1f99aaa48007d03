"""What every adapter promises, in one test for all: the library's own number, and a source that is left as it was.

Sources are trained here for seconds. Needs the foreign libraries, which `make adapters` installs.
"""

import importlib
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import elbowroom as er
from elbowroom.cli.model_spec import open_model
from elbowroom.cli.terminal import UserError

pytestmark = [
    pytest.mark.usefixtures("single_precision"),
    pytest.mark.adapters,
    pytest.mark.filterwarnings("ignore"),
]
N = 120
FEATURES = 12


@dataclass(frozen=True)
class Adapted:
    """A source with what its adapter made of it, and the library's own ELBO (mean, error) on the same data."""

    source: nn.Module
    adapt: Callable[[], tuple[Any, Any, Any]]
    own: Callable[[], tuple[float, float]]


def library(name: str) -> Any:
    """A foreign library. In the environment of `make adapters` it must be there."""
    return importlib.import_module(name) if os.environ.get("ELBOWROOM_ADAPTERS") else pytest.importorskip(name)


def bits() -> Tensor:
    """Binary data (N, FEATURES) with three causes."""
    g = torch.Generator().manual_seed(0)
    z, weight = torch.randn(N, 3, generator=g), torch.randn(3, FEATURES, generator=g)
    return (torch.rand(N, FEATURES, generator=g) < (2 * z @ weight).sigmoid()).float()


def counts() -> Tensor:
    """Counts (N, FEATURES) with three causes."""
    g = torch.Generator().manual_seed(1)
    z, weight = torch.randn(N, 3, generator=g), 0.5 * torch.randn(3, FEATURES, generator=g)
    return torch.poisson(5 * (z @ weight).exp(), generator=g) + 1


def spread(calls: list[float]) -> tuple[float, float]:
    """The mean of several calls and its error."""
    values = torch.tensor(calls, dtype=torch.float64)
    return values.mean().item(), values.std().item() / math.sqrt(len(calls))


# ---- sources


class Plain(nn.Module):
    latent_dim = 3

    def __init__(self) -> None:
        super().__init__()
        self.enc, self.dec = nn.Linear(FEATURES, 6), nn.Sequential(nn.Dropout(0.3), nn.Linear(3, FEATURES))

    def encode(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.enc(x).chunk(2, -1)

    def decode(self, z: Tensor) -> Tensor:
        return self.dec(z)


def plain() -> Adapted:
    net, x = Plain(), bits()

    def own() -> tuple[float, float]:
        net.eval()
        with torch.no_grad():
            mean, log_var = net.encode(x)
            kl = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum(-1)
            draws = [mean + (0.5 * log_var).exp() * torch.randn_like(mean) for _ in range(200)]
            bce = nn.functional.binary_cross_entropy_with_logits
            calls = [float((-bce(net.decode(z), x, reduction="none").sum(-1) - kl).mean()) for z in draws]
        net.train()
        return spread(calls)

    return Adapted(net, lambda: (*er.plain(net, encode="mean_logvar", decode="logits"), x), own)


def pythae() -> Adapted:
    models = library("pythae.models")
    x = bits().reshape(N, 1, 3, 4)
    net = models.VAE(models.VAEConfig(input_dim=(1, 3, 4), latent_dim=3, reconstruction_loss="bce"))
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    for _ in range(30):
        optimizer.zero_grad()
        net({"data": x}).loss.backward()
        optimizer.step()

    def own() -> tuple[float, float]:
        net.eval()
        with torch.no_grad():
            calls = [-float(net({"data": x}).loss) for _ in range(200)]
        net.train()
        return spread(calls)

    return Adapted(net, lambda: (*er.pythae(net, x), x), own)


def scvi(epochs: int = 20, **config: Any) -> Adapted:
    module, data = library("scvi"), library("anndata").AnnData(counts().numpy())
    data.obs["lane"] = [str(i % 2) for i in range(N)]
    module.model.SCVI.setup_anndata(data, batch_key="lane")
    source = module.model.SCVI(data, n_latent=3, n_hidden=16, **config)
    source.train(max_epochs=epochs, accelerator="cpu", enable_progress_bar=False)
    source.module.train()

    def own() -> tuple[float, float]:
        source.module.eval()
        calls = [float(source.get_elbo()) for _ in range(200)]
        source.module.train()
        return spread(calls)

    return Adapted(source.module, lambda: er.scvi(source), own)


class Program(nn.Module):
    """A model and guides of Pyro: a normal latent, and with `positive` a second one that is log-normal."""

    def __init__(self, positive: bool, chained: bool) -> None:
        super().__init__()
        self.enc, self.dec = nn.Linear(FEATURES, 8), nn.Linear(3, FEATURES)
        self.positive, self.chained = positive, chained

    def model(self, x: Tensor) -> None:
        pyro, dist = library("pyro"), library("pyro.distributions")
        pyro.module("dec", self.dec)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 3), 1.0).to_event(1))
            rate = (self.dec(z)).exp()
            if self.positive:
                rate = rate * pyro.sample("depth", dist.LogNormal(torch.zeros(len(x)), 0.5))[:, None]
            pyro.sample("x", dist.Poisson(rate).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro, dist = library("pyro"), library("pyro.distributions")
        pyro.module("enc", self.enc)
        with pyro.plate("data", len(x)):
            out = self.enc(x.log1p())
            z = pyro.sample("z", dist.Normal(out[:, :3], (0.5 * out[:, 3:6]).exp()).to_event(1))
            if self.positive:
                mean = out[:, 6] + (z.sum(-1) if self.chained else 0)
                pyro.sample("depth", dist.LogNormal(mean, out[:, 7].exp()))


def pyro(positive: bool = False, chained: bool = False) -> Adapted:
    infer, optim, x, program = library("pyro.infer"), library("pyro.optim"), counts(), Program(positive, chained)
    library("pyro").clear_param_store()
    steps = infer.SVI(program.model, program.guide, optim.Adam({"lr": 1e-2}), infer.Trace_ELBO())
    for _ in range(100):
        steps.step(x)

    def own() -> tuple[float, float]:
        loss = infer.Trace_ELBO()
        return spread([-loss.loss(program.model, program.guide, x) / N for _ in range(400)])

    return Adapted(program, lambda: (*er.pyro(program.model, program.guide, x), x), own)


SOURCES: dict[str, Callable[[], Adapted]] = {
    "plain": plain,
    "pythae": pythae,
    "scvi, zero-inflated": scvi,
    "scvi, negative binomial": lambda: scvi(gene_likelihood="nb", dispersion="gene-batch"),
    "scvi, library size is latent": lambda: scvi(use_observed_lib_size=False),
    "scvi, logistic normal": lambda: scvi(400, latent_distribution="ln", gene_likelihood="poisson"),
    "pyro": pyro,
    "pyro, a positive site": lambda: pyro(positive=True),
    "pyro, a guide that is a chain": lambda: pyro(positive=True, chained=True),
}


@pytest.mark.parametrize("name", SOURCES)
def test_every_adapter_keeps_its_promises(name: str) -> None:
    """The ELBO within four combined errors of the library's own (false alarms: 6e-5 each), data alone as in a batch, a
    ladder and a narrow sandwich; and weights, modes and random state as they were.
    """
    torch.manual_seed(0)
    adapted = SOURCES[name]()
    adapted.source.train()
    weights = {key: value.clone() for key, value in adapted.source.state_dict().items()}
    theirs, error = adapted.own()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    model, q, x = adapted.adapt()
    ours = er.elbo(model, q, x, n_samples=400)
    head = {key: value[:40] for key, value in x.items()} if isinstance(x, dict) else x[:40]
    gaps = er.decompose(model, q, head, plan="quick")
    width = er.sandwich(model, 30, q=q, like=head).width
    assert torch.equal(torch.get_rng_state(), state)
    assert adapted.source.training
    assert all(torch.equal(value, weights[key]) for key, value in adapted.source.state_dict().items())
    assert abs(ours.mean - theirs) < 4 * math.hypot(ours.mc_se, error)
    first = next(iter(gaps.steps.values()))
    assert first.mean > 0
    assert ("amortization" in gaps.steps) == ("chain" not in name)
    assert abs(width.mean) < 0.5
    one = {key: value[:1] for key, value in x.items()} if isinstance(x, dict) else x[:1]
    alone, together = (er.elbo(model, q, rows, n_samples=64) for rows in (one, head))
    known = "chain" not in name  # a q of unknown family has other draws in a block of other size
    allowed = 0.01 if known else 4 * math.hypot(alone.mc_errors[0], together.mc_errors[0])
    assert alone.values[0] == pytest.approx(together.values[0], abs=allowed)


# ---- what is refused


def test_what_pyro_cannot_give_is_refused_by_the_name_of_the_site() -> None:
    pyro, dist = library("pyro"), library("pyro.distributions")
    x = bits()

    def normal_guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))

    def discrete(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(torch.ones(len(x), 3)))
            pyro.sample("x", dist.Normal(k[:, None].float().expand(-1, FEATURES), 1.0).to_event(1), obs=x)

    def shared(x: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mean.expand(len(x), FEATURES), 1.0).to_event(1), obs=x)

    def fixed(x: Tensor) -> None:
        with pyro.plate("data", 7):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    def other(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            u = pyro.sample("u", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(u[:, None].expand(-1, FEATURES), 1.0).to_event(1), obs=x)

    for model, error, words in (
        (discrete, TypeError, "the site k is a Categorical"),
        (shared, TypeError, "mean is not. A site that all data share"),
        (fixed, ValueError, "z has data of size 7"),
        (other, TypeError, r"the guide must have .*\['u'\]; got \['z'\]"),
    ):
        with pytest.raises(error, match=words):
            er.pyro(model, normal_guide, x)


@pytest.mark.parametrize("name", ["TOTALVI", "AUTOZI", "SCANVI"])
def test_what_scvi_cannot_give_is_refused_by_name(name: str) -> None:
    kind = getattr(library("scvi").model, name)
    with pytest.raises(TypeError, match=f"{name} of scvi-tools cannot be measured: "):
        er.scvi(kind.__new__(kind))


def test_what_is_of_no_library_is_named() -> None:
    with pytest.raises(TypeError, match=r"SCVI or LinearSCVI of scvi-tools; got Linear"):
        er.scvi(nn.Linear(2, 2))


def test_an_unfinished_warm_up_of_scvi_is_told() -> None:
    with pytest.warns(UserWarning, match=r"the weight of the KL had risen to 0.0\d+ .*kl_weight="):
        scvi().adapt()


# ---- folders, as --model LIBRARY:FOLDER reads them


def test_a_folder_of_pythae_is_read(tmp_path: Path) -> None:
    models = library("pythae.models")
    net = models.BetaVAE(models.BetaVAEConfig(input_dim=(1, 3, 4), latent_dim=3, beta=2.0))
    net.save(str(tmp_path))
    loaded = open_model(f"pythae:{tmp_path}")
    x = bits().reshape(N, 1, 3, 4)
    assert er.elbo(loaded.model, loaded.q, x, seed=0).mean == er.elbo(*er.pythae(net), x, seed=0).mean
    assert any("kl_weight=2" in note for note in loaded.notes)


def test_a_folder_of_scvi_is_read_with_its_cells(tmp_path: Path) -> None:
    module, data = library("scvi"), library("anndata").AnnData(counts().numpy())
    module.model.SCVI.setup_anndata(data)
    source = module.model.SCVI(data, n_latent=3, n_hidden=16)
    source.train(max_epochs=2, accelerator="cpu", enable_progress_bar=False)
    source.save(str(tmp_path), save_anndata=True, overwrite=True)
    loaded = open_model(f"scvi:{tmp_path}")
    sets: Any = loaded.sets
    sizes = {name: len(rows["x"]) for name, rows in sets.items()}
    assert sizes["all"] == N == sizes["train"] + sizes["validation"]
    model, q, x = er.scvi(source)
    assert er.elbo(loaded.model, loaded.q, sets["all"], seed=0).mean == er.elbo(model, q, x, seed=0).mean
    (tmp_path / "model.pt").write_bytes(b"")
    with pytest.raises(UserError, match=str(tmp_path)):
        open_model(f"scvi:{tmp_path}")
    torch.save({"attr_dict": Evil()}, tmp_path / "model.pt")
    with pytest.raises(UserError, match=r"tables and tensors alone; model\.pt asks for .*system"):
        open_model(f"scvi:{tmp_path}")


class Evil:
    """What runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("echo unpickled",)
