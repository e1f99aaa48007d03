"""The demo's two measurements: the shipped VAE on its training and held-out images, each in a process with one thread.

Torch's own threads gain nothing on matrices this small, and lose much where another program wants the cores.
"""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch

from . import architecture, data
from .gaps import decompose
from .ladder import Gaps

__all__ = ["HELDOUT_IDS", "run"]

HELDOUT_IDS = 60_000  # held-out images are numbered behind the 60,000 training images, so that no id is shared
Advance = Callable[..., None]


def run(n: int, plan: str, workers: int, advance: Mapping[str, Advance]) -> dict[str, Gaps]:
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


def _measure(name: str, n: int, plan: str, progress: Any) -> Gaps:
    model, q = architecture.demo_model()
    ids = np.arange(n) + (HELDOUT_IDS if name == "heldout" else 0)
    return decompose(model, q, data.demo_images()[name][:n], plan=plan, ids=ids.tolist(), progress=progress)


_reports: Any = None  # in a worker: the queue to the process that draws the bars


def _start_worker(reports: Any) -> None:
    global _reports
    _reports = reports
    torch.set_num_threads(1)


def _work(name: str, n: int, plan: str) -> Gaps:
    return _measure(name, n, plan, lambda done, total: _reports.put((name, done, total)))
