"""Modules in train mode for a moment, with their buffers and modes put back."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ..models import LatentModel, modules_of
from ..posteriors import PosteriorLike

__all__ = ["train_mode"]


@contextmanager
def train_mode(model: LatentModel, q: PosteriorLike, kind: type[nn.Module] = nn.Module) -> Iterator[None]:
    """A context in which the modules of `kind` in a model and a posterior are in train mode, and all others in eval
    mode. It ends with all in eval mode, where the estimators have them, and with the buffers as they were.
    """
    roots = list(modules_of(model, q))
    buffers = {buffer: buffer.clone() for root in roots for buffer in root.buffers()}
    try:
        for root in roots:
            for module in root.modules():
                module.training = isinstance(module, kind)
        yield
    finally:
        with torch.no_grad():
            for buffer, value in buffers.items():
                buffer.copy_(value)
        for root in roots:
            for module in root.modules():
                module.training = False
