"""One run, many processes: the same numbers for any number of workers and parts, whoever is killed."""

import os
import random
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import elbowroom as er
from elbowroom.cli import main

from ..shared_runs import (
    assert_same,
    begun,
    blocks,
    ended,
    has_begun,
    have_ended,
    some_moment,
    wait_until,
    words,
    workers_of,
)

ANY_MOMENT = pytest.mark.parametrize("n_kills", [1, pytest.param(3, marks=pytest.mark.slow)])


@pytest.mark.parametrize("workers", [2, 3])
def test_numbers_do_not_depend_on_the_number_of_workers(
    images: Path, whole_run: er.Gaps, tmp_path: Path, workers: int
) -> None:
    code, out, _ = ended(begun(images, tmp_path / "run", "--workers", str(workers)))
    assert code == 0
    assert str(whole_run) in out
    assert_same(tmp_path / "run", whole_run)


UNTRAINED = """
import numpy as np, torch
import elbowroom as er

def factory(bias=0.0):
    encoder, decoder = torch.nn.Linear(20, 8), torch.nn.Linear(4, 20)
    torch.nn.init.constant_(decoder.bias, bias)
    return er.DecoderModel(decoder, "bernoulli", 4), er.Amortized(encoder, er.DiagonalGaussian(4))

def drawn_by_numpy():
    return factory(float(np.random.default_rng().normal()))
"""


def measured_untrained(place: Path, factory: str) -> subprocess.CompletedProcess[str]:
    """Networks that each process initializes for itself, measured by two workers."""
    (place / "mine.py").write_text(UNTRAINED)
    np.save(place / "x.npy", np.eye(20, dtype=np.float32)[np.arange(120) % 20])
    asked = ["gaps", "--model", f"mine.py:{factory}", "--data", "x.npy", "--plan", "quick", "--workers", "2"]
    command = [sys.executable, "-m", "elbowroom", *asked, "--out", "run"]
    return subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)


def test_networks_that_are_not_trained_are_the_same_in_every_process(tmp_path: Path) -> None:
    ran = measured_untrained(tmp_path, "factory")
    assert ran.returncode == 0, ran.stderr
    assert "120 data" in ran.stdout


def test_a_factory_that_gives_other_networks_each_time_is_told_by_their_weights(tmp_path: Path) -> None:
    ran = measured_untrained(tmp_path, "drawn_by_numpy")
    assert ran.returncode == 2
    (error,) = [line for line in ran.stderr.splitlines() if line.startswith("elbowroom: error: ")]
    assert 'holds a run with another model: {"weights": "' in error
    assert ".." not in error.replace("...", "")


def test_parts_may_be_measured_in_any_order(images: Path, whole_run: er.Gaps, tmp_path: Path) -> None:
    """The last of them prints the whole."""
    for part in ("3/3", "1/3"):
        code, out, _ = ended(begun(images, tmp_path / "run", "--part", part, "--workers", "1"))
        assert code == 0
        assert "blocks of other parts are not there yet" in out
        assert "log p(x)" not in out
    code, out, _ = ended(begun(images, tmp_path / "run", "--part", "2/3", "--workers", "1"))
    assert code == 0
    assert str(whole_run) in out
    assert_same(tmp_path / "run", whole_run)


def test_data_may_be_added_by_more_workers(images: Path, whole_run: er.Gaps, tmp_path: Path) -> None:
    assert ended(begun(images, tmp_path / "run", "--workers", "2", n=120))[0] == 0
    before = blocks(tmp_path / "run")
    assert ended(begun(images, tmp_path / "run", "--workers", "3"))[0] == 0
    assert {name for name in before if "-50-" in name} == before.keys() & blocks(tmp_path / "run").keys()
    assert_same(tmp_path / "run", whole_run)


@ANY_MOMENT
def test_one_of_three_workers_is_killed(images: Path, whole_run: er.Gaps, tmp_path: Path, n_kills: int) -> None:
    for number in range(n_kills):
        folder = tmp_path / f"run {number}"
        process = begun(images, folder, "--workers", "3")
        wait_until(partial(has_begun, folder))
        some_moment()
        victims = workers_of(process)
        if victims:  # otherwise the run has ended already
            os.kill(random.Random().choice(victims), signal.SIGKILL)
        code, out, _ = ended(process)
        assert code == 0
        assert str(whole_run) in out
        assert_same(folder, whole_run)


@ANY_MOMENT
def test_the_driver_is_killed(images: Path, whole_run: er.Gaps, tmp_path: Path, n_kills: int) -> None:
    """Its workers end; nothing that was finished is lost or measured again."""
    for number in range(n_kills):
        folder = tmp_path / f"run {number}"
        process = begun(images, folder, "--workers", "3")
        wait_until(partial(has_begun, folder))
        some_moment()
        workers = workers_of(process)
        process.kill()
        process.communicate()
        wait_until(partial(have_ended, workers))
        before = blocks(folder)
        assert ended(begun(images, folder, "--workers", "2"))[0] == 0
        assert before.items() <= blocks(folder).items()
        assert_same(folder, whole_run)


@ANY_MOMENT
def test_two_of_three_tasks_of_an_array_are_killed(
    images: Path, whole_run: er.Gaps, tmp_path: Path, n_kills: int
) -> None:
    for number in range(n_kills):
        folder = tmp_path / f"run {number}"
        tasks = [begun(images, folder, "--part", f"{k}/3", "--workers", "1") for k in (1, 2, 3)]
        wait_until(partial(has_begun, folder))
        some_moment()
        for task in tasks[:2]:
            task.kill()
            task.communicate()
        before = blocks(folder)
        assert ended(tasks[2])[0] == 0
        again = [begun(images, folder, "--part", f"{k}/3", "--workers", "1") for k in (1, 2)]
        shown = [ended(task) for task in again]
        assert [code for code, _, _ in shown] == [0, 0]
        assert any(str(whole_run) in out for _, out, _ in shown)
        assert before.items() <= blocks(folder).items()
        assert_same(folder, whole_run)


def test_what_a_worker_cannot_write_the_command_measures_in_memory(
    images: Path, whole_run: er.Gaps, tmp_path: Path
) -> None:
    """A limit on the size of a file does what a full disk does."""
    code = (
        "import resource, sys; from elbowroom.cli import main\n"
        "if __name__ == '__main__':\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))\n"
        "    sys.exit(main(sys.argv[1:]))"
    )
    (tmp_path / "program.py").write_text(code)
    command = [sys.executable, str(tmp_path / "program.py"), *words(images, tmp_path / "run", "--workers", "2")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert str(whole_run) in ran.stdout
    assert "could not be written" in ran.stderr
    assert ran.stderr.splitlines()[-1].startswith("elbowroom: error: ")
    assert "the run could not be saved (File too large); what was measured is printed above" in ran.stderr


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--part", "4/3"], "--part 4/3: expected K/N with K from 1 to N, such as 3/40"),
        (["--part", "0/3"], "expected K/N"),
        (["--part", "three"], "expected K/N"),
        (["--part", "1/3", "--overwrite"], "--overwrite would remove the other parts"),
        (["--workers", "0"], "--workers"),
    ],
)
def test_options_that_cannot_be(images: Path, tmp_path: Path, more: list[str], message: str, capsys) -> None:
    assert main(words(images, tmp_path / "run", *more)) == 2
    assert message in capsys.readouterr().err


def test_parts_need_a_folder(images: Path, tmp_path: Path, capsys) -> None:
    command = words(images, tmp_path)
    del command[command.index("--out") : command.index("--out") + 2]
    assert main([*command, "--part", "1/2"]) == 2
    assert "expected --out FOLDER, which all parts share" in capsys.readouterr().err


def test_workers_without_a_folder_leave_none(images: Path, whole_run: er.Gaps, tmp_path: Path) -> None:
    command = words(images, tmp_path, "--workers", "2")
    del command[command.index("--out") : command.index("--out") + 2]
    program = [sys.executable, "-m", "elbowroom", *command]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    ran = subprocess.run(program, capture_output=True, text=True, env=environment, check=True)
    assert str(whole_run) in ran.stdout
    assert "saved" not in ran.stdout
    assert not list(tmp_path.iterdir())
