"""What the command line's --model, --weights and --data name, read into a model, a posterior and data.

    package.module:factory   a function of an importable module
    file.py:factory          a function of a file
    zoo/NAME                 a folder that `elbowroom train` wrote

A factory takes no arguments and returns (model, q), or (model, q, {"train": ..., "test": ...}) with data of its own.
"""

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray

from ..core import Data, MapStyle, Rows, as_data, n_data, read_rows, seeded
from ..datasets import DATASETS, SUFFIXES, array_names, binarize, load_array
from ..measure import check
from ..models import LatentModel, modules_of
from ..posteriors import PosteriorLike
from ..training import load_model, load_state, modules_by_prefix, read_tensors
from .terminal import UserError

__all__ = [
    "FactoryError", "LoadedModel", "Sample", "checked", "load_weights", "open_model", "open_with_sets", "read_data",
    "samples", "to_device",
]  # fmt: skip

RETURNS = '(model, q) or (model, q, {"train": ..., "test": ...})'


class FactoryError(Exception):
    """A user's module or factory that raised; shown with its traceback, for the fault is in their code."""


@dataclass(frozen=True)
class LoadedModel:
    """A model, its posterior, and the data sets that came with them, by name."""

    model: LatentModel
    q: PosteriorLike
    sets: Mapping[str, Data]


@dataclass(frozen=True)
class Sample:
    """Data to measure, and the identity of each: its row number, counted on from one set to the next."""

    x: Rows | MapStyle
    ids: NDArray[np.int64]


def open_model(spec: str, with_sets: bool = True) -> LoadedModel:
    """What `spec` names; without the data that a trained folder names where `with_sets` is False.

    Raises:
        UserError: a bad spec or a wrong return value. FactoryError: the user's code failed.
    """
    if Path(spec).is_dir():
        return _trained(Path(spec), with_sets)
    target, _, name = spec.rpartition(":")
    if not target or not name:
        raise UserError(
            f"--model {spec}: expected package.module:factory, file.py:factory or the folder of a trained model"
        )
    module = _file_module(Path(target)) if target.endswith(".py") else _named_module(target)
    factory = getattr(module, name, None)
    if not callable(factory):
        known = [key for key, value in vars(module).items() if _is_own_function(value, module)]
        raise UserError(f"--model {spec}: {target} has no function {name}; it has {', '.join(known) or 'none'}")
    try:
        answer = factory()
    except Exception as error:
        raise FactoryError(f"{spec} raised {type(error).__name__}") from error
    if not isinstance(answer, tuple) or len(answer) not in (2, 3):
        raise UserError(f"--model {spec}: the factory must return {RETURNS}; got {_kind(answer)}")
    sets = answer[2] if len(answer) == 3 else {}
    if not isinstance(sets, Mapping) or any(not _is_name(key) for key in sets):
        raise UserError(f"--model {spec}: the factory's third value must map names to data; got {_kind(sets)}")
    return LoadedModel(answer[0], answer[1], sets)


def open_with_sets(model: str, path: Path | None) -> tuple[LoadedModel, Mapping[str, Rows | MapStyle]]:
    """The model, and the sets to measure: those of the file where one is named, else the factory's own."""
    sets: dict[str, Data] = {} if path is None else {"data": load_array(path)}
    loaded = open_model(model, with_sets=path is None)
    sets = sets or dict(loaded.sets)
    if not sets:
        raise UserError(f"--data is needed: {model} brings no data of its own")
    return loaded, {name: as_data(x) for name, x in sets.items()}


def checked(loaded: LoadedModel, x: Data, seed: int) -> list[str]:
    """The notes of `check`; they are printed with the table, not as warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return check(loaded.model, loaded.q, x, seed)


def samples(sets: Mapping[str, Data], n: int | None, first: int | None, seed: int) -> dict[str, Sample]:
    """Of each set a seeded random sample of `n` rows, its first `first` rows, or all of it.

    The first rows of a larger sample are those of a smaller one with the same seed.
    """
    if n is not None and first is not None:
        raise UserError("--n and --first exclude each other: a random sample, or the first rows")
    chosen, offset = {}, 0
    for name, x in sets.items():
        data = as_data(x)
        total = n_data(data)
        wanted = n if n is not None else first
        if wanted is not None and not 1 <= wanted <= total:
            option = "--n" if n is not None else "--first"
            raise UserError(f"{option} {wanted}: expected 1 to {total}, the number of data in {name}")
        rows = torch.arange(total if wanted is None else wanted)
        if n is not None:
            rows = torch.randperm(total, generator=seeded(seed, "sample", name))[:n]
        chosen[name] = Sample(data if wanted is None else read_rows(data, rows), rows.numpy() + offset)
        offset += total
    return chosen


def load_weights(loaded: LoadedModel, path: Path) -> None:
    """Load a .safetensors file into the networks of `loaded`, in place; every name and shape must fit."""
    if not path.exists():
        raise UserError(f"--weights {path}: no such file")
    try:
        tensors, _ = read_tensors(path)
        load_state(modules_by_prefix(loaded.q, loaded.model), tensors, path)
    except (ValueError, OSError) as error:
        raise UserError(f"--weights {error}") from None


def to_device(loaded: LoadedModel, device: str) -> None:
    """Move the networks to `device`; data follow them block by block."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {device}: {str(error).splitlines()[0]}") from None
    for module in modules_of(loaded.model, loaded.q):
        module.to(device)


def read_data(
    name: str, split: str, folder: Path | None = None, binarization: str | None = None, seed: int = 0
) -> torch.Tensor:
    """A data set by name or a user's array by path, as floats.

    Pixels, 0 to 255, are binarized by the rule named, and a rule must be named: those of a named data set, and an array
    of uint8 with a value past 1. Any other array is left as it is, with `binarization` None or "none".
    """
    if name in DATASETS:
        images = DATASETS[name](split, folder)
    elif Path(name).suffix in SUFFIXES:
        images = _own_array(Path(name), split)
    else:
        known = ", ".join(sorted(DATASETS))
        raise UserError(f"no data set is named {name}; there are {known}, and files ending in {', '.join(SUFFIXES)}")
    rule = None if binarization == "none" else binarization
    if images.dtype == torch.uint8 and (name in DATASETS or int(images.max()) > 1):
        if rule is None:
            raise UserError(f"{name} holds pixels, 0 to 255; binarize them: threshold, stochastic, grey or grey256")
        return binarize(images, rule, seed)
    if rule is not None:
        kind = "uint8 with no value past 1" if images.dtype == torch.uint8 else "numbers that are not uint8"
        raise UserError(f"{name} holds {kind}, no pixels from 0 to 255: left as it is, so binarize must be none")
    return images.to(torch.get_default_dtype())


def _own_array(path: Path, split: str) -> torch.Tensor:
    """The array of a user's file named as the split; for "train" also its x, or its only one."""
    names = array_names(path)
    if split in names or split == "train":
        return load_array(path, name=split if split in names else "x", pixels=True)
    raise UserError(f"{path} has no {split} set: a .npz with arrays named train and {split} has both")


def _trained(folder: Path, with_sets: bool) -> LoadedModel:
    """A folder of `train`, with both splits of the data set that it was trained on."""
    model, q, config = load_model(folder)
    trained_on = config.get("data", {})
    name, rule = trained_on.get("name"), trained_on.get("binarize", "threshold")
    sets: dict[str, Data] = {}
    if with_sets and name is not None:
        for split in _splits(name):
            sets[split] = read_data(name, split, None, rule, trained_on.get("seed", 0))
    return LoadedModel(model, q, sets)


def _splits(name: str) -> list[str]:
    """The splits to measure on, none where the file is no longer there."""
    if name in DATASETS:
        return ["train", "test"]
    if Path(name).suffix not in SUFFIXES or not Path(name).is_file():
        return []
    return ["train", *(["test"] if "test" in array_names(name) else [])]


def _file_module(path: Path) -> ModuleType:
    """A file as a module; its own folder is on the path, as it is for `python file.py`."""
    if not path.is_file():
        raise UserError(f"--model {path}: no such file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise FactoryError(f"{path} raised {type(error).__name__} when it was read") from error
    return module


def _named_module(name: str) -> ModuleType:
    """An importable module, looked for in the working directory too."""
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise UserError(f"--model {name}: no module of that name (a file is named with its .py)") from None
        raise FactoryError(f"{name} raised {type(error).__name__} when it was imported") from error
    except Exception as error:
        raise FactoryError(f"{name} raised {type(error).__name__} when it was imported") from error


def _is_own_function(value: object, module: ModuleType) -> bool:
    return callable(value) and not isinstance(value, type) and getattr(value, "__module__", "") == module.__name__


def _is_name(key: object) -> bool:
    return isinstance(key, str) and key not in ("", ".", "..") and Path(key).name == key


def _kind(value: object) -> str:
    return f"a {type(value).__name__}" + (f" of {len(value)}" if hasattr(value, "__len__") else "")
