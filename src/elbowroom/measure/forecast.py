"""Forecasts from a pilot of a few data: what a measurement will cost, and how precise its means will be.

A gradient on few rows costs more per row than one on a whole block, by a ratio that depends on the network and the
machine. This ratio is timed, and the time of the pilot is scaled by it.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..core import BLOCK, Data, Rows, as_data, n_data, normal, read_rows, seeded, select_rows
from ..evidence import prepared
from ..models import LatentModel, latent_size, log_joint_and_grad
from ..posteriors import Local, PosteriorLike
from ..results import Gaps
from .decompose import measured
from .double_sampling import combine, expected_se, second_phase_seed
from .plan import Plan, PlanLike, as_plan

__all__ = ["PILOT", "Forecast", "forecast"]

PILOT = 8  # data in the pilot, which give their spread to about a quarter
DRAWS = 16  # draws of z for each datum in the gradients that are timed
TIMED_SECONDS = 0.3  # spent on timing each of the two gradients


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """The forecast for runs of several sizes.

    Attributes:
        sizes: numbers of data of the runs.
        refined: how many data of each run are refined; 0 in a run of one plan.
        seconds: time of each run.
        errors: standard errors of the mean in nats, one for each run, by the name of the row.
        pilot: the measurement of the pilot.
        pilot_seconds: time that the pilot took.
    """

    sizes: tuple[int, ...]
    refined: tuple[int, ...]
    seconds: tuple[float, ...]
    errors: Mapping[str, tuple[float, ...]]
    pilot: Gaps
    pilot_seconds: float


def forecast(
    model: LatentModel,
    q: PosteriorLike,
    x: Data,
    sizes: Sequence[int],
    plan: PlanLike = "standard",
    seed: int = 0,
    kl_weight: float = 1.0,
    refine_on: int | None = None,
    refine_plan: PlanLike = "standard",
    progress: Callable[[int, int], None] | None = None,
) -> Forecast:
    """Measure the first `PILOT` of N data as `decompose` would, and forecast runs of `sizes` data.

    The other arguments are those of `decompose`; `progress` counts the data of the pilot.

    Raises:
        ValueError: no data, an unknown plan, or a pilot without a finite value (with `refine_on`, with fewer than two).
    """
    data = as_data(x)
    few = min(n_data(data), PILOT)
    first = torch.arange(few)
    head, own = read_rows(data, first), q.rows(first) if isinstance(q, Local) else q
    plans: list[tuple[Plan, int]] = [(as_plan(plan), seed)]
    if refine_on is not None:
        plans.append((as_plan(refine_plan), second_phase_seed(seed)))
    ratio = _block_over_pilot(model, own, head, few)
    found: list[Gaps] = []
    spent: list[float] = []
    for i, (one, draws) in enumerate(plans):

        def report(done: int, before: int = i * few) -> None:
            if progress is not None:
                progress(before + done, few * len(plans))

        start = time.perf_counter()
        found.append(measured(model, own, head, one, draws, kl_weight, report, size=few))
        spent.append(time.perf_counter() - start)
    pilot = found[0] if refine_on is None else combine(found[0], found[1], np.arange(few))
    refined = tuple(0 if refine_on is None else min(refine_on, size) for size in sizes)
    blocks = [[-(-size // BLOCK) for size in sizes], [-(-n // BLOCK) for n in refined]]
    seconds = np.sum([ratio * cost * np.array(n) for cost, n in zip(spent, blocks, strict=False)], axis=0)
    rows = {"L[q]": pilot.elbo, **pilot.steps, "log p(x)": pilot.log_evidence}
    errors = {
        name: tuple(expected_se(estimate, size, n or size) for size, n in zip(sizes, refined, strict=True))
        for name, estimate in rows.items()
    }
    return Forecast(
        sizes=tuple(sizes),
        refined=refined,
        seconds=tuple(seconds.tolist()),
        errors=errors,
        pilot=pilot,
        pilot_seconds=sum(spent),
    )


def _block_over_pilot(model: LatentModel, q: PosteriorLike, head: Rows, few: int) -> float:
    """How many times longer a gradient takes on a block of `BLOCK` data than on the pilot's."""
    with prepared(model, q, head, size=few) as (_, blocks):
        block = next(blocks)
        z = normal((DRAWS, few, latent_size(model)), seeded(0, "forecast"), block.like)
        rows = torch.arange(BLOCK, device=z.device) % few
        wide = select_rows(block.x, rows)
        return _seconds_of(lambda: log_joint_and_grad(model, wide, z[:, rows])) / _seconds_of(
            lambda: log_joint_and_grad(model, block.x, z)
        )


def _seconds_of(call: Callable[[], object]) -> float:
    """The median time of a call, after one that does not count."""
    call()
    times: list[float] = []
    end = time.perf_counter() + TIMED_SECONDS
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return float(np.median(times))
