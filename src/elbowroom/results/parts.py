"""The blocks of a run as they are measured: one file each, whole or absent, from which an interrupted run goes on.

A folder of parts holds `identity.json`, which says what is measured, and `block-NUMBER-CHECKSUM.parquet` files. The
checksum of its content in a file's name makes a part that was damaged, cut or exchanged known at once; it is set aside
under a name that ends in `.damaged`, and its block is measured again. A part appears under its name by a rename, so a
kill at any moment leaves it whole or absent.
"""

import hashlib
import io
import json
import warnings
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core import PARTIAL_SUFFIX, write_atomically
from .gaps import Gaps
from .store import RunError, as_table, columns_of, plain_json

__all__ = ["Parts", "blocks_promised"]

IDENTITY = "identity.json"
ASIDE = ".damaged"
META = b"elbowroom"  # the key of the metadata in a part
CLOSE = 1e-5  # how much the numbers of a probe may differ, as threads may round them


class Parts:
    """The measured blocks of one run in a folder, which one process has claimed.

    Args:
        folder: the folder of the parts; it is made if there is none.
        identity: what is measured, ready for JSON. If the folder has one already, it must be the same.
        probe: numbers that stand for what the identity cannot hold, such as a model's code; equal but for rounding.
        n_blocks: the number of blocks there will be.
    Raises:
        RunError: the folder belongs to another run, or to one of more data, or cannot be written to.
    """

    def __init__(
        self, folder: Path, identity: Mapping[str, Any], probe: Mapping[str, list[float]], n_blocks: int
    ) -> None:
        self.folder = folder
        self._is_lost = False
        wanted = json.loads(json.dumps({"identity": identity, "probe": probe, "blocks": n_blocks}, default=plain_json))
        self._digest = _checksum(json.dumps(wanted["identity"], sort_keys=True).encode())
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for cut in folder.glob(f".*{PARTIAL_SUFFIX}"):
                cut.unlink(missing_ok=True)
            found = _identity_in(folder)
            if found is None:  # blocks that are there know by themselves whether they are of this run
                self._write_identity(wanted)
            numbers = [int(path.name.split("-")[1]) for path in folder.glob("block-*-*.parquet")]
        except OSError as error:
            raise RunError(
                f"{folder} cannot be written to ({error.strerror or error}); nothing was measured. Name another folder."
            ) from None
        if found is not None:
            _refuse_another(folder, found, wanted)
        if any(number >= n_blocks for number in numbers):
            raise self._of_more_data()
        if found is not None and found.get("blocks") != n_blocks:  # more data than before; for those who look on
            with suppress(OSError):
                self._write_identity({**found, "blocks": n_blocks})

    def load(self, number: int, fingerprint: NDArray[np.int64]) -> Gaps | None:
        """The block of this number, or None if it must be measured.

        Args:
            fingerprint: (B,) that of the block's data, by which rows are known.
        Raises:
            RunError: the block was measured on other data or more of them, or is one of another run.
        """
        for path in sorted(self.folder.glob(f"block-{number:06d}-*.parquet")):
            gaps = self._read(path)
            if gaps is None:
                continue
            known, shorter = gaps.fingerprint, min(len(gaps), len(fingerprint))
            if known is None or (known[:shorter] != fingerprint[:shorter]).any():
                raise RunError(
                    f"{self.folder} holds block {number} of other data; nothing was changed. Name another folder, or "
                    "pass the data in the order in which they were measured."
                )
            if len(gaps) > len(fingerprint):
                raise self._of_more_data()
            if len(gaps) == len(fingerprint):
                return gaps
        return None

    def save(self, number: int, gaps: Gaps) -> None:
        """Write a block. If that fails, a UserWarning says so once, and the run goes on without being kept."""
        if self._is_lost:
            return
        try:
            earlier = list(self.folder.glob(f"block-{number:06d}-*.parquet"))
            content = self._content(gaps)
            path = self.folder / f"block-{number:06d}-{_checksum(content)}.parquet"
            write_atomically(path, content)
            for other in earlier:  # a shorter block, before there were more data
                if other != path:
                    other.unlink(missing_ok=True)
        except OSError as error:
            self._is_lost = True
            warnings.warn(
                f"block {number} could not be written to {self.folder} ({error.strerror or error}): the measurement "
                "goes on, but what follows is not kept",
                stacklevel=2,
            )

    def _write_identity(self, wanted: Mapping[str, Any]) -> None:
        write_atomically(self.folder / IDENTITY, json.dumps(wanted, indent=1).encode())

    def _content(self, gaps: Gaps) -> bytes:
        import pyarrow.parquet as pq

        meta, columns = gaps.to_columns()
        record = json.dumps({"identity": self._digest, "gaps": meta}, default=plain_json)
        table = as_table(columns).replace_schema_metadata({META: record.encode()})
        buffer = io.BytesIO()
        pq.write_table(table, buffer)
        return buffer.getvalue()

    def _read(self, path: Path) -> Gaps | None:
        """The block in a file; one that is damaged is set aside, and None."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        content = path.read_bytes()
        if path.stem.rsplit("-", 1)[-1] != _checksum(content):
            aside = path.with_name(path.name + ASIDE)
            path.rename(aside)
            warnings.warn(f"{path} was damaged and is measured again; it is kept as {aside.name}", stacklevel=4)
            return None
        table = pq.read_table(pa.BufferReader(content))
        record = json.loads(table.schema.metadata[META])
        if record["identity"] != self._digest:
            raise RunError(f"{path} is a block of another run; nothing was changed. Name another folder.")
        return Gaps.from_columns(record["gaps"], columns_of(table))

    def _of_more_data(self) -> RunError:
        return RunError(
            f"{self.folder} holds a run of more data; nothing was changed. Pass all of them, or name another folder."
        )


def blocks_promised(blocks: Path) -> tuple[int | None, int | None, str | None, str | None]:
    """How many blocks a run's folder of blocks holds and will hold, the plan, and when the last was written.

    Of a run with two phases these are those of both, and the plan is the first. What is not known is None.
    """
    kept = list(blocks.glob("*/block-*-*.parquet"))
    known = [found for phase in sorted(blocks.glob("*")) if (found := _identity_in(phase)) is not None]
    totals = [found["blocks"] for found in known if isinstance(found.get("blocks"), int)]
    plans = [plan["name"] for plan in known[0]["identity"]["plan"]] if known else []
    last = max((path.stat().st_mtime for path in kept), default=None)
    written = None if last is None else datetime.fromtimestamp(last, UTC).isoformat(timespec="seconds")
    return len(kept) if known else None, sum(totals) or None, plans[0] if plans else None, written


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


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
                raise RunError(
                    f"{folder} holds a run with another {key}: {_shown(before.get(key))} there, "
                    f"{_shown(now.get(key))} now; nothing was changed. Name another folder, or measure what is there."
                )


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
