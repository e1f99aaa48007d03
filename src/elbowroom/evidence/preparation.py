"""The context in which every estimator runs: modules in eval mode, and data in blocks on the model's device."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..core import BLOCK, Blocks, Data, as_data, n_data
from ..models import LatentModel, device_and_dtype, evaluating
from ..posteriors import Local, Posterior, PosteriorLike, as_posterior

__all__ = ["prepared", "prepared_pair"]


@contextmanager
def prepared(
    model: LatentModel, q: PosteriorLike | None, x: Data, size: int = BLOCK
) -> Iterator[tuple[Posterior | None, Blocks]]:
    """A context in which modules are in eval mode, data come in blocks on the model's device, and autograd is allowed.

    It yields the posterior (None if q is None) and the blocks of `size` rows, and restores all modes on exit.

    Raises:
        TypeError: data that can only be iterated.
        ValueError: no data, or a local posterior for another number of data.
    """
    posterior = None if q is None else as_posterior(q)
    data = as_data(x)
    if isinstance(posterior, Local) and posterior.n != n_data(data):
        raise ValueError(
            f"a local posterior has a row for each datum; got {posterior.n} rows for {n_data(data)} data. "
            "Take some of its rows with q.rows(index), or fit it on these data."
        )
    with torch.inference_mode(False), evaluating(model, q):
        yield posterior, Blocks(data, size, *device_and_dtype(model, q))


@contextmanager
def prepared_pair(
    model: LatentModel, q: PosteriorLike, x: Data, size: int = BLOCK
) -> Iterator[tuple[Posterior, Blocks]]:
    """The same as `prepared`, for a `q` that is not None."""
    with prepared(model, q, x, size) as (posterior, blocks):
        assert posterior is not None
        yield posterior, blocks
