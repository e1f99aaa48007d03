"""`elbowroom demo`: the shipped VAE on its training and held-out images."""

import time
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
import torch
from cyclopts.types import PositiveInt

from ..datasets import demo_images
from ..measure import Measurement, PlanName, measurement
from ..results import duration
from ..scale import Crew, Report
from ..training import demo_model
from .early_start import n_cores, start_method
from .measuring import fill_sets, measure_sets
from .run_folders import reserved
from .show import show_verdict
from .terminal import UserError, say

__all__ = ["demo_command"]

HELDOUT_IDS = 60_000  # held-out images are numbered behind the 60,000 training images, so that no id is shared


def demo_command(
    *, out: Path = Path("elbowroom-demo"), n: int = 250, plan: PlanName = "standard", workers: PositiveInt | None = None
) -> None:
    """The command; `app.HELP` says what it does.

    Args:
        out: Folder for the runs, OUT/train and OUT/heldout. Those of an earlier demo are replaced.
        n: Measure the first N images of each set.
        plan: What is fitted to each image; see `elbowroom gaps --help`.
        workers: Number of processes, of one thread each, by default as many as there are cores. Numbers do not depend
            on it.
    """
    start = time.perf_counter()
    torch.set_num_threads(1)
    measurements = _measurements(n, plan)
    places = {name: out / name for name in measurements}
    n_blocks = sum(phase.n_blocks for asked in measurements.values() for phase in asked.phases)
    n_workers = min(workers or n_cores(), n_blocks)
    with ExitStack() as stack:
        stack.enter_context(reserved(places.values(), overwrite=True))
        job = partial(_work, n, plan, places)
        crew = stack.enter_context(Crew(job, n_workers, start_method())) if n_workers > 1 else None
        try:
            show_verdict(measure_sets(measurements, places, crew=crew, stays=False))
        except KeyboardInterrupt:
            raise KeyboardInterrupt("the same command begins anew") from None
    say(f"\nruns saved in {places['train']} and {places['heldout']}; {duration(time.perf_counter() - start)}")


def _measurements(n: int, plan: PlanName) -> dict[str, Measurement]:
    """What is measured: the first n images of each set."""
    images, (model, q) = demo_images(), demo_model()
    if not 1 <= n <= len(images["train"]):
        raise UserError(f"--n {n}: expected 1 to {len(images['train'])}, the number of images of each set")
    ids = {name: np.arange(n) + (HELDOUT_IDS if name == "heldout" else 0) for name in images}
    return {name: measurement(model, q, x[:n], plan, ids=ids[name].tolist()) for name, x in images.items()}


def _work(n: int, plan: PlanName, places: Mapping[str, Path], report: Report) -> None:
    """What a worker does."""
    torch.set_num_threads(1)
    fill_sets(_measurements(n, plan), places, None, report)
