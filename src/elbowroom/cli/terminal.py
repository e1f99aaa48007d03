"""What the command line shows, and how it fails.

Results go to standard output, progress and errors to standard error, so that a table can be piped; with --json one JSON
object goes to standard output, and all else to standard error. An error that a user can mend is one line, "elbowroom:
error: ...", below it the lines of code that it advises, and exit code 2, and a warning is one line too. Anything else
keeps its traceback.
"""

import json
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

__all__ = [
    "Advance", "FactoryError", "UserError", "bars", "drop_stdout", "fail", "is_message", "json_object",
    "say", "show_warning",
]  # fmt: skip

Advance = Callable[..., None]  # (done, total, note="", below="")
OWN_CODE = Path(__file__).parents[1]
CODE = "\n    "  # begins a line of code in a message


class UserError(Exception):
    """Something the user asked for that cannot be done; its text is the whole message."""


class FactoryError(UserError):
    """A user's module or factory that raised; `shown` is its traceback, for the fault is in their code."""

    def __init__(self, text: str, shown: str) -> None:
        super().__init__(text)
        self.shown = shown


def say(text: str = "") -> None:
    """Print a line of the result on standard output, as it is. Raises UserError if it cannot be written."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        drop_stdout()
        raise UserError(f"standard output cannot be written to ({error.strerror or error})") from None


def drop_stdout() -> None:
    """Send the rest of standard output nowhere: Python would try once more to write it as it exits, and complain."""
    with suppress(OSError, ValueError):  # in a test standard output may be no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def fail(error: BaseException) -> int:
    """Print an error as one line on standard error, with the lines of code that it advises. Returns exit code 2."""
    if isinstance(error, FactoryError):
        print(error.shown, file=sys.stderr, end="")
    text, *code = str(error).split(CODE)
    print("elbowroom: error: " + CODE.join([" ".join(text.split()), *code]), file=sys.stderr, flush=True)
    return 2


def show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """In place of `warnings.showwarning`: one line on standard error, without the place in elbowroom's code."""
    if Path(filename).is_relative_to(OWN_CODE):
        shown = f"elbowroom: warning: {' '.join(str(message).split())}\n"
    else:
        shown = warnings.formatwarning(message, category, filename, lineno, line)
    print(shown, file=file or sys.stderr, end="", flush=True)


def is_message(error: BaseException) -> bool:
    """Whether elbowroom raised this, as a message to the user; an error inside torch or a user's model is not one."""
    from ..core import raised_here  # with torch, which a command that raises has loaded

    return raised_here(error)


@contextmanager
def json_object(wanted: bool) -> Iterator[dict[str, Any]]:
    """Yield a record to fill. If it is `wanted`, it is printed at the end as one JSON object, and all that is printed
    meanwhile goes to standard error.
    """
    record: dict[str, Any] = {}
    if not wanted:
        yield record
        return
    with redirect_stdout(sys.stderr):
        yield record
    say(json.dumps(_strict(record), allow_nan=False))


@contextmanager
def bars(unit: str) -> Iterator[Callable[[str, int], Advance]]:
    """Progress bars with the time that is left: `add(label, total)` -> advance(done, total, note="", below="").

    Where standard error is no terminal there is a line when a bar is added, and nothing that moves.
    """
    from ..measure import progress_with_notes  # with torch, which a command that has bars has loaded

    console = Console(stderr=True)
    parts = (
        TextColumn("{task.description}"), BarColumn(bar_width=None), MofNCompleteColumn(), TextColumn(unit),
        TimeRemainingColumn(), TextColumn("left"), TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    with progress_with_notes(
        *parts, console=console, transient=True, disable=not console.is_terminal, redirect_stdout=False, expand=True
    ) as progress:

        def add(label: str, total: int) -> Advance:
            if not console.is_terminal:
                print(f"{label}: {total} {unit} ...", file=sys.stderr, flush=True)
            task = progress.add_task(label, total=total, note="", below="")

            def advance(done: int, total: int, note: str = "", below: str = "") -> None:
                progress.update(task, completed=done, total=total, note=note, below=below)

            return advance

        yield add


def _strict(value: Any) -> Any:
    """The same value with None for every number that is not finite, which JSON cannot hold."""
    if isinstance(value, Mapping):
        return {str(key): _strict(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
