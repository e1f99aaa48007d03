"""Data sets by name, a user's array by path, and binarization that is never implicit.

IDX, the format of MNIST and Fashion-MNIST (LeCun): two zero bytes, a type byte (8: unsigned byte), the number
of dimensions, each dimension as a big-endian 32-bit integer, then the values, last dimension fastest. The
files are read as they are distributed, gzip and all, and refused unless type, dimensions and number of bytes
agree.

Nothing here reaches a network. A data set is looked for in the `directory` given, then in $ELBOWROOM_DATA,
the user's cache (`cache_directory()`) and the system's folder of data sets; in each of them directly or in a
folder of the data set's name; the error of a fruitless search lists every place.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import struct
import zlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from .rng import seeded

__all__ = ["binarize", "cache_directory", "demo_images", "fashion_mnist", "load_array", "mnist", "read_idx"]

SYSTEM = Path("/usr/share/datasets")
COUNTS = {"train": 60_000, "test": 10_000}
PREFIXES = {"train": "train", "test": "t10k"}
SUFFIXES = (".npz", ".npy", ".safetensors", ".pt", ".pth")
PIXELS = {  # SHA-256 of the pixels, header left out
    ("mnist", "train"): "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
    ("mnist", "test"): "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
    ("fashion-mnist", "train"): "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012",
    ("fashion-mnist", "test"): "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",
}
GZIP_MAGIC = b"\x1f\x8b"
MOST_DEFLATED = 1032  # bytes that one byte of gzip can stand for


def fashion_mnist(split: str = "train", directory: str | Path | None = None) -> Tensor:
    """Fashion-MNIST (Xiao, Rasul, Vollgraf 2017), uint8: (60000, 784) for "train", (10000, 784) for "test".

    Raises FileNotFoundError with the places looked in, ValueError for a damaged file. Next step: `binarize`.
    """
    return _images("fashion-mnist", split, directory)


def mnist(split: str = "train", directory: str | Path | None = None) -> Tensor:
    """MNIST (LeCun, Cortes, Burges), uint8: (60000, 784) for "train", (10000, 784) for "test"."""
    return _images("mnist", split, directory)


def binarize(images: Tensor | np.ndarray, how: str = "threshold", seed: int | None = None) -> Tensor:
    """uint8 images -> floats of the default dtype, same shape, by a rule that has a name.

    "threshold"   1 where the pixel is at least 128, that is above one half of 255; else 0
    "stochastic"  1 with probability pixel / 255, drawn once under `seed` (required)
    "grey"        pixel / 255, not binary: a Bernoulli likelihood of it is not normalized
    "grey256"     pixel / 256, the scale of the paper's evaluation code; not binary either

    >>> binarize(torch.tensor([0, 127, 128, 255], dtype=torch.uint8))
    tensor([0., 0., 1., 1.])
    """
    images = torch.as_tensor(images)
    if images.dtype != torch.uint8:
        raise ValueError(f"binarize expects uint8 pixels, 0 to 255; got {images.dtype}. Pass the images as read.")
    dtype = torch.get_default_dtype()
    if how == "threshold":
        return (images >= 128).to(dtype)
    if how == "stochastic":
        return _bernoulli(images, seed).to(dtype)
    if how in ("grey", "grey256"):
        return images.to(dtype) / (255 if how == "grey" else 256)
    raise ValueError(f'how must be "threshold", "stochastic", "grey" or "grey256"; got {how!r}')


def load_array(path: str | Path, dtype: torch.dtype | None = None) -> Tensor:
    """A user's array, first dimension N, as a tensor of `dtype` (torch's default if None). No pickle is run.

    .npz, .safetensors and a .pt mapping must hold one array or one named `x`; .npy and .pt may be the array
    itself.

    Raises FileNotFoundError, or ValueError with one line: the file is no such archive, has several
    arrays and no `x`, is empty, is not of real numbers, or holds a value that is not finite.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: expected a file ending in {', '.join(SUFFIXES)}; got {path.suffix or 'no ending'}")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    array = _pick(_read(path), path)
    if array.ndim == 0 or array.numel() == 0:
        raise ValueError(f"{path}: expected an array with one datum per row; got shape {tuple(array.shape)}")
    if array.is_complex():
        raise ValueError(f"{path}: expected real numbers; got {array.dtype}")
    array = array.to(dtype or torch.get_default_dtype())
    n_bad = int((~torch.isfinite(array)).sum())
    if n_bad:
        raise ValueError(
            f"{path}: {n_bad} of {array.numel()} values are not finite as {array.dtype}; mend or drop them"
        )
    return array


def demo_images() -> dict[str, Tensor]:
    """The shipped sample of Fashion-MNIST, thresholded to 0 and 1: "train" and "heldout", each (250, 784)."""
    asset = resources.files("elbowroom") / "assets" / "fashion-mnist" / "images.npz"
    with asset.open("rb") as stream, np.load(stream, allow_pickle=False) as packed:
        bits = {name: np.unpackbits(packed[name], axis=1, count=784) for name in ("train", "heldout")}
    return {name: torch.from_numpy(pixels).to(torch.get_default_dtype()) for name, pixels in bits.items()}


def cache_directory() -> Path:
    """Where downloads are kept: $XDG_CACHE_HOME/elbowroom, or ~/.cache/elbowroom. Not created here."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "elbowroom"


def read_idx(path: str | Path) -> Tensor:
    """One IDX file of unsigned bytes, gzip or plain -> uint8 tensor of the shape in its header.

    Raises FileNotFoundError, or ValueError for a wrong magic number, a damaged archive, or a count of bytes
    other than the header's.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == GZIP_MAGIC
        with gzip.open(path) if zipped else path.open("rb") as stream:
            shape = _idx_shape(stream.read(4), path, stream)
            n_bytes = math.prod(shape)
            if n_bytes > MOST_DEFLATED * path.stat().st_size:
                raise ValueError(f"{path}: the header promises {_times(shape)} bytes, more than the file can hold")
            content = stream.read(n_bytes + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: damaged or truncated gzip file ({error}); fetch it again") from None
    if len(content) != n_bytes:
        came = f"only {len(content)}" if len(content) < n_bytes else "more"
        raise ValueError(f"{path}: the header promises {_times(shape)} = {n_bytes} bytes, {came} came; fetch it again")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8).reshape(shape)


def _idx_shape(magic: bytes, path: Path, stream: Any) -> tuple[int, ...]:
    if len(magic) < 4 or magic[:3] != b"\0\0\x08" or not 1 <= magic[3] <= 4:
        raise ValueError(
            f"{path}: expected an IDX file of unsigned bytes, magic 00 00 08 01 to 04; got {magic.hex(' ')}"
        )
    header = stream.read(4 * magic[3])
    if len(header) < 4 * magic[3]:
        raise ValueError(f"{path}: the header ends after {4 + len(header)} bytes; fetch it again")
    shape = struct.unpack(f">{magic[3]}I", header)
    if 0 in shape:
        raise ValueError(f"{path}: the header promises an empty array, {_times(shape)}")
    return shape


def _images(name: str, split: str, directory: str | Path | None) -> Tensor:
    """The first file of the search order whose pixels are this data set's.

    MNIST's and Fashion-MNIST's files have the same names, so a file is known by the SHA-256 of its pixels:
    those of the other data set are passed over, unknown ones refused.
    """
    if split not in COUNTS:
        raise ValueError(f'split must be "train" or "test"; got {split!r}')
    stem = f"{PREFIXES[split]}-images-idx3-ubyte"
    folders = _folders(name, directory)
    for path in (folder / file for folder in folders for file in (f"{stem}.gz", stem)):
        if path.is_file():
            images = _checked(read_idx(path), path, split)
            digest = hashlib.sha256(images.numpy().tobytes()).hexdigest()
            if digest == PIXELS[name, split]:
                return images
            if digest not in PIXELS.values():
                raise ValueError(
                    f"{path}: not the official images of {name} {split} (SHA-256 of the pixels "
                    f"{digest[:12]}..., expected {PIXELS[name, split][:12]}...); fetch them again"
                )
    raise FileNotFoundError(
        f"{name}: {stem}.gz is in none of {', '.join(map(str, folders))}; "
        f"put it in one of them or point ELBOWROOM_DATA at its folder"
    )


def _checked(images: Tensor, path: Path, split: str) -> Tensor:
    expected = (COUNTS[split], 28, 28)
    if images.shape != expected:
        raise ValueError(f"{path}: expected {_times(expected)} pixels; got {_times(images.shape)}")
    return images.reshape(len(images), 784)


def _folders(name: str, directory: str | Path | None) -> list[Path]:
    roots = [Path(root).expanduser() for root in (directory, os.environ.get("ELBOWROOM_DATA")) if root]
    return [folder for root in (*roots, cache_directory(), SYSTEM) for folder in (root / name, root)]


def _times(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _bernoulli(images: Tensor, seed: int | None) -> Tensor:
    if seed is None:
        raise ValueError('how="stochastic" needs a seed: the drawn images are part of the data')
    uniform = torch.rand(images.shape, generator=seeded(seed, "binarize"), dtype=torch.float32)
    return uniform < images.cpu().float() / 255


def _read(path: Path) -> Any:
    """What the file holds: an array, or a mapping of names to arrays."""
    try:
        if path.suffix in (".pt", ".pth"):
            return torch.load(path, map_location="cpu", weights_only=True)
        if path.suffix == ".safetensors":
            return load_file(path)
        with path.open("rb") as stream:  # opened here, for NumPy leaves a damaged .npz open
            held = np.load(stream, allow_pickle=False)
            return dict(held) if path.suffix == ".npz" else held
    except Exception as error:  # whatever a parser trips over, it is the file's
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].split(". ")[
            0
        ]  # not the parser's advice
        raise ValueError(
            f"{path}: cannot be read as {path.suffix} without running code: {reason}. Save plain arrays."
        ) from None


def _pick(held: Any, path: Path) -> Tensor:
    """The one array of what was read, or the one named x."""
    if isinstance(held, dict):
        if "x" not in held and len(held) != 1:
            raise ValueError(f"{path}: expected one array, or one named x; got {sorted(map(str, held)) or 'none'}")
        held = held["x"] if "x" in held else next(iter(held.values()))
    if isinstance(held, np.ndarray) and held.dtype.kind in "biuf" and held.dtype.itemsize <= 8:
        return torch.from_numpy(held.astype(held.dtype.newbyteorder("="), copy=False))
    if isinstance(held, Tensor) and held.layout == torch.strided and not held.is_quantized:
        return held.detach()
    kind = held.dtype if isinstance(held, np.ndarray) else type(held).__name__
    raise ValueError(f"{path}: expected an array of real numbers; got {kind}")
