"""Blocks as tasks of a Ray cluster (the extra `ray`): a local one, or one that is there.

Tasks write their blocks to the run folder, which all nodes must see, and give nothing back. Data are put into Ray's
object store once. A task whose worker or node is lost is given out again; one that raises an error three times is given
up, and the others go on.
"""

import os
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType, TracebackType
from typing import Any, Self, TypeAlias

from ..measure import BlockKey
from .workers import LOOK_EVERY, Left, WorkersError

__all__ = ["LOCAL", "Cluster"]

LOCAL = "local"
LOOPBACK = "127.0.0.2"  # 127.0.0.1 would be replaced by the address that the network knows
ANSWERS_WITHIN = 10.0  # seconds in which a cluster must answer
TRIES = 3  # of a block, whose task raises an error
LOSSES = 20  # of workers or nodes in the middle of one block, after which the cluster is not to be trusted
AHEAD = 2  # tasks for each core that are given out, so that none waits for the next
Job: TypeAlias = Callable[[Any, str, BlockKey], None]  # (data, what is measured, block)


class Cluster:
    """A context with a cluster, joined or started when it is first needed.

    Args:
        job: measures a block, a function that Ray can import by its name on every node, with plain arguments.
        data: what all tasks are given, arrays in dictionaries; None for nothing.
        address: that of a running cluster, or `LOCAL` for one of this machine alone.
        n_cores: the cores of a local cluster.
        gpus: the share of a GPU that a task needs.
    """

    def __init__(self, job: Job, data: object, address: str, n_cores: int, gpus: float = 0.0) -> None:
        self._job, self._data, self._address, self._n_cores, self._gpus = job, data, address, n_cores, gpus
        self._ray: ModuleType | None = None
        self._put: object = None  # the data in the object store

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ray is not None:
            self._ray.shutdown()  # a local cluster ends; of another one this program's tasks do

    def work(self, name: str, left: Left) -> Mapping[BlockKey, str]:
        """Let tasks measure blocks until nothing is left -> the error of each block that was given up.

        Args:
            name: what is measured.
            left: called with the data done as far as is known here, none -> the blocks that are left.
        Raises:
            WorkersError: Ray is not installed or its cluster cannot be reached, or workers are lost again and again.
        """
        failed: dict[BlockKey, str] = {}
        tries: Counter[BlockKey] = Counter()
        lost: Counter[BlockKey] = Counter()
        pending: dict[Any, BlockKey] = {}
        if not left(0.0):
            return failed
        ray, task = self._started()
        while missing := [key for key in left(0.0) if key not in failed]:
            given_out = set(pending.values())
            room = AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1))) - len(pending)
            for key in [key for key in missing if key not in given_out][: max(0, room)]:
                pending[task.remote(self._job, self._put, os.getcwd(), name, key)] = key
            ended, _ = ray.wait(list(pending), num_returns=1, timeout=LOOK_EVERY)
            for ref in ended:
                key = pending.pop(ref)
                try:
                    ray.get(ref)
                except ray.exceptions.RayTaskError as error:
                    tries[key] += 1
                    if tries[key] == TRIES:
                        failed[key] = str(error.cause if error.cause is not None else error).strip()
                except ray.exceptions.RayError as error:
                    lost[key] += 1
                    if lost[key] == LOSSES:
                        raise WorkersError(f"{LOSSES} workers were lost, the last by {error}") from None
        return failed

    def _started(self) -> tuple[ModuleType, Any]:
        """Ray, and the task of one block."""
        try:
            import ray
        except ImportError:
            raise WorkersError("--ray needs Ray: pip install elbowroom[ray]") from None
        if self._ray is None:
            own: dict[str, Any] = {}
            if self._address == LOCAL:
                own = {"num_cpus": self._n_cores, "include_dashboard": False}
                if sys.platform == "linux":
                    own["_node_ip_address"] = LOOPBACK
            elif self._address.startswith("127."):
                own["_node_ip_address"] = self._address.split(":")[0]
            _refuse_silent(self._address)
            with _unreported():
                try:
                    ray.init(
                        self._address, log_to_driver=False, configure_logging=False, ignore_reinit_error=True, **own
                    )
                except (ConnectionError, ValueError, RuntimeError) as error:
                    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
                    raise WorkersError(f"no cluster of Ray at {self._address}: {first}") from None
            self._ray, self._put = ray, ray.put(self._data)
        return ray, ray.remote(num_cpus=1, num_gpus=self._gpus, max_retries=0)(_run)


def _run(job: Job, data: object, directory: str, name: str, key: BlockKey) -> None:
    """A task. The names of files are those of the program that gave it out."""
    if os.path.isdir(directory):
        os.chdir(directory)
    job(data, name, key)


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
