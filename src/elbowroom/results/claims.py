"""Claims: a file in a folder that names the process which measures into it.

A claim is made by an exclusive create, so of two processes one gets it. A claim whose process is dead is taken over.
"""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

from .store import RESERVED, RunError

__all__ = ["Owner", "claimed", "drop_claim", "is_alive", "make_claim", "owner_of"]

Owner: TypeAlias = dict[str, str | int]


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Claim a folder, which must exist, while a measurement runs.

    Raises:
        RunError: another process that is alive has claimed it, or it cannot be written to.
    """
    path = folder / RESERVED
    owner = owner_of(path)
    if owner is not None and is_alive(owner):
        raise RunError(
            f"process {owner['pid']} on {owner['host']} is measuring into {folder} since {owner['since']}; wait for "
            f"it, or remove {path} if it is gone"
        )
    try:
        path.unlink(missing_ok=True)
        make_claim(path)
    except FileExistsError:
        raise RunError(f"another process is measuring into {folder}; wait for it, or name another folder") from None
    except OSError as error:
        raise RunError(
            f"{folder} cannot be written to ({error.strerror or error}); nothing was measured. Name another folder."
        ) from None
    try:
        yield
    finally:
        drop_claim(path)


def make_claim(path: Path) -> None:
    """Write a claim of this process. FileExistsError if there is one."""
    with path.open("x") as file:
        since = datetime.now(UTC).isoformat(timespec="seconds")
        json.dump({"host": socket.gethostname(), "pid": os.getpid(), "since": since}, file)


def drop_claim(path: Path) -> None:
    """Remove a claim of this process; one of another process stays."""
    owner = owner_of(path)
    if owner is not None and (owner["host"], owner["pid"]) == (socket.gethostname(), os.getpid()):
        path.unlink(missing_ok=True)


def owner_of(path: Path) -> Owner | None:
    """The process that a claim names, or None where there is no claim."""
    try:
        owner = json.loads(path.read_text())
        return {"host": owner["host"], "pid": int(owner["pid"]), "since": owner["since"]}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        return {"host": "", "pid": 0, "since": "at an unknown time"}


def is_alive(owner: Owner) -> bool:
    """Whether that process still runs. One of another machine is assumed to, because that cannot be known here."""
    if owner["host"] != socket.gethostname():
        return bool(owner["host"])
    try:
        os.kill(int(owner["pid"]), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return int(owner["pid"]) > 0 and owner["pid"] != os.getpid()
