"""A measurement in a run folder: what makes it the same one later, how processes share it, and how it is saved."""

import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from ..core import BLOCK, Blocks, forked, normal, read_rows, seeded
from ..evidence import prepared_pair
from ..models import latent_size, log_joint
from ..posteriors import Local
from ..results import (
    BLOCKS,
    SCHEMA,
    Gaps,
    KeptFits,
    Parts,
    Presence,
    RunError,
    RunningMeans,
    begin_next_plan,
    is_followed,
    refuse_occupied,
    write_run,
)
from .block_ladder import fingerprint
from .filling import KeptPhase, Share, kept_phase, measured
from .measurement import Measurement, Phase
from .plan import adds_flows, what_decides_gaussians

__all__ = ["BlockKey", "Helpers", "KeptRun", "follow", "kept_run", "unkept_run"]

BlockKey: TypeAlias = tuple[str, int]  # the phase and the number of a block
Helpers: TypeAlias = Callable[[Callable[[float], list[BlockKey]]], Mapping[BlockKey, str]]  # see `KeptRun.measure`
TRIES, BETWEEN_TRIES = 10, 0.2  # of a process to be alone in a folder, and seconds between them
ROWS_OF_PROBE = 8  # with a single row some decoders lose a dimension


def unkept_run(
    asked: Measurement,
    report: Callable[[float], None],
    unverified: Sequence[str] = (),
    means: RunningMeans | None = None,
) -> Gaps:
    """Measure all data in memory. The arguments are those of `kept_run` and `KeptRun.measure`.

    Raises:
        ValueError: no datum has a finite value on every rung.
    """
    start = time.perf_counter()
    found = [
        measured(phase, partial(_counting_on, report, phase.before), means=_of_first(phase, means))
        for phase in asked.phases
    ]
    return asked.result(found, unverified, time.perf_counter() - start)


@contextmanager
def kept_run(
    asked: Measurement, out: str | Path, share: Share | None = None, means: RunningMeans | None = None
) -> Iterator["KeptRun"]:
    """A context in which this process measures into a run folder, beside others that do the same.

    Args:
        share: measure these blocks alone; None for all.
        means: told of each block of the first phase that is there.
    Raises:
        RunError: the folder holds another run or other files, or cannot be written to, or its run is being replaced.
    """
    folder = Path(out)
    with ExitStack() as stack:
        try:
            refuse_occupied(folder, overwrite=(folder / BLOCKS).is_dir(), keep_blocks=True)
            folder.mkdir(parents=True, exist_ok=True)
            presence = stack.enter_context(Presence(folder))
        except OSError as error:
            raise RunError(
                f"{folder} cannot be written to ({error.strerror or error}); nothing was measured. Name another folder."
            ) from None
        identity, probe = _identity(asked), _probe(asked)
        phases = []
        for phase in asked.phases:
            own = {**identity, "phase": phase.name}
            place = folder / BLOCKS / phase.name
            parts = Parts(place, own, probe, phase.n_blocks, presence)
            fits = KeptFits(place, {**own, "plan": what_decides_gaussians(asdict(phase.plan))})
            phases.append(stack.enter_context(kept_phase(phase, parts, fits, share, _of_first(phase, means))))
        yield KeptRun(asked, folder, phases, presence)


def follow(asked: Measurement, out: str | Path) -> None:
    """Give a run folder to another plan, if the plan of its run is the same but for flows that it does not fit.

    The fits of Gaussians stay, so that they are not made again; the blocks are removed, and a table that was saved is
    replaced when the new one is there. A folder of any other run is left as it is.

    Raises:
        RunError: another process measures into the folder, or it holds blocks of other data or of more of them, or it
            cannot be written to.
    """
    folder = Path(out)
    places = {folder / BLOCKS / phase.name: phase for phase in asked.phases}
    if not all(os.path.isdir(place) for place in places):
        return
    identity, probe = _identity(asked), _probe(asked)

    def to_do() -> list[tuple[Path, Phase]]:
        return [
            (place, phase)
            for place, phase in places.items()
            if is_followed(place, {**identity, "phase": phase.name}, probe, adds_flows)
        ]

    for tries_left in range(TRIES - 1, -1, -1):
        if not to_do():
            return
        try:
            with Presence(folder, is_replacing=True):
                for place, phase in to_do():
                    own = {**identity, "phase": phase.name}
                    with prepared_pair(phase.model, phase.q, phase.x) as (_, blocks):
                        begin_next_plan(place, own, probe, phase.n_blocks, partial(_prints, blocks))
        except OSError as error:
            raise RunError(f"{folder} cannot be written to ({error.strerror or error}). Name another folder.") from None
        except RunError:  # another one begins the same, or measures by the plan before
            if not tries_left:
                raise
            time.sleep(BETWEEN_TRIES * (1 + random.random()))  # two that begin at once do not try at once again


def _prints(blocks: Blocks, number: int) -> NDArray[np.int64]:
    block = blocks[number]
    return fingerprint(block)[: block.rows]


class KeptRun:
    """A measurement in a run folder; `kept_run` makes it."""

    def __init__(self, asked: Measurement, folder: Path, phases: Sequence[KeptPhase], presence: Presence) -> None:
        self.folder = folder
        self._asked, self._phases, self._presence = asked, phases, presence

    def measure(
        self, report: Callable[[float], None], unverified: Sequence[str] = (), helpers: Helpers | None = None
    ) -> Gaps | None:
        """Measure the blocks that are not there -> the result, or None if others than the own ones are missing.

        Args:
            report: called with the number of data done.
            unverified: notes of what `check` could not verify.
            helpers: measures blocks by other processes, before this one measures what is left. It is given a function
                to call from time to time, with the number of data done as far as it knows -> the blocks left; and
                returns the error of each block that it gave up. The data of those are left out, and a note says so.
        Raises:
            RunError: the folder holds blocks of other data, or of more of them.
            ValueError: no datum has a finite value on every rung.
        """
        start = time.perf_counter()
        for phase in self._phases:
            phase.verify()

        def left(done: float) -> list[BlockKey]:
            for phase in self._phases:
                phase.look()
            report(max(done, sum(phase.own.rows_done() for phase in self._phases)))
            return [(phase.name, number) for phase in self._phases for number in phase.own.missing()]

        left(0.0)
        failed = {} if helpers is None else helpers(left)
        for phase in self._phases:
            phase.given_up = {number for name, number in failed if name == phase.name}
            phase.fill(report)
        if self.missing() > len(failed):
            return None
        found = [phase.collect() for phase in self._phases]
        notes = [f"{_data_of(key)} could not be measured: {text}" for key, text in failed.items()]
        return self._asked.result(found, [*unverified, *notes], time.perf_counter() - start)

    def measure_block(self, key: BlockKey) -> None:
        """Measure one block if it is not there; one that another process measures is waited for.

        Raises:
            BlockNotKept: it could not be written; it is a RunError.
        """
        name, number = key
        next(phase for phase in self._phases if phase.name == name).fill_one(number)

    def fill(self, report: Callable[[float], None], waits: bool = True) -> None:
        """Measure the blocks that are not there, without reading those that are, and without a result.

        Args:
            report: called with the number of data done, by whomever.
            waits: until the blocks are there that others have claimed, and take over those of dead processes.
        Raises:
            BlockNotKept: a block could not be written; it is a RunError.
        """
        for phase in self._phases:
            phase.fill(report, in_memory=False, waits=waits)

    def missing(self) -> int:
        """How many blocks are not there, the own ones and others."""
        return sum(len(phase.all.missing()) for phase in self._phases)

    def save(self, gaps: Gaps) -> None:
        """Write the table of the finished run.

        Raises:
            OSError, TypeError, ValueError: of the disk, or of groups and labels that no table can hold.
        """
        with self._phases[0].alone():
            write_run(self.folder, *gaps.to_columns(), overwrite=True, keep_blocks=True)
        for phase in self._phases:
            phase.release()
        self._presence.sweep()


def _data_of(key: BlockKey) -> str:
    name, number = key
    sample = "" if name == "first" else " of the sample that is refined"
    return f"data {number * BLOCK} to {(number + 1) * BLOCK - 1}{sample}"


def _of_first(phase: Phase, means: RunningMeans | None) -> RunningMeans | None:
    """The means of a sample that is refined are not those of the data."""
    return means if phase.before == 0 else None


def _counting_on(report: Callable[[float], None], before: int, done: float) -> None:
    report(before + done)


def _identity(asked: Measurement) -> dict[str, Any]:
    """What must be the same for blocks of two measurements to be those of one, but the data, which each block knows."""
    known, refined = asked.identity, asked.refine_on
    return {
        "schema": SCHEMA,
        "version of elbowroom": _own_version(),
        "block size": BLOCK,
        "model": known["model"],
        "posterior": known["posterior"],
        "plan": known["plans"],
        "seed": int(asked.seed),
        "kl_weight": float(asked.kl_weight),
        "number of refined data and of all": None if refined is None else [int(refined), asked.n],
    }


def _probe(asked: Measurement) -> dict[str, list[float]]:
    """Numbers that the code of a model and a q decide: log p(x, z) of the first datum, a draw of its q, and log q."""
    model, q = asked.model, asked.q
    first = torch.arange(min(asked.n, ROWS_OF_PROBE))
    own, head = q.rows(first) if isinstance(q, Local) else q, read_rows(asked.x, first)
    with prepared_pair(model, own, head, size=len(first)) as (posterior, blocks), forked(0), torch.no_grad():
        block = blocks[0]
        z = normal((2, len(first), latent_size(model)), seeded(0, "probe"), block.like, data_axis=1)
        joint, dist = log_joint(model, block.x, z), posterior(block.x)
        noise = normal((2, len(first), dist.noise_size), seeded(0, "probe of q"), block.like, data_axis=1)
        drawn, log_q = dist.rsample_and_log_q(noise)
    return {"log p(x, z)": joint[:, 0].tolist(), "draw of q": [*log_q[:, 0].tolist(), *drawn[0, 0].tolist()]}


def _own_version() -> str | None:
    try:
        return version("elbowroom")
    except PackageNotFoundError:
        return None
