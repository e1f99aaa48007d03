"""`elbowroom gaps --dry-run`: what a measurement will cost, and how well it will know its means."""

import sys
from collections.abc import Callable, Mapping
from textwrap import wrap
from typing import Any

import torch

from ..core import BLOCK
from ..measure import PILOT, Forecast, PlanName
from ..results import aligned, duration
from .data_spec import Sample
from .terminal import UserError, bars, say

__all__ = ["dry_run_of"]

LABEL_COLUMNS = 24  # a longer label goes on in the next line
SIZES = (100, 1000)  # numbers of data that are foretold beside that of the sample


def dry_run_of(
    foretell: Callable[..., Forecast],
    chosen: Mapping[str, Sample],
    plan: PlanName,
    refine_on: int | None,
    refine_plan: PlanName,
) -> dict[str, Any]:
    """Print what the first set says of all -> the same as a record. `foretell` is `forecast` of a model."""
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
    table.append(("time", *map(duration, found.seconds)))
    for row, errors in found.errors.items():
        label, *rest = wrap(f"se of {row}", LABEL_COLUMNS, subsequent_indent="  ")
        table.append((label, *(f"{error:.3f}" for error in errors)))
        table += [(more, *("" for _ in sizes)) for more in rest]
    took = duration(found.pilot_seconds)
    say(f"measured {len(found.pilot)} data of {name} in {took}; to expect, roughly (standard errors, se, in nats):\n")
    for line in aligned(table):
        say(line)
    say(f"\nmemory: {_peak_memory()} so far; a run holds {BLOCK} data at a time")
    others = [f"{other} ({len(s.ids):,})" for other, s in chosen.items() if other != name]
    if others:
        say(f"the time for each datum is the same in {', '.join(others)}")
    numbers = {"n": sizes, "refined": found.refined, "seconds": found.seconds, "se": found.errors}
    return {"set": name, "pilot": len(found.pilot), "pilot_seconds": found.pilot_seconds, **numbers}


def _peak_memory() -> str:
    """The most memory that this process has held so far."""
    import resource  # not on every system

    unit = 1 if sys.platform == "darwin" else 1024
    text = f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30:.1f} GiB"
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        text += f", {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB on the device"
    return text
