"""A training that is killed at random moments, by the signal that nothing can catch."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

EPOCHS = 60


def training(folder: Path, out: str) -> list[str]:
    options = ["--epochs", str(EPOCHS), "--encoder", "30", "--decoder", "30", "--latents", "4", "--batch-size", "20"]
    options += ["--family", "auxiliary", "--checkpoint-seconds", "0", "--threads", "1", "--out", str(folder / out)]
    return [sys.executable, "-m", "elbowroom", "train", str(folder / "x.npy"), *options]


def n_lines(folder: Path) -> int:
    """Whole lines of the run's log."""
    log = folder / "epochs.jsonl"
    return log.read_text().count("\n") if log.exists() else 0


def n_checkpointed(folder: Path) -> int:
    path = folder / "checkpoint.safetensors"
    if not path.exists():
        return 0
    with safe_open(path, framework="pt") as file:
        return len(json.loads(file.metadata()["epochs"]))


@pytest.mark.slow
@pytest.mark.long
def test_killed_at_five_random_moments_a_run_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    """A checkpoint after each epoch: at most the epoch under way is lost, and the last weights are the same bits."""
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 2, (2000, 20)).astype(np.float32))
    subprocess.run(training(tmp_path, "whole"), check=True, capture_output=True)
    moments = random.Random(os.urandom(8))
    run, done = tmp_path / "run", 0
    for _ in range(5):
        process = subprocess.Popen(training(tmp_path, "run"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        target = done + moments.uniform(2, EPOCHS / 7)
        while n_lines(run) < target and process.poll() is None:
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        process.wait()
        before, done = done, n_checkpointed(run)
        assert not (run / "model.safetensors").exists()
        assert done >= n_lines(run) - 1
        assert done > before
    subprocess.run(training(tmp_path, "run"), check=True, capture_output=True)
    for name in ("model.safetensors", "config.json"):
        found, expected = ((folder / name).read_bytes() for folder in (run, tmp_path / "whole"))
        assert found.replace(b"/run", b"/whole") == expected
    assert n_lines(run) == EPOCHS
    assert sorted(path.name for path in run.iterdir()) == ["config.json", "epochs.jsonl", "model.safetensors"]
