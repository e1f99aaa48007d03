"""Lets a process import torch for the workers while the command still imports it for itself, which takes seconds.

Nothing here imports torch. The process is the fork server of `multiprocessing`: workers are forked from it, so that
they need not import anything again. It knows nothing of what is measured, and ends with the command.
"""

import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from multiprocessing import forkserver
from typing import Literal

__all__ = ["n_cores", "prepare_workers", "start_method"]

PRELOADED = "elbowroom.cli.measuring"
WITH_WORKERS = ("demo", "gaps")
WITHOUT = {"--help", "-h", "--dry-run", "--ray"}  # with these no worker is started here
ONLY_INSTALLED = "PYTHONSAFEPATH"
_is_prepared = False


def n_cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def prepare_workers(words: Sequence[str]) -> None:
    """Start the fork server, if a command line is likely to need it."""
    global _is_prepared
    if not _needs_workers(words) or "forkserver" not in multiprocessing.get_all_start_methods():
        return
    multiprocessing.get_context("forkserver").set_forkserver_preload([PRELOADED])
    with _what_it_inherits():
        forkserver.ensure_running()
    _is_prepared = True


def start_method() -> Literal["forkserver", "spawn"]:
    """How workers of this process are best started."""
    return "forkserver" if _is_prepared else "spawn"


def _needs_workers(words: Sequence[str]) -> bool:
    if not words or words[0] not in WITH_WORKERS or not WITHOUT.isdisjoint(words):
        return False
    wanted = [value for word, value in pairwise(words) if word == "--workers"]
    return wanted != ["1"] and (bool(wanted) or n_cores() > 1)


@contextmanager
def _what_it_inherits() -> Iterator[None]:
    """Ctrl-C does not reach the server, and a file such as queue.py in the current folder is not taken for a module."""
    handler, variable = signal.signal(signal.SIGINT, signal.SIG_IGN), os.environ.get(ONLY_INSTALLED)
    os.environ[ONLY_INSTALLED] = "1"
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if variable is None:
            del os.environ[ONLY_INSTALLED]
        else:
            os.environ[ONLY_INSTALLED] = variable
