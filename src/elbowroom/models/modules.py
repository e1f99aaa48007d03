"""The torch modules inside a model or posterior: finding them, eval mode, and calling each on its device and dtype."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import CellType, FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["called", "device_and_dtype", "evaluating", "modules_of", "n_parameters"]


def modules_of(*things: object, functions: bool = True) -> Iterator[nn.Module]:
    """The torch modules that a model or posterior holds: itself, its attributes, and what its functions refer to.

    A function refers to the variables it closes over and to the globals it names, also those of a Python module that it
    names. Without `functions`, what only they refer to is left out.
    """
    seen: set[int] = set()
    queue = list(things)
    while queue:
        thing = queue.pop()
        if id(thing) in seen or thing is None or isinstance(thing, str | int | float | Tensor | type):
            continue
        seen.add(id(thing))
        if isinstance(thing, nn.Module):
            yield thing
        if isinstance(thing, list | tuple):
            queue.extend(thing)
        elif isinstance(thing, Mapping):
            queue.extend(thing.values())
        elif isinstance(thing, partial):
            queue.extend([thing.func, *thing.args, *thing.keywords.values()])
        elif hasattr(thing, "__self__"):  # before functions: a bound method answers for its function's code
            queue.extend([thing.__self__, getattr(thing, "__func__", None)])
        elif isinstance(thing, FunctionType):
            queue.extend(_referred(thing) if functions else [])
        elif hasattr(thing, "__dict__") and type(thing).__module__ != "builtins":
            queue.extend(vars(thing).values())


@contextmanager
def evaluating(*things: object) -> Iterator[None]:
    """Put the modules of a model or posterior in eval mode, and restore the mode of each on exit, even on an error."""
    modes = {module: module.training for root in modules_of(*things) for module in root.modules()}
    try:
        for module in modes:
            module.training = False
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def device_and_dtype(*things: object) -> tuple[torch.device | None, torch.dtype | None]:
    """Device and dtype of the first floating-point parameter or buffer, or (None, None) if there is none.

    What a thing holds itself comes before what functions refer to, since a function can take care of its own numbers.
    """
    for functions in (False, True):
        for thing in things:
            for module in modules_of(thing, functions=functions):
                own = _first_floating(module)
                if own is not None:
                    return own.device, own.dtype
    return None, None


def called(net: Callable[..., Any], x: Tensor, **covariates: Tensor) -> Any:
    """The output of a network for x and covariates, which are moved to its own device and dtype, and the output back.

    A function gets them as they are.
    """
    own = _first_floating(net) if isinstance(net, nn.Module) else None
    if own is None or (own.dtype == x.dtype and own.device == x.device):
        return net(x, **covariates)
    given = {key: _like(value, own) for key, value in covariates.items()}
    output = net(_like(x, own), **given)
    back = x if x.is_floating_point() else x.new_empty(0, dtype=own.dtype)
    return _like(output, back) if isinstance(output, Tensor) else type(output)(_like(part, back) for part in output)


def n_parameters(module: nn.Module) -> int:
    """The number of scalar parameters of a module."""
    return sum(parameter.numel() for parameter in module.parameters())


def _first_floating(module: nn.Module) -> Tensor | None:
    return next((t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()), None)


def _like(value: Tensor, like: Tensor) -> Tensor:
    return value.to(like) if value.is_floating_point() else value.to(like.device)


def _referred(function: FunctionType) -> Iterator[object]:
    """What a function closes over, and the globals that it names, with what it may take from a Python module."""
    module = function.__globals__
    named = [module.get(name) for name in function.__code__.co_names]
    held = [_cell(cell) for cell in function.__closure__ or ()]
    yield from held
    yield from (it for it in named if getattr(it, "__globals__", module) is module)
    for outside in (*held, *named):
        if isinstance(outside, ModuleType):
            found = (vars(outside).get(name) for name in function.__code__.co_names)
            yield from (it for it in found if isinstance(it, nn.Module))


def _cell(cell: CellType) -> object:
    """What a closure's cell holds; None while it is still empty."""
    try:
        return cell.cell_contents
    except ValueError:
        return None
