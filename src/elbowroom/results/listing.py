"""The runs below a folder, and how far each of them is."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .claims import Owner, owners_in, seems_alive
from .parts import blocks_promised
from .store import BLOCKS, WORKERS

__all__ = ["RunState", "run_folders", "run_states"]


@dataclass(frozen=True, kw_only=True)
class RunState:
    """What a run folder says of itself.

    Attributes:
        folder: where it is.
        state: "finished", "being measured" or "stopped".
        plan: the name of the plan; None where it is not known yet.
        n: the number of data of a finished run.
        blocks, n_blocks: how many blocks of data are kept, and how many there will be; None where none are kept.
        written: when the run was finished, or its last block written, in ISO format; None if nothing was.
        owners: the processes that measure into the folder.
    """

    folder: Path
    state: str
    plan: str | None = None
    n: int | None = None
    blocks: int | None = None
    n_blocks: int | None = None
    written: str | None = None
    owners: tuple[Owner, ...] = ()


def run_folders(folder: Path) -> list[Path]:
    """All folders with a run, whole or begun, at or below a folder."""
    found = {path.parent for name in ("run.json", WORKERS, BLOCKS) for path in folder.rglob(name)}
    return sorted(found)


def run_states(folder: Path) -> list[RunState]:
    """The state of every run at or below a folder."""
    return [_state(run) for run in run_folders(folder)]


def _state(folder: Path) -> RunState:
    owners = tuple(owner for owner in owners_in(folder) if seems_alive(folder, owner))
    blocks, n_blocks, plan, written = blocks_promised(folder / BLOCKS)
    record = _record(folder)
    if record is None or owners:
        return RunState(
            folder=folder, state="being measured" if owners else "stopped", plan=plan, blocks=blocks,
            n_blocks=n_blocks, written=written, owners=owners,
        )  # fmt: skip
    return RunState(
        folder=folder, state="finished", plan=record.get("plan"), n=record.get("n"), written=record.get("written")
    )


def _record(folder: Path) -> dict[str, Any] | None:
    """The record of a finished run; None if there is none that can be read."""
    try:
        record = json.loads((folder / "run.json").read_text())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None
