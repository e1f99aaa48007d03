"""All experiments on the trained models and real images, as quickly as they can be run, and one of them killed."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import elbowroom as er
from elbowroom.experiments import EXPERIMENTS

ZOO = Path(__file__).parents[2] / "zoo"
N_KILLS = 3
SETS = ("train", "heldout")
VERDICTS = ("holds", "does not hold", "cannot tell")

pytestmark = [pytest.mark.slow, pytest.mark.external, pytest.mark.paper]


def begun(data: Path, out: Path, name: str) -> subprocess.Popen[bytes]:
    """The command, which finds the models of the zoo beside those that it trains."""
    zoo = out.parent / "zoo"
    zoo.mkdir(exist_ok=True)
    for path in ZOO.iterdir():
        if not (zoo / path.name).is_symlink():
            (zoo / path.name).symlink_to(path)
    command = ["paper", name, "--scale", "quick", "--zoo", str(zoo), "--data-dir", str(data), "--out", str(out)]
    program = [sys.executable, "-m", "elbowroom", *command]
    return subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)


def rows(out: Path) -> dict[str, er.Gaps]:
    """The ladders that are kept, by model and set."""
    kept = out / "data" / "quick"
    return {str(path.parent.relative_to(kept)): er.load_gaps(path.parent) for path in kept.glob("*/*/run.json")}


def test_every_experiment_runs(external_data: Path, tmp_path: Path) -> None:
    process = begun(external_data, tmp_path / "out", "all")
    said, errors = process.communicate()
    assert process.returncode == 0, errors.decode()
    for name, experiment in EXPERIMENTS.items():
        page = (tmp_path / "out" / f"{name}.md").read_text()
        assert sum(page.count(f"**{verdict}**") for verdict in VERDICTS) == len(experiment.claims)
        assert (tmp_path / "out" / f"{name}.png").stat().st_size > 10_000
        assert f"\n{name}\n" in said.decode()


def test_one_that_is_killed_goes_on_to_the_same_rows(external_data: Path, tmp_path: Path) -> None:
    whole = begun(external_data, tmp_path / "whole", "gaps")
    _, errors = whole.communicate()
    assert whole.returncode == 0, errors.decode()
    moments, n_killed = random.Random(os.urandom(8)), 0
    for _ in range(N_KILLS):
        process = begun(external_data, tmp_path / "killed", "gaps")
        time.sleep(moments.uniform(4.0, 14.0))
        n_killed += process.poll() is None
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert n_killed
    process = begun(external_data, tmp_path / "killed", "gaps")
    process.communicate()
    assert process.returncode == 0
    expected, found = rows(tmp_path / "whole"), rows(tmp_path / "killed")
    assert found.keys() == {f"{model}/{name}" for model in EXPERIMENTS["gaps"].models for name in SETS}
    for name, gaps in found.items():
        (_, columns), (_, others) = gaps.to_columns(), expected[name].to_columns()
        assert columns.keys() == others.keys()
        for column, values in columns.items():
            np.testing.assert_array_equal(values, others[column], err_msg=f"{column} of {name}")
