"""Runs on a cluster of Ray, of two nodes on this machine: the same numbers, whoever is lost. Needs the extra `ray`."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import elbowroom as er
from elbowroom.cli import main
from elbowroom.scale import Cluster, WorkersError

from ..shared_runs import (
    assert_same,
    begun,
    blocks,
    ended,
    has_begun,
    some_moment,
    wait_until,
    words,
)

IS_MISSING = find_spec("ray") is None and not os.environ.get("ELBOWROOM_RAY")  # in `make ray` it must be there
FRAGILE = """
import torch
import elbowroom as er

class Fragile(torch.nn.Linear):
    "A decoder that breaks on the latents of some data."
    def forward(self, z):
        if (z > 1e6).any():
            raise ArithmeticError("these latents cannot be decoded")
        return super().forward(z)

def factory():
    torch.manual_seed(0)
    encoder = torch.nn.Linear(6, 4)
    def q(x):
        mean, log_var = encoder(x).chunk(2, -1)
        far = 1e7 * (x[:, :1] == 7)
        return torch.distributions.Normal(mean + far, (log_var / 2).exp())
    return er.DecoderModel(Fragile(2, 6), er.likelihoods.gaussian(1.0), 2), q
"""


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A cluster of two nodes with a core each."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    node = {"num_cpus": 1, "node_ip_address": "127.0.0.2", "include_dashboard": False}
    made = import_module("ray.cluster_utils").Cluster(initialize_head=True, head_node_args=node)
    made.second = made.add_node(num_cpus=1, node_ip_address="127.0.0.2")
    yield made
    made.shutdown()
    del os.environ["RAY_USAGE_STATS_ENABLED"]


def ray_workers() -> list[int]:
    """The processes of Ray that measure blocks at this moment."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if b"ray::_run" in (path / "cmdline").read_bytes():
                found.append(int(path.name))
        except OSError:
            continue
    return found


@pytest.mark.ray
@pytest.mark.skipif(IS_MISSING, reason="Ray is not installed")
def test_a_cluster_measures_the_same_rows(images: Path, whole_run: er.Gaps, cluster: Any, tmp_path: Path) -> None:
    code, out, err = ended(begun(images, tmp_path / "run", "--ray", cluster.address))
    assert code == 0, err
    assert str(whole_run) in out
    assert_same(tmp_path / "run", whole_run)


@pytest.mark.ray
@pytest.mark.skipif(IS_MISSING, reason="Ray is not installed")
def test_a_cluster_of_this_machine_alone(images: Path, whole_run: er.Gaps, tmp_path: Path) -> None:
    code, _, err = ended(begun(images, tmp_path / "run", "--ray"))
    assert code == 0, err
    assert_same(tmp_path / "run", whole_run)


@pytest.mark.ray
@pytest.mark.skipif(IS_MISSING, reason="Ray is not installed")
@pytest.mark.parametrize("who", ["worker", "node"])
def test_who_is_lost_costs_a_block_alone(
    images: Path, whole_run: er.Gaps, cluster: Any, tmp_path: Path, who: str
) -> None:
    process = begun(images, tmp_path / "run", "--ray", cluster.address)
    wait_until(partial(has_begun, tmp_path / "run"))
    wait_until(ray_workers)
    some_moment()
    before = blocks(tmp_path / "run")
    if who == "node":
        cluster.remove_node(cluster.second)
    elif working := ray_workers():
        os.kill(random.Random().choice(working), signal.SIGKILL)
    code, _, err = ended(process)
    assert code == 0, err
    assert before.items() <= blocks(tmp_path / "run").items()
    assert_same(tmp_path / "run", whole_run)


@pytest.mark.ray
@pytest.mark.skipif(IS_MISSING, reason="Ray is not installed")
def test_a_driver_that_is_killed_has_lost_nothing(
    images: Path, whole_run: er.Gaps, cluster: Any, tmp_path: Path
) -> None:
    process = begun(images, tmp_path / "run", "--ray", cluster.address)
    wait_until(partial(has_begun, tmp_path / "run"))
    some_moment()
    process.kill()
    process.communicate()
    wait_until(lambda: not ray_workers())
    before = blocks(tmp_path / "run")
    code, _, err = ended(begun(images, tmp_path / "run", "--ray", cluster.address))
    assert code == 0, err
    assert before.items() <= blocks(tmp_path / "run").items()
    assert_same(tmp_path / "run", whole_run)


@pytest.mark.ray
@pytest.mark.skipif(IS_MISSING, reason="Ray is not installed")
def test_data_on_which_a_task_fails_are_left_out_and_told(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last block but one has a datum that the decoder refuses, by an error of its own."""
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).normal(size=(620, 6)).astype(np.float32)
    x[577, 0] = 7.0
    np.save("x.npy", x)
    Path("fragile.py").write_text(FRAGILE)
    spec = ["gaps", "--model", "fragile.py:factory", "--data", "x.npy", "--plan", "quick", "--out", "run"]
    code, out, err = program(tmp_path, *spec, "--ray", cluster.address)
    assert code == 0, err
    assert re.search(r"data 550 to 599 could not be measured: .*these latents cannot be decoded", " ".join(out.split()))
    gaps = er.load_gaps("run")
    left_out = (np.arange(620) >= 550) & (np.arange(620) < 600)
    assert (gaps.elbo.finite == ~left_out).all()
    assert ((gaps.flags & int(er.Flag.NOT_FINITE) > 0) == left_out).all()
    Path("fragile.py").write_text(FRAGILE.replace("1e6", "1e9"))  # mended: what was not measured is measured now
    before = blocks(tmp_path / "run")
    code, _, err = program(tmp_path, *spec, "--workers", "1")
    assert code == 0, err
    assert er.load_gaps("run").elbo.finite.all()
    assert before.items() <= blocks(tmp_path / "run").items()


def program(place: Path, *arguments: str) -> tuple[int, str, str]:
    ran = subprocess.run(
        [sys.executable, "-m", "elbowroom", *arguments], capture_output=True, text=True, check=False, cwd=place
    )
    return ran.returncode, ran.stdout, ran.stderr


PREPARED = """
import os, sys, time
from elbowroom.scale import prepare_cluster
prepare_cluster("local", 2, "elbowroom.cli.measuring", {"OF_COMMAND": "1"})
had_torch = "torch" in sys.modules
from elbowroom.scale.connection import connect
import ray
same = connect("local", 2) is ray and ray.cluster_resources()["CPU"]
def has_both():
    time.sleep(0.5)
    return "elbowroom.cli.measuring" in sys.modules and os.environ.get("OF_COMMAND") == "1"
has = ray.remote(num_cpus=1)(has_both)
found = ray.get([has.remote(), has.remote()])
other = connect("local", 1) is ray and ray.cluster_resources()["CPU"]
print(had_torch, *found, same, other)
"""


@pytest.mark.ray
@pytest.mark.skipif(IS_MISSING, reason="Ray is not installed")
def test_workers_import_before_they_are_given_work() -> None:
    """And a local cluster that was prepared with too many cores, as for a model on a GPU, is replaced."""
    ran = subprocess.run([sys.executable, "-c", PREPARED], capture_output=True, text=True, check=False)
    assert ran.stdout.split() == ["False", "True", "True", "2.0", "1.0"], ran.stderr


JOINING = """
import sys, time
from elbowroom.scale import prepare_cluster
prepare_cluster(sys.argv[1], 2, "elbowroom.cli.measuring", {})
from elbowroom.scale.connection import connect
ray = connect(sys.argv[1], 2)
def has_it():
    time.sleep(0.5)
    return "elbowroom.cli.measuring" in sys.modules
has = ray.remote(num_cpus=1)(has_it)
print(*ray.get([has.remote(), has.remote()]))
"""


def children(parent: int) -> set[int]:
    """The workers that a node of Ray has started and that live."""
    found = set()
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if int((path / "stat").read_text().rsplit(")", 1)[1].split()[1]) == parent:
                words = (path / "cmdline").read_bytes()
                is_worker = (b"ray::" in words or b"default_worker" in words) and b"Agent" not in words
                found |= {int(path.name)} if is_worker else set()
        except OSError:
            continue
    return found


@pytest.mark.ray
@pytest.mark.skipif(IS_MISSING, reason="Ray is not installed")
def test_a_node_starts_no_process_more_than_it_has_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the program is the first to join its cluster, or one of those that come later."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    cluster_of = import_module("ray.cluster_utils").Cluster
    node = {"num_cpus": 2, "node_ip_address": "127.0.0.2", "include_dashboard": False}
    made = cluster_of(initialize_head=True, head_node_args=node)
    raylet = made.head_node.all_processes["raylet"][0].process.pid
    try:
        for _ in range(2):
            before = children(raylet)
            seen = set(before)
            command = [sys.executable, "-c", JOINING, made.address]
            joining = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            while joining.poll() is None:
                seen |= children(raylet)
                time.sleep(0.02)
            out, err = joining.communicate()
            assert out.split() == ["True", "True"], err
            assert len(seen - before) == 2
    finally:
        made.shutdown()


@pytest.mark.ray
@pytest.mark.skipif(IS_MISSING, reason="Ray is not installed")
def test_an_address_where_there_is_no_cluster_is_one_line(images: Path, tmp_path: Path, cluster: Any) -> None:
    code, _, err = ended(begun(images, tmp_path / "run", "--ray", "127.0.0.1:1"))
    assert code == 2
    assert "no cluster of Ray at 127.0.0.1:1" in err.splitlines()[-1]


def test_without_ray_the_command_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(WorkersError, match=r"pip install elbowroom\[ray\]"),
        Cluster(print, None, "local", n_cores=1) as cluster,
    ):
        cluster.work("x", lambda done: [("first", 0)])


def test_a_cluster_needs_a_folder(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = words(images, tmp_path)
    del command[command.index("--out") : command.index("--out") + 2]
    for ray in (["--ray"], ["--ray", "local"], ["--ray", "10.0.0.1:6379"]):
        assert main([*command, *ray]) == 2
    assert "expected --out FOLDER, which all nodes of the cluster see" in capsys.readouterr().err
