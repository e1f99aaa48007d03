"""Folders for runs: tried before anything is measured, held while it is, and what is printed is never lost."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import elbowroom as er
from elbowroom.cli import main
from elbowroom.cli.run_folders import reserved
from elbowroom.results import WORKERS

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
        time.sleep(0.008)
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


def presence(folder: Path, pid: int, host: str | None = None, is_replacing: bool = False) -> Path:
    """The file of a process that measures into a folder."""
    (folder / WORKERS).mkdir(parents=True, exist_ok=True)
    since = "2026-11-25T12:00:00+00:00"
    record = {"host": host or socket.gethostname(), "pid": pid, "since": since, "is_replacing": is_replacing}
    path = folder / WORKERS / f"other-{pid}.json"
    path.write_text(json.dumps(record))
    return path


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_process_is_present_in_a_folder_while_it_measures(tmp_path: Path) -> None:
    with reserved([tmp_path / "a" / "b"], overwrite=False):
        (path,) = (tmp_path / "a" / "b" / WORKERS).iterdir()
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_another_process_has_come_to_use_stays(tmp_path: Path) -> None:
    with reserved([tmp_path / "a"], overwrite=False):
        other = presence(tmp_path / "a", os.getppid())
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [other]


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
        (lambda folder: presence(folder, os.getppid(), is_replacing=True), "is replacing the run in run since 2026"),
        (lambda folder: (folder.mkdir(), (folder / "run.json").touch()), "holds a run already; add --overwrite"),
        (lambda folder: (folder.mkdir(), (folder / "thesis.tex").touch()), "is not empty and holds no run"),
        (lambda folder: folder.touch(), "there is a file in its place"),
    ],
    ids=["being replaced", "saved without blocks", "other files", "a file"],
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


@pytest.mark.parametrize(("pid", "host"), [(None, None), (1, "another-machine")], ids=["here", "elsewhere"])
def test_a_run_that_is_being_measured_is_not_replaced(place: Path, pid: int | None, host: str | None, capsys) -> None:
    other = presence(place / "run", pid or os.getppid(), host)
    assert main(words("factory", "--overwrite")) == 2
    assert "is measuring into run since 2026-11-25T12:00:00+00:00; wait for it or stop it" in capsys.readouterr().err
    assert [path for path in (place / "run").rglob("*") if path.is_file()] == [other]
    assert main(words()) == 0  # but whoever measures the same may help
    assert other.exists()


@pytest.mark.parametrize("text", [None, "?"], ids=["whole", "damaged"])
@pytest.mark.parametrize("more", [[], ["--overwrite"]], ids=["again", "anew"])
def test_what_a_dead_process_left_does_not_hinder(place: Path, text: str | None, more: list[str]) -> None:
    left = presence(place / "run", dead_process())
    if text is not None:
        left.write_text(text)
    (place / "run/data").mkdir()
    (place / "run/data/part-00000.parquet").write_bytes(b"half")
    assert main(words("factory", *more)) == 0
    assert len(er.load_gaps("run")) == 10
    assert sorted(path.name for path in (place / "run").iterdir()) == ["blocks", "data", "run.json"]


def test_a_run_without_blocks_is_replaced_on_request(place: Path, capsys) -> None:
    """As `Gaps.save` writes it."""
    assert main(words("factory", "--first", "4")) == 0
    er.load_gaps("run").save("saved")
    assert main([*words()[:-1], "saved"]) == 2
    assert "add --overwrite" in capsys.readouterr().err
    assert len(er.load_gaps("saved")) == 4
    assert main([*words()[:-1], "saved", "--overwrite"]) == 0
    assert len(er.load_gaps("saved")) == 10


def test_blocks_that_cannot_be_removed_are_one_line(place: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    assert main(words("factory", "--first", "4")) == 0
    monkeypatch.setattr("elbowroom.cli.run_folders.rmtree", refuse)
    capsys.readouterr()
    assert main(words("factory", "--overwrite")) == 2
    assert "blocks cannot be replaced (Permission denied); nothing was measured" in capsys.readouterr().err
    assert len(er.load_gaps("run")) == 4


@pytest.mark.skipif(ROOT_READS_ALL, reason="root may write anywhere")
def test_a_read_only_folder_is_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "locked").mkdir(mode=0o500)
    assert main([*words()[:-1], "locked/run"]) == 2
    assert "cannot be written to" in capsys.readouterr().err


def test_a_full_disk_is_refused_before_measuring(place: Path, monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("elbowroom.results.claims.write_atomically", full)
    assert main(words()) == 2
    shown = capsys.readouterr()
    assert "run: cannot be written to (No space left on device); nothing was measured" in shown.err
    assert shown.out == ""
    assert not (place / "run").exists()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_the_same_command_goes_on_with_a_run_that_was_stopped(place: Path, how: signal.Signals, capsys) -> None:
    """70 data are two blocks. It is stopped after the first, and that is not measured again."""
    np.save(place / "x.npy", np.random.default_rng(0).integers(0, 2, (70, 6)).astype(np.float32))
    assert main([*words("slow")[:-1], "whole"]) == 0
    process = subprocess.Popen([sys.executable, "-m", "elbowroom", *words("slow")], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (first := sorted((place / "run/blocks").glob("first/block-000000-*"))):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(how)
    _, err = process.communicate(timeout=60)
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert err.splitlines()[-1].endswith("of which 1 block is kept in run; the same command goes on")
    else:
        assert process.returncode == -signal.SIGKILL
    written = first[0].stat().st_mtime_ns
    capsys.readouterr()
    assert main(words("slow")) == 0
    assert first[0].stat().st_mtime_ns == written
    assert_same(er.load_gaps("run"), er.load_gaps("whole"))
    shown = capsys.readouterr().out
    assert str(er.load_gaps("run")) in shown
    assert main(words("slow")) == 0  # a finished one is printed
    assert capsys.readouterr().out == shown
    assert len(sorted((place / "run/blocks").glob("first/block-*"))) == 2


def test_a_run_that_is_stopped_before_its_first_block_leaves_nothing(place: Path) -> None:
    process = subprocess.Popen([sys.executable, "-m", "elbowroom", *words("slow")], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(place.glob("run/blocks/first/claims/*")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "of which nothing was saved" in err
    assert not (place / "run").exists()


def test_more_data_are_added_and_fewer_or_others_are_refused(place: Path, capsys) -> None:
    assert main(words("factory", "--n", "4")) == 0
    assert main(words("factory", "--n", "9")) == 0
    assert main([*words("factory", "--n", "9")[:-3], "once", "--n", "9"]) == 0
    assert_same(er.load_gaps("run"), er.load_gaps("once"))
    before = (place / "run/run.json").read_bytes()
    capsys.readouterr()
    for more, what in ((["--n", "4"], "more data"), (["--n", "9", "--seed", "1"], "another seed: 0 there, 1 now")):
        assert main(words("factory", *more)) == 2
        shown = capsys.readouterr().err.splitlines()[-1]
        assert what in shown
        assert shown.endswith("Or add --overwrite to measure anew and replace what is there.")
        assert (place / "run/run.json").read_bytes() == before
    assert main(words("factory", "--n", "4", "--overwrite")) == 0
    assert len(er.load_gaps("run")) == 4


def assert_same(left: er.Gaps, right: er.Gaps) -> None:
    """Two runs are equal row for row, bit for bit."""
    (_, columns), (_, others) = left.to_columns(), right.to_columns()
    assert columns.keys() == others.keys()
    for name, column in columns.items():
        np.testing.assert_array_equal(column, others[name], err_msg=name)


def program(*arguments: str, before: str = "", **options) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, after some lines of Python."""
    code = f"import sys\n{before}\nfrom elbowroom.cli import main\nsys.exit(main({list(arguments)!r}))"
    options = {"stdout": subprocess.PIPE, **options}
    return subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, check=False, **options)


FILES = {
    "presence": "json", "identity": "identity.json", "fits": "fits-", "block": "block-", "numbers": "part-",
    "record": "run.json",
}  # fmt: skip
PRINTED = ("numbers", "record")  # files that come to be after the table is on the screen
MOMENTS = pytest.mark.parametrize("file", FILES)


def killed_at(file: str) -> str:
    """Lines that kill the process in place of the rename or the link by which a file comes to be."""
    return f"""
import os, signal
for name in ("replace", "link"):
    def instead(old, new, real=getattr(os, name)):
        os.kill(os.getpid(), signal.SIGKILL) if {FILES[file]!r} in os.path.basename(new) else real(old, new)
    setattr(os, name, instead)"""


def interrupt_at(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same as Ctrl-C, here."""
    real = {name: getattr(os, name) for name in ("replace", "link")}

    def instead(name: str, old: str, new: str) -> None:
        if FILES[file] in Path(new).name:
            raise KeyboardInterrupt
        real[name](old, new)

    for name in real:
        monkeypatch.setattr(f"elbowroom.core.files.os.{name}", partial(instead, name))


@MOMENTS
def test_a_run_that_is_killed_while_it_saves_goes_on_and_nothing_is_left_of_the_other(
    place: Path, file: str, capsys
) -> None:
    killed = program(*words(), before=killed_at(file))
    assert killed.returncode == -signal.SIGKILL
    assert ("log p(x)" in killed.stdout) == (file in PRINTED)
    assert main(["report", "run"]) == 2
    begun = "a run that was interrupted before" if file == "presence" else "a run that is not finished"
    assert begun in capsys.readouterr().err
    assert main(words()) == 0
    assert main([*words()[:-1], "whole"]) == 0
    assert_same(er.load_gaps("run"), er.load_gaps("whole"))
    names = [sorted(path.name for path in (place / folder).rglob("*") if path.is_file()) for folder in ("run", "whole")]
    assert len(names[0]) == len(names[1]) == 5  # a block, its identity and fits, the numbers and run.json


@MOMENTS
def test_a_run_that_is_interrupted_while_it_saves_keeps_what_was_measured(
    place: Path, file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        interrupt_at(file, patch)
        assert main(words()) == 130
    shown = capsys.readouterr()
    assert ("log p(x)" in shown.out) == (file in PRINTED)
    assert shown.err.splitlines()[-1].startswith("elbowroom: interrupted")
    assert (place / "run").exists() == (file in PRINTED)  # only then is there a block
    assert main(words()) == 0
    assert len(er.load_gaps("run")) == 10


@MOMENTS
@pytest.mark.parametrize("how", ["killed", "interrupted"])
def test_a_run_that_is_being_replaced_is_whole_at_any_moment(
    place: Path, how: str, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(words("factory", "--first", "4")) == 0
    if how == "killed":
        assert program(*words("factory", "--overwrite"), before=killed_at(file)).returncode == -signal.SIGKILL
    else:
        with monkeypatch.context() as patch:
            interrupt_at(file, patch)
            assert main(words("factory", "--overwrite")) == 130
    assert len(er.load_gaps("run")) == 4
    assert main(["report", "run"]) == 0
    assert main(words()) == 0  # whether it was begun anew already or not
    assert len(er.load_gaps("run")) == 10
    assert len([path for path in (place / "run").rglob("*") if path.is_file()]) == 5


def test_a_save_that_the_disk_refuses_is_one_line_and_the_table_stands(place: Path) -> None:
    """A limit on the size of a file does what a full disk does: the write fails half way."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))"
    refused = program(*words(), before=limit)
    assert refused.returncode == 2
    assert "log p(x)" in refused.stdout
    assert refused.stderr.splitlines()[-1] == (
        "elbowroom: error: run: the run could not be saved (File too large); what was measured is printed above"
    )
    assert not (place / "run").exists()


@pytest.fixture
def small_disk(place: Path) -> Iterator[Path]:
    """A file system of 16 KiB; skips where none may be mounted."""
    disk = place / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a file system needs privileges that are not there")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk(small_disk: Path) -> None:
    refused = program(*words()[:-1], "disk/run")
    assert refused.returncode == 2
    assert "log p(x)" in refused.stdout
    assert "disk/run: the run could not be saved (No space left on device); what was" in refused.stderr
    assert list(small_disk.iterdir()) == []
    (small_disk / "ballast").write_bytes(bytes(16 * 1024))
    refused = program(*words()[:-1], "disk/run")
    assert refused.returncode == 2
    assert "disk/run: cannot be written to (No space left on device); nothing was measured" in refused.stderr
    assert refused.stdout == ""
    assert [path.name for path in small_disk.iterdir()] == ["ballast"]


def test_a_read_only_disk(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    refused = program(*words()[:-1], "disk/run")
    assert refused.returncode == 2
    assert "disk/run: cannot be written to (Read-only file system); nothing was measured" in refused.stderr
    assert refused.stdout == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_standard_output_that_cannot_be_written_is_one_line_and_the_run_is_saved(place: Path) -> None:
    line = "elbowroom: error: standard output cannot be written to (No space left on device)"
    with open("/dev/full", "w") as full:
        measured = program(*words(), stdout=full)
        reported = program("report", "run", stdout=full)
        as_json = program("report", "run", "--json", stdout=full)
    for run in (measured, reported, as_json):
        assert run.returncode == 2
        assert run.stderr.splitlines()[-1] == line
    assert len(reported.stderr.splitlines()) == 1
    assert len(er.load_gaps("run")) == 10


def test_two_commands_share_the_work_of_one_folder(place: Path) -> None:
    """130 data are three blocks. Both print the whole; neither measures all of it."""
    np.save(place / "x.npy", np.random.default_rng(0).integers(0, 2, (130, 6)).astype(np.float32))
    command = [sys.executable, "-m", "elbowroom", *words("slow", "--workers", "1")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    ended = [(process.communicate(timeout=120), process.returncode) for process in both]
    assert [code for _, code in ended] == [0, 0]
    assert ended[0][0][0] == ended[1][0][0]
    assert "log p(x)" in ended[0][0][0]
    assert main([*words("slow", "--workers", "1")[:-3], "whole", "--workers", "1"]) == 0
    assert_same(er.load_gaps("run"), er.load_gaps("whole"))
    assert [path.name for path in (place / "run").iterdir()] == [path.name for path in (place / "whole").iterdir()]


def test_of_two_runs_of_different_seeds_into_one_folder_one_is_refused(place: Path) -> None:
    commands = [words("slow", "--seed", seed) for seed in "01"]
    both = [
        subprocess.Popen([sys.executable, "-m", "elbowroom", *command], stderr=subprocess.PIPE, text=True)
        for command in commands
    ]
    ended = [(process.communicate(timeout=120)[1], process.returncode) for process in both]
    assert sorted(code for _, code in ended) == [0, 2]
    assert "holds a run with another seed" in next(err for err, code in ended if code == 2)
    assert er.load_gaps("run").seed == [code for _, code in ended].index(0)


def test_a_warning_of_the_program_is_one_line(place: Path) -> None:
    """A part that was damaged is named, without the line of elbowroom's code that found it."""
    np.save("x.npy", np.random.default_rng(0).integers(0, 2, (60, 6)).astype(np.float32))
    words = ["gaps", "--model", "mine.py:factory", "--data", "x.npy", "--plan", "quick", "--out", "run"]
    assert main(words) == 0
    part = next(Path("run/blocks").rglob("block-*.parquet"))
    part.write_bytes(part.read_bytes()[:-100])
    for path in Path("run").rglob("*"):
        if "blocks" not in path.parts and path.is_file():
            path.unlink()
    ran = subprocess.run([sys.executable, "-m", "elbowroom", *words], capture_output=True, text=True, check=True)
    (line,) = [line for line in ran.stderr.splitlines() if "damaged" in line]
    assert line.startswith("elbowroom: warning: ")
    assert "is measured again" in line
    assert ".py" not in line


def test_report_finds_runs_at_any_depth_and_damaged_ones_hide_none(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for n, folder in ((3, "runs/a"), (4, "runs/deep/er/b"), (5, "runs/c")):
        assert main([*words()[:-1], folder, "--first", str(n)]) == 0
    presence(place / "runs/stopped", dead_process())
    next((place / "runs/c/data").iterdir()).write_bytes(b"")
    capsys.readouterr()
    assert main(["report", "runs"]) == 2
    shown = capsys.readouterr()
    assert [line.split(":")[0] for line in shown.out.splitlines() if " data, plan " in line] == [
        "runs/a", "runs/deep/er/b",
    ]  # fmt: skip
    damaged, interrupted = shown.err.splitlines()
    assert "runs/c/data/part-00000.parquet is missing or was changed" in damaged
    assert "runs/stopped holds a run that was interrupted" in interrupted


def test_runs_lists_what_is_below_a_folder_and_how_far_it_is(place: Path, capsys) -> None:
    np.save(place / "x.npy", np.random.default_rng(0).integers(0, 2, (120, 6)).astype(np.float32))
    folders = {"whole": "runs/a", "stopped": "runs/deep/b", "measuring": "runs/deep/c"}
    for folder in folders.values():
        assert main([*words("factory", "--n", "70")[:-3], folder, "--n", "70"]) == 0
    for name in ("stopped", "measuring"):
        (place / folders[name] / "run.json").unlink()
        next((place / folders[name] / "blocks/first").glob("block-000001-*")).unlink()
    presence(place / folders["measuring"], os.getppid())
    (place / "runs/notes.txt").write_text("not a run")
    capsys.readouterr()
    assert main(["runs", "runs"]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["run", "state", "plan", "how", "far", "when", "(UTC)", "by"]
    assert [re.split(r"  +", line)[:4] for line in lines] == [
        ["runs/a", "finished", "quick", "70 data"],
        ["runs/deep/b", "stopped", "quick", "1 of 2 blocks"],
        ["runs/deep/c", "being measured", "quick", "1 of 2 blocks"],
    ]
    assert lines[2].endswith(f"process {os.getppid()} on {socket.gethostname()}")
    assert main(["runs", "runs/deep", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [(run["folder"], run["blocks"], run["n_blocks"]) for run in shown["runs"]] == [
        (folders["stopped"], 1, 2), (folders["measuring"], 1, 2),
    ]  # fmt: skip


def test_a_run_that_gets_more_data_promises_more_blocks(place: Path, capsys) -> None:
    np.save(place / "x.npy", np.random.default_rng(0).integers(0, 2, (120, 6)).astype(np.float32))
    for n in ("40", "120"):
        assert main(words("factory", "--n", n)) == 0
    (place / "run/run.json").unlink()
    capsys.readouterr()
    assert main(["runs"]) == 0
    assert "3 of 3 blocks" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("folder", "message"),
    [("nowhere", "expected a folder with runs in it"), (".", "holds no run; elbowroom gaps --out")],
)
def test_runs_says_that_there_are_none(place: Path, folder: str, message: str, capsys) -> None:
    assert main(["runs", folder]) == 2
    assert message in capsys.readouterr().err


def test_a_plan_that_adds_a_flow_goes_on_in_the_folder(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two workers of their own find the fits that one process made."""
    np.save("x.npy", np.random.default_rng(0).integers(0, 2, (110, 6)).astype(np.float32))
    asked = ["gaps", "--model", "mine.py:factory", "--data", "x.npy"]
    assert main([*asked, "--out", "at-once", "--plan", "flow", "--workers", "1"]) == 0
    assert main([*asked, "--out", "run", "--plan", "standard", "--workers", "1"]) == 0
    fits = sorted((path, path.stat().st_mtime_ns) for path in Path("run/blocks/first/fits").iterdir())
    assert len(fits) == 3
    assert main([*asked, "--out", "run", "--plan", "flow", "--workers", "2"]) == 0
    assert_same_columns("run", "at-once")
    assert sorted((path, path.stat().st_mtime_ns) for path in Path("run/blocks/first/fits").iterdir()) == fits
    assert main([*asked, "--out", "run", "--plan", "standard"]) == 2
    assert "another plan" in capsys.readouterr().err


def test_parts_that_start_at_once_agree_who_gives_the_folder_to_the_plan(place: Path) -> None:
    np.save("x.npy", np.random.default_rng(0).integers(0, 2, (100, 6)).astype(np.float32))
    asked = ["gaps", "--model", "mine.py:factory", "--data", "x.npy", "--workers", "1"]
    assert main([*asked, "--out", "at-once", "--plan", "flow"]) == 0
    assert main([*asked, "--out", "run", "--plan", "standard"]) == 0
    code = "import sys; from elbowroom.cli import main; sys.exit(main(sys.argv[1:]))"
    tasks = [
        subprocess.Popen([sys.executable, "-c", code, *asked, "--out", "run", "--plan", "flow", "--part", f"{k}/2"])
        for k in (1, 2)
    ]
    assert [task.wait() for task in tasks] == [0, 0]
    assert_same_columns("run", "at-once")


def assert_same_columns(one: str, other: str) -> None:
    (_, columns), (_, others) = er.load_gaps(one).to_columns(), er.load_gaps(other).to_columns()
    for name, column in columns.items():
        np.testing.assert_array_equal(column, others[name], err_msg=name)
