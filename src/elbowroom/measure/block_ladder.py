"""The ladder of one block of data, and of several blocks as one."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..core import Block
from ..evidence import ESTIMATOR_WORDS, Estimator, block_evidence, block_log_weights, elbo_of, grouped_noise
from ..fits import assess, has_control
from ..models import LatentModel
from ..posteriors import Distribution, Posterior, VariationalDistribution, ladder_rungs
from ..results import TEMPERED, Array, Estimate, Flag, Gaps, Outcome
from .measurement import Phase
from .plan import Plan
from .rungs import FittedRung, KnownFit, fit_rungs, fitted_flow, widest_gaussian

__all__ = ["as_one", "fingerprint", "measure_block", "not_measured"]


def measure_block(
    phase: Phase,
    posterior: Posterior,
    block: Block,
    fitted: Callable[[int, int], None],
    known: Mapping[str, KnownFit] | None = None,
) -> tuple[Gaps, Mapping[str, FittedRung]]:
    """The ladder of one block, cut to its real rows, and its fits, which are not.

    Args:
        fitted: called with (rungs fitted, rungs in all).
        known: as in `fit_rungs`.
    """
    model, plan, seed, kl_weight = phase.model, phase.plan, phase.seed, phase.kl_weight
    with torch.no_grad():
        encoder = posterior.rows(block.index)(block.x)
    own = encoder.family if isinstance(encoder, VariationalDistribution) else None
    ids, work = block.index.numpy(), {"elbo": 0.5 * plan.n_elbo}
    elbo = _encoder_elbo(model, encoder, block, plan, seed)
    fitted(0, len(plan.rungs))
    rungs = fit_rungs(model, posterior, block, plan, seed, own, kl_weight, fitted, known)
    local: dict[str, Estimate] = {}
    shortfall: dict[str, Estimate] = {}
    flags = np.zeros(len(ids), dtype=np.int64)
    for name, rung in rungs.items():
        local[name], lacks = _rung_elbo(model, name, rung, block, plan, seed)
        if lacks is not None:
            shortfall[name] = lacks
        flags |= np.where(rung.report.outcome == Outcome.DIVERGED, int(Flag.FIT_DIVERGED), 0)
        flags |= np.where(rung.report.outcome == Outcome.RAN_OUT, int(Flag.FIT_RAN_OUT), 0)
        work[f"fit {name}"] = float(rung.report.work[: block.rows].mean()) + 0.5 * plan.n_elbo
    others: dict[Estimator, Distribution] = {Estimator.ENCODER: encoder}
    flow = fitted_flow(rungs)
    if flow is not None:
        others[Estimator.FLOW] = flow.distribution
    base = rungs[widest_gaussian(rungs)].params
    evidence = block_evidence(model, block, base, plan.evidence, seed, others)
    for estimate in (elbo, *local.values(), evidence.estimate):
        flags |= np.where(estimate.finite, 0, int(Flag.NOT_FINITE))
    rows = slice(0, block.rows)
    gaps = Gaps(
        elbo=elbo[rows],
        local={name: estimate[rows] for name, estimate in local.items()},
        log_evidence=evidence.estimate[rows],
        shortfall={name: estimate[rows] for name, estimate in shortfall.items()},
        fits={name: rung.report[rows] for name, rung in rungs.items()},
        flags=(flags | evidence.flags)[rows],
        chosen=evidence.chosen[rows],
        estimators={name.value: words for name, words in ESTIMATOR_WORDS.items()},
        candidates={name: estimate[rows] for name, estimate in evidence.candidates.items()},
        k_hat=evidence.k_hat[rows],
        rungs=ladder_rungs(own),
        family=None if own is None else own.name,
        work=work | {f"evidence {name}": units for name, units in evidence.work.items()},
        plan=plan.name,
        seed=seed,
        kl_weight=kl_weight,
        fingerprint=fingerprint(block)[rows],
    )
    return gaps, rungs


def as_one(blocks: Iterable[Gaps], n: int) -> Gaps:
    """Blocks as one of n data: all have the same columns; work is averaged over data.

    The columns of the whole are filled block by block, so that the data are not in memory twice.

    Raises:
        ValueError: no datum has a finite value on every rung.
    """
    columns: dict[str, NDArray[Any]] = {}
    metas: list[Mapping[str, Any]] = []
    start = 0
    for block in blocks:
        meta, own = block.to_columns()
        metas.append(meta)
        for name, column in own.items():
            whole = columns.get(name, np.empty((n, *column.shape[1:]), dtype=column.dtype))
            if whole.dtype != column.dtype:  # a longer name of an estimator than in the blocks before
                whole = whole.astype(np.promote_types(whole.dtype, column.dtype))
            whole[start : start + len(block)] = column
            columns[name] = whole
        start += len(block)
    rows = [meta["n"] for meta in metas]
    work = {name: float(np.average([meta["work"][name] for meta in metas], weights=rows)) for name in metas[0]["work"]}
    return _masked(Gaps.from_columns({**metas[0], "n": n, "work": work}, columns))


def not_measured(like: Gaps, ids: NDArray[np.int64], prints: NDArray[np.int64]) -> Gaps:
    """Data of which nothing is known, with the estimates of a block of which something is.

    Args:
        ids: (B,) the rows of the data.
        prints: (B,) their fingerprints.
    """
    meta, columns = like.to_columns()
    n = len(ids)
    unknown = {name: _nothing_like(name, column, n) for name, column in columns.items()}
    unknown |= {"id": ids, "fingerprint": prints, "flags": np.full(n, int(Flag.NOT_FINITE))}
    return Gaps.from_columns({**meta, "n": n}, unknown)


def _nothing_like(name: str, column: NDArray[Any], n: int) -> NDArray[Any]:
    """NaN for numbers, no noise, no work, and a fit that did not end; the estimator is any, as for NaN elsewhere."""
    shape = (n, *column.shape[1:])
    if name.startswith("outcome."):
        return np.full(shape, int(Outcome.DIVERGED), dtype=column.dtype)
    if ".noise" in name or name.startswith(("work.", "steps.")):
        return np.zeros(shape, dtype=column.dtype)
    return np.full(shape, np.nan) if column.dtype.kind == "f" else np.resize(column, shape)


def fingerprint(block: Block) -> NDArray[np.int64]:
    """A hash of each row's numbers, covariates included and in single precision: did two runs with the same ids see the
    same data?
    """
    parts = [block.x[key] for key in sorted(block.x)] if isinstance(block.x, Mapping) else [block.x]
    flat = torch.cat([part.reshape(len(part), -1).float().double().cpu() for part in parts], dim=1)
    weights = torch.linspace(1.0, 2.0, flat.shape[1], dtype=torch.float64)
    return ((flat * weights).sum(1) * 2**20).round().to(torch.int64).numpy()


def _encoder_elbo(model: LatentModel, encoder: Distribution, block: Block, plan: Plan, seed: int) -> Estimate:
    """L[q] of the encoder's answers; that of Gaussians is made more precise by the gradients of half as many draws."""
    ids, n_draws, key = block.index.numpy(), plan.n_elbo // 2, "elbo with gradients"
    if isinstance(encoder, VariationalDistribution) and has_control(n_draws, encoder.family):
        params = encoder.detached().params
        values = assess(model, block, encoder.family, params, n_draws, seed, key).values
        return elbo_of(values, ids, "L[q]", key=(key, seed), rounding=_rounding(block))
    return elbo_of(block_log_weights(model, encoder, block, plan.n_elbo, seed, "elbo"), ids, "L[q]", key=("elbo", seed))


def _rounding(block: Block) -> float:
    """The relative rounding error of a log weight: sums over many pixels round some ten times."""
    return 10 * torch.finfo(block.like.dtype).eps


def _rung_elbo(
    model: LatentModel, name: str, rung: FittedRung, block: Block, plan: Plan, seed: int
) -> tuple[Estimate, Estimate | None]:
    """The ELBO of a fitted rung on fresh draws and, of a Gaussian, what its fit still lacks; NaN where it diverged.

    A draw with a gradient costs as much as two without, so the draws are half as many where both are estimated.
    """
    key, ids, finished = f"final-{name}", block.index.numpy(), rung.report.outcome != Outcome.DIVERGED
    label = "L[q*_b]" if name == TEMPERED else f"L[q*_{name}]"
    side = "neither" if name == TEMPERED else "lower"  # not the best q of its ELBO, and no bound of that
    if not rung.has_shortfall:
        log_w = block_log_weights(model, rung.distribution, block, plan.n_elbo, seed, key)
        return elbo_of(log_w, ids, label, side, key=("rung", name, seed)).where(finished), None
    found = assess(model, block, rung.family, rung.params, plan.n_elbo // 2, seed, key, rung.metric)
    estimate = elbo_of(found.values, ids, label, side, key=("rung", name, seed), rounding=_rounding(block))
    if name == TEMPERED:  # its fit lacks nats of another objective
        return estimate.where(finished), None
    noise: dict[object, Array] = {("shortfall", name, seed): grouped_noise(found.deviations)}
    lacks = Estimate(f"shortfall of {label}", found.shortfall.cpu().numpy(), noise=noise, ids=ids)
    return estimate.where(finished), lacks.where(finished)


def _masked(gaps: Gaps) -> Gaps:
    """One mask for the whole ladder, so that the steps add up; a model without one finite datum is an error."""
    rungs = [gaps.elbo, gaps.log_evidence, *gaps.local.values()]
    keep = np.logical_and.reduce([rung.finite for rung in rungs])
    if not keep.any():
        bad = [rung.name for rung in rungs if not rung.finite.any()] or ["one rung or another"]
        raise ValueError(
            f"none of the {len(keep)} data has a finite value of {', '.join(bad)}: nothing can be reported. "
            "Run er.check(model, q, x) to find what is not finite."
        )
    local, shortfall = (
        {name: estimate.where(keep) for name, estimate in estimates.items()}
        for estimates in (gaps.local, gaps.shortfall)
    )
    elbo, log_evidence = gaps.elbo.where(keep), gaps.log_evidence.where(keep)
    return replace(gaps, elbo=elbo, local=local, shortfall=shortfall, log_evidence=log_evidence)
