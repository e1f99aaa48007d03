"""Local fits of one block of data: every rung that a plan asks for, and the best member of q's own family."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from ..core import Block
from ..fits import best_start, better_start, fit_block, start_of
from ..models import LatentModel, Tempered, latent_size
from ..posteriors import (
    GAUSSIAN_PARAMS,
    AffineMap,
    Ascent,
    DiagonalGaussian,
    Family,
    Params,
    Posterior,
    VariationalDistribution,
    rung_families,
)
from ..results import TEMPERED, FitReport
from .plan import Plan

__all__ = ["FittedRung", "KnownFit", "fit_rungs", "fitted_flow", "widest_gaussian"]

KnownFit: TypeAlias = tuple[Params, FitReport]


@dataclass(frozen=True, kw_only=True)
class FittedRung:
    """The best member of a family for each of the B data of a block.

    Attributes:
        family: the family.
        params: parameters of the fitted distributions, (B, ...) each.
        report: how each fit ended.
        metric: coordinates in which the posterior is about isotropic, or None.
    """

    family: Family
    params: Params
    report: FitReport
    metric: AffineMap | None

    @property
    def is_base(self) -> bool:
        """Whether other fits and annealing can start from it: a Gaussian of the ladder, in the parameters of one."""
        plain = set(self.params) <= GAUSSIAN_PARAMS and self.params["log_scale"].shape == self.params["mean"].shape
        return self.family.is_gaussian and self.family.place is not None and plain

    @property
    def has_shortfall(self) -> bool:
        """Whether it can be estimated what the fit lacks: that of a Gaussian that climbs by natural gradients."""
        return self.is_base and self.family.ascent is Ascent.NATURAL

    @property
    def distribution(self) -> VariationalDistribution:
        """The fitted distribution of each datum."""
        return VariationalDistribution(self.family, self.params)


def fit_rungs(
    model: LatentModel,
    posterior: Posterior | None,
    block: Block,
    plan: Plan,
    seed: int,
    own: Family | None,
    kl_weight: float = 1.0,
    progress: Callable[[int, int], None] | None = None,
    known: Mapping[str, KnownFit] | None = None,
) -> dict[str, FittedRung]:
    """Fit the rungs of the plan and q's own family on one block.

    The widest Gaussian is fitted first, from the better of two starts, because its steps are not affected by the scales
    and correlations of the posterior. The other Gaussians and the flows start from it; q's own family, if it is not
    Gaussian, and the fit for a `kl_weight` other than 1 start from the encoder's answer.

    Args:
        model: a `LatentModel`.
        posterior: the posterior to start from; None for the prior.
        block: the data.
        plan: which rungs to fit, and their budgets.
        seed: seed of the draws.
        own: q's own family; None where it is unknown.
        kl_weight: if it is not 1 and `own` is known, the best q for it is fitted too, under `TEMPERED`.
        progress: called after each fit with (rungs fitted, rungs in all).
        known: fits of Gaussians that were made with these arguments before, by the name of the rung; they are not made
            again if all of them are known.
    Returns:
        The fitted rungs by name, Gaussians from the lowest up before the others.
    """
    gaussians, others = _families(plan, latent_size(model), own)
    if known is None or any(family.name not in known for family in gaussians):
        known = {}
    rungs: dict[str, FittedRung] = {}
    is_tempered = kl_weight != 1.0 and own is not None and own.name in {f.name for f in (*gaussians, *others)}
    total = len(gaussians) + len(others) + is_tempered

    def fit(name: str, family: Family, target: LatentModel, start: Params) -> FittedRung:
        if name in known:
            params, report = known[name]
        else:
            params, report = fit_block(family, target, block, start, seed, plan.budget(family))
        rungs[name] = FittedRung(family=family, params=params, report=report, metric=family.metric(start))
        if progress is not None:
            progress(len(rungs), total)
        return rungs[name]

    gaussians_from_widest = sorted(gaussians, key=lambda f: math.inf if f.place is None else -f.place)
    if known:
        start, cost = known[gaussians_from_widest[0].name][0], 0.0
    else:
        start, cost = best_start(posterior, model, block, seed, plan.multistart)
    for family in gaussians_from_widest:
        fit(family.name, family, model, start)
        start = rungs[widest_gaussian(rungs)].params if any(rung.is_base for rung in rungs.values()) else start
    _charge(rungs, DiagonalGaussian.name, cost)
    for family in others:
        if own is None or family.name != own.name:
            fit(family.name, family, model, start)
            continue
        answer = start_of(family, posterior, model, block, seed)
        begun, cost = better_start(family, model, block, [answer, start], seed)
        fit(family.name, family, model, begun)
        _charge(rungs, family.name, cost)
    if is_tempered and own is not None:
        target = Tempered(model, kl_weight)
        start, cost = start_of(own, posterior, target, block, seed), 0.0
        if own.is_gaussian:  # the widest Gaussian's coordinates, as for the rungs
            widest = rungs[widest_gaussian(rungs)].family
            if widest.name != own.name:
                wide = fit(TEMPERED, widest, target, start)
                start, cost = wide.params, float(wide.report.work.mean())
        fit(TEMPERED, own, target, start)
        _charge(rungs, TEMPERED, cost)
    order = [family.name for family in (*gaussians, *others)]
    return {name: rungs[name] for name in (*order, TEMPERED) if name in rungs}


def widest_gaussian(rungs: Mapping[str, FittedRung]) -> str:
    """The name of the widest Gaussian from which other fits and annealing can start."""
    bases = [rung.family for name, rung in rungs.items() if rung.is_base and name != TEMPERED]
    return max(bases, key=_place).name


def fitted_flow(rungs: Mapping[str, FittedRung]) -> FittedRung | None:
    """The highest rung of the ladder that is not Gaussian; None if there is none."""
    placed = [rung for name, rung in rungs.items() if rung.family.place is not None and name != TEMPERED]
    return max((rung for rung in placed if not rung.family.is_gaussian), key=lambda r: _place(r.family), default=None)


def _families(plan: Plan, size: int, own: Family | None) -> tuple[list[Family], list[Family]]:
    """The Gaussians to fit, and the others, each from the lowest up: those of the plan that can be rungs of `size`
    latents, q's own among them as q has it. A q that is itself no Gaussian stands for all others that are none.
    """
    planned = [kind.for_rung(size) for kind in rung_families() if kind.name in plan.rungs]
    families = [family for family in planned if family is not None and (own is None or family.name != own.name)]
    gaussians = [family for family in families if family.is_gaussian]
    others = [family for family in families if not family.is_gaussian]
    if own is not None and not own.is_gaussian:
        others = [own]
    elif own is not None and own.for_rung(size) is not None:
        gaussians.append(own)
    return sorted(gaussians, key=_place), sorted(others, key=_place)


def _place(family: Family) -> float:
    return math.inf if family.place is None else family.place


def _charge(rungs: dict[str, FittedRung], name: str, cost: float) -> None:
    """The cost of the start on the account of the fit that every plan has."""
    report = rungs[name].report
    rungs[name] = replace(rungs[name], report=replace(report, work=report.work + cost))
