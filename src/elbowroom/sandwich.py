r"""The sandwich: log p(x) between a lower and an upper bound, on data simulated from the model itself.

    forward AIS and importance sampling  <=  log p(x)  <=  reverse AIS from the z that made x      (in expectation)

Its width certifies the estimators on this model (Grosse, Ghahramani and Adams 2015; Grosse, Ancha and Roy 2016). On
real data no exact posterior draw exists: the certificate is for data simulated from the same model.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .ais import Schedule
from .blocks import BLOCK, as_data, blocks, n_data, take
from .bounds import prepared
from .estimate import Array, Estimate, concatenate
from .evidence import Flag, block_evidence, reverse_bound
from .gaps import PLANS, Plan, fit_rungs
from .model import evaluating, latent_size, placement
from .rng import seeded

__all__ = ["Sandwich", "sandwich"]

MAX_WIDTH = 1.0  # nats: a wider datum is flagged, its lower bound has probably missed a mode


@dataclass(frozen=True)
class Sandwich:
    """Bounds of log p(x) in nats for n simulated data, the draws z (n, D) that made them, and the data x.

    `width` = upper - lower per datum; single widths may be negative, the mean errs upward. `flags` as in `Gaps`.
    """

    lower: Estimate
    upper: Estimate
    width: Estimate
    z: Tensor
    x: Any
    flags: NDArray[np.int64]
    work: float

    @property
    def percentiles(self) -> Array:
        """The 5th, 25th, 50th, 75th, 95th and 100th percentile of the width, nats."""
        return np.percentile(self.width.values[self.width.finite], [5, 25, 50, 75, 95, 100])

    def __str__(self) -> str:
        p = self.percentiles
        return "\n".join(
            [
                f"sandwich on {len(self.lower)} data simulated from this model (a certificate for such data only)",
                f"  log p(x) >= {self.lower.mean:9.3f} (mc {self.lower.mc_se:.3f})",
                f"  log p(x) <= {self.upper.mean:9.3f}",
                f"  width       {self.width.mean:9.3f} (se {self.width.se:.3f}); mean width plus two errors "
                f"{self.width.mean + 2 * self.width.se:.3f} nats",
                "  percentiles 5 25 50 75 95 100: " + " ".join(f"{value:.3f}" for value in p),
                f"  {int((self.flags > 0).sum())} flagged; {self.work:,.0f} decoder gradients per datum",
            ]
        )


def sandwich(
    model: Any,
    n: int = 100,
    q: Any = None,
    like: Any = None,
    plan: str | Plan = "standard",
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Sandwich:
    """Simulate n data from the model and bound log p(x) of each from both sides.

    Args:
        model: with `sample_prior` and `sample_data`. q: where local fits start; None for the prior.
        like: data whose covariates the simulated data borrow, for conditional models.
        plan: as in `decompose`; a plan without annealing gets the standard schedule. seed: of every draw.
    Raises:
        TypeError: a model that cannot simulate.
    """
    for method in ("sample_prior", "sample_data"):
        if not hasattr(model, method):
            raise TypeError(f"a sandwich simulates its data: the model needs {method}; {type(model).__name__} has none")
    chosen = PLANS[plan] if isinstance(plan, str) else plan
    if chosen.evidence.annealing is None:
        chosen = replace(chosen, evidence=replace(chosen.evidence, annealing=Schedule()))
    z, x = _simulate(model, n, like, seed)
    lowers, uppers, flags, units = [], [], [], []
    with prepared(model, q, x) as (posterior, all_blocks):
        for block in all_blocks:
            lower, upper, flag, work = _block_bounds(model, posterior, block, chosen, seed, z)
            keep = slice(0, block.rows)
            lowers.append(lower[keep])
            uppers.append(upper[keep])
            flags.append(flag[keep])
            units.append(work)
            if progress is not None:
                progress(int(block.index[block.rows - 1]) + 1, n)
    lower, upper = concatenate(lowers), concatenate(uppers)
    width = (upper - lower).named("width")
    wide = np.where(width.values > MAX_WIDTH, int(Flag.WIDE), 0)
    flagged = (np.concatenate(flags) | wide).astype(np.int64)
    return Sandwich(lower, upper, replace(width, side="upper"), z, x, flagged, float(np.mean(units)))


def _block_bounds(
    model: Any, posterior: Any, block: Any, plan: Plan, seed: int, z: Tensor
) -> tuple[Any, Any, Any, float]:
    """Both bounds of one block. z enters as the start of the reverse chains and nowhere else."""
    fits, params = fit_rungs(model, posterior, block, replace(plan, rungs=_without_flow(plan)), seed, None)
    base = params.get("full", params["diagonal"])
    evidence = block_evidence(model, block, base, plan.evidence, seed)
    assert evidence.base is not None
    assert evidence.path is not None
    assert plan.evidence.annealing is not None
    n_chains = plan.evidence.annealing.n_chains
    exact = z[block.index].to(base["mean"])
    upper, reverse_work = reverse_bound(block, evidence.base, evidence.path, exact, n_chains, seed)
    spent = sum(float(fit.work.mean()) for fit in fits.values()) + sum(evidence.work.values())
    return evidence.estimate, upper, evidence.flags, spent + reverse_work


def _without_flow(plan: Plan) -> tuple[str, ...]:
    return tuple(rung for rung in plan.rungs if rung != "flow")


def _simulate(model: Any, n: int, like: Any, seed: int) -> tuple[Tensor, Any]:
    """z (n, D) from the prior and x given z, block by block, so that the first data do not depend on n."""
    if n < 1:
        raise ValueError(f"n must be at least 1; got {n}")
    device, _ = placement(model)
    zs, xs = [], []
    with evaluating(model), torch.no_grad():
        for number in range(-(-n // BLOCK)):
            generator = seeded(seed, "simulate", number, device=device or "cpu")
            given = _covariates(like, number, *placement(model))
            z = model.sample_prior(BLOCK, given, generator)
            z = z[:, 0] if z.shape[1] == 1 else z[torch.arange(BLOCK), torch.arange(BLOCK)]
            zs.append(z.reshape(BLOCK, latent_size(model)))
            xs.append(model.sample_data(zs[-1], given, generator))
    joined = (
        {key: torch.cat([x[key] for x in xs])[:n] for key in xs[0]} if isinstance(xs[0], dict) else torch.cat(xs)[:n]
    )
    return torch.cat(zs)[:n], joined


def _covariates(like: Any, number: int, device: torch.device | None, dtype: torch.dtype | None) -> Any:
    """BLOCK rows of `like`, cycled."""
    if like is None:
        return None
    like = as_data(like)
    index = torch.arange(number * BLOCK, (number + 1) * BLOCK) % n_data(like)
    return next(iter(blocks(take(like, index), BLOCK, device, dtype))).x
