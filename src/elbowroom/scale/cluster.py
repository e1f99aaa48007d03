"""Blocks as tasks of a Ray cluster (the extra `ray`): a local one, or one that is there.

Tasks write their blocks to the run folder, which all nodes must see, and give nothing back. Data are put into Ray's
object store once. A task whose worker or node is lost is given out again; one that raises an error three times is given
up, and the others go on.
"""

import os
from collections import Counter
from collections.abc import Callable, Mapping
from types import ModuleType, TracebackType
from typing import Any, Self, TypeAlias

from ..measure import BlockKey
from .connection import WorkersError, connect
from .workers import LOOK_EVERY, Left

__all__ = ["Cluster"]

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
        if self._ray is None:
            self._ray = connect(self._address, self._n_cores)
            self._put = self._ray.put(self._data)
        return self._ray, self._ray.remote(num_cpus=1, num_gpus=self._gpus, max_retries=0)(_run)


def _run(job: Job, data: object, directory: str, name: str, key: BlockKey) -> None:
    """A task. The names of files are those of the program that gave it out."""
    if os.path.isdir(directory):
        os.chdir(directory)
    job(data, name, key)
