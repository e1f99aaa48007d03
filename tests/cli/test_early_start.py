"""Workers are forked from a server that starts with the command: only if they are needed, and unnoticed."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

import elbowroom as er
from elbowroom.cli import early_start
from elbowroom.scale import WorkersError

from ..shared_runs import assert_same, children_of, wait_until, words


@pytest.mark.parametrize(
    ("words", "cores", "needs"),
    [
        (["gaps", "--model", "m"], 2, True),
        (["gaps", "--model", "m"], 1, False),
        (["gaps", "--model", "m", "--workers", "3"], 1, True),
        (["gaps", "--model", "m", "--workers", "1"], 2, False),
        (["gaps", "--model", "m", "--workers=1"], 2, False),
        (["gaps", "--model", "m", "--workers=3"], 1, True),
        (["gaps", "--model", "m", "--device", "cuda"], 2, False),
        (["gaps", "--help"], 2, False),
        (["gaps", "--model", "m", "--dry-run"], 2, False),
        (["gaps", "--model", "m", "--ray", "local"], 2, False),
        (["demo"], 2, True),
        (["paper", "gaps"], 2, True),
        (["paper", "all", "--scale", "cpu", "--workers", "1"], 2, False),
        (["paper"], 2, False),
        (["paper", "list"], 2, False),
        (["paper", "gaps", "--from", "docs/results/data"], 2, False),
        (["train", "--data", "mnist"], 2, False),
        ([], 2, False),
    ],
)
def test_it_starts_where_workers_are_needed(
    words: list[str], cores: int, needs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[bool] = []
    monkeypatch.setattr(early_start, "n_cores", lambda: cores)
    monkeypatch.setattr(early_start.forkserver, "ensure_running", lambda: started.append(True))
    monkeypatch.setattr(early_start, "_is_socket_possible", lambda: True)
    monkeypatch.setattr(early_start, "_is_prepared", False)
    early_start.prepare_workers(words)
    assert bool(started) == needs
    assert early_start.start_method() == ("forkserver" if needs else "spawn")


@pytest.mark.parametrize(
    ("words", "prepared"),
    [
        (["--ray", "local"], ("local", 4)),
        (["--ray=10.0.0.1:6379"], ("10.0.0.1:6379", 4)),
        (["--ray", "local", "--workers", "3"], ("local", 3)),
        (["--ray", "local", "--threads", "2"], ("local", 2)),
        (["--ray", "local", "--threads", "9"], ("local", 1)),
        (["--ray", "local", "--workers", "many"], None),
        (["--ray", "local", "--device", "cuda"], None),
        (["--ray", "local", "--help"], None),
        (["--ray"], None),
        ([], None),
    ],
)
def test_a_cluster_is_joined_where_it_is_needed(
    words: list[str], prepared: tuple[str, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined: list[tuple[str, int]] = []

    def join(address: str, cores: int, module: str, variables: dict[str, str]) -> None:
        assert variables == {"THP_MEM_ALLOC_ENABLE": "1"}
        joined.append((address, cores))
        raise WorkersError("there is none")  # which is told when it is needed

    monkeypatch.setattr(early_start, "n_cores", lambda: 4)
    monkeypatch.setattr(early_start, "prepare_cluster", join)
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "1")
    monkeypatch.setattr(early_start.forkserver, "ensure_running", lambda: None)
    monkeypatch.setattr(early_start, "_is_prepared", False)
    early_start.prepare_workers(["gaps", "--model", "m", "--out", "o", *words])
    assert joined == ([] if prepared is None else [prepared])
    early_start.prepare_workers(["gaps", "--model", "m", *words])
    assert len(joined) == (prepared is not None), "without a folder there is no run on a cluster"


def test_to_join_a_cluster_takes_no_torch() -> None:
    code = "import elbowroom.cli.early_start, sys; from elbowroom.scale import prepare_cluster; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "elbowroom.scale.connection" in ran.stdout.split()
    assert not {"torch", "elbowroom.cli.app"} & set(ran.stdout.split())


def inherited() -> tuple[object, dict[str, str]]:
    return signal.getsignal(signal.SIGINT), dict(os.environ)


def test_nothing_of_this_process_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[object, dict[str, str]]] = []
    monkeypatch.setattr(early_start.forkserver, "ensure_running", lambda: seen.append(inherited()))
    monkeypatch.setattr(early_start, "_is_socket_possible", lambda: True)
    monkeypatch.setattr(early_start, "_is_prepared", False)
    before = inherited()
    early_start.prepare_workers(["gaps", "--workers", "2"])
    ((handler, variables),) = seen
    assert handler == signal.SIG_IGN
    assert {name for name in variables if variables[name] != before[1].get(name)} == {
        "PYTHONSAFEPATH", "ELBOWROOM_FORK_SERVER",
    }  # fmt: skip
    assert inherited() == before


def test_files_of_the_current_folder_are_not_taken_for_modules(images: Path, tmp_path: Path) -> None:
    """Torch imports a module named queue, and the program itself does not look for it here."""
    (tmp_path / "queue.py").write_text("raise SystemExit('the wrong queue')")
    program = Path(sys.executable).parent / "elbowroom"
    command = [str(program), *words(images, tmp_path / "run", "--workers", "2", n=100)]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "wrong queue" not in ran.stderr


def test_workers_are_started_without_it_where_it_cannot_be(
    images: Path, tmp_path: Path, whole_run: er.Gaps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name of a socket may have a hundred characters, and a temporary folder more; two packages may be there."""
    (tmp_path / ("a long name " * 8)).mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path / ("a long name " * 8))}
    command = [sys.executable, "-m", "elbowroom", *words(images, tmp_path / "run", "--workers", "2")]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "Traceback" not in ran.stderr
    assert_same(tmp_path / "run", whole_run)
    monkeypatch.setattr(early_start, "_is_prepared", False)
    monkeypatch.setattr(sys, "path", [str(Path(er.__file__).parents[1])])
    early_start.prepare_workers(["gaps", "--workers", "2"])
    assert early_start.start_method() == "spawn"


@pytest.mark.parametrize(("length", "is_forked"), [(75, True), (76, False)])
def test_workers_have_the_variables_of_the_command_and_nothing_stays_behind(
    images: Path, tmp_path: Path, length: int, is_forked: bool
) -> None:
    """A command that is killed leaves no socket either, nor its folder where the path of a socket would be too long."""
    (tmp_path / "model.py").write_text(
        "import os, sys\n"
        "from pathlib import Path\n"
        "from elbowroom.training import demo_model\n"
        "def factory():\n"
        "    found = {name for name in os.environ if 'SAFEPATH' in name or 'ELBOWROOM_FORK' in name}\n"
        "    Path(f'seen-{os.getpid()}').write_text(str(found))\n"
        "    return demo_model()\n"
    )
    options = ["--data", str(images), "--plan", "quick", "--out", "run", "--workers", "2"]
    command = [sys.executable, "-m", "elbowroom", "gaps", "--model", "model.py:factory", *options]
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        folder = Path(short + "/" + "t" * (length - len(short) - 1))
        folder.mkdir()
        environment = {**os.environ, "TMPDIR": str(folder)}
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
        wait_until(lambda: len(list(tmp_path.glob("seen-*"))) == 3)
        wait_until(lambda: all(path.read_text() for path in tmp_path.glob("seen-*")))
        assert any(b"forkserver" in line for _, line in children_of(process.pid)) == is_forked
        process.kill()
        process.communicate()
        assert {path.read_text() for path in tmp_path.glob("seen-*")} == {"set()"}
        wait_until(lambda: not list(folder.iterdir()))


def test_ctrl_c_at_the_start_shows_no_traceback(images: Path, tmp_path: Path) -> None:
    """It reaches all processes of a terminal, and the server imports torch at that moment."""
    command = [sys.executable, "-m", "elbowroom", *words(images, tmp_path / "run", "--workers", "2")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 60
    while not (servers := [pid for pid, line in children_of(process.pid) if b"forkserver" in line]):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.3)
    for pid in servers:
        os.kill(pid, signal.SIGINT)
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert "Traceback" not in err
