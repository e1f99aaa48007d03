"""Where a command saves its runs: refused before anything is computed, and gone again where writing fails."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree

from ..results import Gaps
from .terminal import UserError

__all__ = ["check_out", "save"]


def check_out(folder: Path, overwrite: bool) -> None:
    """Refuse, before anything is computed, a folder that could not be written at the end."""
    if (folder / "run.json").exists():
        if not overwrite:
            raise UserError(f"{folder} holds a run already; add --overwrite to replace it, or name another folder")
    elif folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty and holds no run; name an empty or a new folder")
    elif any(parent.exists() and not parent.is_dir() for parent in (folder, *folder.parents)):
        raise UserError(f"{folder}: a run is saved as a folder, and there is a file in its place")


def save(gaps: Gaps, folder: Path, overwrite: bool) -> None:
    """Save a run; where that fails, the folders that were made for it are gone again."""
    with _created_or_gone(folder):
        gaps.save(folder, overwrite)


@contextmanager
def _created_or_gone(folder: Path) -> Iterator[None]:
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    except BaseException as error:
        if missing:
            rmtree(missing[-1], ignore_errors=True)
        if isinstance(error, OSError):
            raise UserError(f"{folder}: {error.strerror or error}; nothing was saved") from None
        raise
