"""Folders for runs: reserved and tried before anything is measured, so that no measurement is made that cannot be
saved.

A reserved folder holds `.reserved`, which names the process; it goes when the run is saved. One that is found later
tells of a run that is under way, or of one that was interrupted.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from shutil import rmtree

from ..results import RESERVED, Gaps, is_alive, make_claim, owner_of
from .terminal import UserError

__all__ = ["reserved", "save"]


@contextmanager
def reserved(folders: Iterable[Path], overwrite: bool) -> Iterator[None]:
    """Reserve folders while a measurement runs. Folders that were made for it are removed if nothing is saved in them.

    Raises:
        UserError: a folder that holds a run (unless `overwrite`), other files, an interrupted run or one under way, or
            that cannot be written to.
    """
    with ExitStack() as stack:
        for folder in folders:
            stack.enter_context(_reserved(folder, overwrite))
        yield


def save(gaps: Gaps, folder: Path, overwrite: bool) -> None:
    """Save a run whose table was printed already. Raises UserError if that fails."""
    try:
        gaps.save(folder, overwrite)
    except OSError as error:
        raise UserError(
            f"{folder}: the run could not be saved ({error.strerror or error}); what was measured is printed above"
        ) from None


@contextmanager
def _reserved(folder: Path, overwrite: bool) -> Iterator[None]:
    interrupted = _refuse_occupied(folder, overwrite)
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    claim = folder / RESERVED
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if interrupted:
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
        claim.unlink(missing_ok=True)
        _remove(folder, missing)


def _remove(folder: Path, missing: list[Path]) -> None:
    """Remove the folders that were made for a run if no run was saved in them."""
    if folder in missing and not (folder / "run.json").exists():
        rmtree(folder, ignore_errors=True)
    for parent in missing[1:]:
        if parent.is_dir() and not any(parent.iterdir()):
            parent.rmdir()


def _refuse_occupied(folder: Path, overwrite: bool) -> bool:
    """Whether the folder holds an interrupted run, to be replaced. UserError for one that may not be used."""
    if any(parent.exists() and not parent.is_dir() for parent in (folder, *folder.parents)):
        raise UserError(f"{folder}: a run is saved as a folder, and there is a file in its place")
    if not folder.is_dir():
        return False
    owner = owner_of(folder / RESERVED)
    if owner is not None and is_alive(owner):
        raise UserError(
            f"{folder}: process {owner['pid']} is measuring into it since {owner['since']}; name another folder"
        )
    if owner is not None and not overwrite:
        raise UserError(
            f"{folder} holds a run that was interrupted (begun {owner['since']}); add --overwrite to replace it, "
            "or name another folder"
        )
    if (folder / "run.json").exists() and not overwrite:
        raise UserError(f"{folder} holds a run already; add --overwrite to replace it, or name another folder")
    others = [path for path in folder.iterdir() if path.name != RESERVED]
    if others and owner is None and not (folder / "run.json").exists():
        raise UserError(f"{folder} is not empty and holds no run; name an empty or a new folder")
    return owner is not None
