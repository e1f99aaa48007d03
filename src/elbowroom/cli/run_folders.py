"""Folders for runs: tried before anything is measured, so that no measurement is made that cannot be saved."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from shutil import rmtree

from ..measure import KeptRun
from ..results import BLOCKS, WORKERS, Gaps, Presence, RunError, refuse_occupied
from .terminal import UserError

__all__ = ["alone", "blocks_in", "reserved", "save_kept"]


@contextmanager
def alone(folder: Path, unless: str | None = None) -> Iterator[None]:
    """A context that one process at a time is in for a folder, on systems that can lock a file, which stays beside it.

    Args:
        unless: what the error says if another process is in it; without it that process is waited for.
    Raises:
        UserError: another process is in it, and `unless` says what then.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX if unless is None else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder}: {unless}") from None
        except OSError:  # a file system without locks
            pass
        yield


@contextmanager
def reserved(folders: Iterable[Path], overwrite: bool) -> Iterator[None]:
    """Be present in folders while a measurement runs. Folders that were made for it are removed if nothing is saved.

    Args:
        overwrite: replace what the folders hold: that is removed, but for the table of a finished run, which stays
            until the new one is there. No other process may be there then.
    Raises:
        UserError: a folder that holds a finished run without its blocks (unless `overwrite`) or other files, or that
            cannot be written to, or that another process replaces.
    """
    with ExitStack() as stack:
        there = [(folder, stack.enter_context(_reserved(folder, overwrite))) for folder in folders]
        if overwrite:
            for folder, presence in there:
                _begin_anew(folder)
                presence.has_replaced()
        yield


def _begin_anew(folder: Path) -> None:
    """Remove the blocks that a folder holds. UserError for a file that cannot be removed."""
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


def save_kept(run: KeptRun, gaps: Gaps, stays: bool = True) -> None:
    """Save a run whose blocks are kept, and whose table was printed already. Raises UserError if that fails.

    Args:
        stays: whether the same command goes on with the folder.
    """
    try:
        run.save(gaps)
    except OSError as error:
        kept = "; its blocks are kept, and the same command saves it" if stays and blocks_in(run.folder) else ""
        raise UserError(
            f"{run.folder}: the run could not be saved ({error.strerror or error}); what was measured is printed above"
            f"{kept}"
        ) from None


def blocks_in(folder: Path) -> int:
    """The number of measured blocks that a folder holds."""
    return sum(1 for _ in folder.glob(f"{BLOCKS}/*/block-*.parquet"))


@contextmanager
def _reserved(folder: Path, overwrite: bool) -> Iterator[Presence]:
    _refuse_unusable(folder, overwrite)
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        with ExitStack() as stack:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                presence = stack.enter_context(Presence(folder, is_replacing=overwrite))
            except RunError as error:
                raise UserError(str(error)) from None
            except OSError as error:
                raise UserError(
                    f"{folder}: cannot be written to ({error.strerror or error}); nothing was measured"
                ) from None
            yield presence
    finally:
        _remove(folder, missing)


def _remove(folder: Path, missing: list[Path]) -> None:
    """Remove the folders that were made for a run if neither it nor a block of it was saved in them."""
    in_use = (folder / WORKERS).exists()  # by another process
    if folder in missing and not in_use and not (folder / "run.json").exists() and not blocks_in(folder):
        rmtree(folder, ignore_errors=True)
    for parent in missing[1:]:
        if parent.is_dir() and not any(parent.iterdir()):
            parent.rmdir()


def _refuse_unusable(folder: Path, overwrite: bool) -> None:
    """Raise UserError for a folder that may not be used."""
    if any(parent.exists() and not parent.is_dir() for parent in (folder, *folder.parents)):
        raise UserError(f"{folder}: a run is saved as a folder, and there is a file in its place")
    if not folder.is_dir():
        return
    if (folder / "run.json").exists() and not (folder / BLOCKS).is_dir() and not overwrite:
        raise UserError(f"{folder} holds a run already; add --overwrite to replace it, or name another folder")
    try:
        refuse_occupied(folder, overwrite=True, keep_blocks=True)
    except RunError:
        raise UserError(f"{folder} is not empty and holds no run; name an empty or a new folder") from None
