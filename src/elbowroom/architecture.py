"""What a trained VAE is: how its networks are built, and the folder that it is kept in.

A folder holds `config.json`, whose `architecture` says how to build the networks, and `model.safetensors` with their
weights, named "q." and "model."; while it is being trained, `checkpoint.safetensors` in place of the latter. Nothing
is pickled; files are written under a temporary name, synced and renamed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from . import likelihoods
from .families import as_family
from .files import write_whole
from .flows import KINDS, N_FEATURES, zuko_posterior
from .model import DecoderModel
from .nets import conv_decoder, conv_encoder, mlp_decoder, mlp_encoder
from .posteriors import Amortized
from .rng import forked, seeded

__all__ = [
    "CHECKPOINT", "CONFIG", "FAMILIES", "WEIGHTS", "Architecture", "architecture_of", "build", "demo_model", "halved",
    "load_model", "parts", "read_tensors", "refuse_file", "restore", "save_model", "shipped", "state_of",
    "write_config", "write_tensors",
]  # fmt: skip

WEIGHTS, CHECKPOINT, CONFIG = "model.safetensors", "checkpoint.safetensors", "config.json"
NETWORKS = ("mlp", "conv")
FAMILIES = ("diagonal", "full", "flow", "auxiliary", "auxiliary-sigmoid", *KINDS)  # the last of zuko
LOCATED = ("gaussian", "laplace", "discretized_logistic")  # likelihoods that need a scale


@dataclass(frozen=True)
class Architecture:
    """How to build the networks of a VAE; the defaults are the paper's.

    Attributes:
        n_in: size of a datum, or its shape: (3, 32, 32).
        encoder_hidden, decoder_hidden: widths of the hidden layers, of an "mlp"; channels, of a "conv".
        family: of q, one of `FAMILIES`: as `as_family` has them, or a flow of zuko. likelihood: by its name.
        scale: of a gaussian, laplace or discretized_logistic likelihood: a number, "learned" or "decoder".
        networks: "mlp" or "conv".
    """

    n_in: int | tuple[int, ...] = 784
    n_latent: int = 50
    encoder_hidden: tuple[int, ...] = (200, 200)
    decoder_hidden: tuple[int, ...] = (200, 200)
    family: str = "diagonal"
    likelihood: str = "bernoulli"
    scale: float | str | None = None
    networks: str = "mlp"

    def __post_init__(self) -> None:
        if self.networks not in NETWORKS or self.family not in FAMILIES:
            raise ValueError(
                f"architecture: expected networks of {list(NETWORKS)} and a family of {list(FAMILIES)}; "
                f"got {self.networks!r} and {self.family!r}"
            )
        event = self.n_in if isinstance(self.n_in, tuple) else (self.n_in,)
        sizes = (*event, self.n_latent, *self.encoder_hidden, *self.decoder_hidden)
        if any(not isinstance(size, int) or size < 1 for size in sizes):
            raise ValueError(f"architecture: sizes must be positive integers; got {list(sizes)}")
        if self.networks == "conv" and (event[1:] != (32, 32) or len(self.decoder_hidden) != 3):
            raise ValueError(
                "architecture: convolutional networks take images of (channels, 32, 32) and three decoder channels; "
                f"got n_in {list(event)} and decoder_hidden {list(self.decoder_hidden)}"
            )
        if self.likelihood not in LOCATED and self.scale is not None:
            raise ValueError(f"architecture: {self.likelihood} has no scale; got {self.scale!r}, leave it out")
        if self.likelihood in LOCATED and self.scale is None:
            raise ValueError(f'architecture: {self.likelihood} needs scale: a number, "learned" or "decoder"')


def architecture_of(entries: Mapping[str, Any]) -> Architecture:
    """The architecture that a config's entries describe; ValueError for an entry that there is not."""
    known = {f.name for f in fields(Architecture)}
    unknown = sorted(entries.keys() - known) if isinstance(entries, Mapping) else [str(entries)]
    if unknown:
        raise ValueError(f"architecture: unknown entries {unknown}; known are {sorted(known)}")
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in entries.items()}
    return Architecture(**values)


def build(architecture: Architecture | Mapping[str, Any], seed: int = 0) -> tuple[DecoderModel, Any]:
    """(model, q) with freshly drawn weights, a function of `seed`; global random state is left as found."""
    a = architecture if isinstance(architecture, Architecture) else architecture_of(architecture)
    likelihood: Any = a.likelihood
    if a.likelihood in LOCATED:
        likelihood = getattr(likelihoods, a.likelihood)(scale=a.scale)
    with forked(seeded(seed, "init").initial_seed()):
        if a.family in KINDS:
            encoder, decoder = _networks(a, 2 * a.n_latent + N_FEATURES)
            q: nn.Module = zuko_posterior(a.family, encoder, a.n_latent, seed=seed)
        else:
            family = as_family(a.family, a.n_latent)
            encoder, decoder = _networks(a, family.context_size)
            q = Amortized(encoder, family)
        return DecoderModel(decoder, likelihood, a.n_latent), q


def save_model(
    folder: str | Path, q: nn.Module, model: Any, config: Mapping[str, Any], half: bool = False
) -> None:
    """Write `config.json` and `model.safetensors` into `folder`, each whole or not at all.

    `config["architecture"]` (`asdict(Architecture(...))`) is what `load_model` builds from; a config without one saves
    the weights of networks of your own, which `load_model` then cannot build. `half` writes float16: half the size, and
    what is measured of the file read back is a little off what was trained.
    """
    folder = made(folder)
    state = state_of(parts(q, model))
    write_tensors(folder / WEIGHTS, halved(state) if half else state)
    write_config(folder, config)


def load_model(folder: str | Path) -> tuple[DecoderModel, Any, dict[str, Any]]:
    """(model, q, config) of a folder that `save_model` or `train.fit` wrote, on the CPU and in evaluation mode.

    Of a training that has not ended, the weights of its last checkpoint.

    Raises FileNotFoundError or ValueError: what is missing, damaged, or does not fit the architecture.
    """
    folder = Path(folder)
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"{folder}: expected a model's folder with {CONFIG} and {WEIGHTS}; no {CONFIG} there")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG}: not JSON ({error})") from None
    if not isinstance(config, dict) or "architecture" not in config:
        raise ValueError(
            f"{folder / CONFIG}: no `architecture` to build the networks from; the weights can be read with safetensors"
        )
    model, q = build(config["architecture"])
    modules = parts(q, model)
    path = next((folder / name for name in (WEIGHTS, CHECKPOINT) if (folder / name).is_file()), None)
    if path is None:
        raise FileNotFoundError(f"{folder}: expected a model's folder with {CONFIG} and {WEIGHTS}; no {WEIGHTS} there")
    held, _ = read_tensors(path)
    if path.name == CHECKPOINT:
        held = {name: value for name, value in held.items() if name.split(".")[0] in modules}
    restore(modules, held, path)
    return model.eval(), q.eval(), config


def shipped(name: str = "fashion-mnist") -> tuple[DecoderModel, Any]:
    """(model, q) of a model that comes with the package."""
    assets = resources.files("elbowroom") / "assets"
    names = sorted(entry.name for entry in assets.iterdir() if (entry / WEIGHTS).is_file())
    if name not in names:
        raise ValueError(f"no shipped model is named {name!r}; there is {', '.join(names) or 'none'}")
    with resources.as_file(assets / name) as folder:
        return load_model(folder)[:2]


def demo_model() -> tuple[DecoderModel, Any]:
    """(model, q) of the demo: the paper's VAE on thresholded Fashion-MNIST, for `data.demo_images`."""
    return shipped("fashion-mnist")


# ---- weights by name, and files of them


def parts(q: Any, model: Any) -> dict[str, nn.Module]:
    """What has parameters, by the prefix of their names in a file. A FunctionModel has none."""
    return {name: part for name, part in (("q", q), ("model", model)) if isinstance(part, nn.Module)}


def state_of(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Parameters and buffers by their names in a file; not copies."""
    return {f"{part}.{name}": value for part, m in modules.items() for name, value in m.state_dict().items()}


def halved(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Floating-point numbers in float16."""
    return {name: value.half() if value.is_floating_point() else value for name, value in state.items()}


def restore(modules: Mapping[str, nn.Module], state: Mapping[str, Tensor], path: Path | None = None) -> None:
    """Copy `state` into the modules, in place. ValueError, and nothing changed, where a name or shape does not fit."""
    own = state_of(modules)
    where = f"{path}: " if path else ""
    if own.keys() != state.keys():
        name = min(own.keys() ^ state.keys())
        fault = "not a weight of it" if name in state else "missing"
        expected = f"expected {', '.join(sorted(own)[:3])}, ... ({len(own)} in all)"
        raise ValueError(f"{where}does not fit the networks: {name} is {fault}; {expected}")
    for name, value in own.items():
        if state[name].shape != value.shape:
            raise ValueError(
                f"{where}does not fit the networks: {name} should have shape {tuple(value.shape)}; "
                f"got {tuple(state[name].shape)}"
            )
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(state[name])


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the notes of a safetensors file; ValueError where it is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            notes = file.metadata() or {}
            return {name: file.get_tensor(name) for name in file.keys()}, notes  # noqa: SIM118 (not a mapping)
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged, or not a safetensors file ({error})") from None


def write_tensors(path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, str] | None = None) -> None:
    """A safetensors file, whole or not at all."""
    held = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    write_whole(path, save(held, dict(notes) if notes else None))


def write_config(folder: str | Path, config: Mapping[str, Any]) -> None:
    """`config.json` of a folder that is made where there is none."""
    text = json.dumps(dict(config), indent=2, allow_nan=False) + "\n"
    write_whole(made(folder) / CONFIG, text.encode())


def refuse_file(folder: Path) -> None:
    """ValueError where a file stands in the place of a model's folder, or of one above it."""
    for path in (folder, *folder.parents):
        if path.exists() and not path.is_dir():
            raise ValueError(f"{folder}: a model is saved as a folder, and this is a file: {path}")


def made(folder: str | Path) -> Path:
    """The folder, made where there is none; ValueError where a file has its name."""
    folder = Path(folder)
    refuse_file(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _networks(a: Architecture, n_context: int) -> tuple[nn.Module, nn.Module]:
    """Encoder and decoder. A decoder that also emits scales has twice the channels, or twice the numbers."""
    event = a.n_in if isinstance(a.n_in, tuple) else (a.n_in,)
    first = event[0] * (2 if a.scale == "decoder" else 1)
    if a.networks == "conv":
        return (
            conv_encoder(n_context, a.encoder_hidden, event[0]),
            conv_decoder(a.n_latent, first, a.decoder_hidden),
        )
    encoder = mlp_encoder(event, n_context, a.encoder_hidden)
    n_out = first
    for size in event[1:]:
        n_out *= size
    decoder = mlp_decoder(a.n_latent, n_out, a.decoder_hidden)
    if len(event) > 1:
        decoder.append(nn.Unflatten(1, (first, *event[1:])))
    return encoder, decoder
