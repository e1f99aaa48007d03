"""What a package registers under the entry point group "elbowroom.adapters", and how its folders are read.

A package that adapts the models of a library `foo` has in its pyproject.toml

    [project.entry-points."elbowroom.adapters"]
    foo = "package.module:FOO"

where FOO is an `Adapter`, and `package.module.foo(model, ...)` returns (model, q). A model of the library is then
recognized by name, and `--model foo:FOLDER` reads one.
"""

from __future__ import annotations  # signatures in help() then show types by their names

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core import installed_adapters

__all__ = ["Adapter", "load_foreign"]


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """How models of a library are read.

    Attributes:
        load: folder -> (model, q), or (model, q, {"name": data}). It must refuse to unpickle what a stranger may have
            written.
    """

    load: Callable[[Path], tuple[Any, ...]]


def load_foreign(name: str, folder: Path) -> tuple[Any, ...]:
    """The model, q and perhaps the data that a library's folder holds, by the adapter of that name.

    Raises:
        KeyError: no such adapter.
        TypeError: what is registered is no `Adapter`.
    """
    adapter = installed_adapters()[name].load()
    if not isinstance(adapter, Adapter):
        raise TypeError(f"the adapter {name} must be an elbowroom.adapters.Adapter; got {type(adapter).__name__}")
    return adapter.load(folder)
