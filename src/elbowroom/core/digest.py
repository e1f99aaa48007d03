"""SHA-256 of numbers: of data, and of networks' weights by name. Names of files and of objects play no part."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from .blocks import MapStyle, Rows, n_data

__all__ = ["digest_of"]


def digest_of(x: Rows | MapStyle) -> str:
    """SHA-256 of a tensor's numbers, or of a mapping's by name; of a data set that is read row by row, its length
    alone.

    >>> digest_of(torch.zeros(3)) == digest_of(torch.zeros(3)), digest_of(torch.zeros(3)) == digest_of(torch.ones(3))
    (True, False)
    """
    if isinstance(x, Mapping):
        return hashlib.sha256(repr({key: digest_of(value) for key, value in x.items()}).encode()).hexdigest()
    if not isinstance(x, Tensor):
        return str(n_data(x))
    return hashlib.sha256(x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
