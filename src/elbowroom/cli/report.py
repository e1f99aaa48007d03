"""`elbowroom report`: print saved runs again."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ..results import Gaps, RunError, load_gaps, run_folders
from .options import Switch
from .show import runs_record, show
from .terminal import UserError, fail, json_object

__all__ = ["report_command"]


def report_command(*folders: Annotated[Path, Parameter(name="FOLDER")], json: Switch = False) -> int:
    """The command; `app.HELP` says what it does.

    Args:
        folders: Run folders, or folders with runs anywhere below them.
        json: Print one JSON object on standard output, and the tables on standard error.
    """
    if not folders:
        raise UserError("report needs the folder of a run")
    runs: dict[str, Gaps] = {}
    damaged: list[RunError] = []
    for run in dict.fromkeys(run for folder in folders for run in _runs_in(folder)):
        try:
            runs[str(run)] = load_gaps(run)
        except RunError as error:
            damaged.append(error)
    if not runs:
        raise damaged[0]
    with json_object(json) as record:
        show(runs)
        record |= runs_record(runs, {name: Path(name) for name in runs})
        record["damaged"] = [str(error) for error in damaged]
    for fault in damaged:  # after the good ones, which they do not hide
        fail(fault)
    return 2 if damaged else 0


def _runs_in(folder: Path) -> list[Path]:
    """The folder itself where it is a run or nothing better, else every run below it, interrupted ones too."""
    if not folder.is_dir() or (folder / "run.json").exists():
        return [folder]
    return run_folders(folder) or [folder]
