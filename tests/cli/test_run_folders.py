"""Folders for runs: tried before anything is measured, held while it is, and what is printed is never lost."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import elbowroom as er
from elbowroom.cli import main
from elbowroom.cli.run_folders import reserved
from elbowroom.results import RESERVED

MODEL = """
import time
import torch
import elbowroom as er

def factory():
    torch.manual_seed(0)
    decoder, encoder = torch.nn.Linear(2, 6), torch.nn.Linear(6, 4)
    return er.DecoderModel(decoder, "bernoulli", 2), er.Amortized(encoder, er.DiagonalGaussian(2))

class Slow(torch.nn.Linear):
    def forward(self, z):
        time.sleep(0.05)
        return super().forward(z)

def slow():
    _, q = factory()
    return er.DecoderModel(Slow(2, 6), "bernoulli", 2), q
"""
ROOT_READS_ALL = os.geteuid() == 0  # permissions do not hold for root


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a model and data."""
    torch.set_default_dtype(torch.float32)
    (tmp_path / "mine.py").write_text(MODEL)
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 2, (10, 6)).astype(np.float32))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def words(factory: str = "factory", *more: str) -> list[str]:
    return ["gaps", "--model", f"mine.py:{factory}", "--data", "x.npy", "--plan", "quick", "--out", "run", *more]


def claim(folder: Path, pid: int, host: str | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    record = {"host": host or socket.gethostname(), "pid": pid, "since": "2026-11-25T12:00:00+00:00"}
    (folder / RESERVED).write_text(json.dumps(record))


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_folder_is_held_while_it_is_measured_for(tmp_path: Path) -> None:
    with reserved([tmp_path / "a" / "b"], overwrite=False):
        assert json.loads((tmp_path / "a" / "b" / RESERVED).read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_what_was_there_stays(tmp_path: Path) -> None:
    with reserved([tmp_path / "a"], overwrite=False):
        (tmp_path / "a" / "run.json").write_text("{}")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["run.json"]
    with pytest.raises(KeyError), reserved([tmp_path / "b"], overwrite=False):
        raise KeyError
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_one_of_several_that_fails_leaves_the_others(tmp_path: Path) -> None:
    def measured() -> None:
        with reserved([tmp_path / "out/train", tmp_path / "out/test"], overwrite=False):
            (tmp_path / "out/test/run.json").write_text("{}")
            raise KeyError

    with pytest.raises(KeyError):
        measured()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["out", "run.json", "test"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: claim(folder, os.getppid()), "is measuring into it since 2026-11-25"),
        (lambda folder: claim(folder, 1, "another-machine"), "is measuring into it since"),
        (lambda folder: claim(folder, dead_process()), r"holds a run that was interrupted \(begun 2026-11-25"),
        (lambda folder: (folder.mkdir(), (folder / RESERVED).write_text("?")), "holds a run that was interrupted"),
        (lambda folder: (folder.mkdir(), (folder / "thesis.tex").touch()), "is not empty and holds no run"),
        (lambda folder: folder.touch(), "there is a file in its place"),
    ],
    ids=["under way", "under way elsewhere", "interrupted", "a damaged claim", "other files", "a file"],
)
def test_a_folder_that_may_not_be_used_is_refused_before_measuring(place: Path, spoil, message: str, capsys) -> None:
    spoil(place / "run")
    before = sorted(place.rglob("*"))
    assert main(words()) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert len(shown.err.splitlines()) == 1
    assert re.search(message, shown.err)
    assert sorted(place.rglob("*")) == before


def test_an_interrupted_run_is_replaced_on_request(place: Path) -> None:
    claim(place / "run", dead_process())
    (place / "run/data").mkdir()
    (place / "run/data/part-00000.parquet").write_bytes(b"half")
    assert main(words("factory", "--overwrite")) == 0
    assert len(er.load_gaps("run")) == 10
    assert sorted(path.name for path in (place / "run").iterdir()) == ["data", "run.json"]


@pytest.mark.skipif(ROOT_READS_ALL, reason="root may write anywhere")
def test_a_read_only_folder_is_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "locked").mkdir(mode=0o500)
    assert main([*words()[:-1], "locked/run"]) == 2
    assert "cannot be written to" in capsys.readouterr().err


def test_a_full_disk_is_refused_before_measuring(place: Path, monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("elbowroom.cli.run_folders.json.dump", full)
    assert main(words()) == 2
    shown = capsys.readouterr()
    assert "run: cannot be written to (No space left on device); nothing was measured" in shown.err
    assert shown.out == ""
    assert not (place / "run").exists()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_stopped_leaves_nothing_or_says_that_it_was(place: Path, how: signal.Signals, capsys) -> None:
    """Stopped while it measures: Ctrl-C leaves nothing; after kill -9 the next run is told."""
    process = subprocess.Popen([sys.executable, "-m", "elbowroom", *words("slow")], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (place / "run" / RESERVED).exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(how)
    code = process.wait(timeout=60)
    if how == signal.SIGINT:
        assert code == 130
        assert not (place / "run").exists()
    else:
        assert code == -signal.SIGKILL
        assert main(words()) == 2
        assert "holds a run that was interrupted" in capsys.readouterr().err
        assert main(words("factory", "--overwrite")) == 0
