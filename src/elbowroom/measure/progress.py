"""The progress of a measurement: a bar on a terminal, a line in a notebook, a log in the run folder, and a warning when
it will take long.
"""

from __future__ import annotations  # signatures in help() then show types by their names

import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from ..results import PROGRESS_LOG, RunningMeans, duration

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress, ProgressColumn

__all__ = ["ProgressLike", "progress_with_notes", "reporting"]

ProgressLike: TypeAlias = Callable[[int, int], None] | Literal[False] | None
TOO_LONG = 600.0  # seconds of which the user is warned
FIRST_FORECAST = 10.0  # seconds after which the time is foretold
LOG_EVERY = 60.0  # seconds between two lines of the log
LINE_AFTER, LINE_EVERY = 4.0, 1.0  # seconds before the first line in a notebook, and between two


@contextmanager
def reporting(
    progress: ProgressLike,
    total: int,
    is_warned: bool = True,
    folder: str | Path | None = None,
    means: RunningMeans | None = None,
) -> Iterator[Callable[[float], None]]:
    """Yield a function that is told how many of the `total` data are done, also in parts of a datum.

    Args:
        progress: called with (data done, data in all); None for a bar on a terminal and a line in a notebook; False for
            neither.
        is_warned: issue a UserWarning, once, if the work will take more than ten minutes.
        folder: a run folder, in whose log a line is written every minute.
        means: shown below the bar and in the log.
    """
    means = RunningMeans() if means is None else means
    log = None if folder is None else _Log(Path(folder), total, means)
    start, warned = time.perf_counter(), not is_warned
    with _shown(progress, total, means) as show:

        def report(done: float) -> None:
            nonlocal warned
            show(done)
            if log is not None:
                log(done)
            taken = time.perf_counter() - start
            if not warned and done > 0 and taken > FIRST_FORECAST and taken * total / done > TOO_LONG:
                warned = True
                warnings.warn(
                    f"this will take about {duration(taken * total / done)} for {total:,} data. Fewer data, "
                    'plan="quick", or refine_on= take less; er.estimate_cost foretells it',
                    stacklevel=2,
                )

        report(0.0)
        yield report


class _Log:
    """A file with a line a minute: when, how many of `total` data are done, how long the others will take, and means.

    The speed is that of the last minute, since blocks that were kept from before are done at once. What cannot be
    written is left out.
    """

    def __init__(self, folder: Path, total: int, means: RunningMeans) -> None:
        self.path, self.total, self.means = folder / PROGRESS_LOG, total, means
        self._last, self._done = time.perf_counter(), 0.0

    def __call__(self, done: float) -> None:
        now = time.perf_counter()
        if now < self._last + LOG_EVERY:
            return
        speed = (done - self._done) / (now - self._last)
        left = f", {speed:.3g} a second, about {duration((self.total - done) / speed)} left" if speed > 0 else ""
        self._last, self._done = now, done
        when, means = datetime.now(UTC).isoformat(timespec="seconds"), str(self.means)
        with suppress(OSError), self.path.open("a") as file:
            file.write(f"{when} {int(done):,} of {self.total:,} data{left}{means and '; '}{means}\n")


@contextmanager
def _shown(progress: ProgressLike, total: int, means: RunningMeans) -> Iterator[Callable[[float], None]]:
    """Yield what shows the number of data done."""
    if callable(progress):
        yield lambda done: progress(int(done), total)
        return
    if progress is None and _in_notebook():
        with _line(total) as show:
            yield show
        return
    if progress is False or not sys.stderr.isatty():
        yield lambda done: None
        return
    with _bar(total, means) as show:
        yield show


@contextmanager
def _bar(total: int, means: RunningMeans) -> Iterator[Callable[[float], None]]:
    """Yield what moves a bar on standard error, which is a terminal, with the means below it."""
    from rich.console import Console  # here, since importing it draws from the random module
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("data"),
        TimeRemainingColumn(), TextColumn("left"),
    )  # fmt: skip
    console = Console(stderr=True)
    with progress_with_notes(*columns, console=console, transient=True, redirect_stdout=False) as bar:
        task = bar.add_task("measuring", total=total, below="")
        yield lambda done: bar.update(task, completed=int(done), below=str(means))


def progress_with_notes(*columns: ProgressColumn | str, console: Console, **options: bool) -> Progress:
    """Bars of rich with a line below those whose field `below` says something."""
    from rich.progress import Progress
    from rich.text import Text

    class ProgressWithNotes(Progress):
        def get_renderables(self) -> Iterator[RenderableType]:
            for task in self.tasks:
                yield self.make_tasks_table([task])
                if task.fields.get("below") and not task.finished:
                    yield Text(f"  {task.fields['below']}", style="dim")

    return ProgressWithNotes(*columns, console=console, **options)  # type: ignore[arg-type]


@contextmanager
def _line(total: int) -> Iterator[Callable[[float], None]]:
    """Yield what writes a line over itself, at most once a second, and clears it in the end. Short work has none."""
    start = time.perf_counter()
    last: float | None = None

    def show(done: float) -> None:
        nonlocal last
        now = time.perf_counter()
        if now < (start + LINE_AFTER if last is None else last + LINE_EVERY):
            return
        last = now
        left = f", about {duration((now - start) * (total - done) / done)} left" if done > 0 else ""
        print(f"\r{int(done):,} of {total:,} data{left}      ", end="", file=sys.stderr, flush=True)

    yield show
    if last is not None:
        print("\r" + " " * 60 + "\r", end="", file=sys.stderr, flush=True)


def _in_notebook() -> bool:
    """Whether a notebook's kernel runs this."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"
