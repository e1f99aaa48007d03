"""kill -9 at random moments of a measurement of 300 images: nothing finished is lost, and the numbers are the same."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import elbowroom as er

MEASURE = """
import sys
import torch
import elbowroom as er
from elbowroom.datasets import demo_images
from elbowroom.training import demo_model

torch.set_num_threads(1)
images = demo_images()
x = torch.cat([images["train"][:150], images["heldout"][:150]])
print("begun", flush=True)
er.decompose(*demo_model(), x, plan="quick", progress=False, out=sys.argv[1])
"""
LONGEST = 3.0  # seconds between the beginning and a kill: more than one block takes, and each run goes on with the last


def begun(folder: Path) -> subprocess.Popen[str]:
    """A process that has imported everything and now measures into the folder."""
    process = subprocess.Popen([sys.executable, "-c", MEASURE, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "begun\n"
    return process


def finish(folder: Path) -> er.Gaps:
    process = begun(folder)
    assert process.wait(timeout=300) == 0
    return er.load_gaps(folder)


def blocks(folder: Path) -> dict[str, int]:
    """The finished blocks, and when each was written."""
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("blocks/first/block-*.parquet")}


@pytest.mark.parametrize("n_kills", [3, pytest.param(20, marks=[pytest.mark.slow, pytest.mark.long])])
def test_a_run_that_is_killed_again_and_again_ends_in_the_same_numbers(tmp_path: Path, n_kills: int) -> None:
    """The moments are drawn anew in each run of the test, for any of them must do. Whenever a run ends before it is
    killed, the next one begins in a new folder.
    """
    moments = random.Random()
    whole = finish(tmp_path / "whole")
    number, killed_while_unfinished = 0, 0
    while killed_while_unfinished < n_kills:
        folder = tmp_path / f"killed {number}"
        before = blocks(folder)
        process = begun(folder)
        time.sleep(moments.uniform(0.0, LONGEST))
        process.send_signal(signal.SIGKILL)
        if process.wait() == 0:
            number += 1
            continue
        killed_while_unfinished += 1
        after = blocks(folder)
        assert before.items() <= after.items()  # no finished block is lost or written again
    for each in range(number + 1):
        (_, columns), (_, others) = finish(tmp_path / f"killed {each}").to_columns(), whole.to_columns()
        assert columns.keys() == others.keys()
        for name, column in columns.items():
            np.testing.assert_array_equal(column, others[name], err_msg=name)
