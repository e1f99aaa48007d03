"""Data in blocks: a range of rows of fixed size is the unit of work, of seeding and of resumption.

A short last block is padded with its last row to one of a few sizes, the units, and the padding is dropped from every
result. A datum has the same noise in a block of any size, so no number depends on how many data there are; only its
rounding does, since the rows of a matrix product differ bitwise with the unit. Data may be a tensor, a mapping of
tensors, or a map-style dataset.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, cast, overload

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from .rng import BLOCK

__all__ = [
    "Block", "Blocks", "Data", "MapStyle", "Rows", "as_data", "covariates", "iterate_blocks", "move", "n_data",
    "observed", "read_rows", "select_rows", "unit_of",
]  # fmt: skip

UNITS = (1, 2, 4, 8, 16, 24, 32, 40, BLOCK)  # rows to which a short block is padded


class MapStyle(Protocol):
    """A data set that is read row by row: x[i] for i = 0, ..., len(x) - 1."""

    def __len__(self) -> int:
        """The number of data N."""

    def __getitem__(self, index: int, /) -> object:
        """One datum: a tensor, a mapping of tensors, or a tuple that begins with either."""


Rows: TypeAlias = Tensor | Mapping[str, Tensor]  # data that are in memory: first dimension N
Data: TypeAlias = (  # what a user may pass
    Tensor | NDArray[Any] | Mapping[str, Tensor | NDArray[Any]] | MapStyle | Dataset[Any] | DataLoader[Any]
)


@dataclass(frozen=True, kw_only=True)
class Block:
    """One block of B rows of the data; only the first `rows` are real, the others repeat the last one.

    Attributes:
        number: number of the block, counted from 0.
        index: (B,) row of the data for each row of the block.
        rows: number of real rows.
        x: the rows, with first dimension B.
        like: an empty tensor with the device and the floating dtype that latents and noise should have.
    """

    number: int
    index: Tensor
    rows: int
    x: Rows
    like: Tensor  # empty, with the device and the floating dtype that latents and noise should have


@overload
def as_data(x: Tensor | NDArray[Any]) -> Tensor: ...
@overload
def as_data(x: Mapping[str, Tensor | NDArray[Any]]) -> Mapping[str, Tensor]: ...
@overload
def as_data(x: Data) -> Rows | MapStyle: ...
def as_data(x: Data) -> Rows | MapStyle:
    """The data behind what a user passed: arrays become tensors, and a DataLoader gives its dataset, which is read in
    order by the loader's own `collate_fn` if it has one.

    Raises:
        TypeError: data that can only be iterated, and so cannot be read again in the same order.
        ValueError: no data, or a mapping whose tensors differ in their first dimension.
    """
    data: object = _behind(x) if isinstance(x, DataLoader) else x
    if isinstance(data, np.ndarray):
        data = torch.from_numpy(data)
    if isinstance(data, tuple):
        raise TypeError(
            f"data must be a tensor, a mapping of tensors or a map-style dataset; got a tuple of {len(data)}. If it is "
            '(x, labels), pass x alone, or {"x": x, "label": labels} to a conditional model'
        )
    if isinstance(data, IterableDataset) or not (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
        raise TypeError(
            f"data must be a tensor, a mapping of tensors or a map-style dataset; got {type(data).__name__}. "
            "Every estimator reads the same rows again, so data that can only be iterated must be stacked first."
        )
    if isinstance(data, Mapping):
        data = {key: torch.as_tensor(value) for key, value in data.items()}
        sizes = {key: len(value) for key, value in data.items()}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"the tensors of a mapping must share their first dimension; got {sizes}")
    if n_data(data) == 0:
        raise ValueError("data must have at least one row; got none")
    return data


@dataclass(frozen=True, eq=False)
class _Collated:
    """A data set whose rows are stacked by a function of the user's."""

    dataset: MapStyle
    collate: Callable[[list[object]], object]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> object:
        return self.dataset[index]


def _behind(loader: DataLoader[Any]) -> object:
    """The data set of a loader, with the loader's way of stacking rows if it is not the usual one."""
    dataset: object = loader.dataset
    usual = loader.collate_fn is None or loader.collate_fn is default_collate
    if usual or isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        return dataset
    return _Collated(cast(MapStyle, dataset), loader.collate_fn)


def n_data(x: Rows | MapStyle) -> int:
    """The number of data N."""
    return len(next(iter(x.values()))) if isinstance(x, Mapping) else len(x)


def observed(x: Rows) -> Tensor:
    """The data without covariates; a mapping holds them under "x"."""
    return x["x"] if isinstance(x, Mapping) else x


def covariates(x: Rows | None, names: Sequence[str]) -> dict[str, Tensor]:
    """The tensors of x with these names.

    Raises:
        TypeError: x is not a mapping, though there are names.
        ValueError: x lacks one of the names.
    """
    if not names:
        return {}
    if not isinstance(x, Mapping):
        raise TypeError(f"a condition on {list(names)} needs x to be a mapping that holds them; got {type(x).__name__}")
    missing = [name for name in names if name not in x]
    if missing:
        raise ValueError(f"a condition on {list(names)} needs them in x; got {list(x)}, without {missing}")
    return {name: x[name] for name in names}


@overload
def read_rows(x: Tensor, index: Tensor) -> Tensor: ...
@overload
def read_rows(x: Mapping[str, Tensor], index: Tensor) -> Mapping[str, Tensor]: ...
@overload
def read_rows(x: Rows | MapStyle, index: Tensor) -> Rows: ...
def read_rows(x: Rows | MapStyle, index: Tensor) -> Rows:
    """Rows `index` (B,) of the data, stacked along the first dimension.

    If the items of a data set are tuples or lists, such as (input, label) or (label, input), their first element that
    is more than a single number is taken. Images of PIL become arrays.

    Raises:
        TypeError: an item that holds no numbers.
        ValueError: items of different shapes, which cannot be stacked.
    """
    if isinstance(x, Tensor):
        return x[index.to(x.device)]
    if isinstance(x, Mapping):
        return {key: value[index.to(value.device)] for key, value in x.items()}
    items = [x[int(i)] for i in index]
    if isinstance(x, _Collated):
        batch = _input_of(x.collate(items), 1)
        return {key: _array(value) for key, value in batch.items()} if isinstance(batch, Mapping) else _array(batch)
    items = [_input_of(item) for item in items]
    first = items[0]
    if isinstance(first, Mapping):
        mappings = [item for item in items if isinstance(item, Mapping)]
        return {key: _stacked([_array(item[key]) for item in mappings]) for key in first}
    return _stacked([_array(item) for item in items])


def _input_of(item: object, batched: int = 0) -> object:
    """The input among what a data set gives for a datum, or a loader for a batch, whose parts are all batched."""
    if not isinstance(item, tuple | list) or len(item) == 0:
        return item
    large = [part for part in item if isinstance(part, Mapping) or np.ndim(_plain(part)) > batched]
    return large[0] if large else item[0]


def _plain(value: object) -> ArrayLike:
    """An image of PIL as an array; anything else as it is."""
    return np.array(value) if hasattr(value, "getbands") else cast(ArrayLike, value)


def _array(value: object) -> Tensor:
    try:
        return torch.as_tensor(_plain(value))
    except (TypeError, RuntimeError, ValueError):
        raise TypeError(
            f"a datum must be a tensor or an array of numbers; got {type(value).__name__}. Convert it in the data "
            "set, by its transform for instance"
        ) from None


def _stacked(parts: list[Tensor]) -> Tensor:
    shapes = {tuple(part.shape) for part in parts}
    if len(shapes) > 1:
        raise ValueError(
            f"data must have one shape, so that they can be stacked; got {' and '.join(map(str, sorted(shapes)[:3]))}. "
            "Pad them, and leave the padding out of the likelihood"
        )
    return torch.stack(parts)


def select_rows(x: Rows, index: Tensor) -> Rows:
    """Rows `index` (B,) of data in memory on the same device as the index, such as those of a block."""
    return {key: value[index] for key, value in x.items()} if isinstance(x, Mapping) else x[index]


def move(x: Rows, device: torch.device | None, dtype: torch.dtype | None) -> Rows:
    """`x` on `device`, its floating-point tensors in `dtype`: data move to the model, never the model to the data."""
    if isinstance(x, Mapping):
        return {key: _moved(value, device, dtype) for key, value in x.items()}
    return _moved(x, device, dtype)


class Blocks:
    """The blocks of `size` rows of some data, by their numbers; a short last one is padded to the next of UNITS.

    Args:
        x: the data.
        device, dtype: what rows are moved to, and the floating type of rows and noise; None for those of the data.
    Raises:
        TypeError: data that can only be iterated.
        ValueError: no data.
    """

    def __init__(
        self, x: Data, size: int = BLOCK, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> None:
        self._data, self._size, self._device, self._dtype = as_data(x), size, device, dtype
        self._n = n_data(self._data)

    def __len__(self) -> int:
        return -(-self._n // self._size)

    def __iter__(self) -> Iterator[Block]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: int) -> Block:
        start, rows = number * self._size, self.rows(number)
        index = torch.arange(start, start + min(self._size, unit_of(rows))).clamp(max=self._n - 1)
        x = move(read_rows(self._data, index), self._device, self._dtype)
        return Block(number=number, index=index, rows=rows, x=x, like=_noise_like(x, self._dtype))

    def rows(self, number: int) -> int:
        """The number of real rows of a block. IndexError for a number that there is not."""
        if not 0 <= number < len(self):
            raise IndexError(f"there are blocks 0 to {len(self) - 1}; got {number}")
        return min(self._size, self._n - number * self._size)


def iterate_blocks(
    x: Data, size: int = BLOCK, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> Iterator[Block]:
    """Iterate over the blocks of `size` data in order.

    >>> [(b.number, b.rows, len(b.x)) for b in iterate_blocks(torch.zeros(70, 3))]
    [(0, 50, 50), (1, 20, 24)]
    """
    return iter(Blocks(x, size, device, dtype))


def unit_of(rows: int) -> int:
    """The rows of the unit that computes so many data; more than BLOCK of them are a unit of their own.

    >>> [unit_of(rows) for rows in (1, 3, 20, 50, 256)]
    [1, 4, 24, 50, 256]
    """
    return next((unit for unit in UNITS if unit >= rows), rows)


def _moved(value: Tensor, device: torch.device | None, dtype: torch.dtype | None) -> Tensor:
    return value.to(device=device, dtype=dtype if value.is_floating_point() else None)


def _noise_like(x: Rows, dtype: torch.dtype | None) -> Tensor:
    """Integer data say nothing of a floating dtype: the model's, or torch's default."""
    data = x.get("x", next(iter(x.values()))) if isinstance(x, Mapping) else x
    return torch.empty(
        0, device=data.device, dtype=data.dtype if data.is_floating_point() else dtype or torch.get_default_dtype()
    )
