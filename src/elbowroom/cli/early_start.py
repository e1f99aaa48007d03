"""Lets a process import torch for the workers while the command still imports it for itself, which takes seconds.

Nothing here imports torch. The process is the fork server of `multiprocessing`: workers are forked from it, so that
they need not import anything again. It knows nothing of what is measured, and ends with the command.
"""

import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from multiprocessing import forkserver
from multiprocessing.util import get_temp_dir
from pathlib import Path
from typing import Literal

__all__ = ["SAFE_PATH", "SERVER", "n_cores", "prepare_workers", "restore_environment", "start_method"]

SAFE_PATH, SERVER = "PYTHONSAFEPATH", "ELBOWROOM_FORK_SERVER"  # variables that the server finds when it starts

PRELOADED = "elbowroom.cli.fork_server"
WITH_WORKERS = ("demo", "gaps")
WITHOUT = {"--help", "-h", "--device", "--dry-run", "--ray"}  # with these no worker is likely to be started here
_is_prepared = False


def n_cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def prepare_workers(words: Sequence[str]) -> None:
    """Start the fork server, if a command line is likely to need it. Where that fails, workers are started without."""
    global _is_prepared
    if sys.platform != "linux" or not _needs_workers(words) or not _is_installed():
        return
    multiprocessing.get_context("forkserver").set_forkserver_preload([PRELOADED])
    with suppress(OSError, ValueError), _what_it_inherits():  # no sockets in the temporary folder; not the main thread
        forkserver.ensure_running()
        _is_prepared = True


def start_method() -> Literal["forkserver", "spawn"]:
    """How workers of this process are best started."""
    return "forkserver" if _is_prepared else "spawn"


def restore_environment(before: Mapping[str, str | None]) -> None:
    """Give variables the values that they had; None for those that there were not."""
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _needs_workers(words: Sequence[str]) -> bool:
    parts = [part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])]
    if not parts or parts[0] not in WITH_WORKERS or not WITHOUT.isdisjoint(parts):
        return False
    wanted = [value for part, value in pairwise(parts) if part == "--workers"]
    return wanted != ["1"] and (bool(wanted) or n_cores() > 1)


def _is_installed() -> bool:
    """Whether the server finds this very package, and not only by the folder of a program or the current one."""
    first = None if sys.flags.safe_path else Path(sys.path[0] or os.getcwd()).resolve()
    return Path(__file__).resolve().parents[2] != first


@contextmanager
def _what_it_inherits() -> Iterator[None]:
    """Ctrl-C does not reach the server, and a file such as queue.py in the current folder is not taken for a module.

    `PRELOADED` puts the variable back for the workers, and removes the folder of the server's socket at its end, which
    a command that is killed cannot do.
    """
    variables = {SAFE_PATH: "1", SERVER: json.dumps({"folder": get_temp_dir(), SAFE_PATH: os.environ.get(SAFE_PATH)})}
    handler, before = signal.signal(signal.SIGINT, signal.SIG_IGN), {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        restore_environment(before)
