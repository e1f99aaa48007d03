"""Runs on disk: a folder with `run.json` (what was measured, and with what) and Parquet parts with one row per datum.

Everything is written under a temporary name, synced and renamed. `run.json` is written last and holds the checksum of
each part, so a folder holds either a whole run or none.
"""

import hashlib
import io
import json
import platform
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from shutil import rmtree
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from ..core import PARTIAL_SUFFIX, write_atomically

__all__ = [
    "BLOCKS", "PROGRESS_LOG", "SCHEMA", "WORKERS", "RunError", "as_parquet", "checksum_of", "from_parquet",
    "plain_json", "read_run", "refuse_occupied", "write_run",
]  # fmt: skip

BLOCKS = "blocks"  # the folder of the blocks that were measured
PROGRESS_LOG = "progress.log"  # a file with a line for every minute of the measurement
WORKERS = "workers"  # the folder of a file for each process that measures
META = b"elbowroom"  # the key of the record in a Parquet file
PACKAGES = ("elbowroom", "torch", "numpy", "pyarrow")  # packages whose versions a run records
NUMPY_KINDS: dict[str, np.dtype[Any]] = {  # what Arrow calls them
    "bool": np.dtype(bool), "halffloat": np.dtype("f2"), "float": np.dtype("f4"), "double": np.dtype("f8"),
    **{f"{kind}{bits}": np.dtype(f"{kind}{bits}") for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
}  # fmt: skip
ROWS_AT_ONCE = 2**9  # of a table that is written
SCHEMA = 3  # 1 did not hold the rungs of the ladder, 2 not the shortfall of fits


class RunError(ValueError):
    """Raised for a folder that cannot be written or read as a run."""


def write_run(
    folder: str | Path,
    meta: Mapping[str, Any],
    columns: Mapping[str, NDArray[Any]],
    overwrite: bool = False,
    keep_blocks: bool = False,
) -> None:
    """Write a run folder.

    Args:
        folder: a new or empty folder, or with `overwrite` one that holds a run.
        meta: the metadata, ready for JSON.
        columns: per-datum arrays by name, (N,) or (N, G) each.
        overwrite: replace the run that the folder holds.
        keep_blocks: leave the blocks that were kept while it was measured, as they are those of this run.
    Raises:
        RunError: the folder holds a run and `overwrite` is False, or it holds other files, or is a file.
    """
    folder = Path(folder)
    refuse_occupied(folder, overwrite, keep_blocks)
    (folder / "data").mkdir(parents=True, exist_ok=True)
    part = folder / "data" / f"part-{_free_number(folder):05d}.parquet"
    write_atomically(part, partial(_write_parquet, columns, None))
    record = {
        "schema": SCHEMA,
        **meta,
        "parts": {part.name: _sha256(part)},
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "machine": {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads()},
    }
    if not keep_blocks:  # before the new record: the old blocks must not be taken for those of the new run
        rmtree(folder / BLOCKS, ignore_errors=True)
    write_atomically(folder / "run.json", json.dumps(record, indent=1, default=plain_json).encode())
    cut = [*folder.glob(f".*{PARTIAL_SUFFIX}"), *(folder / "data").glob(f".*{PARTIAL_SUFFIX}")]  # left by a kill
    for stale in (*(folder / "data").glob("part-*.parquet"), *cut):
        if stale != part:
            stale.unlink()


def refuse_occupied(folder: Path, overwrite: bool, keep_blocks: bool = False) -> None:
    """Raise RunError if a run cannot be written to a folder: it holds one (unless `overwrite`) or other files.

    With `keep_blocks` it may hold the blocks of a run that is not finished.
    """
    if folder.exists() and not folder.is_dir():
        raise RunError(f"a run is a folder; {folder} is a file. Name another place.")
    if (folder / "run.json").exists() and not overwrite:
        raise RunError(
            f"{folder} already holds a run; nothing was written. Name another folder, or ask to overwrite it."
        )
    if (folder / BLOCKS).is_dir() and not (overwrite or keep_blocks):
        raise RunError(
            f"{folder} holds a run that is not finished; nothing was written. Name another folder, or ask to overwrite "
            "it."
        )
    if _holds_other_files(folder):
        raise RunError(f"{folder} is not empty and holds no run; nothing was written. Name an empty or new folder.")


def read_run(folder: str | Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Read the metadata and the columns, (N,) or (N, G), of a run folder.

    Raises:
        RunError: the folder holds no run or one of another schema, or a file of it is unreadable, changed or missing.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = Path(folder)
    try:
        meta = json.loads((folder / "run.json").read_text())
    except FileNotFoundError:
        if (folder / BLOCKS).is_dir():
            raise RunError(
                f"{folder} holds a run that is not finished; measure again with the same arguments and it goes on"
            ) from None
        if (folder / WORKERS).exists():
            raise RunError(
                f"{folder} holds a run that was interrupted before it was saved, or is being measured now; if nothing "
                "measures into it, measure it again"
            ) from None
        raise RunError(f"{folder} {_what_is_there(folder)}") from None
    except NotADirectoryError:
        raise RunError(f"{folder} is a file; a run is a folder. Name the folder of a run.") from None
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise RunError(f"{folder}/run.json cannot be read: {error}") from None
    if not isinstance(meta, dict) or meta.get("schema") != SCHEMA:
        schema = meta.get("schema") if isinstance(meta, dict) else type(meta).__name__
        raise RunError(
            f"{folder} has schema {schema}; this version reads schema {SCHEMA}: measure it again, or read it with the "
            "version of elbowroom that wrote it"
        )
    parts, tables = meta.get("parts"), []
    if not isinstance(parts, dict) or not parts:
        raise RunError(f"{folder}/run.json names no part; the run must be made again")
    for name, checksum in parts.items():
        path = folder / "data" / Path(name).name
        if not path.exists() or _sha256(path) != checksum:
            raise RunError(f"{path} is missing or was changed since it was written; the run must be made again")
        with pq.ParquetFile(path) as file:  # `pq.read_table` imports pandas, if it is there, and more
            tables.append(file.read())
    return meta, _columns_of(pa.concat_tables(tables))


def as_parquet(columns: Mapping[str, NDArray[Any]], record: Mapping[str, Any] | None = None) -> bytes:
    """The content of a Parquet file of columns (N,) or (N, G), with a record beside them that JSON can hold."""
    buffer = io.BytesIO()
    _write_parquet(columns, record, buffer)
    return buffer.getvalue()


def _write_parquet(
    columns: Mapping[str, NDArray[Any]], record: Mapping[str, Any] | None, file: BinaryIO | io.BytesIO
) -> None:
    """Write a Parquet file, some rows after the other, so that they are never all in memory once more."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    n = len(next(iter(columns.values())))
    meta = None if record is None else {META: json.dumps(record, default=plain_json).encode()}
    arrays = {name: np.asarray(values) for name, values in columns.items()}
    words = [name for name, values in arrays.items() if values.dtype.kind not in "iuf"]
    floats = [
        f"{name}.list.element" if values.ndim == 2 else name
        for name, values in arrays.items()
        if values.dtype.kind == "f"
    ]
    with ExitStack() as stack:
        writer = None
        for start in range(0, max(n, 1), ROWS_AT_ONCE):
            rows = {name: _arrow(values[start : start + ROWS_AT_ONCE]) for name, values in arrays.items()}
            table = pa.table(rows)
            table = table.replace_schema_metadata(meta)
            writer = writer or stack.enter_context(
                pq.ParquetWriter(
                    file, table.schema, use_dictionary=words, compression="zstd", use_byte_stream_split=floats
                )
            )
            writer.write_table(table)


def from_parquet(content: bytes) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The record and the columns of which `as_parquet` made this content."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.ParquetFile(pa.BufferReader(content)).read(use_threads=False)
    return json.loads(table.schema.metadata[META]), _columns_of(table)


def checksum_of(content: bytes) -> str:
    """The checksum by which a file of a block is named."""
    return hashlib.sha256(content).hexdigest()[:32]


def _columns_of(table: Any) -> dict[str, NDArray[Any]]:
    """The columns of an Arrow table, (N,) or (N, G) each."""
    return {name: _numpy(table.column(name)) for name in table.column_names}


def _what_is_there(folder: Path) -> str:
    """What a folder without run.json is instead, to follow its name in a sentence."""
    if not folder.is_dir():
        return "does not exist; a run is saved by gaps.save(folder), or by elbowroom gaps --out"
    below = ", ".join(str(path.parent) for path in sorted(folder.glob("*/run.json")))
    if below:
        return f"holds no run itself; there are runs in {below}"
    return "holds no run: run.json is missing. A run is saved by gaps.save(folder), or by elbowroom gaps --out."


def _version(package: str) -> str | None:
    """The installed version; None of a package that is imported from its sources, uninstalled."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def plain_json(value: object) -> object:
    """Numbers of numpy and torch as Python's."""
    if isinstance(value, np.ndarray | np.generic | torch.Tensor):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not JSON serializable")


def _holds_other_files(folder: Path) -> bool:
    """Whether there is something that is no run's, nor what one left that was interrupted before its record came."""
    if not folder.exists() or (folder / "run.json").exists():
        return False
    own = (WORKERS, BLOCKS, PROGRESS_LOG, "data")
    if any(path.name not in own and not path.name.endswith(PARTIAL_SUFFIX) for path in folder.iterdir()):
        return True
    return (folder / "data").exists() and any("part" not in path.name for path in (folder / "data").iterdir())


def _free_number(folder: Path) -> int:
    """One past the parts that lie there: a run that is replaced stays whole until the new run.json is in place."""
    return 1 + max((int(path.stem[5:]) for path in (folder / "data").glob("part-*.parquet")), default=-1)


def _arrow(values: NDArray[Any]) -> Any:
    """A column; (N, G) arrays become fixed-size lists."""
    import pyarrow as pa

    flat = _flat(np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("=")).reshape(-1))
    return flat if values.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def _flat(values: NDArray[Any]) -> Any:
    """An array (N,) as Arrow has it, made of its bytes: `pa.array` would import pandas, which takes half a second."""
    import pyarrow as pa

    if values.dtype.kind in "iuf":
        kind, parts = pa.from_numpy_dtype(values.dtype), [values]
    elif values.dtype.kind == "b":
        kind, parts = pa.bool_(), [np.packbits(values, bitorder="little")]
    elif all(isinstance(value, str) for value in values):
        words = [word.encode() for word in values.tolist()]
        ends = np.cumsum([0, *map(len, words)], dtype=np.int32)
        kind, parts = pa.string(), [ends, np.frombuffer(b"".join(words), dtype=np.uint8)]
    else:
        return pa.array(values)
    return pa.Array.from_buffers(kind, len(values), [None, *map(pa.py_buffer, parts)])


def _numpy(column: Any) -> NDArray[Any]:
    """A column of an Arrow table, (N,) or (N, G)."""
    chunk = column.combine_chunks()
    size = getattr(chunk.type, "list_size", None)
    return _values(chunk) if size is None else _values(chunk.flatten()).reshape(-1, size)


def _values(array: Any) -> NDArray[Any]:
    """The values of an array of Arrow, copied from its bytes where they are usual ones: `to_numpy` imports pandas."""
    kind, there = str(array.type), slice(array.offset, array.offset + len(array))
    if kind == "string":
        return np.array(array.to_pylist(), dtype=object)
    if kind not in NUMPY_KINDS or array.null_count:
        return np.array(array.to_numpy(zero_copy_only=False))
    content = array.buffers()[1] or b""
    if kind == "bool":
        return np.unpackbits(np.frombuffer(content, np.uint8), bitorder="little")[there].astype(bool)
    return np.frombuffer(content, NUMPY_KINDS[kind])[there].copy()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
