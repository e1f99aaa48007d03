"""`elbowroom data`: list data sets, and download them."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ..datasets import SHAPES, SOURCES, SPLITS, fetch, find_dataset, times
from ..results import aligned
from .terminal import UserError, bars, say

__all__ = ["data_command"]


def data_command(*names: Annotated[str, Parameter(name="NAME")], data_dir: Path | None = None) -> None:
    """The command; `app.HELP` says what it does.

    Args:
        names: Data sets to download: cifar10, fashion-mnist or mnist.
        data_dir: Folder that is looked in first.
    """
    unknown = [name for name in names if name not in SOURCES]
    if unknown:
        raise UserError(f"no data set is named {unknown[0]}; there are {', '.join(SOURCES)}")
    if not names:
        for line in aligned([row for name in SOURCES for row in _listed(name, data_dir)], 2):
            say(line)
    for name in names:
        say(f"{name}: {_fetched(name, data_dir)}")


def _listed(name: str, folder: Path | None) -> list[tuple[str, str]]:
    """A data set in two lines: its splits and the shape of an image, then where its files are or what is wrong."""
    splits = ", ".join(f"{split} {n:,}" for split, n in SPLITS[name].items())
    try:
        place = find_dataset(name, folder)
    except ValueError as error:
        where = f"damaged: {error}"
    else:
        where = f"not here; elbowroom data {name} fetches it, {SOURCES[name].n_bytes / 1e6:.0f} MB"
        if place:
            where = str(place.path) + (f" ({place.note})" if place.note else "")
    return [(name, f"{splits}; {times(SHAPES[name])}"), ("", where)]


def _fetched(name: str, folder: Path | None) -> Path:
    """The folder of a data set, which is downloaded first if it is nowhere."""
    advance: Callable[..., None] | None = None
    with bars("MB") as add:

        def progress(done: int, total: int) -> None:
            nonlocal advance
            advance = advance or add(f"fetching {name}", total // 10**6)
            advance(done // 10**6, total // 10**6)

        try:
            return fetch(name, folder, progress)
        except OSError as error:
            raise UserError(f"{name}: {error}") from None
