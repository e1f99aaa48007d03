"""Runs in a folder: stopped, killed, damaged or extended, they end in the same numbers as one that was left alone."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import elbowroom as er
from elbowroom.measure import follow, kept_run, measurement
from elbowroom.measure.filling import KeptPhase
from elbowroom.results import BLOCKS, WORKERS, RunError
from elbowroom.results.store import plain_json

N, SIZE = 130, 50  # data, and of a block
PLAN = er.Plan(
    rungs=("diagonal",),
    n_elbo=64,
    evidence=er.EvidencePlan(n_importance=100, n_pilot=64, annealing=None, n_others=32),
    multistart=None,
)
NEARLY = replace(PLAN.evidence, annealed_share=1 - 1e-7)
PROGRAM = """
import sys, torch
from pathlib import Path
from tests.measure.test_kept_runs import measure
torch.set_num_threads(1)
measure(Path(sys.argv[1]))
"""


def setting(scale: float = 0.5) -> tuple[er.LinearGaussian, er.Amortized]:
    weight = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model = er.LinearGaussian(weight, torch.zeros(6, dtype=torch.float64), scale)
    net = torch.nn.Linear(6, 8, dtype=torch.float64)
    net.weight.data.copy_(0.1 * torch.randn(8, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    net.bias.data.zero_()
    return model, er.Amortized(net, er.DiagonalGaussian(4))


def data(n: int = N) -> Tensor:
    return torch.randn(200, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)[:n]


def measure(out: Path | None, n: int = N, **given: Any) -> er.Gaps:
    return er.decompose(*setting(), data(n), **{"plan": PLAN, "progress": False, "out": out, **given})


@pytest.fixture(scope="module")
def whole() -> er.Gaps:
    """What is measured without a folder."""
    with torch.random.fork_rng():
        return measure(None)


def assert_same_numbers(one: er.Gaps, other: er.Gaps) -> None:
    """All columns are equal bit for bit, and all metadata but the seconds that it took."""
    (meta, columns), (other_meta, others) = one.to_columns(), other.to_columns()
    assert columns.keys() == others.keys()
    for name in columns:
        assert np.array_equal(columns[name], others[name], equal_nan=columns[name].dtype.kind == "f"), name
    for record in (meta, other_meta):
        record["provenance"] = {key: value for key, value in record["provenance"].items() if key != "seconds"}
    assert as_json(meta) == as_json(other_meta)


def as_json(meta: dict[str, Any]) -> Any:
    return json.loads(json.dumps(meta, default=plain_json))


def blocks(out: Path) -> list[Path]:
    return sorted((out / BLOCKS / "first").glob("block-*.parquet"))


def stopping_after(n_blocks: int) -> Callable[[float, float], None]:
    """Progress that stops the measurement, as Ctrl-C does, when this many blocks of the whole are done."""

    def report(done: float, total: float) -> None:
        if done >= n_blocks * SIZE:
            raise KeyboardInterrupt

    return report


def test_a_run_in_a_folder_is_that_without_one_and_can_be_loaded(whole: er.Gaps, tmp_path: Path) -> None:
    assert_same_numbers(measure(tmp_path / "run"), whole)
    assert_same_numbers(er.load_gaps(tmp_path / "run"), whole)
    assert len(blocks(tmp_path / "run")) == 3
    whole.save(tmp_path / "run", overwrite=True)  # another run in its place has no blocks
    assert not blocks(tmp_path / "run")


@pytest.mark.parametrize("n_blocks", [1, 2])
def test_a_run_that_was_stopped_goes_on(
    whole: er.Gaps, tmp_path: Path, n_blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyboardInterrupt):
        measure(tmp_path, progress=stopping_after(n_blocks))
    assert len(blocks(tmp_path)) == n_blocks
    with pytest.raises(RunError, match="not finished; measure again with the same arguments"):
        er.load_gaps(tmp_path)
    counted = counting(monkeypatch)
    assert_same_numbers(measure(tmp_path), whole)
    assert len(counted) == 3 - n_blocks
    assert_same_numbers(measure(tmp_path), whole)
    assert len(counted) == 3 - n_blocks  # a finished run is not measured again


def counting(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of the blocks that are measured from here on."""
    module = sys.modules["elbowroom.measure.filling"]
    numbers: list[int] = []
    original = module.measure_block

    def counted(phase: Any, posterior: Any, block: Any, *rest: Any) -> Any:
        numbers.append(block.number)
        return original(phase, posterior, block, *rest)

    monkeypatch.setattr(module, "measure_block", counted)
    return numbers


@pytest.mark.parametrize("wait", [0.0, 0.1, 0.3])
def test_a_run_that_was_killed_goes_on(whole: er.Gaps, tmp_path: Path, wait: float) -> None:
    """kill -9, this many seconds after the folder of the run appeared: as it may fall, in any part of the work."""
    run = tmp_path / "run"
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(run)], env={**os.environ, "PYTHONPATH": os.getcwd()})
    deadline = time.monotonic() + 120
    while not run.exists() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(wait)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert_same_numbers(measure(run), whole)
    assert not [path for path in run.rglob("*") if path.name.endswith(".part")]


@pytest.mark.parametrize("fault", ["damaged", "cut", "deleted", "exchanged"])
def test_a_bad_block_is_set_aside_and_measured_again(
    whole: er.Gaps, tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure(tmp_path)
    first, second, _ = blocks(tmp_path)
    content = bytearray(first.read_bytes())
    content[len(content) // 2] ^= 1
    changed = {"damaged": bytes(content), "cut": bytes(content[:100]), "exchanged": second.read_bytes()}
    if fault == "deleted":
        first.unlink()
    else:
        first.write_bytes(changed[fault])
    counted = counting(monkeypatch)
    if fault == "deleted":
        again = measure(tmp_path)
    else:
        with pytest.warns(UserWarning, match=rf"{first.name} was damaged and is measured again"):
            again = measure(tmp_path)
        assert first.with_name(first.name + ".damaged").exists()
    assert counted == [0]
    assert_same_numbers(again, whole)


def test_a_bad_block_of_another_part_is_left_to_that_part(whole: er.Gaps, tmp_path: Path) -> None:
    measure(tmp_path)
    first = blocks(tmp_path)[0]
    first.write_bytes(first.read_bytes()[:100])
    asked = measurement(*setting(), data(), PLAN)
    with kept_run(asked, tmp_path, share=(3, 3)) as run:
        with pytest.warns(UserWarning, match=rf"{first.name} was damaged and is measured again"):
            assert run.measure(lambda done: None) is None
        assert run.missing() == 1
    with kept_run(asked, tmp_path, share=(1, 3)) as run:
        gaps = run.measure(lambda done: None)
        assert gaps is not None
        assert_same_numbers(gaps, whole)


def test_a_block_that_goes_bad_as_the_whole_is_collected_is_measured_by_any_part(
    whole: er.Gaps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure(tmp_path)
    asked = measurement(*setting(), data(), PLAN)
    with kept_run(asked, tmp_path, share=(3, 3)) as run:
        real = KeptPhase.collect

        def collect(phase: KeptPhase) -> er.Gaps:
            blocks(tmp_path)[0].unlink()
            return real(phase)

        monkeypatch.setattr(KeptPhase, "collect", collect)
        gaps = run.measure(lambda done: None)
        assert gaps is not None
        assert_same_numbers(gaps, whole)


def test_a_part_that_is_not_the_last_has_no_result(whole: er.Gaps, tmp_path: Path) -> None:
    asked = measurement(*setting(), data(), PLAN)
    for k, missing in ((2, 2), (3, 1)):
        with kept_run(asked, tmp_path, share=(k, 3)) as run:
            assert run.measure(lambda done: None) is None
            assert run.missing() == missing
    with kept_run(asked, tmp_path, share=(1, 3)) as run:
        gaps = run.measure(lambda done: None)
        assert gaps is not None
        assert_same_numbers(gaps, whole)


def test_more_data_are_added_without_measuring_again_what_is_there(
    whole: er.Gaps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure(tmp_path, 100)
    counted = counting(monkeypatch)
    assert_same_numbers(measure(tmp_path), whole)
    assert counted == [2]
    more = measure(tmp_path, 200)  # the last block was short
    assert counted == [2, 2, 3]
    assert len(blocks(tmp_path)) == 4
    assert_same_numbers(more, measure(None, 200))


def test_refined_runs_go_on_too(tmp_path: Path) -> None:
    given: dict[str, Any] = {"refine_on": 60, "refine_plan": er.Plan(rungs=("diagonal",), n_elbo=64)}
    exact = measure(None, **given)
    with pytest.raises(KeyboardInterrupt):
        measure(tmp_path, progress=stopping_after(3), **given)
    assert_same_numbers(measure(tmp_path, **given), exact)
    assert_same_numbers(er.load_gaps(tmp_path), exact)
    with pytest.raises(RunError, match=r"another number of refined data and of all: \[60, 130\] there, \[70, 130\]"):
        measure(tmp_path, **{**given, "refine_on": 70})
    with pytest.raises(RunError, match=r"another number of refined data and of all: \[60, 130\] there, \[60, 150\]"):
        measure(tmp_path, 150, **given)
    with pytest.raises(RunError, match="another number of refined data and of all"):
        measure(tmp_path)
    assert_same_numbers(er.load_gaps(tmp_path), exact)


CHANGES: dict[str, tuple[Callable[[Path], er.Gaps], str]] = {
    "seed": (lambda out: measure(out, seed=1), "another .*"),
    "plan": (lambda out: measure(out, plan=er.Plan(rungs=("diagonal",))), "another plan"),
    "fewer data": (lambda out: measure(out, 120), "holds a run of more data"),
    "far fewer data": (lambda out: measure(out, 20), "holds a run of more data"),
    "plan by little": (lambda out: measure(out, plan=replace(PLAN, evidence=NEARLY)), "another plan"),
    "kl_weight by little": (lambda out: measure(out, kl_weight=1.0 + 1e-7), "another kl_weight"),
    "kl_weight": (lambda out: measure(out, kl_weight=2.0), "another kl_weight: 1.0 there, 2.0 now"),
    "model": (
        lambda out: er.decompose(*setting(0.4), data(), plan=PLAN, progress=False, out=out),
        r"another log p\(x, z\)",
    ),
    "posterior": (
        lambda out: er.decompose(
            setting()[0], er.Amortized(torch.nn.Linear(6, 8), er.DiagonalGaussian(4)), data(),
            plan=PLAN, progress=False, out=out,
        ),
        "another (posterior|draw of q)",
    ),
    "data": (
        lambda out: er.decompose(
            *setting(), torch.cat([data()[:60], data()[60:].flip(0)]), plan=PLAN, progress=False, out=out
        ),
        "block 1 of other data; nothing was changed",
    ),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_another_measurement_is_refused_by_name(whole: er.Gaps, tmp_path: Path, change: str) -> None:
    measure(tmp_path)
    act, words = CHANGES[change]
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(RunError, match=words):
        act(tmp_path)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert_same_numbers(er.load_gaps(tmp_path), whole)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("")
    with pytest.raises(RunError, match="not empty and holds no run"):
        measure(tmp_path / "other")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="is a file"):
        measure(tmp_path / "file")
    measure(None).save(tmp_path / "saved")
    with pytest.raises(RunError, match="already holds a run"):
        measure(tmp_path / "saved")
    for place in ("/proc/run", f"/{'x' * 300}"):
        with pytest.raises(RunError, match="cannot be written to"):
            measure(Path(place))


def test_a_disk_that_is_full_loses_nothing_that_was_finished(
    whole: er.Gaps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the second block on nothing can be written: the table comes all the same, and the first block is kept."""
    module = sys.modules["elbowroom.results.parts"]
    original = module.write_atomically

    def full(path: Path, content: bytes) -> None:
        if path.name.startswith("block-000001"):
            raise OSError(28, "No space left on device")
        original(path, content)

    def full_for_all(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_atomically", full)
    monkeypatch.setattr(sys.modules["elbowroom.results.store"], "write_atomically", full_for_all)
    with pytest.warns(UserWarning, match="No space left on device") as warned:
        gaps = measure(tmp_path)
    assert_same_numbers(gaps, whole)
    assert ["block 1 could not be written" in str(w.message) for w in warned] == [True, False]
    assert "the table could not be saved" in str(warned[1].message)
    assert "No space left on device" in str(warned[1].message)
    monkeypatch.undo()
    assert len(blocks(tmp_path)) == 1
    assert_same_numbers(measure(tmp_path), whole)


@pytest.mark.parametrize("moment", [50, 100, 130])
def test_a_folder_that_vanishes_loses_no_number(whole: er.Gaps, tmp_path: Path, moment: int) -> None:
    """Somebody removes it when so many data are done: what was in it is measured again, and all is returned."""
    run = tmp_path / "run"
    removed: list[int] = []

    def remove(done: int, total: int) -> None:
        if done >= moment and not removed:
            shutil.rmtree(run)
            removed.append(done)

    assert_same_numbers(measure(run, progress=remove), whole)
    assert removed
    assert_same_numbers(er.load_gaps(run), whole)
    assert len(blocks(run)) == 3


def test_a_clock_that_is_set_back_hinders_nothing(whole: er.Gaps, tmp_path: Path) -> None:
    """Everything in the folder seems to be of tomorrow."""
    with pytest.raises(KeyboardInterrupt):
        measure(tmp_path, progress=stopping_after(1))
    for path in tmp_path.rglob("*"):
        os.utime(path, (time.time() + 86_400,) * 2)
    assert_same_numbers(measure(tmp_path), whole)


def test_a_block_of_another_run_is_not_taken_though_the_identity_is_lost(whole: er.Gaps, tmp_path: Path) -> None:
    measure(tmp_path)
    (tmp_path / BLOCKS / "first" / "identity.json").write_text("{")
    with pytest.raises(RunError, match="is a block of another run; nothing was changed"):
        measure(tmp_path, seed=1)
    (tmp_path / BLOCKS / "first" / "identity.json").unlink()
    assert_same_numbers(measure(tmp_path), whole)


def test_a_saved_run_does_not_replace_one_that_is_not_finished(whole: er.Gaps, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        measure(tmp_path, progress=stopping_after(2))
    with pytest.raises(RunError, match="holds a run that is not finished; nothing was written"):
        whole.save(tmp_path)
    assert len(blocks(tmp_path)) == 2
    whole.save(tmp_path, overwrite=True)
    assert not (tmp_path / BLOCKS).exists()


def test_missing_numbers_do_not_keep_a_run_from_going_on(tmp_path: Path) -> None:
    """log p(x, z) of a datum may be NaN, which is not equal to itself."""
    x = data()
    x[0, 0] = torch.nan
    model, q = setting()
    first = er.decompose(model, q, x, PLAN, progress=False, out=tmp_path, check=False)
    again = er.decompose(model, q, x, PLAN, progress=False, out=tmp_path, check=False)
    assert_same_numbers(first, again)


class Kind(Enum):
    ODD = 1
    EVEN = 2


def test_labels_that_no_table_can_hold_lose_nothing(whole: er.Gaps, tmp_path: Path) -> None:
    groups = [Kind(1 + i % 2) for i in range(N)]
    with pytest.warns(UserWarning, match="the table could not be saved in .*; what was measured is returned"):
        gaps = measure(tmp_path, groups=groups)
    assert np.array_equal(gaps.elbo.values, whole.elbo.values)
    assert_same_numbers(measure(tmp_path), whole)


def test_what_works_without_a_folder_works_with_one(tmp_path: Path) -> None:
    """Seeds of numpy, and decoders that lose a dimension when they get a single row."""
    weight = torch.randn(4, 1, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    model = er.DecoderModel(lambda z: (z @ weight).squeeze().unsqueeze(-1), er.likelihoods.gaussian(0.5), 4)
    q = er.Amortized(torch.nn.Linear(1, 8, dtype=torch.float64), er.DiagonalGaussian(4))
    gaps = er.decompose(model, q, data()[:, :1], PLAN, seed=np.int64(3), progress=False, out=tmp_path)  # type: ignore[arg-type]
    assert_same_numbers(er.load_gaps(tmp_path), gaps)


SHORT = er.Budget(n_steps=3, n_samples=4, learning_rate=0.01, max_rounds=1)
FLOW = replace(PLAN, rungs=("diagonal", "flow"), budgets={"flow": SHORT})
FULL = replace(PLAN, rungs=("diagonal", "full"))
FULL_AND_FLOW = replace(FLOW, rungs=("diagonal", "full", "flow"), n_elbo=128)


def fitted_rungs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the families that are fitted from here on, one for each block."""
    module = sys.modules["elbowroom.measure.rungs"]
    names: list[str] = []
    original = module.fit_block

    def counted(family: er.Family, *rest: Any) -> Any:
        names.append(family.name)
        return original(family, *rest)

    monkeypatch.setattr(module, "fit_block", counted)
    return names


@pytest.mark.parametrize(("before", "now"), [(PLAN, FLOW), (FULL, FULL_AND_FLOW)])
def test_a_plan_that_adds_a_flow_goes_on_from_the_fits_that_are_there(
    before: er.Plan, now: er.Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = measure(None, plan=now)
    measure(tmp_path, plan=before)
    names = fitted_rungs(monkeypatch)
    assert_same_numbers(measure(tmp_path, plan=now), at_once)
    assert set(names) == {"flow"}
    assert_same_numbers(er.load_gaps(tmp_path), at_once)
    with pytest.raises(RunError, match="another plan"):  # back again there is no way
        measure(tmp_path, plan=before)


def test_a_plan_that_adds_a_flow_to_a_run_that_was_stopped_and_to_more_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = measure(None, plan=FLOW)
    with pytest.raises(KeyboardInterrupt):
        measure(tmp_path, n=N - 10, progress=stopping_after(2))
    names = fitted_rungs(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        measure(tmp_path, plan=FLOW, progress=stopping_after(1))
    assert_same_numbers(measure(tmp_path, plan=FLOW), at_once)
    assert names.count("diagonal") == 1  # of the block that was not there


@pytest.mark.parametrize(
    "spoil", [lambda path: path.write_bytes(b"no"), lambda path: path.unlink()], ids=["cut", "gone"]
)
def test_fits_that_are_damaged_or_gone_are_made_again(
    spoil: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = measure(None, plan=FLOW)
    measure(tmp_path)
    kept = sorted((tmp_path / BLOCKS / "first" / "fits").iterdir())
    assert len(kept) == 3
    spoil(kept[1])
    names = fitted_rungs(monkeypatch)
    assert_same_numbers(measure(tmp_path, plan=FLOW), at_once)
    assert names.count("diagonal") == 1


@pytest.mark.parametrize(
    "other",
    [FULL, replace(FLOW, multistart=SHORT), replace(PLAN, n_elbo=128)],
    ids=["another Gaussian", "another start", "no other rung"],
)
def test_a_plan_whose_fits_would_be_others_is_refused(other: er.Plan, tmp_path: Path) -> None:
    before = measure(tmp_path)
    with pytest.raises(RunError, match="another plan"):
        measure(tmp_path, plan=other)
    assert_same_numbers(measure(tmp_path), before)


@pytest.mark.parametrize("n", [50, 100, N - 1])
def test_a_plan_that_adds_a_flow_to_fewer_data_is_refused(n: int, tmp_path: Path) -> None:
    before = measure(tmp_path)
    with pytest.raises(RunError, match="of more data; nothing was changed"):
        measure(tmp_path, n=n, plan=FLOW)
    assert_same_numbers(measure(tmp_path), before)


def test_a_plan_that_adds_a_flow_to_other_data_is_refused(tmp_path: Path) -> None:
    """The first data are the same, which is all that is looked at before blocks are read."""
    before = measure(tmp_path)
    other = data()
    other[60:] += 1
    with pytest.raises(RunError, match="holds block 1 of other data; nothing was changed"):
        er.decompose(*setting(), other, plan=FLOW, progress=False, out=tmp_path)
    assert_same_numbers(measure(tmp_path), before)


def test_a_process_of_the_plan_before_that_was_taken_for_dead_writes_nothing(tmp_path: Path) -> None:
    """Both are this process here, which does not take itself for another one."""
    model, q = setting()
    with kept_run(measurement(model, q, data(), PLAN), tmp_path) as slow:
        follow(measurement(model, q, data(), FLOW), tmp_path)
        with pytest.raises(RunError, match="was given to another run meanwhile"):
            slow.measure(lambda done: None)
    assert not blocks(tmp_path)
    assert_same_numbers(measure(tmp_path, plan=FLOW), measure(None, plan=FLOW))


def test_a_folder_into_which_another_process_measures_is_not_given_to_another_plan(tmp_path: Path) -> None:
    before = measure(tmp_path)
    (tmp_path / WORKERS).mkdir()
    record = {"host": socket.gethostname(), "pid": os.getppid(), "since": "2026-11-25T12:00:00+00:00"}
    (tmp_path / WORKERS / "other.json").write_text(json.dumps(record))
    with pytest.raises(RunError, match="is measuring into"):
        measure(tmp_path, plan=FLOW)
    assert_same_numbers(measure(tmp_path), before)


def test_fits_of_other_data_are_made_again(tmp_path: Path) -> None:
    """The blocks were removed by hand, and the data have changed since, but for the first ones, which are looked at."""
    measure(tmp_path)
    for path in blocks(tmp_path):
        path.unlink()
    other = data()
    other[20:] += 1
    at_once = er.decompose(*setting(), other, plan=PLAN, progress=False)
    assert_same_numbers(er.decompose(*setting(), other, plan=PLAN, progress=False, out=tmp_path), at_once)


def test_fits_that_would_take_much_room_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["elbowroom.measure.known_fits"], "MOST_VALUES", 7)  # a diagonal Gaussian has eight
    at_once = measure(tmp_path)
    assert not (tmp_path / BLOCKS / "first" / "fits").exists()
    assert_same_numbers(measure(tmp_path), at_once)
