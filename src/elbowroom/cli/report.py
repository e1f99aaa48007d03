"""`elbowroom report`: saved runs, printed again."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ..results import load_gaps
from .show import show
from .terminal import UserError

__all__ = ["report_command"]


def report_command(*folders: Annotated[Path, Parameter(name="FOLDER")]) -> None:
    """The command; `app.HELP` says what it does.

    Args:
        folders: Run folders, or folders of run folders such as that of the demo.
    """
    if not folders:
        raise UserError("report needs the folder of a run")
    show({str(run): load_gaps(run) for folder in folders for run in _runs_in(folder)})


def _runs_in(folder: Path) -> list[Path]:
    """The folder itself where it is a run or nothing better, else the runs directly in it."""
    inside = sorted(path.parent for path in folder.glob("*/run.json"))
    return [folder] if (folder / "run.json").exists() or not inside else inside
