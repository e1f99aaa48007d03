r"""The sandwich: log p(x) between a lower and an upper bound, on data simulated from the model itself.

    forward AIS and importance sampling  <=  log p(x)  <=  reverse AIS from the z that made x      (in expectation)

Its width certifies the estimators on this model (Grosse, Ghahramani and Adams 2015; Grosse, Ancha and Roy 2016). The
upper bound needs an exact draw from the posterior, which real data do not have, so the certificate is for data
simulated from the model.
"""

from __future__ import annotations  # signatures in help() then show types by their names

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..core import BLOCK, Block, Data, Rows, as_data, iterate_blocks, n_data, read_rows, seeded
from ..evidence import AnnealingSchedule, CheckError, block_evidence, check_door, prepared, reverse_bound
from ..models import DecoderModel, SamplesData, SamplesPrior, device_and_dtype, evaluating, latent_size
from ..posteriors import FAMILIES, Posterior, PosteriorLike
from ..results import Array, ByValue, Estimate, Flag, concatenate
from .plan import Plan, PlanLike, as_plan
from .rungs import fit_rungs, widest_gaussian

__all__ = ["Sandwich", "sandwich"]

N_TEMPERATURES = 24  # at least, from a fitted base; with 10, one datum of 200 of a MNIST VAE was 2 nats wide
MAX_WIDTH = 1.0  # nats; wider data are flagged, because their lower bound has probably missed a mode
CHECKED = 64  # rows of x that are compared with its covariates


class Simulator(SamplesPrior, SamplesData, Protocol):
    """A model that can simulate z and x."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Sandwich(ByValue):
    """Bounds of log p(x), in nats, for n data simulated from the model.

    Attributes:
        lower: lower bound of each datum.
        upper: upper bound of each datum.
        width: upper - lower. The width of a single datum may be negative; the mean errs upward.
        z: (n, D) the draws from the prior that made the data.
        x: the n simulated data.
        flags: (n,) combination of the `Flag` values of each datum, as in `Gaps`.
        work: work per datum, in gradients of the decoder.
    """

    lower: Estimate
    upper: Estimate
    width: Estimate
    z: Tensor
    x: Rows
    flags: NDArray[np.int64]
    work: float

    @property
    def percentiles(self) -> Array:
        """The 5th, 25th, 50th, 75th, 95th and 100th percentile of the width, in nats."""
        return np.percentile(self.width.values[self.width.finite], [5, 25, 50, 75, 95, 100])

    def __repr__(self) -> str:
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
    model: Simulator,
    n: int = 100,
    q: PosteriorLike | None = None,
    like: Data | None = None,
    plan: PlanLike = "standard",
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    check: bool = True,
) -> Sandwich:
    """Simulate n data from the model and bound log p(x) of each from both sides.

    Args:
        model: a `LatentModel` with `sample_prior` and `sample_data`.
        n: how many data to simulate.
        q: posterior where local fits start; None for the prior.
        like: data whose covariates the simulated data borrow, for conditional models.
        plan: as in `decompose`, without its flows, and with annealing of at least 24 temperatures. With
            `EvidencePlan(base="prior")` it has as many as the plan says, so that it can be compared at equal work.
        seed: seed of all draws.
        progress: called with (data done, data in all) after each block.
        check: look at the first simulated rows before anything is measured, and refuse what cannot be right.
    Raises:
        CheckError: a model or posterior that cannot be right, or a decoder that reads x itself; it is a ValueError.
        TypeError: a model that cannot simulate.
        ValueError: an n below 1, or an unknown plan.
    """
    for method in ("sample_prior", "sample_data"):
        if not hasattr(model, method):
            raise TypeError(f"a sandwich simulates its data: the model needs {method}; {type(model).__name__} has none")
    _refuse_a_decoder_of_x(model, like)
    gaussian = _gaussian_plan(as_plan(plan))
    z, x = _simulate(model, n, like, seed)
    if check:
        check_door(model, q, x)
    lowers, uppers, flags, units = [], [], [], []
    with prepared(model, q, x) as (posterior, blocks):
        for block in blocks:
            lower, upper, flag, work = _block_bounds(model, posterior, block, gaussian, seed, z)
            rows = slice(0, block.rows)
            lowers.append(lower[rows])
            uppers.append(upper[rows])
            flags.append(flag[rows])
            units.append(work)
            if progress is not None:
                progress(int(block.index[block.rows - 1]) + 1, n)
    lower, upper = concatenate(lowers), concatenate(uppers)
    width = (upper - lower).named("width")
    wide = np.where(width.values > MAX_WIDTH, int(Flag.WIDE), 0)
    return Sandwich(
        lower=lower,
        upper=upper,
        width=replace(width, side="upper"),
        z=z,
        x=x,
        flags=(np.concatenate(flags) | wide).astype(np.int64),
        work=float(np.mean(units)),
    )


def _block_bounds(
    model: Simulator, posterior: Posterior | None, block: Block, plan: Plan, seed: int, z: Tensor
) -> tuple[Estimate, Estimate, NDArray[np.int64], float]:
    """Both bounds of one block. z enters as the start of the reverse chains and nowhere else."""
    rungs = fit_rungs(model, posterior, block, plan, seed, None)
    base = rungs[widest_gaussian(rungs)].params
    evidence = block_evidence(model, block, base, plan.evidence, seed)
    assert evidence.base is not None
    assert evidence.path is not None
    assert plan.evidence.annealing is not None
    n_chains = plan.evidence.annealing.n_chains
    exact = z[block.index].to(base["mean"])
    upper, reverse_work = reverse_bound(block, evidence.base, evidence.path, exact, n_chains, seed)
    spent = sum(float(rung.report.work.mean()) for rung in rungs.values()) + sum(evidence.work.values())
    return evidence.estimate, upper, evidence.flags, spent + reverse_work


def _gaussian_plan(plan: Plan) -> Plan:
    """The plan without the rungs that annealing cannot start at; from a fitted base, of N_TEMPERATURES or more."""
    rungs = tuple(name for name in plan.rungs if FAMILIES[name].is_gaussian)
    evidence, annealing = plan.evidence, plan.evidence.annealing or AnnealingSchedule()
    if evidence.base != "prior":
        annealing = replace(annealing, n_temperatures=max(annealing.n_temperatures, N_TEMPERATURES))
    evidence = replace(evidence, annealing=annealing)
    return replace(plan, rungs=rungs, evidence=replace(evidence, annealed_share=1.0, second_opinion=False))


def _simulate(model: Simulator, n: int, like: Data | None, seed: int) -> tuple[Tensor, Rows]:
    """z (n, D) from the prior and x given z, block by block, so that the first data do not depend on n."""
    if n < 1:
        raise ValueError(f"n must be at least 1; got {n}")
    device, _ = device_and_dtype(model)
    zs, xs = [], []
    with evaluating(model), torch.no_grad():
        for number in range(-(-n // BLOCK)):
            generator = seeded(seed, "simulate", number, device=device or "cpu")
            given = _covariates(like, number, *device_and_dtype(model))
            z = model.sample_prior(BLOCK, given, generator)
            z = z[:, 0] if z.shape[1] == 1 else z[torch.arange(BLOCK), torch.arange(BLOCK)]
            zs.append(z.reshape(BLOCK, latent_size(model)))
            xs.append(model.sample_data(zs[-1], given, generator))
    return torch.cat(zs)[:n], _stacked(xs, n)


def _stacked(parts: list[Rows], n: int) -> Rows:
    """The first n rows of simulated data."""
    first = parts[0]
    if isinstance(first, Mapping):
        return {key: torch.cat([part[key] for part in parts if isinstance(part, Mapping)])[:n] for key in first}
    return torch.cat([part for part in parts if isinstance(part, Tensor)])[:n]


def _covariates(like: Data | None, number: int, device: torch.device | None, dtype: torch.dtype | None) -> Rows | None:
    """BLOCK rows of `like`, cycled."""
    if like is None:
        return None
    data = as_data(like)
    index = torch.arange(number * BLOCK, (number + 1) * BLOCK) % n_data(data)
    return next(iterate_blocks(read_rows(data, index), BLOCK, device, dtype)).x


def _refuse_a_decoder_of_x(model: Simulator, like: Data | None) -> None:
    """Raise CheckError if a covariate of the decoder is x itself (teacher forcing), as its first rows show.

    Data drawn given the old x are not the model's own. A model with a `sample_data` of its own knows how to draw them.
    """
    if like is None or not isinstance(model, DecoderModel) or type(model).sample_data is not DecoderModel.sample_data:
        return
    data = as_data(like)
    rows = read_rows(data, torch.arange(min(n_data(data), CHECKED)))
    if not isinstance(rows, Mapping) or "x" not in rows:
        return
    for name in model.condition:
        given = rows.get(name)
        if given is not None and given.shape == rows["x"].shape and bool((given == rows["x"]).all()):
            raise CheckError(
                f'a sandwich simulates its data; the decoder reads x itself as "{name}", so data drawn given the old x '
                "are not the model's. Give the model a sample_data that draws x step by step (a subclass of "
                "DecoderModel, for instance)"
            )
