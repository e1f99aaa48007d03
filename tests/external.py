"""The public checkpoints of other authors, as (model, q); their files lie under ELBOWROOM_DATA/external."""

import pickle
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import elbowroom as er
from elbowroom.datasets import mnist

__all__ = ["BitsBack", "bdmc_mnist", "jax_mnist", "mnist_images", "torch_mnist100"]


def mnist_images(folder: Path, split: str, n: int, divisor: int) -> Tensor:
    """The first n images in file order as gray values: bytes over 255 or 256."""
    return mnist(split, folder)[:n].float() / divisor


def bdmc_mnist(folder: Path) -> tuple[er.DecoderModel, er.Amortized]:
    """`bdmc_mnist.pth`: fc1..fc3 encode, fc4..fc6 decode, ELU between; float32 as the other two."""
    state = torch.load(folder / "external" / "bdmc_mnist.pth", map_location="cpu", weights_only=True)["state_dict"]
    layers = [(state[f"fc{i}.weight"].float(), state[f"fc{i}.bias"].float()) for i in range(1, 7)]
    return _vae(layers[:3], layers[3:])


def torch_mnist100(folder: Path) -> tuple[er.DecoderModel, er.Amortized, Tensor, np.ndarray]:
    """`torch_mnist100_ffg.pt` with its own 100 binary images and its per-image local ELBOs."""
    state = torch.load(folder / "external" / "torch_mnist100_ffg.pt", map_location="cpu", weights_only=True)
    encoder, decoder = (
        [(state[f"{part}.network.layers.{i}.weight"], state[f"{part}.network.layers.{i}.bias"]) for i in range(3)]
        for part in ("encoder", "decoder")
    )
    with np.load(folder / "external" / "mnist100.npz", allow_pickle=False) as file:
        x, local_elbo = torch.from_numpy(file["x"]).float(), file["local_elbo"]
    return *_vae(encoder, decoder), x, local_elbo


def jax_mnist(folder: Path) -> tuple[er.DecoderModel, er.Amortized]:
    """`jax_mnist_ffg.pkl`: nested lists of (W (in, out), b); the encoder ends in a mean head and a log-variance
    head.
    """
    with open(folder / "external" / "jax_mnist_ffg.pkl", "rb") as file:
        encoder, decoder = _ArraysOnly(file).load()
    flat = list(_arrays(encoder))
    (mean_w, mean_b), (var_w, var_b) = (flat[4], flat[5]), (flat[6], flat[7])
    head = (np.concatenate([mean_w, var_w], axis=1), np.concatenate([mean_b, var_b]))
    encode = [_dense(flat[0], flat[1]), _dense(flat[2], flat[3]), _dense(*head)]
    flat = list(_arrays(decoder))
    return _vae(encode, [_dense(flat[i], flat[i + 1]) for i in (0, 2, 4)])


class BitsBack(nn.Module):
    """`bitsback_mnist.pt`, as its owners write it: encode gives the mean and the standard deviation, decode
    probabilities.
    """

    latent_dim = 20

    def __init__(self, folder: Path) -> None:
        super().__init__()
        state = torch.load(folder / "external" / "bitsback_mnist.pt", map_location="cpu", weights_only=True)
        self.layers = nn.ModuleDict({name: _linear(state, name) for name in ("fc1", "fc21", "fc22", "fc3", "fc4")})

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (N, 784) -> mean and standard deviation (N, 20)."""
        h = self.layers["fc1"](x.flatten(1)).relu()
        return self.layers["fc21"](h), self.layers["fc22"](h).exp()

    def decode(self, z: Tensor) -> Tensor:
        """z (R, 20) -> probabilities (R, 784)."""
        return self.layers["fc4"](self.layers["fc3"](z).relu()).sigmoid()


def _linear(state: dict[str, Tensor], name: str) -> nn.Linear:
    weight = state[f"{name}.weight"]
    linear = nn.Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype)
    linear.load_state_dict({"weight": weight, "bias": state[f"{name}.bias"]})
    return linear


class _ArraysOnly(pickle.Unpickler):
    """An unpickler that admits NumPy arrays alone."""

    admitted = frozenset({("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")})

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.admitted:
            raise pickle.UnpicklingError(f"only NumPy arrays are admitted; the file asks for {module}.{name}")
        return getattr(import_module("numpy._core.multiarray") if name == "_reconstruct" else np, name)


def _arrays(nested: Any) -> Any:
    if isinstance(nested, np.ndarray):
        yield nested
        return
    for part in nested:
        yield from _arrays(part)


def _dense(weight: np.ndarray, bias: np.ndarray) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(np.array(weight.T)), torch.from_numpy(np.array(bias).reshape(-1))


def _vae(encoder: Sequence[tuple[Tensor, Tensor]], decoder: Sequence[tuple[Tensor, Tensor]]) -> Any:
    return (
        er.DecoderModel(_network(decoder), "bernoulli", 50),
        er.Amortized(_network(encoder), er.DiagonalGaussian(50)),
    )


def _network(layers: Sequence[tuple[Tensor, Tensor]]) -> nn.Sequential:
    """Linear layers with ELU between them."""
    modules: list[nn.Module] = []
    for weight, bias in layers:
        linear = nn.Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype)
        linear.load_state_dict({"weight": weight, "bias": bias})
        modules += [linear, nn.ELU()]
    return nn.Sequential(*modules[:-1])
