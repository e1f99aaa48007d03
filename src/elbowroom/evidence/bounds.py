r"""Bounds of log p(x) as functions of log weights (K, N), and the only functions that compute those weights.

log w_k = log p(x, z_k) - log q(z_k|x),  z_k ~ q
L[q]   = mean(log w)                 the evidence lower bound
IWAE_K = log mean(w)                 Burda, Grosse and Salakhutdinov 2015
"""

from __future__ import annotations  # signatures in help() then show types by their names

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..core import Block, Data, Rows, normal, seeded, select_rows
from ..models import LatentModel, log_joint
from ..posteriors import Distribution, PosteriorLike
from ..results import Estimate, concatenate
from .door import check_door
from .importance_weights import grouped_noise, log_mean_exp
from .preparation import prepared_pair

__all__ = [
    "GROUP",
    "block_log_weights",
    "elbo",
    "elbo_of",
    "iwae",
    "iwae_of",
    "log_weights",
]

Ids: TypeAlias = NDArray[np.int64] | Tensor
GROUP = 16  # samples or chains that share one decoder call: the arithmetic unit is (GROUP, BLOCK) rows


def log_weights(model: LatentModel, q: Distribution, x: Rows, noise: Tensor, rows: Tensor | None = None) -> Tensor:
    """log p(x, z) - log q(z|x) in nats, float64 (S, N), for noise (S, N, E) of the distribution `q`.

    With `rows` (R,), all z are drawn, but only those rows are evaluated: (S, R).

    Raises:
        ValueError: a density of the model that is not (S, N).
    """
    z, log_q = q.rsample_and_log_q(noise)
    if rows is not None:
        x, z, log_q = select_rows(x, rows), z[:, rows], log_q[:, rows]
    return log_joint(model, x, z).double() - log_q.double()


def block_log_weights(
    model: LatentModel, q: Distribution, block: Block, n_samples: int, seed: int, key: str, rows: Tensor | None = None
) -> Tensor:
    """Log weights (K, B) of one block in nats, with K = n_samples draws of the distribution `q`.

    Draws come in groups of GROUP, so that memory stays bounded, and their noise is keyed by block and group, so that no
    number depends on N or on what else runs. The model only sees batches of (GROUP, B), so the last group is computed
    in full and then cut. With `rows` (R,) only these data are evaluated, on their draws in the whole block: (K, R).
    """
    parts = []
    with torch.no_grad():
        for group in range(-(-n_samples // GROUP)):
            generator = seeded(seed, key, block.number, group)
            noise = normal((GROUP, len(block.index), q.noise_size), generator, block.like, data_axis=1)
            parts.append(log_weights(model, q, block.x, noise, rows))
    return torch.cat(parts)[:n_samples]


def elbo_of(
    log_w: Tensor, ids: Ids, name: str = "L[q]", side: str = "unbiased", key: object = None, rounding: float = 0.0
) -> Estimate:
    """The ELBO (N,) in nats of log weights (K, N); its error is their standard deviation over sqrt(K).

    It is at least what `rounding`, the relative error of a log weight, makes of it.
    """
    mean = log_w.mean(0)
    noise = {key if key is not None else name: grouped_noise(log_w - mean, rounding * mean.abs())}
    return Estimate(name, mean.cpu().numpy(), side=side, noise=noise, ids=_ids(ids))


def iwae_of(log_w: Tensor, ids: Ids, name: str = "IWAE", key: object = None, strata: int = 1) -> Estimate:
    """The importance-weighted bound (N,) in nats of log weights (K, N), with its delta-method error.

    With K = 1 it is the ELBO. If the draws alternate between `strata` components, the error counts only their spread
    within each component.
    """
    value, deviations = log_mean_exp(log_w, strata)
    noise = {key if key is not None else name: grouped_noise(deviations)}
    return Estimate(name, value.cpu().numpy(), side="lower", noise=noise, ids=_ids(ids))


def elbo(
    model: LatentModel, q: PosteriorLike, x: Data, n_samples: int = 100, seed: int = 0, check: bool = True
) -> Estimate:
    """An unbiased estimate of the evidence lower bound L[q] per datum, in nats.

    Args:
        model: a `LatentModel`.
        q: a posterior, or a callable x -> torch Distribution.
        x: N data (tensor, mapping, map-style dataset).
        n_samples: K, the number of draws per datum.
        seed: the seed of the draws.
        check: whether to check the first rows before anything is computed.
    Raises:
        CheckError: the check refuses the model, the posterior or the data. It is a ValueError, too.
        TypeError: data that can only be iterated.
        ValueError: no data, no samples, a density of the wrong shape, or a local q for another number of data.
    """
    return _of_all_blocks(model, q, x, n_samples, seed, "L[q]", elbo_of, check)


def iwae(
    model: LatentModel, q: PosteriorLike, x: Data, n_samples: int = 1000, seed: int = 0, check: bool = True
) -> Estimate:
    """The importance-weighted lower bound of log p(x) per datum, in nats, with K = n_samples draws of q.

    The bound is that of Burda, Grosse and Salakhutdinov (2015). Arguments and errors are those of `elbo`.
    """
    return _of_all_blocks(model, q, x, n_samples, seed, f"IWAE_{n_samples}", iwae_of, check)


def _of_all_blocks(
    model: LatentModel,
    q: PosteriorLike,
    x: Data,
    n_samples: int,
    seed: int,
    name: str,
    bound: Callable[..., Estimate],
    check: bool,
) -> Estimate:
    """`bound` of the log weights of n_samples draws of q, block by block; bounds of one seed share their draws."""
    if n_samples < 1:
        raise ValueError(f"n_samples must be at least 1; got {n_samples}")
    if check:
        check_door(model, q, x)
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
