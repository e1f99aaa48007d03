"""Files that are written whole or not at all."""

import os
from pathlib import Path

__all__ = ["PARTIAL_SUFFIX", "write_atomically"]

PARTIAL_SUFFIX = ".part"  # the end of a temporary name


def write_atomically(path: Path, content: bytes) -> None:
    """Write under a temporary name, sync and rename: a reader sees the old file or the new one, never a part."""
    temporary = path.with_name(f".{path.name}{PARTIAL_SUFFIX}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
