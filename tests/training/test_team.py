"""Training under torchrun: two processes do what one does with the same batches, and resume when one was killed."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from elbowroom.training import read_epochs, read_tensors

TRAIN = ["-m", "elbowroom", "train", "x.npy", "--encoder", "16", "--decoder", "16", "--latents", "3"]
TORCHRUN = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
MARGIN = 2e-3  # relative; sums in another order round differently, and Adam's first steps enlarge that


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with 205 images of 30 bits: batches of 20 leave one of 5, and an odd number of rows."""
    rng = np.random.default_rng(0)
    shapes = rng.random((4, 30)) < 0.4
    flips = rng.random((205, 30)) < 0.1
    np.save(tmp_path / "x.npy", (shapes[rng.integers(0, 4, 205)] ^ flips).astype(np.float32))
    return tmp_path


def command(place: Path, out: str, n_processes: int, epochs: int, *more: str) -> subprocess.Popen[str]:
    words = [*TRAIN, "--batch-size", "20", "--epochs", str(epochs), "--out", out, *more]
    if n_processes == 2:
        words = [*TORCHRUN, "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.Popen(
        [sys.executable, *words], cwd=place, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def curve(folder: Path) -> np.ndarray:
    return np.array([epoch.objective for epoch in read_epochs(folder)])


def test_two_processes_have_the_loss_curve_of_one(place: Path) -> None:
    code, _, err = ended(command(place, "one", 1, 6))
    assert code == 0, err
    code, out, err = ended(command(place, "two", 2, 6))
    assert code == 0, err
    assert out.count("measure it: elbowroom gaps") == 1  # the second process says nothing
    assert out.count("6 epochs on 205 data") == 1
    np.testing.assert_allclose(curve(place / "two"), curve(place / "one"), rtol=MARGIN)
    found, _ = read_tensors(place / "two/model.safetensors")
    expected, _ = read_tensors(place / "one/model.safetensors")
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0.05, atol=0.02)


def test_one_of_two_is_killed_and_the_training_resumes(place: Path) -> None:
    code, _, err = ended(command(place, "whole", 2, 200))
    assert code == 0, err
    process = command(place, "killed", 2, 200, "--checkpoint-seconds", "0")
    deadline = time.monotonic() + 120
    while not (place / "killed/checkpoint.safetensors").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(members(process)[1], signal.SIGKILL)
    code, _, _ = ended(process)
    assert code != 0
    done = len(read_epochs(place / "killed"))
    assert 0 < done < 200
    code, _, err = ended(command(place, "killed", 2, 200))
    assert code == 0, err
    assert "resuming after" in err
    np.testing.assert_array_equal(curve(place / "killed"), curve(place / "whole"))


def members(process: subprocess.Popen[str]) -> list[int]:
    """The processes that torchrun started, in the order of their ranks."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = re.search(r"^PPid:\t(\d+)", (path / "status").read_text(), re.MULTILINE)
            rank = re.search(rb"(?:^|\0)RANK=(\d+)", (path / "environ").read_bytes())
        except OSError:
            continue
        if parent is not None and int(parent[1]) == process.pid and rank is not None:
            found[int(rank[1])] = int(path.name)
    return [found[rank] for rank in sorted(found)]
