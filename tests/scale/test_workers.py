"""Worker processes: they report, they may be killed, and they leave when they are not wanted any more."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from elbowroom.measure import BlockKey
from elbowroom.results import load_gaps
from elbowroom.scale import Crew, Report, WorkersError
from elbowroom.scale import workers as module


def write_files(folder: Path, n: int, report: Report) -> None:
    """Each worker writes files until there are n of them, and tells of each."""
    while (done := len(list(folder.glob("file-*")))) < n:
        (folder / f"file-{done}-{os.getpid()}").touch()
        report("files", done + 0.5)
        time.sleep(0.02)


def wait_for_end(folder: Path, report: Report) -> None:
    (folder / f"{os.getpid()}").touch()
    while True:
        report("waiting", 0.0)
        time.sleep(0.02)


def fail(report: Report) -> None:
    load_gaps("nowhere")


def fail_in_foreign_code(report: Report) -> None:
    int("no number")


def print_noise(report: Report) -> None:
    print("noise of a factory")


def left_of(folder: Path, n: int, seen: list[float], done: float) -> list[BlockKey]:
    seen.append(done)
    return [("files", number) for number in range(len(list(folder.glob("file-*"))), n)]


def always_left(done: float) -> list[BlockKey]:
    return [("first", 0)]


def test_they_work_till_nothing_is_left(tmp_path: Path) -> None:
    seen: list[float] = []
    with Crew(partial(write_files, tmp_path, 40), 2) as crew:
        crew.work("files", partial(left_of, tmp_path, 40, seen))
    assert len({path.name.split("-")[2] for path in tmp_path.iterdir()}) == 2  # both took part
    assert max(seen) > 1
    assert seen == sorted(seen)


def test_none_is_started_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "get_context", None)
    with Crew(partial(write_files, tmp_path, 0), 2) as crew:
        crew.work("files", lambda done: [])


def test_one_that_is_killed_is_not_missed(tmp_path: Path) -> None:
    killed: list[int] = []

    def left(done: float) -> list[BlockKey]:
        files = list(tmp_path.glob("file-*"))
        if len(files) > 5 and not killed:
            killed.append(int(files[0].name.split("-")[2]))
            os.kill(killed[0], signal.SIGKILL)
        return [("files", number) for number in range(len(files), 60)]

    with (
        pytest.warns(UserWarning, match=r"a worker process was killed \(signal 9\); the others take over its block"),
        Crew(partial(write_files, tmp_path, 60), 3) as crew,
    ):
        crew.work("files", left)
    assert len(list(tmp_path.iterdir())) >= 60


def test_all_killed_is_an_error(tmp_path: Path) -> None:
    def left(done: float) -> list[BlockKey]:
        for path in tmp_path.iterdir():
            os.kill(int(path.name), signal.SIGKILL)
            path.unlink()
        return always_left(done)

    with (
        pytest.warns(UserWarning, match="signal 9"),
        pytest.raises(WorkersError, match="all worker processes were killed"),
        Crew(partial(wait_for_end, tmp_path), 2) as crew,
    ):
        crew.work("waiting", left)


def test_an_error_of_one_ends_all() -> None:
    with pytest.raises(WorkersError, match=r"^nowhere does not exist") as raised, Crew(fail, 2) as crew:
        crew.work("", always_left)
    assert not raised.value.shown
    with (
        pytest.raises(WorkersError, match="a worker process raised ValueError") as raised,
        Crew(fail_in_foreign_code, 2) as crew,
    ):
        crew.work("", always_left)
    assert 'int("no number")' in raised.value.shown


def test_what_they_print_does_not_reach_standard_output(tmp_path: Path) -> None:
    """Which may be read as JSON."""
    code = (
        "from tests.scale.test_workers import always_left, print_noise\n"
        "from elbowroom.scale import Crew\n"
        "if __name__ == '__main__':\n"
        "    with Crew(print_noise, 1) as crew: crew.work('', always_left)"
    )
    (tmp_path / "program.py").write_text(code)
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    program = [sys.executable, str(tmp_path / "program.py")]
    ran = subprocess.run(program, capture_output=True, text=True, env=environment, check=True)
    assert ran.stdout == ""
    assert "noise of a factory" in ran.stderr


def test_they_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    """Even if that is killed and cannot tell them."""
    code = (
        "import sys\n"
        "from functools import partial\n"
        "from pathlib import Path\n"
        "from tests.scale.test_workers import always_left, wait_for_end\n"
        "from elbowroom.scale import Crew\n"
        "if __name__ == '__main__':\n"
        "    folder = Path(sys.argv[1])\n"
        "    with Crew(partial(wait_for_end, folder), 2) as crew: crew.work('', always_left)"
    )
    (tmp_path / "program.py").write_text(code)
    (tmp_path / "pids").mkdir()
    command = [sys.executable, str(tmp_path / "program.py"), str(tmp_path / "pids")]
    starter = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": os.getcwd()})
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "pids").iterdir())) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    starter.kill()
    starter.wait()
    for path in (tmp_path / "pids").iterdir():
        while Path(f"/proc/{path.name}").exists() and "zombie" not in Path(f"/proc/{path.name}/status").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.02)
