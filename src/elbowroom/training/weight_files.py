"""Network weights by name, in safetensors files that are written whole or not at all. Nothing is pickled."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ..core import write_atomically

__all__ = [
    "CHECKPOINT", "CONFIG", "WEIGHTS", "ensure_folder", "load_state", "modules_by_prefix", "read_tensors",
    "refuse_file", "state_of", "to_half", "write_config", "write_tensors",
]  # fmt: skip

WEIGHTS, CHECKPOINT, CONFIG = "model.safetensors", "checkpoint.safetensors", "config.json"


def modules_by_prefix(q: object, model: object) -> dict[str, nn.Module]:
    """Those of `q` and `model` that are modules, by the prefix of their names in a file. A FunctionModel is not one."""
    return {name: part for name, part in (("q", q), ("model", model)) if isinstance(part, nn.Module)}


def state_of(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Parameters and buffers by their names in a file; they are not copied."""
    return {f"{part}.{name}": value for part, m in modules.items() for name, value in m.state_dict().items()}


def to_half(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, with floating-point numbers in float16."""
    return {name: value.half() if value.is_floating_point() else value for name, value in state.items()}


def load_state(modules: Mapping[str, nn.Module], state: Mapping[str, Tensor], path: Path | None = None) -> None:
    """Copy `state` into the modules, in place.

    Raises:
        ValueError: a name or a shape does not fit; nothing is changed then. `path` is the file that the message names.
    """
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
    """Read the tensors and the notes of a safetensors file.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            notes = file.metadata() or {}
            return {name: file.get_tensor(name) for name in file.keys()}, notes  # noqa: SIM118 (not a mapping)
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged, or not a safetensors file ({error})") from None


def write_tensors(path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file, whole or not at all."""
    contiguous = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    write_atomically(path, save(contiguous, dict(notes) if notes else None))


def write_config(folder: str | Path, config: Mapping[str, Any]) -> None:
    """Write `config.json` into `folder`, which is made where there is none. ValueError for NaN or infinity."""
    text = json.dumps(dict(config), indent=2, allow_nan=False) + "\n"
    write_atomically(ensure_folder(folder) / CONFIG, text.encode())


def refuse_file(folder: Path) -> None:
    """Check that a folder of a model can be made here.

    Raises:
        ValueError: a file has the name of the folder, or of one above it.
    """
    for path in (folder, *folder.parents):
        if path.exists() and not path.is_dir():
            raise ValueError(f"{folder}: a model is saved as a folder, and this is a file: {path}")


def ensure_folder(folder: str | Path) -> Path:
    """Make the folder where there is none, and return it. ValueError where a file has its name."""
    folder = Path(folder)
    refuse_file(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
