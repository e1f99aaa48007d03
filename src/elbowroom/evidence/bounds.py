r"""Bounds of log p(x) as functions of log weights (K, N), and the one place where those are computed.

log w_k = log p(x, z_k) - log q(z_k|x),  z_k ~ q
L[q]   = mean(log w)                 the evidence lower bound
IWAE_K = log mean(w)                 Burda, Grosse and Salakhutdinov 2015
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..core import BLOCK, Block, Data, Rows, as_data, iterate_blocks, n_data, normal, seeded, select_rows
from ..models import LatentModel, device_and_dtype, evaluating, log_joint
from ..posteriors import Distribution, Local, Posterior, PosteriorLike, as_posterior
from ..results import Estimate, concatenate
from .importance_weights import grouped_noise, log_mean_exp

__all__ = [
    "GROUP",
    "block_log_weights",
    "elbo",
    "elbo_of",
    "iwae",
    "iwae_of",
    "log_weights",
    "prepared",
    "prepared_pair",
]

Ids: TypeAlias = NDArray[np.int64] | Tensor
GROUP = 16  # samples or chains that share one decoder call: the arithmetic unit is (GROUP, BLOCK) rows


def log_weights(model: LatentModel, q: Distribution, x: Rows, noise: Tensor, rows: Tensor | None = None) -> Tensor:
    """log p(x, z) - log q(z|x) in nats, float64, for noise (S, N, E) of the distribution `q` -> (S, N), or (S, R) for
    `rows` (R,) alone: all z are drawn, and the model sees those.
    """
    z, log_q = q.rsample_and_log_q(noise)
    if rows is not None:
        x, z, log_q = select_rows(x, rows), z[:, rows], log_q[:, rows]
    return log_joint(model, x, z).double() - log_q.double()


def block_log_weights(
    model: LatentModel, q: Distribution, block: Block, n_samples: int, seed: int, key: str, rows: Tensor | None = None
) -> Tensor:
    """(K, B) log weights of one block under the distribution `q`, GROUP samples at a time so that memory stays bounded.

    Noise is keyed by block and group: neither N nor what runs beside it changes a number. Only the unit (GROUP, BLOCK)
    reaches the model, so the last group is computed whole and cut. With `rows` (R,) these data alone are evaluated, on
    the draws that they have in the whole block.
    """
    parts = []
    with torch.no_grad():
        for group in range(-(-n_samples // GROUP)):
            generator = seeded(seed, key, block.number, group)
            noise = normal((GROUP, len(block.index), q.noise_size), generator, block.like)
            parts.append(log_weights(model, q, block.x, noise, rows))
    return torch.cat(parts)[:n_samples]


def elbo_of(log_w: Tensor, ids: Ids, name: str = "L[q]", side: str = "unbiased", key: object = None) -> Estimate:
    """The ELBO of (K, N) log weights; its error is the spread of log w over sqrt(K)."""
    mean = log_w.mean(0)
    noise = {key if key is not None else name: grouped_noise(log_w - mean)}
    return Estimate(name, mean.cpu().numpy(), side=side, noise=noise, ids=_ids(ids))


def iwae_of(log_w: Tensor, ids: Ids, name: str = "IWAE", key: object = None, strata: int = 1) -> Estimate:
    """The importance-weighted bound of (K, N) log weights, with its delta-method error. With K = 1 it is the ELBO.

    Draws that alternate between `strata` components err only by their spread within each.
    """
    value, deviations = log_mean_exp(log_w, strata)
    noise = {key if key is not None else name: grouped_noise(deviations)}
    return Estimate(name, value.cpu().numpy(), side="lower", noise=noise, ids=_ids(ids))


def elbo(model: LatentModel, q: PosteriorLike, x: Data, n_samples: int = 100, seed: int = 0) -> Estimate:
    """L[q] per datum, unbiased, in nats.

    Args:
        model: a `LatentModel`. q: a posterior, or a callable x -> torch Distribution.
        x: N data (tensor, mapping, map-style dataset). n_samples: K. seed: of the draws.
    Raises:
        ValueError: no data, or a density of the wrong shape.
    """
    return _of_all_blocks(model, q, x, n_samples, seed, "L[q]", elbo_of)


def iwae(model: LatentModel, q: PosteriorLike, x: Data, n_samples: int = 1000, seed: int = 0) -> Estimate:
    """The importance-weighted lower bound of log p(x) per datum, in nats, with K = n_samples draws of q.

    Raises:
        ValueError: no data, or a density of the wrong shape.
    """
    return _of_all_blocks(model, q, x, n_samples, seed, f"IWAE_{n_samples}", iwae_of)


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


def _of_all_blocks(
    model: LatentModel, q: PosteriorLike, x: Data, n_samples: int, seed: int, name: str, bound: Callable[..., Estimate]
) -> Estimate:
    """`bound` of the log weights of n_samples draws of q, block by block; bounds of one seed share their draws."""
    if n_samples < 1:
        raise ValueError(f"n_samples must be at least 1; got {n_samples}")
    parts = []
    with prepared_pair(model, q, x) as (posterior, blocks):
        for block in blocks:
            with torch.no_grad():
                dist = posterior.rows(block.index)(block.x)
            log_w = block_log_weights(model, dist, block, n_samples, seed, "elbo")[:, : block.rows]
            parts.append(bound(log_w, block.index[: block.rows], name, key=("elbo", seed)))
    return concatenate(parts)


def _ids(ids: Ids) -> NDArray[np.int64]:
    return ids.cpu().numpy() if isinstance(ids, Tensor) else ids
