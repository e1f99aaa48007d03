"""Lets other processes import torch while the command still imports it for itself, which takes seconds.

Nothing here imports torch. On this machine it is the fork server of `multiprocessing`: workers are forked from it, so
that they need not import anything again. On a cluster they are the processes that will be given blocks. They know
nothing of what is measured, and end with the command.
"""

import json
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from multiprocessing import forkserver
from multiprocessing.util import get_temp_dir
from pathlib import Path
from typing import Literal

from ..scale import WorkersError, prepare_cluster

__all__ = ["HUGE_PAGES", "SAFE_PATH", "SERVER", "n_cores", "prepare_workers", "restore_environment", "start_method"]

HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"  # torch reads it when it first needs memory
SAFE_PATH, SERVER = "PYTHONSAFEPATH", "ELBOWROOM_FORK_SERVER"  # variables that the server finds when it starts

PRELOADED, ON_CLUSTER = "elbowroom.cli.fork_server", "elbowroom.cli.measuring"
WITH_WORKERS = ("demo", "gaps", "paper")
WITHOUT = {"--help", "-h", "--device", "--dry-run", "--from", "list", "claims"}  # with these no worker is likely needed
NEEDED_BY_CLUSTER = {"gaps", "--model", "--out"}
SOCKET, LONGEST = "pymp-12345678/listener-12345678", 107  # the socket in the temporary folder; bytes of a socket's path
_is_prepared = False


def n_cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def prepare_workers(words: Sequence[str]) -> None:
    """Start the fork server, or join the cluster, if a command line is likely to need it.

    Where that fails, workers are started without, and a cluster is joined when it is needed.
    """
    global _is_prepared
    parts = [part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])]
    if "--ray" in parts:
        return _prepare_cluster(parts)
    if sys.platform != "linux" or not _needs_workers(parts) or not _is_installed():
        return
    multiprocessing.get_context("forkserver").set_forkserver_preload([PRELOADED])
    with suppress(OSError, ValueError):  # no sockets in the temporary folder; not the main thread
        if not _is_socket_possible():
            return
        with _what_it_inherits():
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


def _prepare_cluster(parts: Sequence[str]) -> None:
    given = dict(pairwise(parts))
    numbers = [given.get("--threads", "1"), given.get("--workers", "1")]
    is_on_one = "--ray" in given and set(parts) >= NEEDED_BY_CLUSTER and WITHOUT.isdisjoint(parts)
    if not is_on_one or not all(number.isdecimal() for number in numbers):
        return
    cores = int(given["--workers"]) if "--workers" in given else n_cores() // max(1, int(numbers[0]))
    with suppress(WorkersError):
        variables = {HUGE_PAGES: os.environ.get(HUGE_PAGES, "0")}  # 0 is what torch takes if there is none
        prepare_cluster(given["--ray"], max(1, cores), ON_CLUSTER, variables)


def _needs_workers(parts: Sequence[str]) -> bool:
    if not parts or parts[0] not in WITH_WORKERS or parts == ["paper"] or not WITHOUT.isdisjoint(parts):
        return False
    wanted = [value for part, value in pairwise(parts) if part == "--workers"]
    return wanted != ["1"] and (bool(wanted) or n_cores() > 1)


def _is_socket_possible() -> bool:
    """Whether the path of a socket in the temporary folder is short enough; nothing is made there if it is not."""
    return len(os.fsencode(os.path.join(tempfile.gettempdir(), SOCKET))) <= LONGEST


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
