"""Runs of the command on the demo's model that many processes share, for the tests of workers, parts and clusters."""

import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

import elbowroom as er
from elbowroom.cli import main
from elbowroom.datasets import demo_images

N = 300


def make_images(folder: Path) -> Path:
    """300 images, half of them those that the demo's model was trained on, in a file."""
    path, sets = folder / "x.npy", demo_images()
    np.save(path, torch.cat([sets["train"][: N // 2], sets["heldout"][: N // 2]]).float().numpy())
    return path


def measured_whole(images: Path) -> er.Gaps:
    """The run of all of them in one process."""
    with single_precision():
        assert main(words(images, images.parent / "whole", "--workers", "1")) == 0
    return er.load_gaps(images.parent / "whole")


def words(images: Path, out: Path, *more: str, n: int = N) -> list[str]:
    spec = ["--model", "elbowroom.training:demo_model", "--data", str(images)]
    return ["gaps", *spec, "--first", str(n), "--plan", "quick", "--out", str(out), *more]


@contextmanager
def single_precision() -> Iterator[None]:
    before, threads = torch.get_default_dtype(), torch.get_num_threads()
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_default_dtype(before)
    torch.set_num_threads(threads)


def assert_same(folder: Path, whole: er.Gaps) -> None:
    """The rows of a saved run are equal to those of another bit for bit."""
    (_, columns), (_, others) = er.load_gaps(folder).to_columns(), whole.to_columns()
    assert columns.keys() == others.keys()
    for name, column in columns.items():
        np.testing.assert_array_equal(column, others[name], err_msg=name)


def begun(images: Path, out: Path, *more: str, n: int = N) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "elbowroom", *words(images, out, *more, n=n)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=150)
    return process.returncode, out, err


def blocks(folder: Path) -> dict[str, int]:
    """The finished blocks, and when each was written."""
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("blocks/first/block-*.parquet")}


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    """The worker processes of a command: what its fork server has forked."""
    servers = [pid for pid, line in children_of(process.pid) if b"forkserver" in line]
    assert servers or process.poll() is not None
    return [pid for server in servers for pid, _ in children_of(server)]


def children_of(parent: int) -> list[tuple[int, bytes]]:
    """The processes that a process has started, and the command line of each."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            its_parent = re.search(r"^PPid:\t(\d+)", (path / "status").read_text(), re.MULTILINE)
            line = (path / "cmdline").read_bytes()
        except OSError:
            continue
        if its_parent is not None and int(its_parent[1]) == parent:
            found.append((int(path.name), line))
    return found


def has_begun(folder: Path) -> bool:
    """Whether a block of the run is claimed."""
    return any(folder.glob("blocks/first/claims/*"))


def have_ended(pids: list[int]) -> bool:
    return not any(is_running(pid) for pid in pids)


def is_running(pid: int) -> bool:
    try:
        return "zombie" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def wait_until(condition: Callable[[], object], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def some_moment() -> None:
    """Drawn anew in each run of the tests, for any moment must do."""
    time.sleep(random.Random().uniform(0.0, 3.0))
