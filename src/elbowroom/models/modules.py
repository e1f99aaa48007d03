"""Functions that find the torch modules inside a model or posterior, put them in eval mode, and read their device."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import CellType, FunctionType

import torch
from torch import Tensor, nn

__all__ = ["device_and_dtype", "evaluating", "modules_of", "n_parameters"]


def modules_of(*things: object) -> Iterator[nn.Module]:
    """The torch modules that a model or posterior holds: itself, its attributes, and what its functions refer to.

    A function refers to the variables it closes over and to the globals it names.
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
            queue.extend(_cell(cell) for cell in thing.__closure__ or ())
            module = thing.__globals__
            named = [module.get(name) for name in thing.__code__.co_names]
            queue.extend(it for it in named if getattr(it, "__globals__", module) is module)
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
    """Device and dtype of the first floating-point parameter or buffer, or (None, None) if there is none."""
    for module in modules_of(*things):
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                return tensor.device, tensor.dtype
    return None, None


def n_parameters(module: nn.Module) -> int:
    """The number of scalar parameters of a module."""
    return sum(parameter.numel() for parameter in module.parameters())


def _cell(cell: CellType) -> object:
    """What a closure's cell holds; None while it is still empty."""
    try:
        return cell.cell_contents
    except ValueError:
        return None
