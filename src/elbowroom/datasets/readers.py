"""File formats of images and arrays: a path in, tensors out, or an error that names the file.

IDX is the format of MNIST and Fashion-MNIST (LeCun): two zero bytes, a type byte (8: unsigned byte), the number
of dimensions, each dimension as a big-endian 32-bit integer, then the values, last dimension fastest. Files are read as
distributed, with or without gzip, and refused unless type, dimensions and number of bytes agree.

CIFAR-10, binary version (Krizhevsky), consists of files of 10,000 records. Each record is one byte of label, 0 to 9,
and 3072 bytes of pixels: 32 x 32 red, then green, then blue, row by row. They are read from a folder or out of the
.tar.gz, which is never unpacked onto the disk. An archive is refused if it holds a path out of its folder, a link, a
device, a file larger than a batch, or two files of one name.

A user's array is read from .npy, .npz, .safetensors, .pt or .pth. No pickle is run.
"""

import gzip
import math
import re
import struct
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

__all__ = ["SUFFIXES", "array_names", "load_array", "read_cifar10", "read_idx", "times"]

SUFFIXES = (".npz", ".npy", ".safetensors", ".pt", ".pth")
HOW_TO_CONVERT = {  # two lines of Python for each kind of file that many people have, and that is no array
    "text": """import numpy as np
np.save("{stem}.npy", np.loadtxt("{path}", delimiter="{detail}", skiprows=0))  # skiprows=1 skips a header""",
    "hdf5": """import h5py, numpy as np
np.save("{stem}.npy", h5py.File("{path}")["x"][:])  # "x": the name of the array, one of list(h5py.File("{path}"))""",
    "images": """import glob, numpy as np; from PIL import Image
np.save("{stem}.npy", np.stack([np.asarray(Image.open(f).convert("L")) for f in sorted(glob.glob("{path}/*.*"))]))""",
    "table": """import numpy as np, pandas as pd
np.save("{stem}.npy", pd.read_{detail}("{path}").to_numpy(float))""",
}
OTHER_FILES = {
    ".csv": ("text", ","), ".tsv": ("text", "\\t"), ".txt": ("text", " "), ".h5": ("hdf5", ""), ".hdf5": ("hdf5", ""),
    ".parquet": ("table", "parquet"),
}  # fmt: skip
NUMBERS = {
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool,
    torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
}  # fmt: skip
GZIP_MAGIC = b"\x1f\x8b"
MOST_DEFLATED = 1032  # bytes that one byte of gzip can stand for
CIFAR_SHAPE = (3, 32, 32)
CIFAR_CLASSES = 10
CIFAR_RECORDS = 10_000  # in each file
RECORD = 1 + math.prod(CIFAR_SHAPE)
TAIL = 2**20  # bytes of padding that may follow the last member of an archive


def read_idx(path: str | Path) -> Tensor:
    """Read one IDX file of unsigned bytes, gzip or plain, as a uint8 tensor of the shape in its header.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a wrong magic number, a damaged file, or a number of bytes other than the header's.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == GZIP_MAGIC
        with gzip.open(path) if zipped else path.open("rb") as stream:
            shape = _idx_shape(stream.read(4), path, cast(IO[bytes], stream))
            n_bytes = math.prod(shape)
            if n_bytes > MOST_DEFLATED * path.stat().st_size:
                raise ValueError(f"{path}: the header promises {times(shape)} bytes, more than the file can hold")
            content = stream.read(n_bytes + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: damaged or truncated gzip file ({error}); fetch it again") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror or error}") from None
    if len(content) != n_bytes:
        came = f"only {len(content)}" if len(content) < n_bytes else "more"
        raise ValueError(f"{path}: the header promises {times(shape)} = {n_bytes} bytes, {came} came; fetch it again")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8).reshape(shape)


def read_cifar10(path: str | Path, files: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Read the records of `files`, in that order, from a .tar.gz or a folder.

    Returns:
        Images (N, 3, 32, 32) and labels (N,), both uint8, with 10,000 records for each file.
    Raises:
        FileNotFoundError: `path` does not exist.
        ValueError: a damaged or unsafe archive, or a file that is missing, is not 10,000 records long or has a label
            above 9.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    contents = _files_of_folder(path, files) if path.is_dir() else _files_of_archive(path, files)
    missing = [name for name in files if name not in contents]
    if missing:
        raise ValueError(f"{path}: holds no {missing[0]}; fetch it again")
    records = torch.cat([_records(contents.pop(name), f"{path}: {name}") for name in files])
    return records[:, 1:].reshape(-1, *CIFAR_SHAPE), records[:, 0]


def load_array(path: str | Path, dtype: torch.dtype | None = None, name: str = "x", pixels: bool = False) -> Tensor:
    """Load a user's array, whose first dimension is N. No pickle is run.

    Args:
        path: .npz, .safetensors and a mapping in .pt or .pth must hold one array, or one under `name`; .npy, .pt and
            .pth may be the array itself.
        dtype: dtype of the tensor; torch's default if None.
        name: name of the array in a file of several.
        pixels: return an array of uint8 as it is.
    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be read or is of another format, has several arrays and none of that name, is
            empty, is not of real numbers, or holds a value that is not finite.
    """
    path = Path(path)
    array = _pick(_read(path), path, name)
    if array.ndim == 0 or array.numel() == 0:
        raise ValueError(f"{path}: expected an array with one datum per row; got shape {tuple(array.shape)}")
    if pixels and array.dtype == torch.uint8:
        return array
    array = array.to(dtype or torch.get_default_dtype())
    bad = ~torch.isfinite(array)
    if bad.any():
        row = int(bad.reshape(len(array), -1).any(1).nonzero()[0])
        raise ValueError(
            f"{path}: {int(bad.sum())} of {array.numel()} values are not finite as {array.dtype}, the first of them in "
            f"row {row}; replace them, or leave out their rows"
        )
    return array


def array_names(path: str | Path) -> list[str]:
    """The sorted names of the arrays in a user's file; an empty list if the file is itself one array."""
    contents = _read(Path(path))
    return sorted(map(str, contents)) if isinstance(contents, dict) else []


def times(shape: Sequence[int]) -> str:
    """A shape as text.

    >>> times((3, 32, 32))
    '3 x 32 x 32'
    """
    return " x ".join(map(str, shape))


def _idx_shape(magic: bytes, path: Path, stream: IO[bytes]) -> tuple[int, ...]:
    if len(magic) < 4 or magic[:3] != b"\0\0\x08" or not 1 <= magic[3] <= 4:
        raise ValueError(
            f"{path}: expected an IDX file of unsigned bytes, magic 00 00 08 01 to 04; got {magic.hex(' ')}"
        )
    header = stream.read(4 * magic[3])
    if len(header) < 4 * magic[3]:
        raise ValueError(f"{path}: the header ends after {4 + len(header)} bytes; fetch it again")
    shape = struct.unpack(f">{magic[3]}I", header)
    if 0 in shape:
        raise ValueError(f"{path}: the header promises an empty array, {times(shape)}")
    return shape


def _files_of_folder(path: Path, files: Sequence[str]) -> dict[str, bytes]:
    """Those of `files` that are there; no more of each than tells that it is too long."""
    contents = {}
    for name in files:
        try:
            with (path / name).open("rb") as stream:
                contents[name] = stream.read(CIFAR_RECORDS * RECORD + 1)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ValueError(f"{path / name}: cannot be read: {error.strerror or error}") from None
    return contents


def _files_of_archive(path: Path, files: Sequence[str]) -> dict[str, bytes]:
    """Those of `files` that a .tar.gz holds, in whatever folder. It is read from front to end, checksum included."""
    contents: dict[str, bytes] = {}
    fault = None
    try:
        with gzip.open(path) as stream, tarfile.open(fileobj=cast(Any, _Bounded(stream)), mode="r|") as archive:
            for member in archive:
                fault = _fault(member, contents)
                if fault:
                    break
                name = PurePosixPath(member.name).name
                content = archive.extractfile(member) if name in files else None
                if content is not None:
                    contents[name] = content.read()
            if not fault and len(stream.read(TAIL + 1)) > TAIL:
                fault = "goes on after the archive's end"
    except Exception as error:  # whatever a parser trips over, it is the file's
        raise ValueError(f"{path}: damaged or truncated archive ({_first_line(error)}); fetch it again") from None
    if fault:
        raise ValueError(f"{path}: {fault}; not read, fetch the official archive")
    return contents


class _Bounded:
    """A stream that ends in an error where it unpacks to more than an archive of CIFAR-10 can: tarfile reads the
    headers of long names whole, before anyone can look at their size.
    """

    def __init__(self, stream: gzip.GzipFile) -> None:
        self.stream, self.left = stream, 7 * CIFAR_RECORDS * RECORD + TAIL

    def read(self, n: int) -> bytes:
        self.left -= n
        if self.left < 0:
            raise ValueError("it unpacks to more than CIFAR-10's files")
        return self.stream.read(n)


def _fault(member: tarfile.TarInfo, contents: dict[str, bytes]) -> str | None:
    """Why an archive with this member is not trusted."""
    parts = re.split(r"[/\\]", member.name)
    if parts[0] == "" or parts[0].endswith(":") or ".." in parts:
        return f"holds {member.name!r}, a path that leads out of the archive's folder"
    if not (member.isfile() or member.isdir()):
        return f"holds {member.name!r}, which is a link or a device"
    if member.size > CIFAR_RECORDS * RECORD:
        return f"holds {member.name!r} of {member.size} bytes, more than {CIFAR_RECORDS} records"
    if parts[-1] in contents:
        return f"holds {parts[-1]!r} twice"
    return None


def _records(content: bytes, whose: str) -> Tensor:
    """The bytes of one file -> (n, 3073), labels first."""
    n_bytes = CIFAR_RECORDS * RECORD
    if len(content) != n_bytes:
        came = f"{len(content)}" if len(content) < n_bytes else "more"
        raise ValueError(
            f"{whose}: expected {CIFAR_RECORDS} records of {RECORD} bytes = {n_bytes} bytes, {came} came; "
            f"fetch it again"
        )
    records = torch.frombuffer(bytearray(content), dtype=torch.uint8).reshape(-1, RECORD)
    bad = (records[:, 0] >= CIFAR_CLASSES).nonzero()
    if len(bad):
        row = int(bad[0])
        raise ValueError(f"{whose}: labels must be 0 to {CIFAR_CLASSES - 1}; record {row} has {int(records[row, 0])}")
    return records


def _read(path: Path) -> object:
    """What a user's file holds: an array, or a mapping of names to arrays."""
    if path.suffix in (*SUFFIXES, *OTHER_FILES) and not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    kind, detail = ("images", "") if path.is_dir() else OTHER_FILES.get(path.suffix.lower(), (None, ""))
    if kind is not None:
        code = HOW_TO_CONVERT[kind].format(path=path, stem=path.stem, detail=detail)
        indented = "".join(f"\n    {line}" for line in code.splitlines())
        raise ValueError(f"{path}: expected an array in {', '.join(SUFFIXES)}; convert it with{indented}")
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: expected a file ending in {', '.join(SUFFIXES)}; got {path.suffix or 'no ending'}")
    try:
        if path.suffix in (".pt", ".pth"):
            return torch.load(path, map_location="cpu", weights_only=True)
        if path.suffix == ".safetensors":
            return load_file(path)
        with path.open("rb") as stream:  # opened here, for NumPy leaves a damaged .npz open
            contents = np.load(stream, allow_pickle=False)
            return dict(contents) if path.suffix == ".npz" else contents
    except Exception as error:  # whatever a parser trips over, it is the file's
        reason = _first_line(error).split(". ")[0]  # not the parser's advice
        raise ValueError(
            f"{path}: cannot be read as {path.suffix} without running code: {reason}. Save plain arrays."
        ) from None


def _pick(contents: object, path: Path, name: str) -> Tensor:
    """The one array of what was read, or the one of this name."""
    if isinstance(contents, dict):
        if name not in contents and len(contents) != 1:
            names = sorted(map(str, contents)) or "none"
            raise ValueError(f"{path}: expected one array, or one named {name}; got {names}")
        contents = contents[name] if name in contents else next(iter(contents.values()))
    if isinstance(contents, np.ndarray) and contents.dtype.kind in "biuf" and contents.dtype.itemsize <= 8:
        return torch.from_numpy(contents.astype(contents.dtype.newbyteorder("="), copy=False))
    plain = False
    if isinstance(contents, Tensor):
        plain = contents.layout == torch.strided and not (contents.is_meta or contents.is_nested)
        if plain and contents.dtype in NUMBERS:
            return contents.detach()
    kind = getattr(contents, "dtype", type(contents).__name__)
    if isinstance(contents, Tensor) and not plain:
        kind = "a sparse, nested or meta tensor"
    raise ValueError(f"{path}: expected an array of real numbers; got {kind}")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
