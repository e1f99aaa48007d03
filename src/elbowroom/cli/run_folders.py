"""Folders for runs: reserved and tried before anything is measured, so that no measurement is made that cannot be
saved.

A reserved folder holds `.reserved`, which names the process; it goes when the run is saved. One that is found later
tells of a run that is under way, or of one that was killed, which the same command goes on with.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from shutil import rmtree

from ..results import (
    BLOCKS,
    RESERVED,
    Gaps,
    RunError,
    drop_claim,
    is_alive,
    make_claim,
    owner_of,
    refuse_occupied,
    write_run,
)
from .terminal import UserError

__all__ = ["begin_anew", "blocks_in", "reserved", "save"]


@contextmanager
def reserved(folders: Iterable[Path], overwrite: bool) -> Iterator[None]:
    """Reserve folders while a measurement runs. Folders that were made for it are removed if nothing is saved in them.

    Raises:
        UserError: a folder that holds a finished run without its blocks (unless `overwrite`), other files or a run
            under way, or that cannot be written to.
    """
    with ExitStack() as stack:
        for folder in folders:
            stack.enter_context(_reserved(folder, overwrite))
        yield


def begin_anew(folder: Path) -> None:
    """Remove the blocks that a reserved folder holds. The table of a finished run stays until the new one is there.

    Raises:
        UserError: a file that cannot be removed.
    """
    blocks = folder / BLOCKS
    try:
        if blocks.exists():
            rmtree(blocks)
        blocks.mkdir()  # by which the folder is known as one that is being measured into
    except OSError as error:
        raise UserError(
            f"{blocks} cannot be replaced ({error.strerror or error}); nothing was measured. Remove it, or name "
            "another folder"
        ) from None


def save(gaps: Gaps, folder: Path, overwrite: bool, keep_blocks: bool = False) -> None:
    """Save a run whose table was printed already, and its blocks with it or not. Raises UserError if that fails."""
    try:
        write_run(folder, *gaps.to_columns(), overwrite, keep_blocks)
    except OSError as error:
        kept = "; its blocks are kept, and the same command saves it" if blocks_in(folder) else ""
        raise UserError(
            f"{folder}: the run could not be saved ({error.strerror or error}); what was measured is printed above"
            f"{kept}"
        ) from None


def blocks_in(folder: Path) -> int:
    """The number of measured blocks that a folder holds."""
    return sum(1 for _ in folder.glob(f"{BLOCKS}/*/block-*.parquet"))


@contextmanager
def _reserved(folder: Path, overwrite: bool) -> Iterator[None]:
    stopped = _refuse_unusable(folder, overwrite)
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    claim = folder / RESERVED
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if stopped:
            claim.unlink()
        make_claim(claim)  # a second process that comes as far as this fails here
    except FileExistsError:
        raise UserError(f"{folder}: another process is measuring into it; name another folder") from None
    except OSError as error:
        _remove(folder, missing)
        raise UserError(f"{folder}: cannot be written to ({error.strerror or error}); nothing was measured") from None
    try:
        yield
    finally:
        drop_claim(claim)
        _remove(folder, missing)


def _remove(folder: Path, missing: list[Path]) -> None:
    """Remove the folders that were made for a run if neither it nor a block of it was saved in them."""
    if folder in missing and not (folder / "run.json").exists() and not blocks_in(folder):
        rmtree(folder, ignore_errors=True)
    for parent in missing[1:]:
        if parent.is_dir() and not any(parent.iterdir()):
            parent.rmdir()


def _refuse_unusable(folder: Path, overwrite: bool) -> bool:
    """Whether the folder holds the claim of a process that is gone. UserError for one that may not be used."""
    if any(parent.exists() and not parent.is_dir() for parent in (folder, *folder.parents)):
        raise UserError(f"{folder}: a run is saved as a folder, and there is a file in its place")
    if not folder.is_dir():
        return False
    owner = owner_of(folder / RESERVED)
    if owner is not None and is_alive(owner):
        raise UserError(
            f"{folder}: process {owner['pid']} is measuring into it since {owner['since']}; name another folder"
        )
    if (folder / "run.json").exists() and not (folder / BLOCKS).is_dir() and not overwrite:
        raise UserError(f"{folder} holds a run already; add --overwrite to replace it, or name another folder")
    try:
        refuse_occupied(folder, overwrite=True, keep_blocks=True)
    except RunError:
        raise UserError(f"{folder} is not empty and holds no run; name an empty or a new folder") from None
    return owner is not None
