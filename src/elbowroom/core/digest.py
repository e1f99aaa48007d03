"""SHA-256 of the numbers in data and in networks' weights; names of files and of objects play no part."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from .blocks import MapStyle, Rows, n_data

__all__ = ["digest_of"]


def digest_of(x: Rows | MapStyle) -> str:
    """SHA-256 of a tensor's bytes, or of a mapping's names and digests in order, as hexadecimal digits.

    For a data set that is read row by row, it is the length as text.

    >>> digest_of(torch.zeros(3)) == digest_of(torch.zeros(3)), digest_of(torch.zeros(3)) == digest_of(torch.ones(3))
    (True, False)
    """
    if isinstance(x, Mapping):
        return hashlib.sha256(repr({key: digest_of(value) for key, value in x.items()}).encode()).hexdigest()
    if not isinstance(x, Tensor):
        return str(n_data(x))
    return hashlib.sha256(x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data).hexdigest()
