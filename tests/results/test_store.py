"""Run folders: what is written comes back, and a folder is a whole run or none."""

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from elbowroom.core import files
from elbowroom.results import RunError, read_run, store, write_run
from elbowroom.results.store import as_parquet, from_parquet

META = {"identity": {"model": "m", "seed": 3}, "extent": {"rungs": ["diagonal", "full"]}, "note": "Ünïcode"}


def columns(n: int = 7) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    values = rng.standard_normal(n)
    values[2:3], values[4:5] = np.nan, -np.inf
    return {
        "id": np.arange(n),
        "elbo": values,
        "noise": rng.standard_normal((n, 16)),
        "flag": rng.integers(0, 32, n),
        "kept": np.arange(n) % 2 == 0,
        "chosen": np.array(["iwae", "ais", "prior"])[np.arange(n) % 3],
    }


@pytest.mark.parametrize("n", [1, 7, 3000])
def test_what_is_written_comes_back(tmp_path: Path, n: int) -> None:
    """To the last bit, NaN and infinities included, in the shapes and order of the columns."""
    made = columns(n)
    write_run(tmp_path / "a" / "run", META, made)
    meta, found = read_run(tmp_path / "a" / "run")
    assert list(found) == list(made)
    for name, values in made.items():
        assert found[name].shape == values.shape
        np.testing.assert_array_equal(found[name], values)
        if values.dtype.kind == "f":
            assert found[name].dtype == np.float64
            assert found[name].tobytes() == values.tobytes()
    assert {key: meta[key] for key in META} == META
    assert meta["schema"] == store.SCHEMA
    assert set(meta["versions"]) == {"elbowroom", "python", "torch", "numpy", "pyarrow"}


@pytest.mark.parametrize("n", [0, 1, 8, 513])
def test_columns_of_every_kind_come_back(n: int) -> None:
    """They are made of bytes and read from bytes; Arrow's own conversion is the oracle."""
    draws = np.random.default_rng(n)
    numbers = draws.integers(0, 200, (n, 3))
    kinds = ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?", ">i4", ">f8"]
    made: dict[str, Any] = {f"{kind}-1": numbers[:, 0].astype(kind) for kind in kinds}
    made |= {f"{kind}-2": numbers.astype(kind) for kind in kinds}
    made["words"] = np.array(["", "é", "two words"], dtype=str)[draws.integers(0, 3, n)]
    made["objects"] = made["words"].astype(object)
    content = as_parquet(made, {})
    _, found = from_parquet(content)
    table = pq.read_table(io.BytesIO(content))
    for name, values in made.items():
        assert found[name].dtype == (object if name in ("words", "objects") else values.dtype.newbyteorder("="))
        np.testing.assert_array_equal(found[name], values)
        assert table.column(name).to_pylist() == values.tolist()


def test_missing_values_and_dates_come_back() -> None:
    """Labels of groups can be of any kind."""
    made = {
        "gaps": np.array([1, None, 3], dtype=object),
        "words": np.array(["a", None, "c"], dtype=object),
        "days": np.array(["2026-01-01", "2026-01-02", "2026-01-03"], dtype="datetime64[D]"),
    }
    _, found = from_parquet(as_parquet(made, {}))
    np.testing.assert_array_equal(found["gaps"], [1.0, np.nan, 3.0])
    assert found["words"].tolist() == ["a", None, "c"]
    np.testing.assert_array_equal(found["days"], made["days"])
    assert found["days"].dtype.kind == "M"


def test_files_are_written_and_read_without_pandas(tmp_path: Path) -> None:
    """Arrow would import it where it is installed, and so take half a second of every process."""
    code = (
        "import sys, numpy as np; from elbowroom.results.store import as_parquet, from_parquet, read_run, write_run\n"
        "columns = {'a': np.ones((2, 3)), 'b': np.ones(2, dtype=bool), 'c': np.array(['x', 'y'])}\n"
        "from_parquet(as_parquet(columns, {})); write_run('run', {}, columns); read_run('run')\n"
        "sys.exit('pandas' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False).returncode == 0


def test_nothing_but_the_run_is_left(tmp_path: Path) -> None:
    write_run(tmp_path, META, columns())
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {"run.json", "data/part-00000.parquet"}


def test_nothing_is_pickled(tmp_path: Path) -> None:
    """Objects that only pickle could hold are refused on writing, and reading imports no pickle of ours."""
    with pytest.raises(Exception, match=r"[Cc]ould not convert|object|serializable"):
        write_run(tmp_path / "a", META, {"id": np.array([object()])})
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_run(tmp_path / "b", {"model": object()}, columns())
    for folder in ("a", "b"):
        with pytest.raises(RunError, match="holds no run"):
            read_run(tmp_path / folder)
        assert not [path for path in (tmp_path / folder).rglob("*.part")]
    source = Path(store.__file__).read_text()
    assert "pickle" not in source
    assert "torch.load" not in source


# ---- what is there already


def test_a_run_is_not_overwritten_unasked(tmp_path: Path) -> None:
    write_run(tmp_path, META, columns())
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(RunError, match="already holds a run; nothing was written"):
        write_run(tmp_path, {"note": "other"}, columns(3))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    write_run(tmp_path, {"note": "other"}, columns(3), overwrite=True)
    meta, found = read_run(tmp_path)
    assert meta["note"] == "other"
    assert len(found["id"]) == 3


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(RunError, match="not empty and holds no run"):
            write_run(tmp_path, META, columns(), overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(RunError, match="is a file"):
        write_run(tmp_path / "thesis.tex", META, columns())


# ---- what was damaged


def damage_part(folder: Path) -> None:
    part = folder / "data" / "part-00000.parquet"
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(bytes(content))


def rewrite(folder: Path, **changes: Any) -> None:
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(record | changes))


DAMAGE = {
    "one bit of a part": (damage_part, "missing or was changed"),
    "a part lost": (lambda folder: (folder / "data" / "part-00000.parquet").unlink(), "missing or was changed"),
    "a part cut": (lambda folder: os.truncate(folder / "data" / "part-00000.parquet", 100), "missing or was changed"),
    "no record": (lambda folder: (folder / "run.json").unlink(), "holds no run"),
    "half a record": (lambda folder: os.truncate(folder / "run.json", 40), "cannot be read"),
    "an empty record": (lambda folder: (folder / "run.json").write_text(""), "cannot be read"),
    "binary": (lambda folder: (folder / "run.json").write_bytes(b"\xff\xfe\x00"), "cannot be read"),
    "a list": (lambda folder: (folder / "run.json").write_text("[]"), "has schema list"),
    "another schema": (lambda folder: rewrite(folder, schema=99), "has schema 99; this version reads schema 3"),
    "a part elsewhere": (lambda folder: rewrite(folder, parts={"../../x.parquet": "0"}), "missing or was changed"),
    "no parts named": (lambda folder: rewrite(folder, parts={}), "part"),
    "parts of another kind": (lambda folder: rewrite(folder, parts=[1]), "part"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_run_is_refused(tmp_path: Path, name: str) -> None:
    write_run(tmp_path, META, columns())
    damage, message = DAMAGE[name]
    damage(tmp_path)
    with pytest.raises(RunError, match=message):
        read_run(tmp_path)


def test_a_missing_folder_holds_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"nowhere does not exist; a run is saved by gaps.save\(folder\)"):
        read_run(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match=r"empty holds no run: run.json is missing"):
        read_run(tmp_path / "empty")
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="file is a file; a run is a folder"):
        read_run(tmp_path / "file")
    (tmp_path / "runs/test").mkdir(parents=True)
    (tmp_path / "runs/test/run.json").touch()
    with pytest.raises(RunError, match=r"runs holds no run itself; there are runs in .*runs/test"):
        read_run(tmp_path / "runs")


# ---- killed halfway


@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_an_error_while_writing_leaves_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """The disk fills at the n-th of the two syncs and two renames: no run, and no temporary file."""
    calls = []

    def counting(true: Any) -> Any:
        def call(*arguments: Any) -> Any:
            calls.append(true)
            if len(calls) == at:
                raise OSError(28, "No space left on device")
            return true(*arguments)

        return call

    monkeypatch.setattr(files.os, "replace", counting(os.replace))
    monkeypatch.setattr(files.os, "fsync", counting(os.fsync))
    with pytest.raises(OSError, match="No space left"):
        write_run(tmp_path / "run", META, columns())
    with pytest.raises(RunError, match="holds no run"):
        read_run(tmp_path / "run")
    assert not list((tmp_path / "run").rglob("*.part"))


KILLED = """
import os, signal, sys
import numpy as np
from elbowroom.results import store
true, calls = os.replace, []
def dying(*arguments):
    calls.append(arguments)
    if len(calls) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return true(*arguments)
os.replace = dying
store.write_run(sys.argv[1], {"note": "new"}, {"id": np.arange(5)}, overwrite=True)
"""


@pytest.mark.parametrize("before", ["nothing", "a run"])
def test_a_process_killed_halfway_leaves_no_new_run(tmp_path: Path, before: str) -> None:
    """Killed before the record is renamed, as by a lost machine: a run that was to be replaced is whole."""
    if before == "a run":
        write_run(tmp_path / "run", META, columns())
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "run"), "2"], timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL
    if before == "nothing":
        with pytest.raises(RunError, match="holds no run"):
            read_run(tmp_path / "run")
        return
    meta, found = read_run(tmp_path / "run")
    assert meta["note"] == META["note"]
    for name, values in columns().items():
        np.testing.assert_array_equal(found[name], values)


def test_a_run_that_is_replaced_leaves_no_parts_behind(tmp_path: Path) -> None:
    for n in (3, 4, 5):
        write_run(tmp_path, META, columns(n), overwrite=True)
    assert len(read_run(tmp_path)[1]["id"]) == 5
    assert len(list((tmp_path / "data").iterdir())) == 1
