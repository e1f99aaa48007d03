"""What the command line shows, and how it fails.

Results go to standard output, progress and errors to standard error, so that a table can be piped. An error that a user
can mend is one line, "elbowroom: error: ...", and exit code 2. Anything else keeps its traceback.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

__all__ = ["Advance", "UserError", "bars", "duration", "fail", "is_message", "say"]

Advance = Callable[..., None]  # (done, total, note="")


class UserError(Exception):
    """Something the user asked for that cannot be done; its text is the whole message."""


def say(text: str = "") -> None:
    """A line of the result, on standard output, as it is."""
    print(text, flush=True)


def fail(message: object) -> int:
    """Print one line on standard error -> exit code 2."""
    print("elbowroom: error: " + " ".join(str(message).split()), file=sys.stderr, flush=True)
    return 2


def is_message(error: BaseException) -> bool:
    """Whether elbowroom raised this, as a message to the user; an error inside torch or a user's model is not one."""
    from ..core import raised_here  # with torch, which a command that raises has loaded

    return raised_here(error)


@contextmanager
def bars(unit: str) -> Iterator[Callable[[str, int], Advance]]:
    """Progress bars with elapsed and remaining time: `add(label, total)` -> advance(done, total, note="").

    Where standard error is no terminal there is a line when a bar is added, and nothing that moves.
    """
    console = Console(stderr=True)
    parts = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeElapsedColumn(),
        TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    with Progress(*parts, console=console, transient=True, disable=not console.is_terminal) as progress:

        def add(label: str, total: int) -> Advance:
            if not console.is_terminal:
                print(f"{label}: {total} {unit} ...", file=sys.stderr, flush=True)
            task = progress.add_task(label, total=total, note="")

            def advance(done: int, total: int, note: str = "") -> None:
                progress.update(task, completed=done, total=total, note=note)

            return advance

        yield add


def duration(seconds: float) -> str:
    """A time to two figures that matter.

    >>> duration(0.42), duration(42), duration(150), duration(9000)
    ('0.4 s', '42 s', '2 min 30 s', '2 h 30 min')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
