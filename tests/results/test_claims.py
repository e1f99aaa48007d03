"""Claims of blocks: one process gets each, and that of a dead process is taken over."""

import json
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from elbowroom.results import WORKERS, Presence, RunError
from elbowroom.results import claims as module
from elbowroom.results.claims import SILENCE, Claims, owners_in, seems_alive

ELSEWHERE = "another-machine"
CLAIM_ALL = """
import sys
from pathlib import Path
from elbowroom.results import Presence
from elbowroom.results.claims import Claims
folder, n = Path(sys.argv[1]), int(sys.argv[2])
print("ready", flush=True)
input()
with Presence(folder) as presence:
    claims = Claims(folder / "claims", presence)
    claims.prepare()
    print(*[number for number in range(n) if claims.take(f"{number:06d}")])
    input()
"""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that the clock of this process shows, to be changed by a test."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Claims]:
    """The claims of this process."""
    with Presence(tmp_path) as presence:
        claims = Claims(tmp_path / "claims", presence)
        claims.prepare()
        yield claims


def left_by(folder: Path, pid: int, host: str | None = None, name: str = "other.json") -> Path:
    """The file of another process, and its claim of a block."""
    path = folder / WORKERS / name
    record = {"host": host or socket.gethostname(), "pid": pid, "since": "2026-11-25T12:00:00+00:00"}
    path.write_text(json.dumps(record))
    (folder / "claims/000007-0").write_text(name)
    return path


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_of_many_processes_one_gets_each_block(tmp_path: Path) -> None:
    """Four processes claim the same 500 blocks at the same moment."""
    n = 500
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIM_ALL, str(tmp_path), str(n)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(4)
    ]  # fmt: skip
    with ExitStack() as stack:
        for process in processes:
            stack.enter_context(process)
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        found: Counter[int] = Counter()
        for process in processes:
            assert process.stdout is not None
            found.update(map(int, process.stdout.readline().split()))
        for process in processes:
            process.communicate("\n", timeout=60)
    assert found == Counter(range(n))


def test_a_claim_of_a_living_process_is_respected(here: Claims, tmp_path: Path) -> None:
    left_by(tmp_path, os.getppid())
    assert not here.take("000007")
    assert not here.take("000007", take_over=True)
    assert here.take("000008")


def test_a_claim_of_a_dead_process_is_taken_over_when_it_is_wanted(here: Claims, tmp_path: Path) -> None:
    left_by(tmp_path, dead_process())
    assert not here.take("000007")
    assert here.take("000007", take_over=True)
    assert (tmp_path / "claims/000007-1").read_text() == here.presence.owner.name


def test_a_claim_whose_process_has_left_is_taken_over(here: Claims, tmp_path: Path) -> None:
    left_by(tmp_path, os.getppid()).unlink()
    assert here.take("000007", take_over=True)


def test_a_process_of_the_past_with_the_number_of_this_one_is_dead(here: Claims, tmp_path: Path) -> None:
    """In containers every program may be process 1."""
    left_by(tmp_path, os.getpid())
    assert here.take("000007", take_over=True)


@pytest.mark.parametrize("host", [None, ELSEWHERE], ids=["here", "elsewhere"])
def test_a_process_is_dead_when_its_file_was_not_touched_for_long(
    here: Claims, tmp_path: Path, clock: list[float], host: str | None
) -> None:
    """Whatever its own clock says: the file may be of any time, but it must change."""
    path = left_by(tmp_path, os.getppid(), host)
    for age in (10_000, -10_000, 0):
        os.utime(path, (time.time() - age, time.time() - age))
        assert not here.take("000007", take_over=True)
        clock[0] += SILENCE - 1
        assert not here.take("000007", take_over=True)
    clock[0] += 2
    assert here.take("000007", take_over=True)


def test_a_claim_without_a_name_is_one_that_is_being_written(here: Claims, tmp_path: Path, clock: list[float]) -> None:
    (tmp_path / "claims/000007-0").touch()
    assert not here.take("000007", take_over=True)
    clock[0] += SILENCE + 1
    assert here.take("000007", take_over=True)


def test_what_was_given_up_can_be_claimed_and_what_others_claimed_stays(here: Claims, tmp_path: Path) -> None:
    left_by(tmp_path, os.getppid())
    assert here.take("000001")
    for key in ("000001", "000007"):
        here.give_up(key)
    assert sorted(path.name for path in here.folder.iterdir()) == ["000007-0"]
    here.forget("000007")
    assert here.take("000007")


def test_no_claim_can_be_made_in_a_run_that_is_finished(here: Claims, tmp_path: Path) -> None:
    assert here.take("000001")
    here.clear()
    assert not here.take("000002")
    assert not [path for path in tmp_path.rglob("*") if "claims" in path.name]


def test_a_process_shows_that_it_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It touches its file, and writes it anew if somebody took it for dead."""
    monkeypatch.setattr(module, "HEARTBEAT", 0.02)
    with Presence(tmp_path) as presence:
        path = tmp_path / WORKERS / presence.owner.name
        for spoil in (lambda: os.utime(path, (0, 0)), path.unlink):
            spoil()
            deadline = time.monotonic() + 30
            while not path.exists() or path.stat().st_mtime == 0:
                assert time.monotonic() < deadline
                time.sleep(0.01)
    assert not (tmp_path / WORKERS).exists()


def test_a_process_may_come_as_the_last_one_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which removes the folder of the processes' files between its making and the writing of the new file."""
    real = module.write_atomically
    removed: list[Path] = []

    def write(path: Path, content: bytes) -> None:
        if len(removed) < 3:
            path.parent.rmdir()
            removed.append(path.parent)
        real(path, content)

    monkeypatch.setattr(module, "write_atomically", write)
    with Presence(tmp_path) as presence:
        assert (tmp_path / WORKERS / presence.owner.name).exists()
    assert len(removed) == 3


def test_who_replaces_a_run_is_alone(tmp_path: Path) -> None:
    with Presence(tmp_path, is_replacing=True) as presence:
        left_by_another = tmp_path / WORKERS / "other.json"
        record = {"host": socket.gethostname(), "pid": os.getppid(), "since": "now", "is_replacing": True}
        left_by_another.write_text(json.dumps(record))
        with pytest.raises(RunError, match="is replacing the run in"), Presence(tmp_path):
            pass
        presence.has_replaced()
        left_by_another.write_text(json.dumps({**record, "is_replacing": False}))
        with Presence(tmp_path):
            pass
        with pytest.raises(RunError, match="is measuring into"), Presence(tmp_path, is_replacing=True):
            pass
        assert {owner.name for owner in owners_in(tmp_path)} == {"other.json", presence.owner.name}


def test_who_seems_alive_at_a_glance(here: Claims, tmp_path: Path) -> None:
    (tmp_path / "claims").mkdir(exist_ok=True)
    for age, alive in ((0, True), (SILENCE + 60, False)):
        path = left_by(tmp_path, 1, ELSEWHERE)
        os.utime(path, (time.time() - age, time.time() - age))
        other = next(owner for owner in owners_in(tmp_path) if owner.host == ELSEWHERE)
        assert seems_alive(tmp_path, other) == alive


def test_what_killed_processes_left_is_removed_by_one_that_is_alone(here: Claims, tmp_path: Path) -> None:
    path = left_by(tmp_path, os.getppid())
    cut = tmp_path / ".block.abc.part"
    cut.touch()
    here.presence.sweep()
    assert cut.exists()
    path.write_text(path.read_text().replace(str(os.getppid()), str(dead_process())))
    here.presence.sweep()
    assert not cut.exists()
    assert not path.exists()
