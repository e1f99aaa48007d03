"""`elbowroom demo`: the shipped VAE on its training and held-out images, each set in a process with one thread.

Torch's own threads gain nothing on matrices this small, and lose much where another program wants the cores.
"""

import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import numpy as np
import torch

from ..datasets import demo_images
from ..measure import PlanName, decompose
from ..results import Gaps, duration
from ..training import demo_model
from .run_folders import reserved, save
from .show import show
from .terminal import Advance, UserError, bars, say

__all__ = ["HELDOUT_IDS", "demo_command", "run_demo"]

HELDOUT_IDS = 60_000  # held-out images are numbered behind the 60,000 training images, so that no id is shared


def demo_command(
    *, out: Path = Path("elbowroom-demo"), n: int = 250, plan: PlanName = "standard", workers: int = 2
) -> None:
    """The command; `app.HELP` says what it does.

    Args:
        out: Folder for the runs, OUT/train and OUT/heldout. Those of an earlier demo are replaced.
        n: Measure the first N images of each set.
        plan: What is fitted to each image; see `elbowroom gaps --help`.
        workers: Processes of one thread each. Numbers do not depend on them.
    """
    start = time.perf_counter()
    torch.set_num_threads(1)
    images = demo_images()
    if not 1 <= n <= len(images["train"]):
        raise UserError(f"--n {n}: expected 1 to {len(images['train'])}, the number of images of each set")
    with reserved([out / name for name in images], overwrite=True):
        with bars("images") as add:
            runs = run_demo(n, plan, workers, {name: add(name, n) for name in images})
        try:
            show(runs)
        finally:  # saved though it cannot be shown
            for name, gaps in runs.items():
                save(gaps, out / name)
    say(f"\nruns saved in {out / 'train'} and {out / 'heldout'}; {duration(time.perf_counter() - start)}")


def run_demo(n: int, plan: PlanName, workers: int, advance: Mapping[str, Advance]) -> dict[str, Gaps]:
    """Measure the first n images of each set that `advance` names, telling it how many are done.

    Numbers do not depend on `workers`; with 1 everything happens in this process.
    """
    if workers == 1:
        return {name: _measure(name, n, plan, go) for name, go in advance.items()}
    context = get_context("spawn")
    reports = context.SimpleQueue()
    with ProcessPoolExecutor(workers, context, _start_worker, (reports,)) as pool:
        futures = {name: pool.submit(_work, name, n, plan) for name in advance}
        while not all(future.done() for future in futures.values()):
            while not reports.empty():
                name, *done = reports.get()
                advance[name](*done)
            time.sleep(0.1)
        return {name: future.result() for name, future in futures.items()}


def _measure(name: str, n: int, plan: PlanName, progress: Advance) -> Gaps:
    model, q = demo_model()
    ids = np.arange(n) + (HELDOUT_IDS if name == "heldout" else 0)
    return decompose(model, q, demo_images()[name][:n], plan=plan, ids=ids.tolist(), progress=progress)


_reports: SimpleQueue | None = None  # in a worker: the queue to the process that draws the bars


def _start_worker(reports: SimpleQueue) -> None:
    global _reports
    _reports = reports
    torch.set_num_threads(1)


def _work(name: str, n: int, plan: PlanName) -> Gaps:
    def report(done: int, total: int) -> None:
        if _reports is not None:
            _reports.put((name, done, total))

    return _measure(name, n, plan, report)
