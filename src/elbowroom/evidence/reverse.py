r"""Reverse AIS: an upper bound of log p(x) from an exact posterior draw, and a second opinion where there is none.

E[1/w] = 1/p(x) for chains that run from the posterior back to the base, so -log mean(1/w) errs upward (Grosse,
Ghahramani and Adams 2015). On real data nobody has a posterior draw. The ends of forward chains are nearly posterior
draws, and what comes back from them is an estimate from the other side, but no bound.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..core import Block, seeded, uniform
from ..results import SECOND_OPINION, Array, Estimate
from .ais import RELAX_LEAPFROG, AnnealedChains, AnnealingPath, anneal
from .bases import Base
from .importance_weights import GROUPS, grouped_noise, log_mean_exp, resampled

__all__ = ["no_opinion", "opinion_work", "reverse_bound", "second_opinion"]

_LABEL = "log p(x), second opinion"
N_RELAX = 20  # moves within the posterior before a reverse run; without, 1% of a MNIST VAE's widths are 1 to 18 nats
N_RELAX_ENDS = 2  # the same for a second opinion, whose chains start from many points


def reverse_bound(
    block: Block, base: Base, path: AnnealingPath, z: Tensor, n_chains: int, seed: int
) -> tuple[Estimate, float]:
    """An upper bound of log p(x) per datum in nats, by reverse AIS from the z (B, D) that simulated x.

    E[1/w] = 1/p(x), so -log mean(1/w) errs upward (Grosse, Ghahramani and Adams 2015). Each chain first makes N_RELAX
    moves within the posterior. All chains of a datum start at its one exact draw, so the value of a single datum has no
    Monte-Carlo error of its own (NaN), while a mean over data has a standard error.

    Args:
        base, path: the base and the frozen kernels of the forward run.
    Returns:
        The bounds, and the work per datum in gradients of the decoder in z.
    """
    run = anneal(base, path, n_chains, seed, ("reverse", block.number), z, N_RELAX)
    value, deviations = log_mean_exp(-run.log_w)
    noise: dict[object, Array] = {("reverse", seed): np.full_like(grouped_noise(deviations), np.nan)}
    estimate = Estimate(
        "log p(x), reverse AIS", -value.cpu().numpy(), side="upper", noise=noise, ids=block.index.numpy()
    )
    return estimate, _work(path, n_chains, N_RELAX)


def second_opinion(
    base: Base,
    path: AnnealingPath,
    forward: AnnealedChains,
    n_chains: int,
    seed: int,
    block: Block,
    rows: Tensor | None,
) -> Estimate:
    """An estimate of log p(x) in nats, (R,), by reverse AIS from where forward chains of the data `rows` (R,) ended.

    The ends are drawn again in proportion to the weights of their chains, and moved within the posterior. Where the
    chains covered the posterior the estimate errs upward, as from exact draws. It is no bound otherwise, since chains
    that missed a mode do not find it on their way back.
    """
    chance = uniform((len(block.index),), seeded(seed, "resampled ends", block.number), block.like)
    shares = torch.softmax(forward.log_w.nan_to_num(nan=-torch.inf), 0)
    ends = resampled(forward.ends, shares, n_chains, chance if rows is None else chance[rows])
    every = ends if rows is None else _scattered(ends, rows, len(block.index))
    run = anneal(base, path, n_chains, seed, ("second opinion", block.number), every, N_RELAX_ENDS, rows)
    value, deviations = log_mean_exp(-run.log_w)
    ids = block.index.numpy() if rows is None else block.index.numpy()[rows.cpu().numpy()]
    noise: dict[object, Array] = {(SECOND_OPINION, seed): grouped_noise(deviations)}
    return Estimate(_LABEL, -value.cpu().numpy(), side="neither", noise=noise, ids=ids)


def no_opinion(ids: NDArray[np.int64], seed: int) -> Estimate:
    """The same for data without chains, NaN."""
    noise: dict[object, Array] = {(SECOND_OPINION, seed): np.zeros((GROUPS, len(ids)))}
    return Estimate(_LABEL, np.full(len(ids), np.nan), side="neither", noise=noise, ids=ids)


def opinion_work(path: AnnealingPath, n_chains: int) -> float:
    """The work of a second opinion per datum in gradients of the decoder in z."""
    return _work(path, n_chains, N_RELAX_ENDS)


def _work(path: AnnealingPath, n_chains: int, n_relax: int) -> float:
    return float(n_chains * (path.n_leapfrog * (len(path.betas) - 2) + RELAX_LEAPFROG * n_relax + 2))


def _scattered(draws: Tensor, rows: Tensor, n: int) -> Tensor:
    """Draws (C, R, D) in their place among n data, (C, n, D), zero elsewhere."""
    whole = draws.new_zeros(len(draws), n, draws.shape[-1])
    whole[:, rows] = draws
    return whole
