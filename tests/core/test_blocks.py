"""Blocks: every row once, in order, a short block padded to a unit whatever kind of data holds them."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from elbowroom.core import BLOCK, as_data, iterate_blocks, move, n_data, observed, read_rows, unit_of


class Pairs(torch.utils.data.Dataset):
    """Rows with labels, as torch's data sets give them."""

    def __init__(self, x: Tensor, mapping: bool = False) -> None:
        self.x, self.mapping = x, mapping

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> Any:
        if i >= len(self.x):
            raise IndexError(i)
        return {"x": self.x[i], "dose": float(i)} if self.mapping else (self.x[i], i % 3)


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self) -> Iterator[int]:
        return iter(range(3))


def rows(n: int) -> Tensor:
    return torch.arange(2.0 * n).reshape(n, 2)


@settings(deadline=None, max_examples=60)
@given(n=st.integers(1, 130), size=st.integers(1, 60))
def test_every_row_comes_once_in_order_and_the_padding_repeats_the_last(n: int, size: int) -> None:
    x = rows(n)
    made = list(iterate_blocks(x, size))
    assert torch.equal(torch.cat([observed(block.x)[: block.rows] for block in made]), x)
    assert torch.cat([block.index[: block.rows] for block in made]).tolist() == list(range(n))
    assert [block.number for block in made] == list(range(len(made)))
    for block in made:
        assert len(block.x) == len(block.index) == min(size, unit_of(block.rows))
        assert torch.equal(observed(block.x), x[block.index])
        assert (block.index[block.rows :] == n - 1).all()


@pytest.mark.parametrize(
    "x",
    [
        rows(70).numpy(),
        Pairs(rows(70)),
        torch.utils.data.DataLoader(Pairs(rows(70)), batch_size=7, shuffle=True),
        torch.utils.data.TensorDataset(rows(70), torch.zeros(70)),
        list(rows(70)),
    ],
    ids=["array", "dataset", "loader", "tensors", "list"],
)
def test_other_kinds_of_data_give_the_blocks_of_the_tensor(x: Any) -> None:
    for block, expected in zip(iterate_blocks(x), iterate_blocks(rows(70)), strict=True):
        assert torch.equal(observed(block.x), observed(expected.x))
        assert block.rows == expected.rows


def test_a_mapping_is_cut_as_one() -> None:
    x = {"x": rows(70), "dose": torch.arange(70)}
    assert n_data(as_data(x | {"dose": np.arange(70)})) == 70
    last = list(iterate_blocks(x))[-1]
    assert isinstance(last.x, dict)
    assert last.rows == 20
    assert torch.equal(last.x["x"], rows(70)[last.index])
    assert torch.equal(last.x["dose"], last.index)
    from_dataset = list(iterate_blocks(Pairs(rows(70), mapping=True)))[-1].x
    assert isinstance(from_dataset, dict)
    assert torch.equal(from_dataset["x"], last.x["x"])
    assert torch.equal(from_dataset["dose"].long(), last.index)


def test_a_short_block_is_padded_to_the_next_unit() -> None:
    assert [len(block.x) for block in iterate_blocks(rows(BLOCK + 1))] == [BLOCK, 1]
    assert [len(block.x) for block in iterate_blocks(rows(20))] == [24]


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (Stream(), TypeError, "only be iterated"),
        (iter([1]), TypeError, "map-style"),
        (torch.zeros(0, 3), ValueError, "at least one row"),
        ({"x": torch.zeros(3, 2), "dose": torch.zeros(4)}, ValueError, "'dose': 4"),
    ],
    ids=["stream", "iterator", "empty", "ragged"],
)
def test_data_that_cannot_be_cut_are_refused(x: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        next(iter(iterate_blocks(x)))


def test_floats_take_the_dtype_of_the_model_and_integers_stay() -> None:
    moved = move(
        {"x": torch.zeros(2, dtype=torch.float32), "y": torch.zeros(2, dtype=torch.int64)}, None, torch.float64
    )
    assert isinstance(moved, dict)
    assert moved["x"].dtype == torch.float64
    assert moved["y"].dtype == torch.int64
    assert next(iterate_blocks(torch.zeros(2, dtype=torch.float32), dtype=torch.float64)).like.dtype == torch.float64


def test_take_picks_rows_of_anything() -> None:
    index = torch.tensor([4, 4, 0])
    assert torch.equal(read_rows(rows(5), index), rows(5)[index])
    assert torch.equal(observed(read_rows(Pairs(rows(5)), index)), rows(5)[index])


class Items(torch.utils.data.Dataset[Any]):
    """A data set that gives each of these rows in a form of its own."""

    def __init__(self, form: Callable[[Tensor, int], Any], n: int = 70) -> None:
        self.form, self.x = form, rows(n)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Any:
        return self.form(self.x[index], index)


FORMS: dict[str, Callable[[Tensor, int], Any]] = {
    "alone": lambda x, i: x,
    "array": lambda x, i: x.numpy(),
    "list": lambda x, i: [x, i],
    "input first": lambda x, i: (x, i % 3),
    "label first": lambda x, i: (i % 3, x),
    "label first, as a tensor": lambda x, i: (torch.tensor(i % 3), x, torch.zeros(5)),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_input_of_a_data_set_is_found(form: str) -> None:
    data = Items(FORMS[form])
    blocks = list(iterate_blocks(data, 50))
    torch.testing.assert_close(torch.cat([observed(block.x)[: block.rows] for block in blocks]), data.x)


def halves(items: list[Any]) -> Any:
    """A loader's own way of stacking: labels, and inputs that are halved."""
    return torch.tensor([i for _, i in items]), torch.stack([x for x, _ in items]) / 2


@pytest.mark.parametrize("as_mapping", [False, True])
def test_the_collate_function_of_a_loader_is_used(as_mapping: bool) -> None:
    data = Items(lambda x, i: (x, i))
    collate = (lambda items: {"x": halves(items)[1]}) if as_mapping else halves
    loader: Any = torch.utils.data.DataLoader(data, batch_size=7, shuffle=True, collate_fn=collate)
    x = [observed(block.x) for block in iterate_blocks(loader, 50)]
    torch.testing.assert_close(torch.cat(x)[:70], data.x / 2)
    assert n_data(as_data(loader)) == 70


def test_images_of_pil_are_arrays() -> None:
    image = pytest.importorskip("PIL.Image")
    pixels = (np.arange(12).reshape(3, 4) * 20).astype(np.uint8)
    (block,) = iterate_blocks(Items(lambda x, i: (image.fromarray(pixels), i), 2), 2)
    assert observed(block.x).dtype == torch.uint8
    assert (observed(block.x).numpy() == pixels).all()


@pytest.mark.parametrize(
    ("form", "error", "words"),
    [
        (lambda x, i: torch.zeros(5 + i % 2), ValueError, r"one shape.*Pad them"),
        (lambda x, i: "text", TypeError, "an array of numbers; got str"),
        (lambda x, i: {"x": object()}, TypeError, "an array of numbers; got object"),
    ],
)
def test_items_that_are_no_rows_are_named(form: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        next(iterate_blocks(Items(form), 4))
