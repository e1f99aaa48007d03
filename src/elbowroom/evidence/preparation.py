"""The state that every estimator runs in: a user's modules in evaluation mode, data as blocks on the model's device."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..core import BLOCK, Block, Data, as_data, iterate_blocks, n_data
from ..models import LatentModel, device_and_dtype, evaluating
from ..posteriors import Local, Posterior, PosteriorLike, as_posterior

__all__ = ["prepared", "prepared_pair"]


@contextmanager
def prepared(
    model: LatentModel, q: PosteriorLike | None, x: Data, size: int = BLOCK
) -> Iterator[tuple[Posterior | None, Iterator[Block]]]:
    """The state every estimator runs in: modules in eval mode, data as blocks on the model's device, autograd allowed.

    Yields the posterior (None where q is) and the blocks. Everything of the user's is back as it was on leaving.
    """
    posterior = None if q is None else as_posterior(q)
    data = as_data(x)
    if isinstance(posterior, Local) and posterior.n != n_data(data):
        raise ValueError(
            f"a local posterior has a row for each datum; got {posterior.n} rows for {n_data(data)} data. "
            "Take some of its rows with q.rows(index), or fit it on these data."
        )
    with torch.inference_mode(False), evaluating(model, q):
        yield posterior, iterate_blocks(data, size, *device_and_dtype(model, q))


@contextmanager
def prepared_pair(
    model: LatentModel, q: PosteriorLike, x: Data, size: int = BLOCK
) -> Iterator[tuple[Posterior, Iterator[Block]]]:
    """`prepared` where there is a posterior."""
    with prepared(model, q, x, size) as (posterior, blocks):
        assert posterior is not None
        yield posterior, blocks
