"""`elbowroom gaps --dry-run`: one block is measured, and time, memory and errors of more are foretold from it."""

import sys
import time
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch

from ..core import BLOCK, Rows, read_rows
from ..measure import PlanName, combine, expected_se, second_phase_seed
from ..results import Gaps, aligned
from .inputs import Sample
from .terminal import UserError, duration, say

__all__ = ["dry_run_of"]

SIZES = (100, 1000)  # numbers of data that are foretold beside that of the sample


def dry_run_of(
    measure: Callable[..., Gaps],
    chosen: Mapping[str, Sample],
    seed: int,
    plan: PlanName,
    refine_plan: PlanName,
    refine_on: int | None,
) -> None:
    """One block of the first set, measured by the plan of all data and by that of the refined, and what it says of
    more.
    """
    if "published" in (plan, refine_plan if refine_on is not None else plan):
        raise UserError("--dry-run measures one block, and plan published takes an hour or more; time standard")
    name, sample = next(iter(chosen.items()))
    n = len(sample.ids)
    x = read_rows(sample.x, torch.arange(min(BLOCK, n)))
    gaps, seconds = _timed(partial(measure, plan=plan), x)
    refined: dict[int, int] = {}
    second_seconds = 0.0
    sizes = sorted({*(size for size in SIZES if size < n), n})
    if refine_on is not None:
        second, second_seconds = _timed(partial(measure, plan=refine_plan, seed=second_phase_seed(seed)), x)
        gaps = combine(gaps, second, np.arange(len(gaps)))
        refined = {size: min(refine_on, size) for size in sizes}
    table = [("data", *(f"{size:,}" for size in sizes))]
    if refined:
        table.append(("refined", *(f"{refined[size]:,}" for size in sizes)))
    times = [seconds * -(-size // BLOCK) + second_seconds * -(-refined.get(size, 0) // BLOCK) for size in sizes]
    table.append(("time", *map(duration, times)))
    for label, estimate in {"L[q]": gaps.elbo, **gaps.steps, "log p(x)": gaps.log_evidence}.items():
        errors = [expected_se(estimate, size, refined.get(size, size)) for size in sizes]
        table.append((f"se of {label}", *(f"{error:.3f}" for error in errors)))
    say(f"{name}: {len(gaps)} data took {duration(seconds + second_seconds)}; to expect, errors in nats:\n")
    for line in aligned(table):
        say(line)
    say(f"\nmemory: {_peak_memory()} now, little more for more data, which are measured {BLOCK} at a time")
    others = [f"{other} ({len(s.ids):,})" for other, s in chosen.items() if other != name]
    if others:
        say(f"as long for each datum of {', '.join(others)}")


def _timed(measure: Callable[..., Gaps], x: Rows) -> tuple[Gaps, float]:
    """What was measured, and in how many seconds."""
    start = time.perf_counter()
    return measure(x), time.perf_counter() - start


def _peak_memory() -> str:
    """The most memory that this process has held so far."""
    import resource  # not on every system

    unit = 1 if sys.platform == "darwin" else 1024
    text = f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30:.1f} GiB"
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        text += f", {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB on the device"
    return text
