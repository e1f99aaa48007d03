"""Joins a cluster of Ray (the extra `ray`), or starts one of this machine.

Nothing here imports torch, which takes seconds in which the processes of the cluster can import it too.
"""

import os
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

from .imports import quick_imports

__all__ = ["LOCAL", "WorkersError", "connect", "prepare_cluster"]

LOCAL = "local"
LOOPBACK = "127.0.0.2"  # 127.0.0.1 would be replaced by the address that the network knows
ANSWERS_WITHIN = 10.0  # seconds in which a cluster must answer
IMPORTS_WITHIN = 10.0  # seconds that are waited for an import, which on a busy cluster may not have begun


class WorkersError(RuntimeError):
    """Raised when workers cannot go on; its text is what stopped one of them.

    `shown` is the traceback of an error that is not elbowroom's own.
    """

    def __init__(self, text: str, shown: str = "") -> None:
        super().__init__(text)
        self.shown = shown


def prepare_cluster(address: str, n_cores: int, module: str, variables: Mapping[str, str]) -> None:
    """Connect as `connect` does, and let each core of the cluster import a module, without waiting for it.

    Args:
        address, n_cores: as in `connect`.
        module: what is imported.
        variables: of the environment, set before, unless a process of the cluster has another value.
    Raises:
        WorkersError: as `connect`.
    """
    global _prepared_cores, _first_import
    ray = connect(address, n_cores)
    _prepared_cores = n_cores
    there = int(ray.cluster_resources().get("CPU", 0))
    if there == 0:
        return  # it may start nodes when tasks wait for them
    importing = ray.remote(num_cpus=1, max_retries=0)(import_in_task)
    # A cluster without a process for tasks starts one more than it is given tasks. So the first gives out the last.
    _first_import = importing.remote(module, dict(variables), there > 1)
    for _ in range(there - 2):
        importing.remote(module, dict(variables), False)


def connect(address: str, n_cores: int) -> ModuleType:
    """Join a cluster, or go on with the one that this process has joined -> Ray.

    Args:
        address: that of a running cluster, or `LOCAL` for one of this machine alone.
        n_cores: the cores of a local cluster. If one was prepared with another number, it is ended.
    Raises:
        WorkersError: Ray is not installed, or there is no cluster.
    """
    try:
        import ray
    except ImportError:
        raise WorkersError("--ray needs Ray: pip install elbowroom[ray]") from None
    global _prepared_cores, _first_import
    if ray.is_initialized():
        if address != LOCAL or _prepared_cores in (None, n_cores):
            first, _first_import = _first_import, None
            if first is not None:  # work that is given out from here on comes after the imports
                ray.wait([first], timeout=IMPORTS_WITHIN)
            return ray
        ray.shutdown()
    _prepared_cores = _first_import = None
    own: dict[str, Any] = {}
    if address == LOCAL:
        own = {"num_cpus": n_cores, "include_dashboard": False}
        if sys.platform == "linux":
            own["_node_ip_address"] = LOOPBACK
    elif address.startswith("127."):
        own["_node_ip_address"] = address.split(":")[0]
    _refuse_silent(address)
    with _unreported():
        try:
            ray.init(address, log_to_driver=False, configure_logging=False, **own)
        except (ConnectionError, ValueError, RuntimeError) as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise WorkersError(f"no cluster of Ray at {address}: {first}") from None
    return ray


def import_in_task(module: str, variables: Mapping[str, str], gives_out_another: bool) -> None:
    """A task that only imports a module; the process that runs it has it from then on, and the variables.

    Args:
        module, variables: as in `prepare_cluster`.
        gives_out_another: whether it first gives out one more such task.
    """
    if gives_out_another:
        another = import_module("ray").remote(num_cpus=1, max_retries=0)(import_in_task)
        another.remote(module, variables, gives_out_another=False)
    for name, value in variables.items():
        os.environ.setdefault(name, value)
    with quick_imports():
        import_module(module)


_prepared_cores: int | None = None
_first_import: object = None  # the task that gives out the last import


def _refuse_silent(address: str) -> None:
    """Raise WorkersError for an address with a port where nobody answers; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), ANSWERS_WITHIN).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise WorkersError(f"no cluster of Ray at {address}: {reason}. Expected its address, or local") from None


@contextmanager
def _unreported() -> Iterator[None]:
    """Ray sends its makers no report of its use while this lasts."""
    name = "RAY_USAGE_STATS_ENABLED"
    before = os.environ.get(name)
    os.environ[name] = "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
