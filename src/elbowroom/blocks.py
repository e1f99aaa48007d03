"""Data in blocks: a fixed-size, globally indexed range of data is the unit of work, of seeding and of resumption.

A short last block is padded with its last row, because the rows of a matmul differ bitwise with the batch size; the
padding is dropped from every result. Data may be a tensor, a mapping of tensors, or a map-style dataset.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["BLOCK", "Block", "as_data", "blocks", "move", "n_data", "take"]

BLOCK = 50


@dataclass(frozen=True)
class Block:
    """Rows `index` (B,) of the data; only the first `rows` are real, the others repeat the last one."""

    number: int
    index: Tensor
    rows: int
    x: Any
    like: Tensor  # empty, with the device and the floating dtype that latents and noise should have


def as_data(x: Any) -> Any:
    """The data behind what a user passed: arrays become tensors, a DataLoader lends its dataset.

    Raises:
        TypeError: iterable-only data, which cannot be read again in the same order.
        ValueError: no data, or a mapping whose tensors differ in their first dimension.
    """
    if isinstance(x, torch.utils.data.DataLoader):
        x = x.dataset
    if isinstance(x, np.ndarray):
        x = torch.from_numpy(x)
    if isinstance(x, torch.utils.data.IterableDataset) or not (hasattr(x, "__getitem__") and hasattr(x, "__len__")):
        raise TypeError(
            f"data must be a tensor, a mapping of tensors or a map-style dataset; got {type(x).__name__}. "
            "Every estimator reads the same rows again, so data that can only be iterated must be stacked first."
        )
    if isinstance(x, Mapping):
        x = {key: torch.as_tensor(value) for key, value in x.items()}
        sizes = {key: len(value) for key, value in x.items()}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"the tensors of a mapping must share their first dimension; got {sizes}")
    if n_data(x) == 0:
        raise ValueError("data must have at least one row; got none")
    return x


def n_data(x: Any) -> int:
    """The number of data N."""
    return len(next(iter(x.values()))) if isinstance(x, Mapping) else len(x)


def take(x: Any, index: Tensor) -> Any:
    """Rows `index` (B,) of the data, stacked. Of a dataset's (input, label) tuples the input is taken."""
    if isinstance(x, Tensor):
        return x[index.to(x.device)]
    if isinstance(x, Mapping):
        return {key: take(value, index) for key, value in x.items()}
    items = [x[int(i)] for i in index]
    items = [item[0] if isinstance(item, tuple | list) else item for item in items]
    if isinstance(items[0], Mapping):
        return {key: torch.stack([torch.as_tensor(item[key]) for item in items]) for key in items[0]}
    return torch.stack([torch.as_tensor(item) for item in items])


def some(x: Any, index: Tensor) -> Any:
    """Rows `index` of a block's data: a tensor, or a mapping of tensors."""
    return {key: value[index] for key, value in x.items()} if isinstance(x, Mapping) else x[index]


def move(x: Any, device: torch.device | None, dtype: torch.dtype | None) -> Any:
    """`x` on `device`, its floating tensors in `dtype`: the data go to the model, never the model to the data."""
    if isinstance(x, Mapping):
        return {key: move(value, device, dtype) for key, value in x.items()}
    return x.to(device=device, dtype=dtype if x.is_floating_point() else None)


def blocks(
    x: Any, size: int = BLOCK, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> Iterator[Block]:
    """All blocks of the data in order, each padded to `size` rows.

    >>> [(b.number, b.rows, len(b.x)) for b in blocks(torch.zeros(70, 3))]
    [(0, 50, 50), (1, 20, 50)]
    """
    x = as_data(x)
    n = n_data(x)
    for number, start in enumerate(range(0, n, size)):
        index = torch.arange(start, start + size).clamp(max=n - 1)
        rows = move(take(x, index), device, dtype)
        yield Block(number, index, min(size, n - start), rows, _noise_like(rows, dtype))


def _noise_like(x: Any, dtype: torch.dtype | None) -> Tensor:
    """Integer data say nothing of a floating dtype: the model's, or torch's default."""
    data = x.get("x", next(iter(x.values()))) if isinstance(x, Mapping) else x
    return torch.empty(
        0, device=data.device, dtype=data.dtype if data.is_floating_point() else dtype or torch.get_default_dtype()
    )
