"""Training by several processes that torchrun started: each takes its share of every batch.

All of them draw the order and the noise of an epoch from the same seeds, so their gradients add up to those of one
process with the same batches, but for rounding. The first process alone writes files.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn

from .checkpoints import TrainingState

__all__ = ["Team", "torchrun_team"]


class Team:
    """The processes of `torch.distributed`'s default group, if there is one; otherwise this process alone.

    Attributes:
        rank: the number of this process, counted from 0.
        size: the number of processes.
    """

    def __init__(self) -> None:
        is_there = distributed.is_available() and distributed.is_initialized()
        self.rank, self.size = (distributed.get_rank(), distributed.get_world_size()) if is_there else (0, 1)

    def share(self, index: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """This process's rows (b,) of a batch (B,), and their noise (K, b, E) of (K, B, E); there may be none."""
        if self.size == 1:
            return index, noise
        rows = torch.arange(len(index), device=index.device).tensor_split(self.size)[self.rank]
        return index[rows], noise[:, rows]

    def add_up(self, parameters: Sequence[nn.Parameter], share: float) -> None:
        """Replace gradients of means over each process's rows by those of the mean over all.

        Args:
            share: the share of the rows that this process had.
        """
        if self.size == 1:
            return
        grads = [torch.zeros_like(p) if p.grad is None else p.grad * share for p in parameters]
        flat = torch.cat([grad.flatten() for grad in grads])
        distributed.all_reduce(flat)
        for parameter, grad in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            parameter.grad = grad.view_as(parameter)

    def total(self, sums: Tensor) -> Tensor:
        """The sums of all processes."""
        if self.size > 1:
            distributed.all_reduce(sums)
        return sums

    def agree_on(self, state: TrainingState) -> None:
        """Give the state of the first process, which may have resumed a run, to the others."""
        if self.size == 1:
            return
        sent: list[Any] = [state.tensors(), state.done, state.best_epoch]
        distributed.broadcast_object_list(sent, src=0)
        if self.rank:
            tensors, state.done, state.best_epoch = sent
            state.load(tensors)


@contextmanager
def torchrun_team() -> Iterator[Team]:
    """A context in which the processes that torchrun started train together; alone if it started none."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Team()
        return
    distributed.init_process_group("gloo")
    try:
        yield Team()
    finally:
        distributed.destroy_process_group()
