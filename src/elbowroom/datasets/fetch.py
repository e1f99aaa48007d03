"""Downloads of data sets, only when asked: from official addresses, with the SHA-256 of every file checked.

Files are downloaded into a temporary folder beside their final place, compared with the SHA-256 of the official files,
and moved there when the last one is right: all files of a data set arrive, or none. `pooch` does the transfer and is
imported with the first download.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from .catalog import cache_directory, look_in, places

__all__ = ["SOURCES", "Source", "fetch"]

TIMEOUT = 30  # seconds without a byte before a download fails
A_DAY = 86_400  # seconds
CHUNK = 2**16  # bytes at a time
AS_IT_IS = {"Accept-Encoding": "identity"}  # a .gz is not to be unpacked on the way
ByteProgress = Callable[[int, int], None]  # (bytes that are here, bytes in all)


@dataclass(frozen=True)
class Source:
    """Where a data set is downloaded from.

    Attributes:
        address: the URL that the names of the files are appended to.
        files: the SHA-256 of each file, by its name.
        n_bytes: size of all files together, in bytes.
    """

    address: str
    files: Mapping[str, str]
    n_bytes: int


SOURCES = {
    "cifar10": Source(
        "https://www.cs.toronto.edu/~kriz/",
        {"cifar-10-binary.tar.gz": "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"},
        170_052_171,
    ),
    "fashion-mnist": Source(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        {
            "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        },
        30_878_645,
    ),
    "mnist": Source(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        {
            "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        },
        11_594_722,
    ),
}


def fetch(name: str, directory: str | Path | None = None, progress: ByteProgress | None = None) -> Path:
    """Find a data set, or download it into the user's cache.

    A damaged copy in its folder of the cache is replaced. A damaged copy in any other place is the user's and is
    refused, as by `find_dataset`. A download that fails leaves no file behind.

    Args:
        name: one of `SOURCES`.
        directory: the first place to search.
        progress: called with (bytes downloaded, bytes in all).
    Returns:
        The folder or the archive of the data set.
    Raises:
        ValueError: an unknown name, a damaged copy, or a download that is not the official file.
        ConnectionError: a file cannot be downloaded; the message says what to do by hand.
    """
    if name not in SOURCES:
        raise ValueError(f"no data set is named {name!r}; there are {', '.join(SOURCES)}")
    folder = cache_directory() / name
    for place in places(name, directory):
        try:
            there = look_in(name, place)
        except ValueError:
            if place != folder:
                raise
            break  # what is found further on would be hidden behind this copy
        if there:
            return there.path
    _download(SOURCES[name], folder, progress)
    return folder


def _download(source: Source, folder: Path, progress: ByteProgress | None) -> None:
    """Every file of a source, whole and right, into `folder`; or none of them."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left in folder.parent.glob(f".{folder.name}-*"):  # left by a download that was killed
        if time.time() - left.stat().st_mtime > A_DAY:
            shutil.rmtree(left, ignore_errors=True)
    here = 0

    def arrived(n: int) -> None:
        nonlocal here
        here += n
        if progress is not None:
            progress(min(here, source.n_bytes), source.n_bytes)

    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        for file, sha256 in source.files.items():
            try:
                _retrieve(source.address + file, sha256, Path(temporary, file), arrived)
            except (ConnectionError, ValueError) as error:
                raise type(error)(f"{error}: download it by hand into {folder}, and run the command again") from None
        folder.mkdir(exist_ok=True)
        for file in source.files:
            os.replace(Path(temporary, file), folder / file)


def _retrieve(url: str, sha256: str, path: Path, arrived: Callable[[int], None]) -> None:
    """One file, compared with its SHA-256. `arrived` is told of bytes as they come."""
    import pooch
    import requests

    def transfer(url: str, to: str | Path, _: object) -> None:
        with requests.get(url, stream=True, timeout=TIMEOUT, headers=AS_IT_IS) as response, open(to, "wb") as stream:
            response.raise_for_status()
            for chunk in response.iter_content(CHUNK):
                arrived(stream.write(chunk))

    pooch.get_logger().setLevel("ERROR")  # the user sees the messages of this package instead
    try:
        pooch.retrieve(url, f"sha256:{sha256}", fname=path.name, path=path.parent, downloader=transfer)
    except requests.RequestException as error:
        reason = type(error).__name__ if error.response is None else f"HTTP status {error.response.status_code}"
        raise ConnectionError(f"{url} could not be fetched ({reason})") from None
    except ValueError:
        raise ValueError(f"{url}: the file that came is not the official one (its SHA-256 differs)") from None
