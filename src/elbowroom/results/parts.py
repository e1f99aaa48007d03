"""The blocks of a run as they are measured: one file each, whole or absent, from which an interrupted run goes on.

A folder of parts holds `identity.json`, which says what is measured, and `block-NUMBER-ROWS-CHECKSUM.parquet` files.
The checksum of its content in a file's name makes a part that was damaged, cut or exchanged known at once; it is set
aside under a name that ends in `.damaged`, and its block is measured again. A part appears under its name by a rename,
so a kill at any moment leaves it whole or absent. A block that two processes measured is the same block: the second
leaves that of the first.
"""

import json
import os
import re
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core import write_atomically, write_new
from .claims import Claims, Presence
from .gaps import Gaps
from .store import RunError, as_parquet, checksum_of, from_parquet, plain_json

__all__ = ["Parts", "begin_next_plan", "blocks_promised", "bytes_on_disk", "is_followed"]

IDENTITY = "identity.json"
ASIDE = ".damaged"
TABLE = "table"  # the key of the claim of who writes the table
BETWEEN_TRIES = 0.2  # seconds between two tries to be alone
CLAIMS = "claims"  # the folder of the claims of a run that is not finished
NAME = re.compile(r"block-(\d+)-(\d+)-[0-9a-f]+\.parquet")  # number, rows, checksum
CLOSE = 1e-5  # how much the numbers of a probe may differ, as threads may round them


class Parts:
    """The measured blocks of one run in a folder, which any number of processes fill.

    Args:
        folder: the folder of the parts; it is made if there is none.
        identity: what is measured, ready for JSON. If the folder has one already, it must be the same.
        probe: numbers that stand for what the identity cannot hold, such as a model's code; equal but for rounding.
        n_blocks: the number of blocks there will be.
        presence: this process, in the run folder.
    Raises:
        RunError: the folder belongs to another run, or to one of more data, or cannot be written to.
    """

    def __init__(
        self,
        folder: Path,
        identity: Mapping[str, Any],
        probe: Mapping[str, list[float]],
        n_blocks: int,
        presence: Presence,
    ) -> None:
        self.folder = folder
        self._presence = presence
        self._claims = Claims(folder / CLAIMS, presence)
        self._unkept: dict[int, Gaps] = {}  # measured, but not to be written
        self._maybe_there: dict[int, int] = {}  # rows of blocks that were there, or that others may have written
        wanted = json.loads(json.dumps({"identity": identity, "probe": probe, "blocks": n_blocks}, default=plain_json))
        self._identity = wanted["identity"]
        self._digest = checksum_of(json.dumps(self._identity, sort_keys=True).encode())
        try:
            folder.mkdir(parents=True, exist_ok=True)
            found = self._settled_identity(wanted)
            numbers = [number for number, _, _ in _blocks_in(folder)]
        except OSError as error:
            raise RunError(
                f"{folder} cannot be written to ({error.strerror or error}); nothing was measured. Name another folder."
            ) from None
        _refuse_another(folder, found, wanted)
        if any(number >= n_blocks for number in numbers):
            raise _of_more_data(folder)
        if found.get("blocks") != n_blocks:  # more data than before; for those who look on
            with suppress(OSError):
                self._write_identity({**found, "blocks": n_blocks})

    def rows_kept(self) -> dict[int, int]:
        """The number of rows of each block that is there, by the number of the block."""
        kept = {number: len(gaps) for number, gaps in self._unkept.items()}
        with suppress(OSError), os.scandir(self.folder) as entries:
            for entry in entries:
                match = NAME.fullmatch(entry.name)
                if match:
                    kept[int(match[1])] = max(kept.get(int(match[1]), 0), int(match[2]))
        self._maybe_there = kept
        return dict(kept)

    def rows_of(self, number: int) -> int:
        """The number of rows of one block, 0 if it is not there."""
        return max((rows for _, rows, _ in _blocks_in(self.folder, number)), default=0)

    @property
    def is_lost(self) -> bool:
        """Whether a block could not be written, and so is in this process's memory alone."""
        return bool(self._unkept)

    def prepare(self) -> None:
        """Make ready for claims."""
        with suppress(OSError):
            self._claims.prepare()

    def claim(self, number: int, take_over: bool = False) -> bool:
        """Claim a block that is not there -> whether this process is to measure it.

        Args:
            take_over: also if a process that is dead had claimed it.
        """
        if self._unkept:
            return True
        if take_over:
            self._maybe_there.setdefault(number, 0)
        try:
            return self._claims.take(_key(number), take_over)
        except OSError:  # a disk that is full or gone: the block is measured all the same
            return True

    def in_own_order(self, numbers: list[int]) -> list[int]:
        """The numbers as they are; beside others, from a place on that is this process's own, so that few collide."""
        if not numbers or not self._presence.others():
            return numbers
        start = zlib.crc32(self._presence.owner.name.encode()) % len(numbers)
        return numbers[start:] + numbers[:start]

    def give_up(self, number: int) -> None:
        """Let others have a block that this process claimed and did not measure."""
        self._claims.give_up(_key(number))

    def load(self, number: int, fingerprint: NDArray[np.int64]) -> Gaps | None:
        """The block of this number, or None if it must be measured.

        Args:
            fingerprint: (B,) that of the block's data, by which rows are known.
        Raises:
            RunError: the block was measured on other data or more of them, or is one of another run.
        """
        if number in self._unkept:
            return self._unkept[number]
        for _, _, path in _blocks_in(self.folder, number):
            gaps = self._read(path)
            if gaps is None:
                self._claims.forget(_key(number))
                continue
            known, shorter = gaps.fingerprint, min(len(gaps), len(fingerprint))
            if known is None or (known[:shorter] != fingerprint[:shorter]).any():
                raise _of_other_data(self.folder, number)
            if len(gaps) > len(fingerprint):
                raise _of_more_data(self.folder)
            if len(gaps) == len(fingerprint):
                return gaps
        return None

    def save(self, number: int, gaps: Gaps) -> None:
        """Write a block. If that fails, a UserWarning says so once, and blocks are kept in memory from then on.

        Raises:
            RunError: the folder was given to another plan meanwhile, by a process that took this one for dead.
        """
        if self._unkept:
            self._unkept[number] = gaps
            return
        try:
            now = _identity_in(self.folder)
            if now is not None and not _equal(now["identity"], self._identity):
                raise RunError(f"{self.folder} was given to another run meanwhile; this one cannot go on there")
            may_be_there = number in self._maybe_there  # a look at every name in a large folder takes long
            earlier = _blocks_in(self.folder, number) if may_be_there else []
            if any(rows >= len(gaps) for _, rows, _ in earlier):  # by one that took this process for dead
                return
            content = self._content(gaps)
            write_atomically(self.folder / f"block-{_key(number)}-{len(gaps)}-{checksum_of(content)}.parquet", content)
            for _, _, shorter in earlier:  # from before there were more data
                shorter.unlink(missing_ok=True)
        except OSError as error:
            self._unkept[number] = gaps
            warnings.warn(
                f"block {number} could not be written to {self.folder} ({error.strerror or error}): the measurement "
                "goes on, but what follows is not kept",
                stacklevel=2,
            )

    @contextmanager
    def alone(self) -> Iterator[None]:
        """A context that one process at a time is in; the others wait, and take over from one that died."""
        self.prepare()
        try:
            while not self._claims.take(TABLE, take_over=True):
                time.sleep(BETWEEN_TRIES)
                self.prepare()  # the one that was in it may have finished the run
        except OSError:  # what is to be written will say so
            pass
        try:
            yield
        finally:
            self._claims.give_up(TABLE)

    def finish(self) -> None:
        """Remove the claims, as all blocks are there."""
        self._claims.clear()

    def _settled_identity(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """What the folder says of itself, which is what is wanted if nobody has said it yet."""
        path = self.folder / IDENTITY
        if not path.exists():
            with suppress(FileExistsError):  # of two that begin at once, the second must be the same run
                write_new(path, json.dumps(wanted, indent=1).encode())
        found = _identity_in(self.folder)
        if found is None:  # damaged; blocks that are there know by themselves whether they are of this run
            self._write_identity(wanted)
        return dict(wanted) if found is None else found

    def _write_identity(self, wanted: Mapping[str, Any]) -> None:
        write_atomically(self.folder / IDENTITY, json.dumps(wanted, indent=1).encode())

    def _content(self, gaps: Gaps) -> bytes:
        meta, columns = gaps.to_columns()
        return as_parquet(columns, {"identity": self._digest, "gaps": meta})

    def _read(self, path: Path) -> Gaps | None:
        """The block in a file; one that is damaged is set aside, and None."""
        try:
            content = path.read_bytes()
        except FileNotFoundError:  # another process has replaced it by a longer one, or set it aside
            return None
        if path.stem.rsplit("-", 1)[-1] != checksum_of(content):
            aside = path.with_name(path.name + ASIDE)
            with suppress(FileNotFoundError):
                path.rename(aside)
            warnings.warn(f"{path} was damaged and is measured again; it is kept as {aside.name}", stacklevel=4)
            return None
        record, columns = from_parquet(content)
        if record["identity"] != self._digest:
            raise RunError(f"{path} is a block of another run; nothing was changed. Name another folder.")
        return Gaps.from_columns(record["gaps"], columns)


def is_followed(
    folder: Path,
    identity: Mapping[str, Any],
    probe: Mapping[str, list[float]],
    follows: Callable[[Any, Any], bool],
) -> bool:
    """Whether a folder of parts belongs to a run that differs in its plan alone, on which the plan of this one follows.

    Args:
        identity, probe: as in `Parts`, of this run.
        follows: called with the plan of the identity there and of the one here.
    """
    found, wanted = _identity_in(folder), json.loads(json.dumps(identity, default=plain_json))
    if found is None or _equal(found["identity"], wanted):
        return False
    before, now = found["identity"].get("plan"), wanted["plan"]
    is_same_else = _equal({**found["identity"], "plan": now}, wanted) and all(
        _close(found["probe"].get(key), numbers) for key, numbers in probe.items()
    )
    return is_same_else and follows(before, now)


def begin_next_plan(
    folder: Path,
    identity: Mapping[str, Any],
    probe: Mapping[str, list[float]],
    n_blocks: int,
    fingerprint: Callable[[int], NDArray[np.int64]],
) -> None:
    """Remove the blocks of a run from a folder of parts, but not its fits, and give it to a run by another plan.

    Args:
        identity, probe, n_blocks: as in `Parts`, of the run by that plan.
        fingerprint: the fingerprint (B,) of the data of each block of that run.
    Raises:
        OSError: a file cannot be removed or written.
        RunError: there are blocks of other data, or of more of them; nothing was removed.
    """
    for number, rows, path in _blocks_in(folder):
        wanted = fingerprint(number) if number < n_blocks else np.empty(0, dtype=np.int64)
        if rows > len(wanted):
            raise _of_more_data(folder)
        content = path.read_bytes()
        is_whole = path.stem.rsplit("-", 1)[-1] == checksum_of(content)
        if is_whole and (from_parquet(content)[1]["fingerprint"] != wanted[:rows]).any():
            raise _of_other_data(folder, number)
    rmtree(folder / CLAIMS, ignore_errors=True)
    for _, _, path in _blocks_in(folder):
        path.unlink(missing_ok=True)
    record = {"identity": identity, "probe": probe, "blocks": n_blocks}
    write_atomically(folder / IDENTITY, json.dumps(record, indent=1, default=plain_json).encode())


def blocks_promised(blocks: Path) -> tuple[int | None, int | None, str | None, str | None]:
    """How many blocks a run's folder of blocks holds and will hold, the plan, and when the last was written.

    Of a run with two phases these are those of both, and the plan is the first. What is not known is None.
    """
    kept = [path for phase in sorted(blocks.glob("*")) for _, _, path in _blocks_in(phase)]
    known = [found for phase in sorted(blocks.glob("*")) if (found := _identity_in(phase)) is not None]
    totals = [found["blocks"] for found in known if isinstance(found.get("blocks"), int)]
    plans = [plan["name"] for plan in known[0]["identity"]["plan"]] if known else []
    last = max((path.stat().st_mtime for path in kept), default=None)
    written = None if last is None else datetime.fromtimestamp(last, UTC).isoformat(timespec="seconds")
    return len(kept) if known else None, sum(totals) or None, plans[0] if plans else None, written


def bytes_on_disk(gaps: Gaps, n: int, size: int) -> int:
    """About how many bytes a run of n data will take, its table and its blocks of `size` data, from gaps of a few."""
    meta, columns = gaps.to_columns()
    one, all_of_them = (len(as_parquet({key: it[:rows] for key, it in columns.items()})) for rows in (1, len(gaps)))
    per_datum = (all_of_them - one) / max(len(gaps) - 1, 1)
    of_a_file = one - per_datum + len(json.dumps(meta, default=plain_json))
    return round(2 * n * per_datum + (-(-n // size) + 1) * of_a_file)


def _of_other_data(folder: Path, number: int) -> RunError:
    return RunError(
        f"{folder} holds block {number} of other data; nothing was changed. Name another folder, or pass the data in "
        "the order in which they were measured."
    )


def _of_more_data(folder: Path) -> RunError:
    return RunError(
        f"{folder} holds a run of more data; nothing was changed. Pass all of them, or name another folder."
    )


def _key(number: int) -> str:
    return f"{number:06d}"


def _blocks_in(folder: Path, number: int | None = None) -> list[tuple[int, int, Path]]:
    """(number, rows, file) of each block in a folder, or of those of one number, in the order of names."""
    begin = "block-" if number is None else f"block-{_key(number)}-"
    names: list[str] = []
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:  # faster than a glob
        names = sorted(entry.name for entry in entries if entry.name.startswith(begin))
    matches = [match for name in names if (match := NAME.fullmatch(name))]
    return [(int(match[1]), int(match[2]), folder / match[0]) for match in matches]


def _identity_in(folder: Path) -> dict[str, Any] | None:
    """What the folder says of itself; None if it says nothing that can be read."""
    try:
        found = json.loads((folder / IDENTITY).read_text())
    except (FileNotFoundError, ValueError):
        return None
    whole = isinstance(found, dict) and isinstance(found.get("identity"), dict) and isinstance(found.get("probe"), dict)
    return found if whole else None


def _refuse_another(folder: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise RunError if two runs differ, and say in what."""
    for part, same in (("identity", _equal), ("probe", _close)):
        before, now = found[part], wanted[part]
        for key in sorted({*before, *now}):
            if not same(before.get(key), now.get(key)):
                there, here = _what_differs(before.get(key), now.get(key))
                raise RunError(
                    f"{folder} holds a run with another {key}: {_shown(there)} there, {_shown(here)} now; nothing was "
                    "changed. Name another folder, or measure what is there."
                )


def _what_differs(there: object, here: object) -> tuple[object, object]:
    """Of two mappings the entries that are not the same; of anything else the whole."""
    if not isinstance(there, Mapping) or not isinstance(here, Mapping):
        return there, here
    keys = [key for key in {**there, **here} if not _equal(there.get(key), here.get(key))]
    return {key: there.get(key) for key in keys}, {key: here.get(key) for key in keys}


def _equal(found: object, wanted: object) -> bool:
    return json.dumps(found, sort_keys=True) == json.dumps(wanted, sort_keys=True)  # as text, NaN is equal to NaN


def _close(found: list[float] | None, wanted: list[float] | None) -> bool:
    """Whether they are the same numbers but for rounding."""
    if found is None or wanted is None or len(found) != len(wanted):
        return False
    return bool(np.allclose(found, wanted, rtol=CLOSE, atol=CLOSE, equal_nan=True))


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
