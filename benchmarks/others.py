"""Other people's models, measured: their own ELBO beside ours, and the ladder; writes docs/others.md.

    .venv-adapters/bin/python -m benchmarks.others

The public checkpoints lie under $ELBOWROOM_DATA; models of pythae, scvi-tools and Pyro are trained here for half a
minute each. The environment is that of `make adapters`.
"""

import importlib
import math
import os
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

import elbowroom as er
from elbowroom.datasets import binarize, mnist
from tests.external import BitsBack, bdmc_mnist, jax_mnist, mnist_images, torch_mnist100

PAGE = Path(__file__).resolve().parent.parent / "docs" / "others.md"
N_TRAIN, N_TEST, EPOCHS = 2000, 100, 25
DRAWS = 1000  # of the own ELBO, for each datum
Case: TypeAlias = tuple[
    str, str, Any, Any, Any, Callable[[], tuple[float, float]]
]  # name, code, model, q, x, own (mean, error)
INTRO = """# Other people's models, measured

Each model's own ELBO, by the code of its owners, beside `er.elbo`; how many combined Monte Carlo errors they are apart;
and the steps of the ladder by plan `standard`, in nats per datum. All runs have seed 0. This page is written by
`python -m benchmarks.others`, in the environment that `make adapters` builds.

"""
HEAD = (
    "| model | data | own ELBO | er.elbo | errors apart | amortization | factorization | gaussianity + remainder "
    "| in one line |"
)
NOTES = """

- The first four are public checkpoints of MNIST, on images for which their owners published figures. The owners of the
  fourth gave -111.365 themselves. For the others the loss is written out in `benchmarks/others.py`, with 1,000 draws
  for each datum.
- bitsback_mnist emits a standard deviation. Read as a log variance its ELBO is -253: every shape fits, and only the
  comparison with the owners' number finds it.
- The models of pythae have 8 latents and were trained for 25 epochs on 2,000 binary images of MNIST; they are measured
  on 100 others. IWAE and BetaTCVAE are not trained on the ELBO, nor is BetaVAE with its beta of 4, so their
  amortization includes that of the objective.
- The models of scvi-tools have 5 latents (and the library size, where it is latent) and were trained for 400 epochs on
  500 simulated cells of 100 genes in two batches; their own number is `get_elbo`, averaged over 200 calls.
- The models of Pyro have 8 latents and were trained on the images of pythae's models; their own number is `Trace_ELBO`.
  The second one has a positive latent for the ink of an image beside them, with a log-normal guide.
"""


def main() -> None:
    torch.set_num_threads(2)
    folder = Path(os.environ["ELBOWROOM_DATA"])
    rows = []
    for name, code, model, q, x, own in (*_checkpoints(folder), *_pythae(folder), *_scvi(), *_pyro(folder)):
        theirs, error = own()
        ours = er.elbo(model, q, x, n_samples=500)
        gaps = er.decompose(model, q, x, seed=0)
        apart = (ours.mean - theirs) / math.hypot(ours.mc_se, error)
        steps = " | ".join(f"{step.mean:.2f}" for step in gaps.steps.values())
        rows.append(f"| {name} | {len(gaps)} | {theirs:.3f} | {ours.mean:.3f} | {apart:+.1f} | {steps} | `{code}` |")
        print(rows[-1], flush=True)
    PAGE.write_text(INTRO + "\n".join([HEAD, "|---|--:|--:|--:|--:|--:|--:|--:|---|", *rows]) + NOTES)


def _checkpoints(folder: Path) -> Iterator[Case]:
    model, q = bdmc_mnist(folder)
    x = mnist_images(folder, "test", 100, 255)
    yield "bdmc_mnist", "er.DecoderModel, er.Amortized", model, q, x, lambda: _plain_elbo(model.decoder, q.net, x)
    other, p = jax_mnist(folder)
    y = mnist_images(folder, "train", 100, 256)
    yield "jax_mnist_ffg", "er.DecoderModel, er.Amortized", other, p, y, lambda: _plain_elbo(other.decoder, p.net, y)
    third, r, own, _ = torch_mnist100(folder)
    yield (
        "torch_mnist100_ffg",
        "er.DecoderModel, er.Amortized",
        third,
        r,
        own,
        lambda: _plain_elbo(third.decoder, r.net, own),
    )
    made = er.plain(BitsBack(folder), encode="mean_std", decode="probs")
    bits = binarize(mnist("test", folder))[:200].flatten(1)
    yield "bitsback_mnist", 'er.plain(net, encode="mean_std", decode="probs")', *made, bits, lambda: (-111.365, 0.02)


def _plain_elbo(decoder: Any, encoder: Any, x: Tensor) -> tuple[float, float]:
    """The loss of the usual VAE: cross-entropy of the logits, and the closed form of the KL."""
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        mean, log_var = encoder(x).chunk(2, -1)
        kl = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum(-1)
        draws = []
        for _ in range(DRAWS):
            z = mean + (0.5 * log_var).exp() * torch.randn(mean.shape, generator=g)
            bce = torch.nn.functional.binary_cross_entropy_with_logits(decoder(z), x, reduction="none").sum(-1)
            draws.append((-bce - kl).mean().item())
    return float(np.mean(draws)), float(np.std(draws) / math.sqrt(len(draws)))


def _pythae(folder: Path) -> Iterator[Case]:
    models = importlib.import_module("pythae.models")
    images = binarize(mnist("train", folder))[: N_TRAIN + N_TEST].reshape(-1, 1, 28, 28)
    train, test = images[:N_TRAIN], images[N_TRAIN:]
    for name, config in (
        ("VAE", {"reconstruction_loss": "bce"}),
        ("VAE", {"reconstruction_loss": "mse"}),
        ("BetaVAE", {"reconstruction_loss": "bce", "beta": 4.0}),
        ("VAMP", {"reconstruction_loss": "bce", "number_components": 50}),
        ("IWAE", {"reconstruction_loss": "bce", "number_samples": 10}),
        ("BetaTCVAE", {"reconstruction_loss": "bce", "beta": 2.0}),
    ):
        source = _trained(models, name, train, config)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model, q = er.pythae(source)
        label = f"pythae {name}, {config['reconstruction_loss']}"
        yield label, "er.pythae(model)", model, q, test, partial(_own_loss, source, test)


def _trained(models: Any, name: str, x: Tensor, config: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    settings = getattr(models, f"{name}Config")(input_dim=(1, 28, 28), latent_dim=8, **config)
    source = getattr(models, name)(settings)
    optimizer = torch.optim.Adam(source.parameters(), 1e-3)
    for epoch in range(EPOCHS):
        for rows in torch.randperm(len(x)).split(100):
            optimizer.zero_grad()
            source({"data": x[rows]}, epoch=epoch, dataset_size=len(x)).loss.backward()
            optimizer.step()
    return source.eval()


def _own_loss(source: Any, x: Tensor) -> tuple[float, float]:
    """Minus the library's reconstruction and KL terms, by its own functions, with the constant of squared errors."""
    torch.manual_seed(1)
    loss = next(vars(kind)["loss_function"] for kind in type(source).__mro__ if kind.__name__ in ("VAMP", "VAE"))
    extra = (100,) if type(source).__name__ == "VAMP" else ()
    constant = 0.5 * x[0].numel() * math.log(2 * math.pi) if source.model_config.reconstruction_loss == "mse" else 0.0
    draws = []
    with torch.no_grad():
        encoded = source.encoder(x)
        mean, log_var = encoded.embedding, encoded.log_covariance
        for _ in range(DRAWS):
            z = mean + (0.5 * log_var).exp() * torch.randn_like(mean)
            _, reconstruction, kl = loss(source, source.decoder(z)["reconstruction"], x, mean, log_var, z, *extra)
            draws.append(-float(reconstruction + kl) - constant)
    return float(np.mean(draws)), float(np.std(draws) / math.sqrt(len(draws)))


def _scvi() -> Iterator[Case]:
    library, anndata = importlib.import_module("scvi"), importlib.import_module("anndata")
    g = torch.Generator().manual_seed(0)
    z, weight = torch.randn(500, 5, generator=g), 0.5 * torch.randn(5, 100, generator=g)
    depth = (0.3 * torch.randn(500, 1, generator=g)).exp()
    counts = torch.poisson(4 * depth * (z @ weight).exp(), generator=g)
    data = anndata.AnnData(counts.numpy())
    data.obs["batch"] = [str(i % 2) for i in range(len(counts))]
    library.model.SCVI.setup_anndata(data, batch_key="batch")
    for label, config in (
        ("zero-inflated", {}),
        ("negative binomial", {"gene_likelihood": "nb"}),
        ("library size latent", {"use_observed_lib_size": False}),
    ):
        library.settings.seed = 0  # its loaders draw from numpy, too
        source = library.model.SCVI(data, n_latent=5, n_hidden=64, **config)
        source.train(max_epochs=401, accelerator="cpu", enable_progress_bar=False, train_size=1.0)
        cells = list(range(N_TEST))
        model, q, x = er.scvi(source, cells)
        yield f"scvi-tools SCVI, {label}", "er.scvi(model, cells)", model, q, x, partial(_get_elbo, source, cells)


def _get_elbo(source: Any, cells: list[int]) -> tuple[float, float]:
    draws = [float(source.get_elbo(indices=cells)) for _ in range(200)]
    return float(np.mean(draws)), float(np.std(draws) / math.sqrt(len(draws)))


class _Pair(torch.nn.Module):
    """A model and a guide of Pyro; with `ink`, a positive latent multiplies the probabilities' odds."""

    def __init__(self, ink: bool) -> None:
        super().__init__()
        self.ink = ink
        self.encoder = torch.nn.Sequential(torch.nn.Linear(784, 128), torch.nn.ReLU(), torch.nn.Linear(128, 18))
        self.decoder = torch.nn.Sequential(torch.nn.Linear(8, 128), torch.nn.ReLU(), torch.nn.Linear(128, 784))

    def model(self, x: Tensor) -> None:
        pyro, dist = importlib.import_module("pyro"), importlib.import_module("pyro.distributions")
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 8), 1.0).to_event(1))
            logits = self.decoder(z)
            if self.ink:
                logits = logits + pyro.sample("ink", dist.LogNormal(torch.zeros(len(x)), 0.5)).log()[:, None]
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro, dist = importlib.import_module("pyro"), importlib.import_module("pyro.distributions")
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(x)):
            out = self.encoder(x)
            pyro.sample("z", dist.Normal(out[:, :8], (0.5 * out[:, 8:16]).exp()).to_event(1))
            if self.ink:
                pyro.sample("ink", dist.LogNormal(out[:, 16], out[:, 17].exp()))


def _pyro(folder: Path) -> Iterator[Case]:
    pyro = importlib.import_module("pyro")
    infer, optim = importlib.import_module("pyro.infer"), importlib.import_module("pyro.optim")
    images = binarize(mnist("train", folder))[: N_TRAIN + N_TEST].reshape(-1, 784)
    train, test = images[:N_TRAIN], images[N_TRAIN:]
    for label, ink in (("normal", False), ("a positive site", True)):
        torch.manual_seed(0)
        pyro.clear_param_store()
        pair = _Pair(ink)
        steps = infer.SVI(pair.model, pair.guide, optim.Adam({"lr": 1e-3}), infer.Trace_ELBO())
        for _ in range(EPOCHS):
            for rows in torch.randperm(len(train)).split(100):
                steps.step(train[rows])
        model, q = er.pyro(pair.model, pair.guide, test)
        yield f"Pyro, {label}", "er.pyro(model, guide, x)", model, q, test, partial(_trace_elbo, infer, pair, test)


def _trace_elbo(infer: Any, pair: _Pair, x: Tensor) -> tuple[float, float]:
    draws = [-infer.Trace_ELBO().loss(pair.model, pair.guide, x) / len(x) for _ in range(DRAWS)]
    return float(np.mean(draws)), float(np.std(draws) / math.sqrt(len(draws)))


if __name__ == "__main__":
    main()
