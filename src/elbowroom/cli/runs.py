"""`elbowroom runs`: the runs below a folder."""

from dataclasses import asdict
from pathlib import Path

from ..results import Row, RunState, aligned, run_states
from .options import Switch
from .terminal import UserError, json_object, say

__all__ = ["runs_command"]

COLUMNS = ("run", "state", "plan", "how far", "when (UTC)", "by")


def runs_command(folder: Path = Path("."), /, *, json: Switch = False) -> None:
    """The command; `app.HELP` says what it does.

    Args:
        folder: The folder to look in, at any depth.
        json: Print one JSON object on standard output, and the table on standard error.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: expected a folder with runs in it, and there is none")
    found = run_states(folder)
    if not found:
        raise UserError(f"{folder} holds no run; elbowroom gaps --out FOLDER makes one")
    with json_object(json) as record:
        for line in aligned([COLUMNS, *map(_row, found)], n_left=len(COLUMNS)):
            say(line)
        record["runs"] = [asdict(run) | {"folder": str(run.folder)} for run in found]


def _row(run: RunState) -> Row:
    when = "" if run.written is None else run.written[:16].replace("T", " ")
    return str(run.folder), run.state, run.plan or "", _how_far(run), when, _by_whom(run)


def _by_whom(run: RunState) -> str:
    if len(run.owners) < 2:
        return "".join(map(str, run.owners))
    hosts = sorted({owner.host for owner in run.owners})
    return f"{len(run.owners)} processes on " + (hosts[0] if len(hosts) == 1 else f"{len(hosts)} machines")


def _how_far(run: RunState) -> str:
    if run.n is not None:
        return f"{run.n:,} data"
    if run.blocks is None:
        return "nothing yet"
    return f"{run.blocks:,} of {run.n_blocks:,} blocks" if run.n_blocks else f"{run.blocks:,} blocks"
