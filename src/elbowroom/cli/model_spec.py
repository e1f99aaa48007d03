"""What the command line's --model and --weights name, read into a model and a posterior.

    package.module:factory   a function of an importable module
    file.py:factory          a function of a file
    zoo/NAME                 a folder that `elbowroom train` wrote
    pythae:FOLDER            a folder that a library wrote for which an adapter is installed: pythae, scvi

A factory takes no arguments and returns (model, q), or (model, q, {"train": ..., "test": ...}) with data of its own.
"""

import importlib
import importlib.util
import sys
import traceback
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import torch

from ..adapters import load_foreign
from ..core import Data, forked, installed_adapters
from ..measure import check
from ..models import LatentModel, modules_of
from ..posteriors import PosteriorLike
from ..training import load_model, load_state, modules_by_prefix, read_tensors, training_progress
from .terminal import FactoryError, UserError

__all__ = ["LoadedModel", "checked", "load_weights", "open_model", "to_device"]

RETURNS = '(model, q) or (model, q, {"train": ..., "test": ...})'


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model and its posterior, with the data that are known for them.

    Attributes:
        model: A `LatentModel`.
        q: Its posterior.
        sets: Data sets by name, where a factory returned some.
        trained_on: For the folder of a trained model, what its config says of the data set of the training.
        notes: Sentences that belong below the model's tables.
    """

    model: LatentModel
    q: PosteriorLike
    sets: Mapping[str, Data] = field(default_factory=dict)
    trained_on: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def open_model(spec: str, unfinished: bool = False) -> LoadedModel:
    """Build or load the model that `spec` names. A training that has not ended is loaded only if `unfinished` is True.

    Networks that a factory leaves as torch initialized them are the same in every process that opens them.

    Raises:
        UserError: a bad spec or a wrong return value. FactoryError: the user's code failed.
    """
    with forked(0):
        return _opened(spec, unfinished)


def _opened(spec: str, unfinished: bool) -> LoadedModel:
    if Path(spec).is_dir():
        return _trained(Path(spec), unfinished)
    library, _, folder = spec.partition(":")
    if library in installed_adapters() and Path(folder).is_dir():
        return _foreign(library, Path(folder))
    target, _, name = spec.rpartition(":")
    if not target or not name:
        missing = "" if Path(spec).exists() else "no such folder; "
        expected = (
            "expected package.module:factory, file.py:factory, the folder of a trained model, or LIBRARY:FOLDER for "
            f"one of {', '.join(sorted(installed_adapters())) or 'no adapter'}"
        )
        raise UserError(f"--model {spec}: {missing}{expected}")
    module = _file_module(Path(target)) if target.endswith(".py") else _named_module(target)
    factory = getattr(module, name, None)
    if not callable(factory):
        known = [key for key, value in vars(module).items() if _is_own_function(value, module)]
        raise UserError(f"--model {spec}: {target} has no function {name}; it has {', '.join(known) or 'none'}")
    try:
        answer = factory()
    except Exception as error:
        raise FactoryError(f"--model {spec}: the factory raised {_first_line(error)}", _own_traceback(error)) from error
    if not isinstance(answer, tuple) or len(answer) not in (2, 3):
        raise UserError(f"--model {spec}: the factory must return {RETURNS}; got {_kind(answer)}")
    sets = answer[2] if len(answer) == 3 else {}
    if not isinstance(sets, Mapping) or any(not _is_name(key) for key in sets):
        raise UserError(f"--model {spec}: the factory's third value must map names to data; got {_kind(sets)}")
    return LoadedModel(model=answer[0], q=answer[1], sets=sets)


def checked(loaded: LoadedModel, x: Data, seed: int, own_elbo: float | None = None) -> list[str]:
    """Run `check` and return its notes, without their warnings: they are printed below the table."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return check(loaded.model, loaded.q, x, seed, own_elbo)


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


def _trained(folder: Path, unfinished: bool) -> LoadedModel:
    """Load the folder of a trained model, with what its config says of its data set."""
    model, q, config = load_model(folder, unfinished)
    so_far = training_progress(folder)
    notes = () if so_far is None else (f"the training of this model is unfinished: {so_far}",)
    return LoadedModel(model=model, q=q, trained_on=config.get("data", {}), notes=notes)


def _foreign(library: str, folder: Path) -> LoadedModel:
    """What a library saved in a folder, with the warnings of its adapter as notes."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            model, q, *sets = load_foreign(library, folder)
    except ImportError as error:
        raise UserError(
            f"--model {library}:{folder}: {error}. Install it by pip install elbowroom[{library}]"
        ) from None
    except (ValueError, TypeError, OSError) as error:
        raise UserError(f"--model {library}:{folder}: {error}") from None
    notes = tuple(str(it.message) for it in caught if issubclass(it.category, UserWarning) and _is_ours(it.filename))
    return LoadedModel(model=model, q=q, sets=sets[0] if sets else {}, notes=notes)


def _is_ours(file: str) -> bool:
    return Path(__file__).parent.parent in Path(file).parents


def _file_module(path: Path) -> ModuleType:
    """Import a file as a module. Its folder is put on the path, as `python file.py` does."""
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
        raise FactoryError(f"--model {path}: reading it raised {_first_line(error)}", _own_traceback(error)) from error
    return module


def _named_module(name: str) -> ModuleType:
    """Import a module by name. The working directory is searched too."""
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except Exception as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and f"{name}.".startswith(f"{missing}."):
            adapters = ", ".join(sorted(installed_adapters()))
            raise UserError(
                f"--model {name}: no module of that name (a file is named with its .py), and no adapter, which are "
                f"{adapters}"
            ) from None
        text = f"--model {name}: importing it raised {_first_line(error)}"
        raise FactoryError(text, _own_traceback(error)) from error


def _own_traceback(error: BaseException) -> str:
    """Format the traceback of the user's code alone, without the frames above it, which are ours and importlib's."""
    frame: TracebackType | None = error.__traceback__
    while frame is not None and _is_machinery(frame.tb_frame.f_code.co_filename):
        frame = frame.tb_next
    return "".join(traceback.format_exception(type(error), error, frame))


def _is_machinery(file: str) -> bool:
    return file == __file__ or file.startswith("<frozen importlib") or file == importlib.__file__


def _first_line(error: BaseException) -> str:
    text = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _is_own_function(value: object, module: ModuleType) -> bool:
    return callable(value) and not isinstance(value, type) and getattr(value, "__module__", "") == module.__name__


def _is_name(key: object) -> bool:
    return isinstance(key, str) and key not in ("", ".", "..") and Path(key).name == key


def _kind(value: object) -> str:
    return f"a {type(value).__name__}" + (f" of {len(value)}" if hasattr(value, "__len__") else "")
