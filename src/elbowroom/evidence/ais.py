r"""Annealed importance sampling (Neal 2001), forward for a lower bound of log p(x) and in reverse for an upper bound.

    f_b(z) = base(z)^(1-b) p(x, z)^b
    log w  = sum_t (b_t - b_{t-1}) (log p(x, z_{t-1}) - log base(z_{t-1})),   E[w] = p(x)

Chains start at a *base* (the prior, or a Gaussian fitted to the datum) and move by HMC in the base's whitened
coordinates. Everything that defines the kernels (schedule, step sizes) is tuned in a pilot run on its own draws and
then frozen in an `AnnealingPath`; the reported run uses fresh noise. Adapting on the chains that carry the weights
would break E[w] = p(x). The reverse run starts at an exact posterior draw and applies the same kernels in reverse order
(Grosse, Ghahramani and Adams 2015). The kernel at b = 1 leaves the posterior invariant. When it is applied to the draw
first, the draw stays exact, and one from far out in a tail comes back to where the short path can follow.
"""

from __future__ import annotations  # signatures in help() then show types by their names

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..core import Block, Data, normal, seeded, uniform
from ..models import LatentModel
from ..posteriors import Local
from ..results import Estimate, concatenate
from . import hmc
from .bases import Base, PriorBase, gaussian_base
from .bounds import GROUP
from .door import check_door
from .hmc import Evaluation
from .importance_weights import grouped_noise, log_mean_exp
from .preparation import prepared

__all__ = [
    "RELAX_LEAPFROG",
    "AnnealedChains",
    "AnnealingPath",
    "AnnealingSchedule",
    "ais",
    "ais_of",
    "anneal",
    "inverse_temperatures",
    "tune",
]

KINDS = ("linear", "sigmoid", "adaptive")  # of schedules
TARGET_ACCEPTANCE = 0.8
RELAX_LEAPFROG = 5  # leapfrog steps of a move at b = 1: with the step sizes that the pilot tunes, about a quarter turn
Noise = Callable[[], tuple[Tensor, Tensor]]
BaseLike: TypeAlias = "Literal['prior'] | Local | FittedPosterior"


@dataclass(frozen=True, kw_only=True)
class AnnealingSchedule:
    """The schedule of an AIS run.

    Attributes:
        n_temperatures: T, the number of steps from the base to the posterior.
        n_leapfrog: leapfrog steps at each temperature.
        n_chains: chains for each datum.
        kind: "linear", "sigmoid", or "adaptive", where each step has an equal share of the spread of log weights that
            the pilot saw.
        n_pilots: pilot runs that tune the kernels.
    Raises:
        ValueError: another kind, or a number below 1.
    """

    n_temperatures: int = 10
    n_leapfrog: int = 2
    n_chains: int = 16
    kind: str = "adaptive"
    n_pilots: int = 2

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {KINDS}; got {self.kind!r}")
        for name in ("n_temperatures", "n_leapfrog", "n_chains"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")


@dataclass(frozen=True)
class AnnealingPath:
    """Frozen kernels: inverse temperatures (T + 1, N) from 0 to 1, step sizes (T + 1, N), and leapfrog steps."""

    betas: Tensor
    step_sizes: Tensor
    n_leapfrog: int

    def rows(self, index: Tensor) -> AnnealingPath:
        """The kernels of the data `index` (R,)."""
        return replace(self, betas=self.betas[:, index], step_sizes=self.step_sizes[:, index])


@dataclass(frozen=True, kw_only=True)
class AnnealedChains:
    """The result of a run of chains.

    Attributes:
        log_w: log weights (C, N) in nats.
        ends: z (C, N, D) where the chains ended.
        acceptance: mean acceptance probability (T, N) at each temperature, 1 where no kernel is applied.
        rate_std: standard deviation over chains (T, N) of d log w / d beta at each temperature.
        n_diverged: number of diverged proposals (N,).
    """

    log_w: Tensor
    ends: Tensor
    acceptance: Tensor
    rate_std: Tensor
    n_diverged: Tensor


def inverse_temperatures(kind: str, n_temperatures: int, n: int, like: Tensor) -> Tensor:
    """Inverse temperatures (T + 1, n) from 0 to 1, in float64.

    They are evenly spaced ("linear"), or finer at both ends ("sigmoid", Grosse et al. 2015).
    """
    t = torch.linspace(0, 1, n_temperatures + 1, dtype=torch.float64, device=like.device)
    if kind == "sigmoid":
        s = torch.sigmoid(4.0 * (2 * t - 1))
        t = (s - s[0]) / (s[-1] - s[0])
    return t[:, None].expand(n_temperatures + 1, n).clone()


def anneal(
    base: Base, path: AnnealingPath, n_chains: int, seed: int, key: tuple[str | int, ...], exact: Tensor | None = None,
    n_relax: int = 0, rows: Tensor | None = None,
) -> AnnealedChains:  # fmt: skip
    """Run chains along a frozen path, forward from the base, or in reverse from exact posterior draws.

    Forward, E[exp(log w)] = p(x); in reverse, E[exp(-log w)] = 1 / p(x). Chains run in groups of GROUP, with noise
    keyed by group, so that memory stays bounded.

    Args:
        base: where forward chains start.
        path: the frozen kernels.
        n_chains: C, the number of chains for each datum.
        seed, key: the key of the noise.
        exact: posterior draws z (N, D), or one for each chain (C, N, D), which make the run a reverse one.
        n_relax: moves of each reverse chain within the posterior before it starts.
        rows: (R,) run these data only, with the noise that they would have among all N.
    """
    runs = []
    for group in range(-(-n_chains // GROUP)):
        generator = seeded(seed, *key, group)
        draws = base.sample(GROUP, generator)
        noise = _noise_of(draws, generator, rows)
        if exact is not None:
            given = exact[None] if exact.ndim == 2 else exact[group * GROUP : (group + 1) * GROUP]
            draws = base.whiten(given.expand(draws.shape).contiguous())
        mine, kernels = (base, path) if rows is None else (base.rows(rows), path.rows(rows))
        draws = draws if rows is None else draws[:, rows]
        if exact is not None:
            draws = _relaxed(mine, kernels, draws, noise, n_relax)
        runs.append(_anneal_group(mine, kernels, draws, noise, reverse=exact is not None))
    return AnnealedChains(
        log_w=torch.cat([run.log_w for run in runs])[:n_chains],
        ends=torch.cat([run.ends for run in runs])[:n_chains],
        acceptance=torch.stack([run.acceptance for run in runs]).mean(0),
        rate_std=torch.stack([run.rate_std for run in runs]).mean(0),
        n_diverged=torch.stack([run.n_diverged for run in runs]).sum(0),
    )


def _noise_of(like: Tensor, generator: torch.Generator, rows: Tensor | None) -> Noise:
    """Momentum (C, N, D) and the uniform of the Metropolis test (C, N) of each move in turn, cut to `rows`."""

    def noise() -> tuple[Tensor, Tensor]:
        momentum = normal(like.shape, generator, like, data_axis=1)
        chance = uniform(like.shape[:2], generator, like, data_axis=1)
        return (momentum, chance) if rows is None else (momentum[:, rows], chance[:, rows])

    return noise


def tune(
    base: Base, schedule: AnnealingSchedule, n: int, like: Tensor, key: tuple[str | int, ...],
    rows: Tensor | None = None,
) -> tuple[AnnealingPath, AnnealedChains]:  # fmt: skip
    """A frozen path for a block of n data, and the last pilot run. With `rows` (R,) only these data are tuned and run.

    Each pilot moves the step size of every temperature toward an acceptance of 0.8. It also places the temperatures of
    an "adaptive" schedule where the log weights spread, and interpolates the step sizes. Pilots depend neither on the
    seed of the reported run nor on any exact draw. `like` has the dtype, device and last dimension D of the latents.
    """
    start = "linear" if schedule.kind == "adaptive" else schedule.kind
    betas = inverse_temperatures(start, schedule.n_temperatures, n, like)
    width = like.shape[-1] ** -0.25
    step_sizes = torch.full(betas.shape, 0.9 * width, dtype=torch.float64, device=like.device)
    path = AnnealingPath(betas, step_sizes, schedule.n_leapfrog)
    for pilot in range(schedule.n_pilots):
        run = anneal(base, path, GROUP, 0, (*key, "pilot", pilot), rows=rows)
        acceptance, rate_std = (_of_all(part, rows, n) for part in (run.acceptance, run.rate_std))
        path = replace(path, step_sizes=_adjusted(path, acceptance))
        if schedule.kind == "adaptive":
            path = _placed(path, rate_std)
    return path, anneal(base, path, GROUP, 0, (*key, "pilot", "last"), rows=rows)


def _of_all(values: Tensor, rows: Tensor | None, n: int) -> Tensor:
    """Values (T, R) of some rows among those of n data, (T, n), where the others have ones."""
    if rows is None:
        return values
    whole = values.new_ones(len(values), n)
    whole[:, rows.to(values.device)] = values
    return whole


def ais_of(run: AnnealedChains, ids: NDArray[np.int64], name: str, key: object) -> Estimate:
    """The lower bound log mean(w) of a forward run, (N,) in nats, with its delta-method error."""
    value, deviations = log_mean_exp(run.log_w)
    return Estimate(name, value.cpu().numpy(), side="lower", noise={key: grouped_noise(deviations)}, ids=ids)


class FittedPosterior(Protocol):
    """A local fit, whose posterior is `q`."""

    @property
    def q(self) -> Local:
        """The posterior, with a row of parameters for each datum."""


def ais(
    model: LatentModel, x: Data, base: BaseLike = "prior", n_temperatures: int = 100, n_leapfrog: int = 2,
    n_chains: int = 16, kind: str = "adaptive", seed: int = 0, check: bool = True,
) -> Estimate:  # fmt: skip
    """A lower bound of log p(x) per datum, in nats, by forward AIS (Neal 2001).

    Args:
        model: a `LatentModel`.
        x: N data (tensor, mapping, map-style dataset).
        base: "prior", or a `Local` Gaussian posterior (or a `Fit` of one) with a row per datum.
        n_temperatures, n_leapfrog, n_chains, kind: see `AnnealingSchedule`.
        seed: the seed of the reported run; the pilots have their own.
        check: whether to check the first rows before anything is computed.
    Raises:
        CheckError: the check refuses the model or the data.
        TypeError: a base without a Gaussian density, a prior that cannot be sampled, or data that can only be iterated.
        ValueError: a local base for another number of data, no data, or a density of the wrong shape.
    """
    schedule = AnnealingSchedule(n_temperatures=n_temperatures, n_leapfrog=n_leapfrog, n_chains=n_chains, kind=kind)
    local = getattr(base, "q", base)
    if local != "prior" and not isinstance(local, Local):
        raise TypeError(f'base must be "prior", a Local Gaussian posterior or a Fit; got {type(base).__name__}')
    if check:
        check_door(model, None, x)
    local = local if isinstance(local, Local) else None
    parts = []
    with prepared(model, local, x) as (_, blocks):
        for block in blocks:
            start, like = _block_base(model, local, block)
            path, _ = tune(start, schedule, len(block.index), like, ("ais", block.number))
            run = anneal(start, path, n_chains, seed, ("ais", "run", block.number))
            run = replace(run, log_w=run.log_w[:, : block.rows])
            parts.append(ais_of(run, block.index[: block.rows].numpy(), "AIS", ("ais", seed, id(base), n_chains)))
    return concatenate(parts)


def _block_base(model: LatentModel, local: Local | None, block: Block) -> tuple[Base, Tensor]:
    """A block's base, and a tensor with the last dimension, dtype and device of the latents."""
    if isinstance(local, Local):
        gaussian = gaussian_base(model, block.x, local.rows(block.index)(block.x).detached().params)
        return gaussian, gaussian.coordinates.center
    prior = PriorBase(model, block.x, len(block.index))
    return prior, prior.sample(1, seeded(0, "like"))[0]


def _anneal_group(base: Base, path: AnnealingPath, u: Tensor, noise: Noise, reverse: bool) -> AnnealedChains:
    """One group of chains (C, N, D) along the path. The kernel at b = 1 would not change the weights and is left
    out.
    """
    n_steps = len(path.betas) - 1
    order = range(n_steps, 0, -1) if reverse else range(1, n_steps + 1)
    log_w = torch.zeros(u.shape[:2], dtype=torch.float64, device=u.device)
    acceptance, rate_std = torch.ones(n_steps, u.shape[1]), torch.zeros(n_steps, u.shape[1], dtype=torch.float64)
    n_diverged = torch.zeros(u.shape[1], dtype=torch.int64, device=u.device)
    state = hmc.init(u, _tempered(base, path.betas[n_steps if reverse else 0]))
    for t in order:
        rate = state.at.parts[1] - state.at.parts[0]
        log_w = log_w + (path.betas[t] - path.betas[t - 1]) * rate
        rate_std[t - 1] = rate.std(0).cpu()
        kernel = t - 1 if reverse else t
        if kernel in (0, n_steps):
            continue
        density = _tempered(base, path.betas[kernel])
        state = hmc.State(state.z, _at(path.betas[kernel], *state.at.parts))
        step_size = path.step_sizes[kernel].to(u)
        state, info = hmc.step(state, *noise(), density, step_size, path.n_leapfrog)
        acceptance[kernel - 1] = info.acceptance.mean(0).cpu().float()
        n_diverged += info.diverged.sum(0)
    ends = base.latents(state.z)
    return AnnealedChains(log_w=log_w, ends=ends, acceptance=acceptance, rate_std=rate_std, n_diverged=n_diverged)


def _relaxed(base: Base, path: AnnealingPath, u: Tensor, noise: Noise, n_moves: int) -> Tensor:
    """u (C, N, D) after moves that leave the posterior invariant: HMC at the path's last tuned step size and at half of
    it in turn, since what suits the bulk can be too long in a tail.
    """
    if n_moves == 0:
        return u
    density = _tempered(base, path.betas[-1])
    state = hmc.init(u, density)
    for move in range(n_moves):
        size = path.step_sizes[-2] * (0.5 if move % 2 else 1.0)
        state, _ = hmc.step(state, *noise(), density, size.to(u), RELAX_LEAPFROG)
    return state.z


def _tempered(base: Base, beta: Tensor) -> Callable[[Tensor], Evaluation]:
    """log f_b as a log density of u. Both of its ends are kept as parts, so another temperature costs nothing."""
    return lambda u: _at(beta, *base.evaluate(u))


def _at(beta: Tensor, base: Tensor, joint: Tensor, base_grad: Tensor, joint_grad: Tensor) -> Evaluation:
    weight = beta[:, None].to(joint_grad)
    grad = (1 - weight) * base_grad + weight * joint_grad
    return Evaluation((1 - beta) * base + beta * joint, grad, (base, joint, base_grad, joint_grad))


def _adjusted(path: AnnealingPath, acceptance: Tensor) -> Tensor:
    """Step sizes moved toward the target acceptance. Those at both ends, which no kernel uses, stay as they are."""
    change = torch.exp(1.5 * (acceptance.double() - TARGET_ACCEPTANCE)).to(path.step_sizes.device)
    sizes = path.step_sizes.clone()
    sizes[1:-1] = sizes[1:-1] * change[:-1]
    return sizes


def _placed(path: AnnealingPath, rate_std: Tensor) -> AnnealingPath:
    """Temperatures such that each step takes an equal share of the spread of log weights the pilot saw.

    Half of the density is kept uniform, so that a noisy pilot cannot leave a gap. Step sizes are interpolated.
    """
    betas = path.betas
    widths = betas.diff(dim=0)
    density = (rate_std.to(betas.device) * widths).nan_to_num(0.0, 0.0, 0.0) + 1e-12
    share = 0.5 * density / density.sum(0) + 0.5 * widths
    cumulative = torch.cat([torch.zeros_like(betas[:1]), share.cumsum(0)])
    cumulative = cumulative / cumulative[-1]
    grid = torch.linspace(0, 1, len(betas), dtype=betas.dtype, device=betas.device)[:, None].expand_as(betas)
    placed = _interpolate(grid, cumulative, betas)
    placed[0], placed[-1] = 0.0, 1.0
    return replace(path, betas=placed, step_sizes=_interpolate(placed, betas, path.step_sizes))


def _interpolate(at: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Piecewise linear interpolation down the columns of (T + 1, N) tensors, x increasing."""
    right = torch.searchsorted(x.T.contiguous(), at.T.contiguous()).T.clamp(1, len(x) - 1)
    x0, x1 = x.gather(0, right - 1), x.gather(0, right)
    weight = ((at - x0) / (x1 - x0).clamp(min=1e-12)).clamp(0, 1)
    return y.gather(0, right - 1) * (1 - weight) + y.gather(0, right) * weight
