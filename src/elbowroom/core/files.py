"""Files that are written whole or not at all, also where several processes write into one folder."""

import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

__all__ = ["PARTIAL_SUFFIX", "write_atomically", "write_new"]

PARTIAL_SUFFIX = ".part"  # the end of a temporary name


def write_atomically(path: Path, content: bytes | Callable[[BinaryIO], object]) -> None:
    """Write under a temporary name, sync and rename: a reader sees the old file or the new one, never a part.

    Args:
        content: what to write, or a function that writes it to the file that it is given.
    """
    temporary = _temporary(path)
    try:
        _write(temporary, content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_new(path: Path, content: bytes) -> None:
    """Write a file that must not be there yet: of several processes that try, one succeeds, and its file is whole.

    Raises:
        FileExistsError: there is a file of that name.
    """
    temporary = _temporary(path)
    try:
        _write(temporary, content)
        try:
            os.link(temporary, path)  # atomic and exclusive, on NFS too
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            with path.open("xb") as file:
                file.write(content)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL_SUFFIX}")


def _write(path: Path, content: bytes | Callable[[BinaryIO], object]) -> None:
    with path.open("wb") as file:
        if callable(content):
            content(file)
        else:
            file.write(content)
        file.flush()
        os.fsync(file.fileno())
