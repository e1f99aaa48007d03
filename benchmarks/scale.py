"""What many processes cost: workers against one process, and a simulation of a folder that fifty processes fill."""

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

import elbowroom as er
from elbowroom.results import Filling, Gaps, Parts, Presence

N_BLOCKS, SECONDS, N_PROCESSES, N_KILLS = 10_000, 0.010, 50, 5
FACTORY = """
from pathlib import Path
from tests.external import bdmc_mnist, mnist_images
FOLDER = Path({folder!r})
def factory():
    model, q = bdmc_mnist(FOLDER)
    return model, q, {{"test": mnist_images(FOLDER, "test", 10_000, 255)}}
"""
REPEATS, N_FEW, N_MANY = 2, 1_000, 10_000
N_START, PAIRS_START, PAIRS = 100, 10, 12  # what starts and ends shows best in short runs
PUBLISHED_SECONDS = 90  # for each datum, scaled from a few steps of the published protocol; see the section on evidence
LONG_RUN = 100_000


def scale(folder: Path) -> dict[str, Any]:
    """Two workers against one, ten thousand images, Ray against workers, a large run opened, and the simulation."""
    rows = [*_workers(folder), *_ray(folder), _opening()]
    found = simulation()
    rows += [
        [
            "blocks that slept 10 ms, in one folder",
            f"{N_BLOCKS:,} of {N_PROCESSES} processes, {N_KILLS} of them killed",
        ],
        ["... lost, and measured twice", f"{found['lost']:.0f}, {found['repeated']:.0f}"],
        ["... seconds, and blocks per second", f"{found['seconds']:.0f}, {found['rate']:.0f}"],
        ["... claims per second of one process", f"{found['claims']:,.0f}"],
    ]
    return {"rows": rows}


# ---- real blocks


def _workers(folder: Path) -> list[list[str]]:
    """The command on the public MNIST model, with one worker and with two."""
    with tempfile.TemporaryDirectory() as place:
        Path(place, "public.py").write_text(FACTORY.format(folder=str(folder)))
        times: dict[int, list[float]] = {1: [], 2: []}
        for repeat in range(REPEATS):
            for n_workers, spent in times.items():
                seconds, memory = _run(place, N_FEW, f"few-{repeat}-{n_workers}", "--workers", str(n_workers))
                spent.append(seconds)
        small = memory
        total, large = _run(place, N_MANY, "many", "--workers", "2")
        once, twice = (statistics.median(spent) for spent in times.values())
        return [
            [
                f"{N_FEW:,} images by standard: one worker, two, ratio",
                f"{once:.0f} s, {twice:.0f} s, {once / twice:.2f}",
            ],
            [f"{N_MANY:,} images by standard, two workers", f"{total / 60:.1f} minutes"],
            ["... the published protocol, on one core, takes longer by", f"{N_MANY * PUBLISHED_SECONDS / total:,.0f}"],
            [
                f"memory of the process that starts them, {N_FEW:,} and {N_MANY:,} images",
                f"{small:.0f} and {large:.0f} MiB",
            ],
        ]


def _ray(folder: Path) -> list[list[str]]:
    """The command on a cluster of Ray against workers, in pairs; nothing without Ray."""
    if find_spec("ray") is None:
        return []
    rows = []
    with tempfile.TemporaryDirectory() as place, _cluster() as address:
        Path(place, "public.py").write_text(FACTORY.format(folder=str(folder)))
        for n, n_pairs, ways in (
            (N_START, PAIRS_START, {"that runs": ("--ray", address), "that the command starts": ("--ray",)}),
            (N_FEW, PAIRS, {"that runs": ("--ray", address)}),
        ):
            base, *others = _by_turns(place, n, n_pairs, [("--workers", "2"), *ways.values()])
            for how, more in zip(ways, others - base, strict=True):
                error = more.std(ddof=1) / n_pairs**0.5
                share, its_error = 100 * more.mean() / base.mean(), 100 * error / base.mean()
                rows.append(
                    [
                        f"{n:,} images on a cluster of Ray {how}, against two workers, {n_pairs} pairs",
                        f"{more.mean():+.1f} +- {error:.1f} s, {share:+.1f} +- {its_error:.1f}%",
                    ]
                )
    return rows


def _by_turns(place: str, n: int, n_repeats: int, ways: list[tuple[str, ...]]) -> np.ndarray[Any, Any]:
    """Seconds of the command in each way and repeat, (ways, repeats); the order is turned round each time."""
    seconds = np.empty((len(ways), n_repeats))
    for repeat in range(n_repeats):
        order = range(len(ways))
        for k in order if repeat % 2 == 0 else reversed(order):
            seconds[k, repeat] = _run(place, n, f"{n}-{repeat}-{k}", *ways[k])[0]
    return seconds


@contextmanager
def _cluster() -> Iterator[str]:
    """The address of a cluster of Ray with two cores, in a process of its own."""
    code = (
        "import sys; from ray.cluster_utils import Cluster\n"
        "node = {'num_cpus': 2, 'node_ip_address': '127.0.0.2', 'include_dashboard': False}\n"
        "cluster = Cluster(initialize_head=True, head_node_args=node)\n"
        "print(cluster.address, flush=True); sys.stdin.read(); cluster.shutdown()"
    )
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True, env=environment,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.communicate()


def _run(place: str, n: int, name: str, *options: str) -> tuple[float, float]:
    """Seconds that the command took, and the most memory of its first process in MiB."""
    code = (
        "import sys; from elbowroom.cli import main\n"
        "if __name__ == '__main__':\n"
        "    code = main(); from elbowroom.cli.dry_run import peak_memory; print(peak_memory() / 2**20)\n"
        "    sys.exit(code)"
    )
    Path(place, "program.py").write_text(code)
    command = [
        sys.executable, "program.py", "gaps", "--model", "public.py:factory", "--n", str(n), "--out", name, *options,
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.path.abspath("src"), os.getcwd()])}
    start = time.perf_counter()
    ran = subprocess.run(command, cwd=place, capture_output=True, text=True, check=True, env=environment)
    return time.perf_counter() - start, float(ran.stdout.splitlines()[-1])


def _opening() -> list[str]:
    """Seconds to open a run of many data, made of one block that is repeated."""
    meta, columns = _stub().to_columns()
    n = len(columns["id"])
    many = {name: np.concatenate([column] * (LONG_RUN // n)) for name, column in columns.items()}
    many["id"] = np.arange(len(many["id"]))
    gaps = Gaps.from_columns(meta, many)
    with tempfile.TemporaryDirectory() as place:
        gaps.save(Path(place) / "run")
        start = time.perf_counter()
        str(er.load_gaps(Path(place) / "run"))
        return [f"a run of {LONG_RUN:,} data opened and printed", f"{time.perf_counter() - start:.2f} s"]


# ---- the simulation


def simulation(
    n_blocks: int = N_BLOCKS, seconds: float = SECONDS, n_processes: int = N_PROCESSES, n_kills: int = N_KILLS
) -> dict[str, float]:
    """Many processes fill one folder with blocks that only sleep; some are killed.

    Returns:
        How many blocks were "lost" and how many "repeated", the "seconds" that it took, the "rate" of blocks per
        second, and the "claims" per second that one process makes.
    """
    os.environ["OMP_NUM_THREADS"] = "1"  # fifty processes of two threads would wait for each other
    context = get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.scale"])
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "logs").mkdir()
        begin = context.Event()
        processes = [
            context.Process(target=_fill, args=(Path(place), n_blocks, seconds, begin)) for _ in range(n_processes)
        ]
        for process in processes:
            process.start()
        while len(list((Path(place) / "logs").iterdir())) < n_processes:
            time.sleep(0.05)
        start = time.perf_counter()
        begin.set()
        for process in processes[:n_kills]:
            time.sleep(0.2)
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
        for process in processes:
            process.join()
        took = time.perf_counter() - start
        measured = Counter(
            int(line) for log in (Path(place) / "logs").iterdir() for line in log.read_text().split("\n") if line
        )
        there = {int(path.name.split("-")[1]) for path in (Path(place) / "parts").glob("block-*.parquet")}
        claims = _claims_per_second(Path(place))
    return {
        "lost": float(n_blocks - len(there)),
        "repeated": float(sum(times - 1 for times in measured.values())),
        "seconds": took,
        "rate": n_blocks / took,
        "claims": claims,
    }


def _stub() -> Gaps:
    """Gaps of one block, small and quick to make."""
    model = er.LinearGaussian(torch.ones(3, 1, dtype=torch.float64), torch.zeros(3, dtype=torch.float64), 1.0)
    plan = er.Plan(rungs=("diagonal",), n_elbo=8, evidence=er.EvidencePlan(n_importance=64, annealing=None))
    q = er.Amortized(torch.nn.Linear(3, 2, dtype=torch.float64), er.DiagonalGaussian(1))
    return er.decompose(model, q, torch.ones(50, 3, dtype=torch.float64), plan, progress=False)


def _parts(place: Path, n_blocks: int, presence: Presence) -> Parts:
    return Parts(place / "parts", {"simulation": 1, "plan": []}, {}, n_blocks, presence)


def _fill(place: Path, n_blocks: int, seconds: float, begin: Any) -> None:
    """The life of a process of the simulation; a line of its log is a block that it measured."""
    gaps = _stub()
    with Presence(place) as presence, (place / "logs" / presence.owner.name).open("a") as log:
        begin.wait()

        def measure(number: int) -> Gaps:
            time.sleep(seconds)
            log.write(f"{number}\n")
            log.flush()
            return gaps

        parts = _parts(place, n_blocks, presence)
        Filling(parts, dict.fromkeys(range(n_blocks), len(gaps))).fill(measure, lambda done: None)


def _claims_per_second(place: Path, n: int = 2_000) -> float:
    with Presence(place) as presence:
        parts = Parts(place / "other", {"simulation": 2, "plan": []}, {}, n, presence)
        parts.prepare()
        start = time.perf_counter()
        for number in range(n):
            assert parts.claim(number)
        return n / (time.perf_counter() - start)


if __name__ == "__main__":  # the simulation alone: blocks, processes, kills
    n_blocks, n_processes, n_kills = map(int, sys.argv[1:4]) if sys.argv[1:] else (N_BLOCKS, N_PROCESSES, N_KILLS)
    print(json.dumps(simulation(n_blocks, SECONDS, n_processes, n_kills)))
