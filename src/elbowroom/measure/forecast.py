"""Forecasts from a pilot of a few data: what a measurement will cost, and how precise its means will be.

A gradient on few rows costs more per row than one on a whole block, by a ratio that depends on the network and the
machine. This ratio is timed, and the time of the pilot is scaled by it.
"""

import operator
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..core import BLOCK, Data, Rows, as_data, n_data, normal, read_rows, seeded, select_rows, unit_of
from ..evidence import check_door, prepared
from ..models import LatentModel, latent_size, log_joint_and_grad
from ..posteriors import Local, PosteriorLike
from ..results import Gaps, duration
from .double_sampling import combine, expected_se, second_phase_seed
from .filling import measured
from .known_fits import fit_bytes
from .measurement import Phase
from .plan import Plan, PlanLike, as_plan
from .progress import ProgressLike, reporting

__all__ = ["PILOT", "Forecast", "estimate_cost", "forecast"]

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
        fit_bytes: about how many bytes the fits take that each run keeps, if it is saved as it is measured.
        pilot: the measurement of the pilot.
        pilot_seconds: time that the pilot took.
    """

    sizes: tuple[int, ...]
    refined: tuple[int, ...]
    seconds: tuple[float, ...]
    errors: Mapping[str, tuple[float, ...]]
    fit_bytes: tuple[int, ...]
    pilot: Gaps
    pilot_seconds: float

    def __str__(self) -> str:
        parts = []
        for i, (size, seconds) in enumerate(zip(self.sizes, self.seconds, strict=True)):
            errors = ", ".join(f"{name} {each[i]:.3f}" for name, each in self.errors.items())
            parts.append(f"{size:,} data: about {duration(seconds)}; standard errors to expect, in nats: {errors}")
        return "\n".join(parts)


def estimate_cost(
    model: LatentModel,
    q: PosteriorLike,
    x: Data,
    plan: PlanLike = "standard",
    seed: int = 0,
    kl_weight: float = 1.0,
    refine_on: int | None = None,
    refine_plan: PlanLike = "standard",
    progress: ProgressLike = None,
) -> Forecast:
    """How long `decompose` with these arguments will take, and how precise its means will be, from a pilot of 8 data.

    Args:
        model, q, x, plan, seed, kl_weight, refine_on, refine_plan, progress: as in `decompose`.
    Returns:
        A `Forecast` for all N data in x, which prints as a sentence; its `seconds` hold the time.
    Raises:
        CheckError: a model, posterior or data that cannot be right; it is a ValueError.
        ValueError: no data, an unknown plan, or a pilot without a finite value.
    """
    check_door(model, q, x)
    sizes = (n_data(as_data(x)),)
    return forecast(model, q, x, sizes, plan, seed, kl_weight, refine_on, refine_plan, progress)


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
    progress: ProgressLike = None,
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
    with reporting(progress, few * len(plans), is_warned=False) as show:
        for i, (one, draws) in enumerate(plans):

            def report(done: float, before: int = i * few) -> None:
                show(before + done)

            start = time.perf_counter()
            phase = Phase(name="pilot", model=model, q=own, x=head, plan=one, seed=draws, kl_weight=kl_weight)
            found.append(measured(phase, report, size=few))
            spent.append(time.perf_counter() - start)
    pilot = found[0] if refine_on is None else combine(found[0], found[1], np.arange(few))
    refined = tuple(0 if refine_on is None else min(refine_on, size) for size in sizes)
    counts = [sizes, refined]
    seconds = np.sum(
        [[cost * _times(n, few, ratio) for n in each] for cost, each in zip(spent, counts, strict=False)], axis=0
    )
    bytes_of_a_datum = [fit_bytes(one, latent_size(model)) for one, _ in plans]
    fits = [sum(map(operator.mul, bytes_of_a_datum, both)) for both in zip(*counts, strict=True)]
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
        fit_bytes=tuple(fits),
        pilot=pilot,
        pilot_seconds=sum(spent),
    )


def _times(n: int, few: int, ratio: float) -> float:
    """How many times longer n data take than the pilot of `few`: whole blocks, and a smaller unit for the rest."""
    whole, rest = divmod(n, BLOCK)
    share = (unit_of(rest) - few) / (BLOCK - few) if rest else 0.0
    return whole * ratio + (1 + max(share, 0.0) * (ratio - 1) if rest else 0.0)


def _block_over_pilot(model: LatentModel, q: PosteriorLike, head: Rows, few: int) -> float:
    """How many times longer a gradient takes on a block of `BLOCK` data than on the pilot's."""
    with prepared(model, q, head, size=few) as (_, blocks):
        block = blocks[0]
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
