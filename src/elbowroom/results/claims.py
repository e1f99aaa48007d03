"""Who measures into a run folder, and who has claimed which of its blocks.

A process that measures into a folder has a file in `workers/` there, which it touches every `HEARTBEAT` seconds. A
claim is a file that names such a process. It is made by an exclusive create, so that of several processes one gets it,
on NFS too. Claims stay until the run is finished. One whose process is dead is not removed, which might hit a newer
one, but followed by a claim of the next generation.

A process is dead if its file is gone, if it ran on this machine and does not exist, or if its file was not touched for
`SILENCE` seconds of the clock of whoever waits for it: clocks of two machines are never compared.
"""

import json
import os
import secrets
import socket
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from shutil import rmtree
from threading import Event, Thread
from typing import Self

from ..core import PARTIAL_SUFFIX, write_atomically
from .store import WORKERS, RunError

__all__ = ["HEARTBEAT", "SILENCE", "Claims", "Owner", "Presence", "owners_in", "seems_alive"]

HEARTBEAT = 15.0  # seconds between two touches of a process's file
APPEAR_TRIES = 10
SILENCE = 120.0  # seconds without a touch after which a process is taken for dead


@dataclass(frozen=True, kw_only=True)
class Owner:
    """A process that measures into a folder.

    Attributes:
        name: the name of its file.
        host, pid: the machine, and the number of the process there.
        since: when it began, in ISO format.
        is_replacing: whether it removes what the folder holds, before it measures anew.
    """

    name: str
    host: str
    pid: int
    since: str
    is_replacing: bool = False

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class Presence:
    """A context in which this process is known as one that measures into a folder, which must exist.

    Args:
        folder: the run folder.
        is_replacing: this process will remove what the folder holds; it must be alone.
    Raises:
        OSError: the folder cannot be written to.
        RunError: on entry, another process is replacing what the folder holds; or one that is alive measures into it,
            and this one was to replace it.
    """

    def __init__(self, folder: Path, is_replacing: bool = False) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self.folder = folder
        host, pid = socket.gethostname(), os.getpid()
        name = f"{host}-{pid}-{secrets.token_hex(4)}.json"
        self.owner = Owner(name=name, host=host, pid=pid, since=now, is_replacing=is_replacing)
        self._ended = Event()
        self._seen: dict[str, tuple[int, float]] = {}

    def __enter__(self) -> Self:
        _OWN.add(self.owner.name)
        try:
            self._appear()
            self._refuse_conflicts()
        except BaseException:
            self._leave()
            raise
        Thread(target=self._touch_from_time_to_time, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._leave()

    def others(self) -> list[Owner]:
        """The other processes that measure into the folder and seem to be alive."""
        return [owner for owner in owners_in(self.folder) if owner.name not in _OWN and seems_alive(self.folder, owner)]

    def has_replaced(self) -> None:
        """Others may join from now on."""
        self.owner = replace(self.owner, is_replacing=False)
        self._write()

    def sweep(self) -> None:
        """Remove what killed processes left, their files and what they were writing, if no other process is there."""
        if self.others():
            return
        dead = [path for path in (self.folder / WORKERS).glob("*.json") if path.name not in _OWN]
        for path in (*self.folder.rglob(f".*{PARTIAL_SUFFIX}"), *dead):
            with suppress(OSError):
                path.unlink()

    def lives(self, name: str) -> bool:
        """Whether the process of that name is to be waited for; a file that is never touched is, for `SILENCE`."""
        path = self.folder / WORKERS / name
        try:
            with path.open() as file:
                owner, touched = _parsed(name, file.read()), os.fstat(file.fileno()).st_mtime_ns
        except FileNotFoundError:
            return False
        except OSError:
            return True
        if owner is not None and _is_gone(owner):
            return False
        return self.moves(name, touched)

    def moves(self, name: str, touched: int) -> bool:
        """Whether a file, touched at this time of its own machine's clock, was touched anew in the last `SILENCE`."""
        now = time.monotonic()
        before, since = self._seen.get(name, (None, now))
        if before != touched:
            self._seen[name] = (touched, now)
            return True
        return now - since < SILENCE

    def _refuse_conflicts(self) -> None:
        """Each of two that begin at once writes its file before it looks, so at least one of them sees the other."""
        others = self.others()
        replacing = next((owner for owner in others if owner.is_replacing), None)
        if replacing is not None:
            raise RunError(
                f"{replacing} is replacing the run in {self.folder} since {replacing.since}; try again in a moment"
            )
        if self.owner.is_replacing and others:
            raise RunError(
                f"{others[0]} is measuring into {self.folder} since {others[0].since}; wait for it or stop it, or name "
                "another folder"
            )

    def _appear(self) -> None:
        """Write the file, in a folder that the last one to leave may remove at this moment."""
        for tries_left in range(APPEAR_TRIES - 1, -1, -1):
            (self.folder / WORKERS).mkdir(exist_ok=True)
            try:
                return self._write()
            except FileNotFoundError:
                if not tries_left:
                    raise

    def _write(self) -> None:
        record = {key: value for key, value in asdict(self.owner).items() if key != "name"}
        write_atomically(self.folder / WORKERS / self.owner.name, json.dumps(record).encode())

    def _touch_from_time_to_time(self) -> None:
        path = self.folder / WORKERS / self.owner.name
        while not self._ended.wait(HEARTBEAT):
            try:
                os.utime(path)
            except FileNotFoundError:  # removed by one that took this process for dead
                with suppress(OSError):
                    self._write()
            except OSError:
                pass

    def _leave(self) -> None:
        self._ended.set()
        _OWN.discard(self.owner.name)
        with suppress(OSError):
            (self.folder / WORKERS / self.owner.name).unlink(missing_ok=True)
        with suppress(OSError):  # others are still there
            (self.folder / WORKERS).rmdir()


class Claims:
    """The claims of blocks in a folder, as seen by one of the processes that measure them."""

    def __init__(self, folder: Path, presence: Presence) -> None:
        self.folder, self.presence = folder, presence

    def prepare(self) -> None:
        """Make the folder in which claims are made."""
        self.folder.mkdir(parents=True, exist_ok=True)

    def take(self, key: str, take_over: bool = False) -> bool:
        """Claim what `key` names -> whether this process has it.

        Args:
            take_over: also if it was claimed by a process that is dead.
        """
        for generation in count():
            path = self.folder / f"{key}-{generation}"
            try:
                with path.open("x") as file:
                    file.write(self.presence.owner.name)
                return True
            except FileExistsError:
                if not take_over or self._is_held(path):
                    return False
            except FileNotFoundError:  # the run was finished meanwhile, and its claims removed
                return False
        raise AssertionError

    def give_up(self, key: str) -> None:
        """Remove this process's claims of what was not done."""
        for path in self.folder.glob(f"{key}-*"):
            with suppress(OSError):
                if path.read_text() == self.presence.owner.name:
                    path.unlink()

    def forget(self, key: str) -> None:
        """Remove all claims of what must be done again."""
        for path in self.folder.glob(f"{key}-*"):
            with suppress(OSError):
                path.unlink()

    def clear(self) -> None:
        """Remove all claims of a run that is finished, at once for those who try to make one."""
        aside = self.folder.with_name(f".claims.{secrets.token_hex(4)}{PARTIAL_SUFFIX}")
        with suppress(OSError):
            self.folder.rename(aside)
        rmtree(aside, ignore_errors=True)

    def _is_held(self, path: Path) -> bool:
        try:
            name, touched = path.read_text(), path.stat().st_mtime_ns
        except FileNotFoundError:
            return False
        except OSError:
            return True
        if not name:  # its process is about to write it, or was killed before
            return self.presence.moves(str(path), touched)
        return name != self.presence.owner.name and self.presence.lives(name)


_OWN: set[str] = set()  # the names under which this process measures into folders


def owners_in(folder: Path) -> list[Owner]:
    """The processes that have a file in a run folder, dead or alive."""
    found = []
    for path in sorted((folder / WORKERS).glob("*.json")):
        with suppress(OSError):
            owner = _parsed(path.name, path.read_text())
            if owner is not None:
                found.append(owner)
    return found


def seems_alive(folder: Path, owner: Owner) -> bool:
    """Whether a process seems to be alive at a glance: of another machine, by the age of its file."""
    if _is_gone(owner):
        return False
    if owner.host == socket.gethostname():
        return True
    try:
        return abs(time.time() - (folder / WORKERS / owner.name).stat().st_mtime) < SILENCE
    except OSError:
        return False


def _parsed(name: str, text: str) -> Owner | None:
    try:
        return Owner(name=name, **json.loads(text))
    except (ValueError, TypeError):
        return None


def _is_gone(owner: Owner) -> bool:
    """Whether that process ran on this machine, and does not exist any more."""
    if owner.host != socket.gethostname():
        return False
    if owner.pid == os.getpid():
        return owner.name not in _OWN  # a process of the past had the same number
    try:
        os.kill(owner.pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        return False
    return owner.pid <= 0
