"""Display of results as aligned text or plain HTML, and comparison by value, which gives a single bool."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from html import escape
from typing import ClassVar, TypeAlias, TypeVar

import numpy as np

__all__ = ["ByValue", "Listing", "Row", "Shown", "aligned", "duration", "html_list", "html_table"]

Row: TypeAlias = tuple[str, ...]
V = TypeVar("V", bound="Shown")


class ByValue:
    """Base of data classes that are equal where their fields are equal.

    Arrays are compared as a whole, with NaN equal to NaN. Fields declared with `compare=False` are skipped.
    """

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and same(_compared(self), _compared(other))


class Shown(ByValue, ABC):
    """A result that is one row of a table, and is displayed on its own as a table of that row."""

    header: ClassVar[Row]

    @abstractmethod
    def row(self) -> Row:
        """The cells of the row, one for each entry of `header`."""

    def _repr_html_(self) -> str:
        return html_table([("", *self.header), (str(getattr(self, "name", "")), *self.row())])


class Listing(dict[str, V]):
    """A dictionary of results by name that displays itself as a table."""

    def rows(self) -> list[Row]:
        """The header, then a row for each result that begins with its name."""
        header = next(iter(self.values())).header if self else ()
        return [("", *header), *((name, *value.row()) for name, value in self.items())]

    def __repr__(self) -> str:
        return "\n".join(aligned(self.rows()))

    def _repr_html_(self) -> str:
        return html_table(self.rows())


def _compared(record: object) -> dict[str, object]:
    apart = {field.name for field in fields(record) if not field.compare}  # type: ignore[arg-type]
    return {name: value for name, value in vars(record).items() if name not in apart}


def same(a: object, b: object) -> bool:
    """Whether two fields have the same value, to the last bit."""
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        if not (isinstance(a, np.ndarray) and isinstance(b, np.ndarray)):
            return False
        return a.shape == b.shape and np.array_equal(a, b, equal_nan=a.dtype.kind == b.dtype.kind == "f")
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same(value, b[key]) for key, value in a.items())
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if type(a) is type(b) and hasattr(a, "numpy"):  # a tensor
        return same(a.numpy(force=True), b.numpy(force=True))  # type: ignore[attr-defined]
    return bool(a == b) or (a != a and b != b)


def aligned(rows: Sequence[Row], n_left: int = 1) -> Iterator[str]:
    """Align rows of text in columns and yield them as lines; the first row is the header.

    The first `n_left` columns are flush left, the others flush right.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (
            cell.ljust(width) if i < n_left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(cells).rstrip()


def html_table(rows: Sequence[Row], notes: Iterable[str] = ()) -> str:
    """The rows as an HTML table, the first row being the header, with a list of notes below it."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in rows[0])
    body = "".join(f"<tr>{_cells(row)}</tr>" for row in rows[1:])
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{html_list(notes)}"


def html_list(lines: Iterable[str]) -> str:
    """The lines as an HTML list; an empty string if there are none."""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else ""


def _cells(row: Row) -> str:
    """The name flush left, its leading spaces kept; numbers flush right."""
    first = escape(row[0]).replace("  ", "&emsp;")
    others = "".join(f'<td style="text-align:right">{escape(cell)}</td>' for cell in row[1:])
    return f'<td style="text-align:left">{first}</td>{others}'


def duration(seconds: float) -> str:
    """A time in words, to about two significant figures.

    >>> duration(0.42), duration(42), duration(150), duration(9000)
    ('0.4 s', '42 s', '2 min 30 s', '2 h 30 min')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
