"""Data sets by name, with the splits of the paper.

    mnist           train 60,000, test 10,000               (N, 784)
    fashion-mnist   train 60,000, test 10,000               (N, 784)
    cifar10         train 45,000, valid 5,000, test 10,000  (N, 3, 32, 32); valid is the end of the training files

Nothing here uses the network; `fetch` does, when asked. A data set is searched for in the given `directory`, then in
$ELBOWROOM_DATA, the user's cache (`cache_directory()`) and the system's folder of data sets, and in each of them
first in a folder of the data set's name. If it is in none of them, the error lists every place.

Whether the pixels are the official ones is decided by their SHA-256. Other pixels of MNIST and Fashion-MNIST are
refused, because their files have the same names and a mix-up would go unnoticed. CIFAR-10 is read whenever its files
are whole, since copies that were thresholded or compressed as JPEG serve for 3-bit CIFAR; `find_dataset` then says
that their pixels are not the official ones.
"""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .readers import read_cifar10, read_idx, times

__all__ = [
    "DATASETS",
    "SHAPES",
    "SPLITS",
    "DatasetPlace",
    "load_dataset",
    "load_labels",
    "cifar10",
    "fashion_mnist",
    "mnist",
    "find_dataset",
    "look_in",
    "places",
    "cache_directory",
]

SYSTEM = Path("/usr/share/datasets")
SPLITS = {
    "cifar10": {"train": 45_000, "valid": 5_000, "test": 10_000},
    "fashion-mnist": {"train": 60_000, "test": 10_000},
    "mnist": {"train": 60_000, "test": 10_000},
}
SHAPES = {"cifar10": (3, 32, 32), "fashion-mnist": (784,), "mnist": (784,)}
PREFIXES = {"train": "train", "test": "t10k"}
PIXELS = {  # SHA-256 of the pixels, header left out
    ("mnist", "train"): "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
    ("mnist", "test"): "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
    ("fashion-mnist", "train"): "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012",
    ("fashion-mnist", "test"): "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",
}
LABELS = {  # SHA-256 of the labels, header left out
    ("mnist", "train"): "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
    ("mnist", "test"): "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
    ("fashion-mnist", "train"): "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7",
    ("fashion-mnist", "test"): "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9",
}
CIFAR_ARCHIVE, CIFAR_FOLDER = "cifar-10-binary.tar.gz", "cifar-10-batches-bin"
CIFAR_FILES = {  # SHA-256 of each whole file, as published with several readers of the format
    "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
    "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
    "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
    "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
    "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
    "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
}
CIFAR_BATCHES = list(CIFAR_FILES)[:5]


@dataclass(frozen=True)
class DatasetPlace:
    """Where a data set lies, after all its images were read and found whole.

    Attributes:
        path: its folder, or the archive.
        note: what is unusual about the pixels; empty where they are the official ones.
    """

    path: Path
    note: str = ""


def load_dataset(name: str, split: str = "train", directory: str | Path | None = None) -> Tensor:
    """Load the images of one split of a data set by name, uint8; `binarize` turns them into data.

    Args:
        name: "mnist", "fashion-mnist" or "cifar10".
        split: "train" or "test"; for "cifar10" also "valid".
        directory: the first place to search.
    Returns:
        (N, 784), or (N, 3, 32, 32) for "cifar10".
    Raises:
        FileNotFoundError: no place has the images; the message lists the places.
        ValueError: a damaged file, or an unknown name or split.
    """
    if name not in DATASETS:
        raise ValueError(f"no data set is named {name!r}; there are {', '.join(sorted(DATASETS))}")
    return DATASETS[name](split, directory)


def load_labels(name: str, split: str = "train", directory: str | Path | None = None) -> Tensor:
    """Load the classes of the images that `load_dataset` returns, in the same order: int64 (N,), 0 to 9.

    Raises:
        FileNotFoundError: no place has the images, or there are no labels beside them.
        ValueError: what `load_dataset` raises, or labels that do not belong to the images.
    """
    if name == "cifar10":
        return _cifar(split, directory)[1].long()
    if name not in SPLITS:
        raise ValueError(f"no data set is named {name!r}; there are {', '.join(SPLITS)}")
    image_path, images = _images(name, split, directory)
    stem = f"{PREFIXES[split]}-labels-idx1-ubyte"
    beside = [path for path in (image_path.with_name(f"{stem}.gz"), image_path.with_name(stem)) if path.is_file()]
    if not beside:
        raise FileNotFoundError(f"{image_path.parent} has images and no {stem}.gz; put the labels beside them")
    classes = read_idx(beside[0])
    if classes.shape != (len(images),):
        raise ValueError(f"{beside[0]}: expected {len(images)} labels, one for each image; got {times(classes.shape)}")
    if _digest(classes) != LABELS[name, split]:
        raise ValueError(f"{beside[0]}: not the labels of {name} {split} (SHA-256 of the labels); fetch them again")
    return classes.long()


def cifar10(split: str = "train", directory: str | Path | None = None) -> Tensor:
    """CIFAR-10 (Krizhevsky 2009), uint8 (N, 3, 32, 32): 45,000 images for "train", 5,000 "valid", 10,000 "test"."""
    return _cifar(split, directory)[0]


def fashion_mnist(split: str = "train", directory: str | Path | None = None) -> Tensor:
    """Fashion-MNIST (Xiao, Rasul, Vollgraf 2017), uint8: (60000, 784) for "train", (10000, 784) for "test"."""
    return _images("fashion-mnist", split, directory)[1]


def mnist(split: str = "train", directory: str | Path | None = None) -> Tensor:
    """MNIST (LeCun, Cortes, Burges), uint8: (60000, 784) for "train", (10000, 784) for "test"."""
    return _images("mnist", split, directory)[1]


DATASETS: dict[str, Callable[..., Tensor]] = {"cifar10": cifar10, "fashion-mnist": fashion_mnist, "mnist": mnist}


def find_dataset(name: str, directory: str | Path | None = None) -> DatasetPlace | None:
    """The first place that has all images of a data set, or None.

    Raises:
        ValueError: a damaged data set.
    """
    for place in places(name, directory):
        there = look_in(name, place)
        if there:
            return there
    return None


def look_in(name: str, place: Path) -> DatasetPlace | None:
    """Look for a data set in one folder and read all its images; None if it is not there.

    Raises:
        ValueError: a damaged data set.
    """
    if name == "cifar10":
        path = _cifar_path(place)
        return None if path is None else DatasetPlace(path, _cifar_note(path))
    there = [_images_in(name, split, place) for split in SPLITS[name]]
    return None if None in there else DatasetPlace(place)


def places(name: str, directory: str | Path | None = None) -> list[Path]:
    """The folders in which a data set is searched for, in order."""
    roots = [Path(root).expanduser() for root in (directory, os.environ.get("ELBOWROOM_DATA")) if root]
    return [folder for root in (*roots, cache_directory(), SYSTEM) for folder in (root / name, root)]


def cache_directory() -> Path:
    """The folder of downloads: $XDG_CACHE_HOME/elbowroom, or ~/.cache/elbowroom. It is not created here."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "elbowroom"


def _images(name: str, split: str, directory: str | Path | None) -> tuple[Path, Tensor]:
    """The first file of the search order whose pixels are this data set's, and the pixels."""
    _check_split(name, split)
    searched = places(name, directory)
    for place in searched:
        there = _images_in(name, split, place)
        if there:
            return there
    raise FileNotFoundError(_missing(name, f"{PREFIXES[split]}-images-idx3-ubyte.gz", searched))


def _images_in(name: str, split: str, place: Path) -> tuple[Path, Tensor] | None:
    """The images of this data set in one folder; those of the other one are passed over, unknown ones refused."""
    stem = f"{PREFIXES[split]}-images-idx3-ubyte"
    for path in (place / f"{stem}.gz", place / stem):
        if path.is_file():
            images = _checked(read_idx(path), path, SPLITS[name][split])
            digest = _digest(images)
            if digest == PIXELS[name, split]:
                return path, images
            if digest not in PIXELS.values():
                raise ValueError(
                    f"{path}: not the official images of {name} {split} (SHA-256 of the pixels "
                    f"{digest[:12]}..., expected {PIXELS[name, split][:12]}...); fetch them again"
                )
    return None


def _checked(images: Tensor, path: Path, n: int) -> Tensor:
    expected = (n, 28, 28)
    if images.shape != expected:
        raise ValueError(f"{path}: expected {times(expected)} pixels; got {times(images.shape)}")
    return images.reshape(n, 784)


def _cifar(split: str, directory: str | Path | None) -> tuple[Tensor, Tensor]:
    """Images and labels of one split, from the first place that has the archive or its files."""
    _check_split("cifar10", split)
    searched = places("cifar10", directory)
    path = next((path for path in map(_cifar_path, searched) if path), None)
    if path is None:
        raise FileNotFoundError(_missing("cifar10", CIFAR_ARCHIVE, searched))
    if split == "test":
        return read_cifar10(path, ["test_batch.bin"])
    n_valid = SPLITS["cifar10"]["valid"]
    images, classes = read_cifar10(path, CIFAR_BATCHES if split == "train" else CIFAR_BATCHES[-1:])
    rows = slice(None, -n_valid) if split == "train" else slice(-n_valid, None)
    return images[rows], classes[rows]


def _cifar_path(place: Path) -> Path | None:
    """The archive, or the folder of the record files."""
    if (place / CIFAR_ARCHIVE).is_file():
        return place / CIFAR_ARCHIVE
    folders = (place / CIFAR_FOLDER, place)
    return next((folder for folder in folders if (folder / CIFAR_BATCHES[0]).is_file()), None)


def _cifar_note(path: Path) -> str:
    """What is to be known of the pixels: nothing of the official ones."""
    images, classes = read_cifar10(path, list(CIFAR_FILES))
    n = len(CIFAR_FILES)
    files = [torch.cat([c[:, None], x.flatten(1)], 1) for x, c in zip(images.chunk(n), classes.chunk(n), strict=True)]
    if [_digest(file) for file in files] == list(CIFAR_FILES.values()):
        return ""
    binary = all(bool(((x == 0) | (x == 255)).all()) for x in images.chunk(n))
    return "not the official pixels" + (": every one is 0 or 255, thresholded already" if binary else "")


def _check_split(name: str, split: str) -> None:
    if split not in SPLITS[name]:
        known = " or ".join(f'"{known}"' for known in SPLITS[name])
        raise ValueError(f"split must be {known} for {name}; got {split!r}")


def _missing(name: str, file: str, searched: list[Path]) -> str:
    return (
        f"{name}: {file} is in none of {', '.join(map(str, searched))}; `elbowroom data {name}` fetches it, "
        f"or point ELBOWROOM_DATA at its folder"
    )


def _digest(values: Tensor) -> str:
    return hashlib.sha256(values.contiguous().numpy().data).hexdigest()
