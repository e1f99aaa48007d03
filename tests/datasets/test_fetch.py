"""Downloading, from a server on this machine: all of a data set or nothing, and only when asked."""

import gzip
import hashlib
import os
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch

from elbowroom.cli import main
from elbowroom.datasets import DATASETS, SOURCES, SPLITS, Source, fetch, load_dataset, load_labels
from elbowroom.datasets.catalog import CIFAR_ARCHIVE, LABELS, PIXELS, PREFIXES

from .test_readers import idx, pixels

FILES = {
    "train-images-idx3-ubyte.gz": pixels(0, 3, 28, 28),
    "train-labels-idx1-ubyte.gz": np.array([4, 0, 9], np.uint8),
    "t10k-images-idx3-ubyte.gz": pixels(1, 3, 28, 28),
    "t10k-labels-idx1-ubyte.gz": np.array([1, 2, 3], np.uint8),
}
LAST = "t10k-labels-idx1-ubyte.gz"


class Server(BaseHTTPRequestHandler):
    """Serves the files of a mapping; those named in `broken` end before the length that was promised."""

    def __init__(self, held: dict[str, bytes], broken: set[str], asked: list[str], *arguments: object) -> None:
        self.held, self.broken, self.asked = held, broken, asked
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        self.asked.append(name)
        if name not in self.held:
            self.send_error(404)
            return
        content = self.held[name]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if name in self.broken else content)

    def log_message(self, *arguments: object) -> None:
        pass


class Remote:
    """What the server holds, which of it breaks off, and what it was asked for."""

    def __init__(self) -> None:
        self.held = {name: gzip.compress(idx(array)) for name, array in FILES.items()}
        self.broken: set[str] = set()
        self.asked: list[str] = []


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Remote]:
    """MNIST of three images at an address of this machine; a cache and a system without data."""
    there = Remote()
    monkeypatch.setitem(SPLITS, "mnist", {"train": 3, "test": 3})
    for table, kind in ((PIXELS, "images-idx3"), (LABELS, "labels-idx1")):
        for split, prefix in PREFIXES.items():
            content = FILES[f"{prefix}-{kind}-ubyte.gz"].tobytes()
            monkeypatch.setitem(table, ("mnist", split), hashlib.sha256(content).hexdigest())
    monkeypatch.setattr("elbowroom.datasets.catalog.SYSTEM", tmp_path / "system")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("ELBOWROOM_DATA", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Server, there.held, there.broken, there.asked)) as server:
        Thread(target=partial(server.serve_forever, poll_interval=0.01), daemon=True).start()
        sums = {name: hashlib.sha256(content).hexdigest() for name, content in there.held.items()}
        size = sum(map(len, there.held.values()))
        address = f"http://127.0.0.1:{server.server_address[1]}/mnist/"
        for name in {*SOURCES} - {"mnist"}:
            monkeypatch.delitem(SOURCES, name)
        monkeypatch.setitem(SOURCES, "mnist", Source(address, sums, size))
        yield there
        server.shutdown()


def cached(tmp_path: Path) -> list[str]:
    """Every file below the cache."""
    return sorted(path.name for path in (tmp_path / "cache").rglob("*") if not path.is_dir())


def test_a_data_set_is_fetched_once_and_then_found(remote: Remote, tmp_path: Path) -> None:
    heard: list[tuple[int, int]] = []
    folder = fetch("mnist", progress=lambda done, total: heard.append((done, total)))
    size = SOURCES["mnist"].n_bytes
    assert folder == tmp_path / "cache/elbowroom/mnist"
    assert cached(tmp_path) == sorted(FILES)
    assert list(folder.parent.iterdir()) == [folder]
    assert heard[-1] == (size, size)
    assert [done for done, _ in heard] == sorted(done for done, _ in heard)
    assert torch.equal(load_dataset("mnist", "test"), torch.from_numpy(pixels(1, 3, 28, 28)).reshape(3, 784))
    assert load_labels("mnist", "train").tolist() == [4, 0, 9]
    assert len(remote.asked) == 4
    assert fetch("mnist") == folder
    assert len(remote.asked) == 4


def test_what_a_killed_download_left_goes_with_the_next(remote: Remote, tmp_path: Path) -> None:
    """Unless it is of today: another process may be at it."""
    old, new = (tmp_path / "cache/elbowroom" / f".mnist-{name}" for name in ("old", "new"))
    for left in (old, new):
        left.mkdir(parents=True)
        (left / "half").write_bytes(b"half")
    os.utime(old, (0, 0))
    folder = fetch("mnist")
    assert sorted(folder.parent.iterdir()) == [new, folder]


def test_what_is_here_is_not_fetched(remote: Remote, tmp_path: Path) -> None:
    folder = tmp_path / "mine" / "mnist"
    folder.mkdir(parents=True)
    for name, content in remote.held.items():
        (folder / name).write_bytes(content)
    assert fetch("mnist", tmp_path / "mine") == folder
    assert not remote.asked
    assert cached(tmp_path) == []


FAULTS: dict[str, tuple[str, type[Exception] | tuple[type[Exception], ...]]] = {
    "not there": ("HTTP status 404.*download it by hand into .*, and run the command again", ConnectionError),
    "breaks off": ("could not be fetched .*by hand|another SHA-256.*by hand", (ConnectionError, ValueError)),
    "another file": ("the file that came is not the official one .its SHA-256 differs.*by hand", ValueError),
    "no server": (r"could not be fetched \(ConnectionError\): download it by hand", ConnectionError),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_failed_download_leaves_nothing(
    remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    """The last of four files fails: the three before it go too."""
    if case == "not there":
        del remote.held[LAST]
    if case == "breaks off":
        remote.broken.add(LAST)
    if case == "another file":
        remote.held[LAST] = gzip.compress(idx(np.array([1, 2, 4], np.uint8)))
    if case == "no server":
        source = SOURCES["mnist"]
        closed = Source("http://127.0.0.1:9/mnist/", source.files, source.n_bytes)
        monkeypatch.setitem(SOURCES, "mnist", closed)
    message, kind = FAULTS[case]
    with pytest.raises(kind, match=message) as caught:
        fetch("mnist")
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "cache/elbowroom/mnist") in str(caught.value)
    assert list((tmp_path / "cache/elbowroom").iterdir()) == []


def test_a_damaged_copy_is_replaced_in_the_cache_only(remote: Remote, tmp_path: Path) -> None:
    folder = fetch("mnist")
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match="fetch it again"):
        load_dataset("mnist")
    assert fetch("mnist") == folder
    assert load_dataset("mnist").shape == (3, 784)
    mine = tmp_path / "mine" / path.name
    mine.parent.mkdir()
    mine.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match="damaged or truncated gzip file") as caught:
        fetch("mnist", mine.parent)
    assert str(mine) in str(caught.value)
    assert list(mine.parent.iterdir()) == [mine]
    assert len(remote.asked) == 8


def test_nothing_is_fetched_unasked(remote: Remote, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(FileNotFoundError, match="`elbowroom data mnist` fetches it"):
        load_dataset("mnist")
    with pytest.raises(ValueError, match="no data set is named 'cifar100'; there are mnist"):
        fetch("cifar100")
    assert main(["data"]) == 0
    assert "elbowroom data mnist fetches it" in capsys.readouterr().out
    assert not remote.asked
    assert not (tmp_path / "cache").exists()


def test_the_command_fetches_and_lists(remote: Remote, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "cache/elbowroom/mnist"
    assert main(["data", "mnist"]) == 0
    seen = capsys.readouterr()
    assert seen.out == f"mnist: {folder}\n"
    assert "fetching mnist" in seen.err
    assert main(["data"]) == 0
    assert capsys.readouterr().out.splitlines() == ["mnist  train 3, test 3; 784", f"       {folder}"]
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(b"hello")
    assert main(["data"]) == 0
    assert "damaged: " in capsys.readouterr().out


def test_the_command_fails_in_one_line(remote: Remote, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    del remote.held[LAST]
    assert main(["data", "mnist"]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("elbowroom: error: mnist: http://127.0.0.1")
    assert "HTTP status 404" in last
    assert main(["data", "imagenet"]) == 2
    assert "no data set is named imagenet; there are mnist" in capsys.readouterr().err
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"hello")
    assert main(["data", "mnist", "--data-dir", str(tmp_path)]) == 2
    assert "expected an IDX file" in capsys.readouterr().err
    assert cached(tmp_path) == []


@pytest.mark.parametrize("name", SOURCES)
def test_the_table_names_what_is_looked_for(name: str) -> None:
    source = SOURCES[name]
    assert source.address.startswith("http")
    assert source.address.endswith("/")
    assert all(len(bytes.fromhex(sha256)) == 32 for sha256 in source.files.values())
    if name == "cifar10":
        assert list(source.files) == [CIFAR_ARCHIVE]
    else:
        assert list(source.files) == list(FILES)
    assert set(SOURCES) == set(DATASETS)
