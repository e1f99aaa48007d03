"""Worker processes on this machine, which fill a folder while the process that started them watches.

They share nothing with it but the folder, and a pipe each for what they report. A worker that is killed breaks no lock
and loses its own block alone. A worker whose starter is gone ends by itself.
"""

import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from threading import Thread
from typing import Literal, Self, TypeAlias

from ..core import raised_here
from ..measure import BlockKey
from .connection import WorkersError

__all__ = ["LOOK_EVERY", "Crew", "Left", "Report"]

Left: TypeAlias = Callable[[float], Collection[BlockKey]]  # (data done as far as is known) -> the blocks that are left
Report: TypeAlias = Callable[[str, float], None]  # (what is measured, data done)
StartMethod: TypeAlias = Literal["forkserver", "spawn"]
LOOK_EVERY = 0.25  # seconds between two looks at what is done
PATIENCE = 10.0  # seconds in which a worker that is asked to end does so


class Crew:
    """A context with worker processes, started when they are first waited for.

    Args:
        job: what each of them does, a function that can be pickled; it is called with a `Report`.
        n: their number.
        start_method: how their processes are started, as `multiprocessing` calls it.
    """

    def __init__(self, job: Callable[[Report], None], n: int, start_method: StartMethod = "spawn") -> None:
        self._job, self._n, self._start_method = job, n, start_method
        self._processes: dict[Connection, BaseProcess] = {}
        self._done: dict[str, float] = {}
        self._n_killed = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes.values():
            process.terminate()
        deadline = time.monotonic() + PATIENCE
        for pipe, process in self._processes.items():
            process.join(max(0.0, deadline - time.monotonic()))
            process.kill()
            pipe.close()

    def work(self, name: str, left: Left) -> Mapping[BlockKey, str]:
        """Let them work until nothing is left -> the errors of blocks that were given up, which are none.

        Args:
            name: what is measured, as they report it.
            left: called with the data done as they report it -> the blocks that are left.
        Raises:
            WorkersError: an error stopped one of them, or all of them were killed.
        """
        if left(0.0) and not self._processes and not self._n_killed:
            self._start()
        while left(self._done.get(name, 0.0)):
            if not self._processes:
                if self._n_killed:
                    raise WorkersError(
                        "all worker processes were killed, as a system does that runs out of memory. Try fewer of them"
                    )
                break  # they have ended, and their starter measures what is left
            for pipe in wait(list(self._processes), LOOK_EVERY):
                assert isinstance(pipe, Connection)
                self._read(pipe)
        return {}

    def _start(self) -> None:
        context = get_context("forkserver") if self._start_method == "forkserver" else get_context("spawn")
        for _ in range(self._n):
            here, there = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(self._job, there), daemon=True)
            process.start()
            there.close()
            self._processes[here] = process

    def _read(self, pipe: Connection) -> None:
        """Take what a worker has sent, or notice that it has ended."""
        try:
            what, value = pipe.recv()
        except (EOFError, OSError):
            process = self._processes.pop(pipe)
            process.join()
            pipe.close()
            if process.exitcode:
                self._n_killed += 1
                warnings.warn(
                    f"a worker process was killed ({_how(process.exitcode)}); the others take over its block",
                    stacklevel=4,
                )
            return
        if what == "error":
            raise WorkersError(*value)
        self._done[what] = max(value, self._done.get(what, 0.0))


def _how(exitcode: int) -> str:
    return f"signal {-exitcode}" if exitcode < 0 else f"exit code {exitcode}"


def _work(job: Callable[[Report], None], pipe: Connection) -> None:
    """The life of a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches its starter too, which then ends it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    Thread(target=_end_with_starter, daemon=True).start()
    sys.stdout.flush()
    os.dup2(2, 1)  # what a user's code prints as it is opened must not come once more for each worker

    def report(name: str, done: float) -> None:
        pipe.send((name, done))

    try:
        with suppress(BrokenPipeError):  # the starter has gone
            job(report)
    except Exception as error:
        _send(pipe, error)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # nothing is left that would have to be tidied up


def _send(pipe: Connection, error: Exception) -> None:
    """Send an error's message, with the traceback if its text alone may not tell the fault."""
    if raised_here(error):
        message = (str(error), "")
    else:
        message = (f"a worker process raised {type(error).__name__}: {error}", traceback.format_exc())
    with suppress(OSError):
        pipe.send(("error", message))


def _end_with_starter() -> None:
    starter = parent_process()
    assert starter is not None
    starter.join()
    os.kill(os.getpid(), signal.SIGTERM)
