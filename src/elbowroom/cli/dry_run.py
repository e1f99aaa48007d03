"""`elbowroom gaps --dry-run`: what a measurement will cost, and how well it will know its means."""

import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from textwrap import wrap
from typing import Any

import torch

from ..core import BLOCK
from ..measure import PILOT, Forecast, PlanName
from ..results import aligned, bytes_on_disk, duration
from .data_spec import Sample
from .terminal import UserError, bars, say

__all__ = ["dry_run_of", "peak_memory"]

LABEL_COLUMNS = 24  # a longer label goes on in the next line
MACHINES = 10  # machines, for which the time is foretold too
SIZES = (100, 1000)  # numbers of data that are foretold beside that of the sample


def dry_run_of(
    foretell: Callable[..., Forecast],
    chosen: Mapping[str, Sample],
    plan: PlanName,
    refine_on: int | None,
    refine_plan: PlanName,
    workers: int,
) -> dict[str, Any]:
    """Print what the first set says of all -> the same as a record.

    Args:
        foretell: `forecast` of a model.
        workers: the number of processes that a machine can run.
    """
    if "published" in (plan, refine_plan if refine_on is not None else plan):
        raise UserError("--dry-run cannot time plan published, which takes minutes for each datum; choose another plan")
    name, sample = next(iter(chosen.items()))
    n = len(sample.ids)
    sizes = sorted({*(size for size in SIZES if size < n), n})
    with bars("data") as add:
        total = min(n, PILOT) * (1 if refine_on is None else 2)
        go = add(f"dry run on {min(n, PILOT)} data of {name}", total)
        found = foretell(sample.x, sizes, plan=plan, refine_on=refine_on, refine_plan=refine_plan, progress=go)
    table: list[tuple[str, ...]] = [("data", *(f"{size:,}" for size in sizes))]
    if any(found.refined):
        table.append(("refined", *(f"{refined:,}" for refined in found.refined)))
    times = {n_processes: _seconds(found, n_processes) for n_processes in (1, workers, MACHINES * workers)}
    for n_processes, seconds in times.items():
        table.append((_of_processes(n_processes, workers), *map(duration, seconds)))
    for row, errors in found.errors.items():
        label, *rest = wrap(f"se of {row}", LABEL_COLUMNS, subsequent_indent="  ")
        table.append((label, *(f"{error:.3f}" for error in errors)))
        table += [(more, *("" for _ in sizes)) for more in rest]
    took = duration(found.pilot_seconds)
    say(f"measured {len(found.pilot)} data of {name} in {took}; to expect, roughly (standard errors, se, in nats):\n")
    for line in aligned(table):
        say(line)
    memory = peak_memory()
    several = "" if workers == 1 else f", about {(workers + 1) * memory / 2**30:.1f} GiB with {workers} workers"
    say(f"\nmemory: {memory / 2**30:.1f} GiB for a process{several}{_device_memory()}")
    disk = bytes_on_disk(found.pilot, n, BLOCK) + found.fit_bytes[-1]
    say(f"disk: about {disk / 2**20:.1f} MiB with --out")
    others = [f"{other} ({len(s.ids):,})" for other, s in chosen.items() if other != name]
    if others:
        say(f"the time for each datum is the same in {', '.join(others)}")
    numbers = {
        "n": sizes, "refined": found.refined, "seconds": found.seconds,
        "seconds_of_processes": {str(key): seconds for key, seconds in times.items()}, "se": found.errors,
        "memory": memory, "disk": disk,
    }  # fmt: skip
    return {"set": name, "pilot": len(found.pilot), "pilot_seconds": found.pilot_seconds, **numbers}


def _of_processes(n_processes: int, workers: int) -> str:
    """The label of a row of times."""
    if n_processes <= workers:
        return "time" if workers == 1 else f"time, {n_processes} worker{'s' * (n_processes > 1)}"
    return f"time, {MACHINES} such machines"


def _seconds(found: Forecast, n_processes: int) -> list[float]:
    """The time of each run when processes share its blocks, of which none is divided."""
    spent = []
    for n, refined, seconds in zip(found.sizes, found.refined, found.seconds, strict=True):
        n_blocks = -(-n // BLOCK) + -(-refined // BLOCK)
        spent.append(seconds * -(-n_blocks // n_processes) / n_blocks)
    return spent


def peak_memory() -> int:
    """The most memory that this process has held so far, in bytes."""
    with suppress(OSError, StopIteration):  # Linux
        status = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in status if line.startswith("VmHWM")).split()[1])
    import resource  # not on every system, and on Linux it counts what the process held that started this one

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _device_memory() -> str:
    most = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return f", {most / 2**30:.1f} GiB on the device" if most else ""
