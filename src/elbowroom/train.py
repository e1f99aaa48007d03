r"""Train encoder and decoder together by stochastic gradients of the ELBO, and keep what was trained.

    maximize   mean over x of   E_q[ log p(x|z) + b (log p(z) - w log q(z|x)) ],   w = min(1, epoch / warmup)

b is `kl_weight` (1: the ELBO). The warm-up anneals the entropy alone, as in Cremer, Li and Duvenaud 2018:
during it q is pulled towards the posterior's mode, less so every epoch (counted from 1). Adam with eps 1e-4,
one sample a datum. The order of the data and the noise of an epoch come from `seeded(seed, "train", epoch)`.

A trained model is a folder: `config.json`, whose `architecture` says how to build the networks, and
`model.safetensors` with the weights. Nothing is pickled; files are written under a temporary name, then
renamed.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from . import likelihoods
from .blocks import as_data, move, n_data, take
from .families import AuxiliaryFlow, CouplingFlow, DiagonalGaussian, FullGaussian
from .model import DecoderModel
from .nets import mlp_decoder, mlp_encoder
from .posteriors import Amortized
from .rng import forked, normal, seeded

__all__ = [
    "Architecture", "Epoch", "build", "demo_model", "entropy_weight", "fit", "learning_rate_factor",
    "load_model", "save_model", "shipped",
]  # fmt: skip

ADAM_EPS = 1e-4
FAMILIES = {family.name: family for family in (DiagonalGaussian, FullGaussian, CouplingFlow, AuxiliaryFlow)}
WEIGHTS, CONFIG = "model.safetensors", "config.json"
Schedule = str | Callable[[int, int], float]


@dataclass(frozen=True)
class Architecture:
    """How to build the networks of a VAE; the defaults are the paper's. `networks` leaves room for others."""

    n_in: int = 784
    n_latent: int = 50
    encoder_hidden: tuple[int, ...] = (200, 200)
    decoder_hidden: tuple[int, ...] = (200, 200)
    family: str = "diagonal"
    likelihood: str = "bernoulli"
    scale: float | str | None = None  # of a gaussian or laplace likelihood: a number, "learned" or "decoder"
    networks: str = "mlp"

    def __post_init__(self) -> None:
        if self.networks != "mlp" or self.family not in FAMILIES:
            raise ValueError(
                f'architecture: expected networks "mlp" and a family of {sorted(FAMILIES)}; '
                f"got {self.networks!r} and {self.family!r}"
            )
        sizes = (self.n_in, self.n_latent, *self.encoder_hidden, *self.decoder_hidden)
        if any(not isinstance(size, int) or size < 1 for size in sizes):
            raise ValueError(f"architecture: sizes must be positive integers; got {list(sizes)}")
        if self.likelihood in ("gaussian", "laplace") and self.scale is None:
            raise ValueError(f'architecture: {self.likelihood} needs scale: a number, "learned" or "decoder"')


@dataclass(frozen=True)
class Epoch:
    """Means over the data in nats per datum, taken while the parameters moved: not an evaluation."""

    epoch: int
    objective: float
    elbo: float
    log_likelihood: float
    learning_rate: float
    entropy_weight: float
    seconds: float = field(compare=False)


@dataclass(frozen=True)
class _Settings:
    """What defines a training run apart from model, data and architecture."""

    epochs: int
    seed: int
    batch_size: int
    learning_rate: float
    schedule: Schedule
    warmup: int
    kl_weight: float

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1), ("warmup", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}; got {getattr(self, name)}")
        for name in ("learning_rate", "kl_weight"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive and finite; got {getattr(self, name)}")
        learning_rate_factor(self.schedule, 1, self.epochs)


def fit(
    model: Any,
    q: nn.Module,
    x: Any,
    *,
    epochs: int,
    seed: int,
    batch_size: int = 100,
    learning_rate: float = 1e-3,
    schedule: Schedule = "constant",
    warmup: int = 0,
    kl_weight: float = 1.0,
    out: str | Path | None = None,
    config: Mapping[str, Any] | None = None,
    progress: Callable[[Epoch], None] | None = None,
) -> tuple[Epoch, ...]:
    """Train, in place, the parameters of the modules `q` and `model` that require a gradient -> their epochs.

    To train q alone, freeze the model (`requires_grad_(False)`): it then also stays in its own mode.

    Args:
        model, q: a `LatentModel` and a posterior. x: N data (tensor, mapping, map-style dataset).
        schedule: "constant", "stepped", "cosine", or (epoch, epochs) -> factor of `learning_rate`.
        warmup: epochs until the entropy has its full weight. kl_weight: b.
        out: a folder without a model; `config`, `model.safetensors` and a line of `epochs.jsonl` are saved
            after each epoch. progress: called with each `Epoch`.
    Raises:
        FloatingPointError: an epoch ended with a value that is not finite. The parameters, here and in
            `out`, are then those of the last good epoch. Global random state and modes are as found.
    """
    settings = _Settings(epochs, seed, batch_size, learning_rate, schedule, warmup, kl_weight)
    modules = _modules(q, model)
    parameters = _trainable(*modules.values())
    if not parameters:
        raise ValueError("nothing to train: no parameter of q or model requires a gradient")
    x = as_data(x)
    if isinstance(x, Tensor | Mapping):
        x = move(x, parameters[0].device, parameters[0].dtype)
    folder = None if out is None else Path(out)
    if folder is not None and (folder / WEIGHTS).exists():
        raise ValueError(f"{folder}: holds a model already; train into a new folder, or remove this one")
    optimizer = torch.optim.Adam(parameters, lr=learning_rate, eps=ADAM_EPS)
    done: list[Epoch] = []
    with _training(part for part in modules.values() if _trainable(part)):
        for number in range(1, epochs + 1):
            good = {name: value.clone() for name, value in _state(modules).items()}
            metrics = _run_epoch(model, q, x, optimizer, number, settings)
            if not _finite(metrics, parameters):
                _restore(modules, good)
                raise FloatingPointError(_stopped(metrics, settings, folder if done else None))
            done.append(metrics)
            if folder is not None:
                save_model(folder, q, model, {**(config or {}), "training": _said(settings, number)})
                with (folder / "epochs.jsonl").open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps(asdict(metrics)) + "\n")
            if progress is not None:
                progress(metrics)
    return tuple(done)


def entropy_weight(epoch: int, warmup: int) -> float:
    """w = min(1, epoch / warmup), epochs counted from 1; 1 without a warm-up."""
    return min(1.0, epoch / warmup) if warmup else 1.0


def learning_rate_factor(schedule: Schedule, epoch: int, epochs: int) -> float:
    """The factor of the learning rate in `epoch` of 1..`epochs`.

    "constant"  1
    "stepped"   10^(-i/7) for 3^i epochs, i = 0..7 (Burda, Grosse, Salakhutdinov 2015): exactly so for 3,280
                epochs, stretched or shrunk in proportion for another number
    "cosine"    (1 + cos(pi (epoch - 1) / epochs)) / 2
    """
    if callable(schedule):
        return schedule(epoch, epochs)
    if schedule == "constant":
        return 1.0
    if schedule == "stepped":  # stage i starts after (3^i - 1) / 2 of the 3,280 epochs
        stage = sum((3**i - 1) * epochs <= 6560 * (epoch - 1) for i in range(1, 8))
        return 10 ** (-stage / 7)
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (epoch - 1) / epochs))
    raise ValueError(f'schedule must be "constant", "stepped", "cosine" or a function; got {schedule!r}')


def build(architecture: Architecture | Mapping[str, Any], seed: int = 0) -> tuple[DecoderModel, Amortized]:
    """(model, q) with freshly drawn weights, a function of `seed`; global random state is left as found."""
    a = architecture if isinstance(architecture, Architecture) else _architecture(architecture)
    likelihood: Any = a.likelihood
    if a.likelihood in ("gaussian", "laplace"):
        likelihood = getattr(likelihoods, a.likelihood)(scale=a.scale)
    with forked(seeded(seed, "init").initial_seed()):
        family = FAMILIES[a.family](a.n_latent)
        encoder = mlp_encoder(a.n_in, family.context_size, a.encoder_hidden)
        decoder = mlp_decoder(a.n_latent, a.n_in * (2 if a.scale == "decoder" else 1), a.decoder_hidden)
        return DecoderModel(decoder, likelihood, a.n_latent), Amortized(encoder, family)


def save_model(folder: str | Path, q: nn.Module, model: Any, config: Mapping[str, Any]) -> None:
    """Write `config.json` and `model.safetensors` into `folder`, each whole or not at all.

    `config["architecture"]` (`asdict(Architecture(...))`) is what `load_model` builds from; a config without
    one saves the weights of networks of your own, which `load_model` then cannot build.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise ValueError(f"{folder}: a model is saved as a folder, and this is a file") from None
    text = json.dumps(dict(config), indent=2, allow_nan=False) + "\n"
    weights = {name: value.detach().cpu().clone() for name, value in _state(_modules(q, model)).items()}
    _write(folder / WEIGHTS, save(weights))
    _write(folder / CONFIG, text.encode())


def load_model(folder: str | Path) -> tuple[DecoderModel, Amortized, dict[str, Any]]:
    """(model, q, config) of a folder that `save_model` wrote, on the CPU and in evaluation mode.

    Raises FileNotFoundError or ValueError: what is missing, damaged, or does not fit the architecture.
    """
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder}: expected a model's folder with {CONFIG} and {WEIGHTS}; no {name} there")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG}: not JSON ({error})") from None
    if not isinstance(config, dict) or "architecture" not in config:
        raise ValueError(
            f"{folder / CONFIG}: no `architecture` to build the networks from; the weights can be read with safetensors"
        )
    model, q = build(config["architecture"])
    modules = _modules(q, model)
    _restore(modules, _read_weights(folder / WEIGHTS, _state(modules)))
    return model.eval(), q.eval(), config


def shipped(name: str = "fashion-mnist") -> tuple[DecoderModel, Amortized]:
    """(model, q) of a model that comes with the package."""
    assets = resources.files("elbowroom") / "assets"
    names = sorted(entry.name for entry in assets.iterdir() if (entry / WEIGHTS).is_file())
    if name not in names:
        raise ValueError(f"no shipped model is named {name!r}; there is {', '.join(names) or 'none'}")
    with resources.as_file(assets / name) as folder:
        return load_model(folder)[:2]


def demo_model() -> tuple[DecoderModel, Amortized]:
    """(model, q) of the demo: the paper's VAE on thresholded Fashion-MNIST, for `data.demo_images`."""
    return shipped("fashion-mnist")


def _run_epoch(
    model: Any, q: nn.Module, x: Any, optimizer: torch.optim.Optimizer, epoch: int, settings: _Settings
) -> Epoch:
    """One pass over the data. Nothing is read back from the device before its end."""
    start = time.perf_counter()
    like = optimizer.param_groups[0]["params"][0]
    weight = entropy_weight(epoch, settings.warmup)
    rate = settings.learning_rate * learning_rate_factor(settings.schedule, epoch, settings.epochs)
    optimizer.param_groups[0]["lr"] = rate
    generator = seeded(settings.seed, "train", epoch, device=like.device)
    order = torch.randperm(n_data(x), generator=generator, device=like.device)
    sums = torch.zeros(3, dtype=torch.float64, device=like.device)
    with forked(generator.initial_seed(), like.device):  # for dropout and the like in a user's networks
        for index in order.split(settings.batch_size):
            batch = move(take(x, index), like.device, like.dtype)
            log_likelihood, log_prior, log_q = _terms(model, q, batch, len(index), generator, like)
            objective = log_likelihood + settings.kl_weight * (log_prior - weight * log_q)
            optimizer.zero_grad(set_to_none=True)
            (-objective.mean()).backward()
            optimizer.step()
            parts = (objective, log_likelihood + log_prior - log_q, log_likelihood)
            sums += torch.stack([part.detach().sum(dtype=torch.float64) for part in parts])
    objective_mean, elbo, fit_mean = (sums / n_data(x)).tolist()
    return Epoch(epoch, objective_mean, elbo, fit_mean, rate, weight, time.perf_counter() - start)


def _terms(
    model: Any, q: nn.Module, batch: Any, rows: int, generator: torch.Generator, like: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """log p(x|z), log p(z), log q(z|x), each (1, rows): apart, unlike in `bounds`, to be weighted apart."""
    conditioned = q(batch)
    z, log_q = conditioned.rsample_and_log_q(normal((1, rows, conditioned.noise_size), generator, like))
    return model.log_likelihood(batch, z), model.log_prior(z, batch), log_q


def _modules(q: Any, model: Any) -> dict[str, nn.Module]:
    """The parts that have parameters, by the prefix of their names in a file. A FunctionModel has none."""
    return {name: part for name, part in (("q", q), ("model", model)) if isinstance(part, nn.Module)}


def _state(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    return {f"{part}.{name}": value for part, m in modules.items() for name, value in m.state_dict().items()}


def _restore(modules: Mapping[str, nn.Module], state: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, value in _state(modules).items():
            value.copy_(state[name])


def _trainable(*modules: nn.Module) -> list[nn.Parameter]:
    """Each parameter once, though modules may share it."""
    return [p for p in dict.fromkeys(p for m in modules for p in m.parameters()) if p.requires_grad]


@contextmanager
def _training(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Modules in training mode; afterwards back in their modes and without gradients."""
    before = [(part, part.training) for module in modules for part in module.modules()]
    for part, _ in before:
        part.train()
    try:
        yield
    finally:
        for part, training in before:
            part.training = training
            part.zero_grad(set_to_none=True)


def _finite(metrics: Epoch, parameters: list[nn.Parameter]) -> bool:
    sums = [p.detach().sum() for p in parameters]  # nan and inf stay what they are in a sum
    return math.isfinite(metrics.objective + metrics.elbo) and bool(torch.stack(sums).isfinite().all())


def _stopped(metrics: Epoch, settings: _Settings, folder: Path | None) -> str:
    kept = f", saved in {folder}" if folder is not None else ""
    return (
        f"training stopped in epoch {metrics.epoch}: its objective, {metrics.objective}, or a parameter is "
        f"not finite; the parameters are those of epoch {metrics.epoch - 1}{kept}. Look for bad values in "
        f"the data, or lower learning_rate ({settings.learning_rate:g})"
    )


def _said(settings: _Settings, epochs_done: int) -> dict[str, Any]:
    """The settings as JSON can hold them: a schedule by its name."""
    schedule = settings.schedule
    name = schedule if isinstance(schedule, str) else getattr(schedule, "__name__", "function")
    return asdict(settings) | {"schedule": name, "epochs_done": epochs_done}


def _write(path: Path, content: bytes) -> None:
    """Write under a temporary name, sync, rename: a reader sees the old file or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _read_weights(path: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged, or not a safetensors file ({error})") from None
    if held.keys() != expected.keys():
        name = min(held.keys() ^ expected.keys())
        fault = "not expected" if name in held else "missing"
        raise ValueError(f"{path}: does not fit the architecture: {name} is {fault}")
    for name, value in expected.items():
        if held[name].shape != value.shape:
            raise ValueError(
                f"{path}: does not fit the architecture: {name} should have shape {tuple(value.shape)}; "
                f"got {tuple(held[name].shape)}"
            )
    return held


def _architecture(entries: Mapping[str, Any]) -> Architecture:
    known = {f.name for f in fields(Architecture)}
    unknown = sorted(entries.keys() - known) if isinstance(entries, Mapping) else [str(entries)]
    if unknown:
        raise ValueError(f"architecture: unknown entries {unknown}; known are {sorted(known)}")
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in entries.items()}
    return Architecture(**values)
