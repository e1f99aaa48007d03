"""The parameters of local fits beside the blocks of a run, so that another plan can go on from them.

One file for each block, `fits-NUMBER-CHECKSUM.parquet`, with a row per datum. They are a help and no result: what is
missing or damaged is fitted again.
"""

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from shutil import disk_usage
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core import write_atomically
from .store import as_parquet, checksum_of, from_parquet, plain_json

__all__ = ["Columns", "KeptFits"]

Columns = Mapping[str, NDArray[Any]]  # (B, ...) each, by name
ROOM = 100  # times the size of a file that must be free for it to be written
FITS = "fits"  # the folder of the files, in that of the blocks


class KeptFits:
    """The fits of the blocks in a folder.

    Args:
        folder: the folder of the blocks.
        identity: what decides the fits but for the data, ready for JSON.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self._folder = folder / FITS
        self._has_room = True
        self._digest = checksum_of(json.dumps(identity, sort_keys=True, default=plain_json).encode())

    def save(self, number: int, columns: Columns) -> None:
        """Write the fits of one block, if there is plenty of room, since they are worth less than blocks.

        Nothing is said if there is none, and nothing is tried again.
        """
        if not columns or not self._has_room:
            return
        content, self._has_room = self._content(columns), False
        with suppress(OSError):
            if disk_usage(self._folder.parent).free < ROOM * len(content):
                return
            self._folder.mkdir(exist_ok=True)
            earlier = self._files(number)
            path = self._folder / f"{_prefix(number)}{checksum_of(content)}.parquet"
            write_atomically(path, content)
            for other in earlier:
                if other != path:
                    other.unlink(missing_ok=True)
            self._has_room = True

    def load(self, number: int) -> Columns:
        """The fits of one block, none if they are not there."""
        for path in self._files(number):
            with suppress(OSError):
                content = path.read_bytes()
                if path.stem.removeprefix(_prefix(number)) != checksum_of(content):
                    continue
                record, packed = from_parquet(content)
                if record["identity"] == self._digest:
                    return {name: _unpacked(packed[name], *how) for name, how in record["columns"].items()}
        return {}

    def _content(self, columns: Columns) -> bytes:
        """The content of a file. What is zero in all rows, as half of a triangular matrix, is left out."""
        how, packed = {}, {}
        for name, column in columns.items():
            flat = column.reshape(len(column), -1)
            used = (flat != 0).any(axis=0)
            used[:1] = True  # a file has no columns without numbers
            packed[name], how[name] = flat[:, used], (column.shape[1:], np.packbits(used).tobytes().hex())
        return as_parquet(packed, {"identity": self._digest, "columns": how})

    def _files(self, number: int) -> list[Path]:
        return sorted(self._folder.glob(f"{_prefix(number)}*.parquet"))


def _unpacked(packed: NDArray[Any], shape: Sequence[int], used: str) -> NDArray[Any]:
    n_values = math.prod(shape)
    mask = np.unpackbits(np.frombuffer(bytes.fromhex(used), dtype=np.uint8), count=n_values).astype(bool)
    flat = np.zeros((len(packed), n_values), dtype=packed.dtype)
    flat[:, mask] = packed
    return flat.reshape(-1, *shape)


def _prefix(number: int) -> str:
    return f"fits-{number:06d}-"
