r"""`decompose` measures the ladder of a model on data, block by block.

    L[q] | amortization | L[q*_diagonal] | factorization | L[q*_full] | gaussianity | L[q*_flow] | remainder | log p(x)

Each rung is the ELBO of a better q for the same datum and the same decoder (Cremer, Li and Duvenaud 2018). Where a rung
is not fitted, the steps on either side of it are merged. Where q is not a diagonal Gaussian, amortization is measured
against the best member of q's own family, and smaller families are shown beside the ladder. With `refine_on`, a cheap
plan measures all data and a costly one a random sample of them (`double_sampling`).
"""

from __future__ import annotations  # signatures in help() then show types by their names

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..core import BLOCK, Block, Data, MapStyle, Rows, as_data, n_data, read_rows
from ..evidence import (
    ESTIMATOR_WORDS,
    Estimator,
    block_evidence,
    block_log_weights,
    check_door,
    elbo_of,
    grouped_noise,
    prepared_pair,
)
from ..fits import assess, has_control
from ..models import LatentModel, latent_size
from ..posteriors import (
    FAMILIES,
    Distribution,
    Local,
    Posterior,
    PosteriorLike,
    VariationalDistribution,
    ladder_rungs,
)
from ..results import TEMPERED, Array, Estimate, FitReport, Flag, Gaps, Outcome, Parts, concatenate
from .check import data_notes
from .densities import density_notes
from .double_sampling import combine, refined_rows, second_phase_seed
from .kept import keeping, save_finished
from .plan import Plan, PlanLike, as_plan
from .progress import ProgressLike, reporting
from .provenance import described
from .rungs import FittedRung, fit_rungs, fitted_flow, widest_gaussian

__all__ = ["decompose", "measured"]


def decompose(
    model: LatentModel,
    q: PosteriorLike,
    x: Data,
    plan: PlanLike = "standard",
    seed: int = 0,
    kl_weight: float = 1.0,
    objective: str | None = None,
    groups: Sequence[object] | None = None,
    ids: Sequence[int] | None = None,
    progress: ProgressLike = None,
    refine_on: int | None = None,
    refine_plan: PlanLike = "standard",
    check: bool = True,
    out: str | Path | None = None,
) -> Gaps:
    """Measure the ladder of each datum, from L[q] up to log p(x).

    Args:
        model: a `LatentModel`, such as `DecoderModel`.
        q: a posterior, or a callable x -> torch Distribution.
        x: N data (tensor, array, mapping of them, or map-style dataset).
        plan: "quick" (screening: no full Gaussian, no annealing), "standard" (log p(x) within 0.03 nats of a datum on
            average, where nothing is flagged), "flow" (adds a local flow), "precise" (an error of log p(x) of at most
            0.05 nats for each datum, or a flag), "published" (the paper's protocol: 10 million gradients per datum), or
            a `Plan`.
        seed: seed of all draws.
        kl_weight: the beta that q was trained with. If it is not 1, amortization is split into encoder and mismatch.
        objective: a label for any other training objective ("iwae", "free bits"), printed with the table.
        groups: N labels; the table also gives means by label.
        ids: N unique integers; row numbers by default.
        progress: called with (data done, data in all) at the start, after each stage of a block and at its end. Within
            a block the data done are a share of it. Data that are refined count twice. None for a bar on a terminal, or
            a line in a notebook; False for neither. If the work will take more than ten minutes, a UserWarning says so.
        refine_on: how many data, drawn at random, `refine_plan` measures too. The others are measured by `plan` alone
            and corrected by the mean difference: means are those of `refine_plan`, single values are predictions.
        refine_plan: the plan for the refined data, as `plan`; used with `refine_on` only.
        check: look at the first rows before anything is measured, and refuse what cannot be right. A likelihood that is
            not the library's own is then tested to be a density; where it cannot be, a note in the table says so.
        out: a run folder, in which each block of data is kept as soon as it is measured. A measurement that was
            interrupted, even killed, goes on where it was when it is called again with the same arguments, and ends in
            the same numbers. More rows of x may be added at its end, unless a sample was refined. `load_gaps` reads the
            finished run.
    Returns:
        The `Gaps` of the N data.
    Raises:
        CheckError: a model, posterior or data that cannot be right; it is a ValueError.
        RunError: `out` holds a run of another model, posterior, plan, seed or data, or of more of them, or other files;
            or it cannot be written to, or another process measures into it. It is a ValueError.
        TypeError: data that can only be iterated.
        ValueError: no data, an unknown plan, a kl_weight that is not positive, groups or ids of another number than N,
            ids that are not unique, a `refine_on` that is not between 2 and N, or no datum with finite values.
    """
    first_plan, second_plan = as_plan(plan), as_plan(refine_plan)
    data = as_data(x)
    n = n_data(data)
    if kl_weight <= 0:
        raise ValueError(f"kl_weight must be positive; got {kl_weight}")
    for name, given in (("groups", groups), ("ids", ids)):
        if given is not None and len(given) != n:
            raise ValueError(f"{name} must have one entry per datum, {n}; got {len(given)}")
    if refine_on is not None and not 2 <= refine_on <= n:
        raise ValueError(f"refine_on must be between 2 and {n}, the number of data; got {refine_on}")
    if refine_on == n:
        first_plan, refine_on = second_plan, None
    unverified: list[str] = []
    if check:
        check_door(model, q, data)
        unverified = density_notes(model, data, seed)
    total = n + (refine_on or 0)

    provenance = described(model, q, data) | {
        "arguments": {"seed": int(seed), "kl_weight": kl_weight, "objective": objective, "refine_on": refine_on},
        "plans": [asdict(one) for one in ([first_plan] if refine_on is None else [first_plan, second_plan])],
    }
    start = time.perf_counter()
    with reporting(progress, total, folder=out) as report, keeping(out, model, q, data, provenance) as kept:
        parts = kept("first", n)
        gaps = _with_ids(measured(model, q, data, first_plan, seed, kl_weight, report, parts=parts), ids)
        if refine_on is not None:
            rows, first_plan = refined_rows(n, refine_on, seed), second_plan
            own = q.rows(rows) if isinstance(q, Local) else q
            draws, chosen = second_phase_seed(seed), read_rows(data, rows)
            parts = kept("second", refine_on)
            second = measured(
                model, own, chosen, second_plan, draws, kl_weight, lambda done: report(n + done), parts=parts
            )
            gaps = combine(gaps, second, rows.numpy())
        notes = (*gaps.notes, *unverified, *_notes(model, data, kl_weight, objective, gaps, first_plan))
        provenance["seconds"] = round(time.perf_counter() - start, 3)
        labels = None if groups is None else np.asarray(groups)
        gaps = replace(gaps, groups=labels, notes=notes, provenance=provenance)
        if out is not None:
            save_finished(gaps, out)
        return gaps


def measured(
    model: LatentModel,
    q: PosteriorLike,
    x: Rows | MapStyle,
    plan: Plan,
    seed: int,
    kl_weight: float,
    report: Callable[[float], None],
    size: int = BLOCK,
    parts: Parts | None = None,
) -> Gaps:
    """Measure all of x by one plan, without notes and provenance.

    Args:
        report: called with the number of data done.
        size: rows of a block.
        parts: where blocks are kept as soon as they are measured, and taken from if they are there.
    Raises:
        RunError: `parts` has blocks of other data.
        ValueError: no datum has a finite value on every rung.
    """
    measured_blocks = []
    with prepared_pair(model, q, x, size) as (posterior, blocks):
        for block in blocks:
            before = int(block.index[0])

            def fitted(done: int, total: int, before: int = before, rows: int = block.rows) -> None:
                report(before + rows * (1 + done) / (total + 2))  # L[q] is done, and log p(x) is still to come

            gaps = None if parts is None else parts.load(block.number, _fingerprint(block)[: block.rows])
            if gaps is None:
                gaps = _measure_block(model, posterior, block, plan, seed, kl_weight, fitted)
                if parts is not None:
                    parts.save(block.number, gaps)
            measured_blocks.append(gaps)
            report(before + block.rows)
    return _masked(_joined(measured_blocks))


def _measure_block(
    model: LatentModel,
    posterior: Posterior,
    block: Block,
    plan: Plan,
    seed: int,
    kl_weight: float,
    fitted: Callable[[int, int], None],
) -> Gaps:
    """The ladder of one block, cut to its real rows; `fitted` is called with (rungs fitted, rungs in all)."""
    with torch.no_grad():
        encoder = posterior.rows(block.index)(block.x)
    own = encoder.family if isinstance(encoder, VariationalDistribution) else None
    ids, work = block.index.numpy(), {"elbo": 0.5 * plan.n_elbo}
    elbo = _encoder_elbo(model, encoder, block, plan, seed)
    fitted(0, len(plan.rungs))
    rungs = fit_rungs(model, posterior, block, plan, seed, own, kl_weight, fitted)
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
    return Gaps(
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
        fingerprint=_fingerprint(block)[rows],
    )


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


def _joined(blocks: Sequence[Gaps]) -> Gaps:
    """Blocks as one: all have estimates of the same names, so columns concatenate; work is averaged over data."""
    first, rows = blocks[0], np.array([len(block) for block in blocks], dtype=np.float64)
    return replace(
        first,
        elbo=concatenate([block.elbo for block in blocks]),
        local={name: concatenate([block.local[name] for block in blocks]) for name in first.local},
        log_evidence=concatenate([block.log_evidence for block in blocks]),
        shortfall={name: concatenate([block.shortfall[name] for block in blocks]) for name in first.shortfall},
        fits={name: FitReport.concatenated([block.fits[name] for block in blocks]) for name in first.fits},
        flags=np.concatenate([block.flags for block in blocks]),
        chosen=np.concatenate([block.chosen for block in blocks]),
        candidates={name: concatenate([block.candidates[name] for block in blocks]) for name in first.candidates},
        k_hat=np.concatenate([block.k_hat for block in blocks]),
        work={name: float(np.average([block.work[name] for block in blocks], weights=rows)) for name in first.work},
        fingerprint=np.concatenate([block.fingerprint for block in blocks if block.fingerprint is not None]),
    )


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


def _with_ids(gaps: Gaps, ids: Sequence[int] | None) -> Gaps:
    if ids is None:
        return gaps
    named = np.asarray(ids, dtype=np.int64)
    if len(np.unique(named)) != len(named):
        raise ValueError(f"ids must be unique; got {len(named) - len(np.unique(named))} that occur before")

    def put(estimates: Mapping[str, Estimate]) -> dict[str, Estimate]:
        return {name: replace(estimate, ids=named) for name, estimate in estimates.items()}

    return replace(
        gaps,
        elbo=replace(gaps.elbo, ids=named),
        log_evidence=replace(gaps.log_evidence, ids=named),
        local=put(gaps.local),
        shortfall=put(gaps.shortfall),
        candidates=put(gaps.candidates),
    )


def _notes(
    model: LatentModel, x: Rows | MapStyle, kl_weight: float, objective: str | None, gaps: Gaps, plan: Plan
) -> tuple[str, ...]:
    """What a reader of the table must know."""
    notes = list(data_notes(model, x))
    if objective is not None:
        notes.append(f"q was trained on another objective ({objective}): amortization includes that mismatch")
    elif kl_weight == 1.0:
        notes.append("assumes training on the ELBO (declare kl_weight= or objective= otherwise)")
    if gaps.family is None:
        notes.append("the family of q is unknown: only its inference gap is a step, other families are shown beside it")
    elif not gaps.ladder:
        notes.append(
            f"q's own family ({gaps.family}) is not fitted to {latent_size(model)} latents: only its inference gap is "
            "a step, other families are shown beside it"
        )
    steps = [rung.name for rung in gaps.possible_rungs if rung.name in plan.rungs and rung.name not in gaps.local]
    for kind in (FAMILIES[name] for name in steps):
        if kind.max_size is not None and latent_size(model) > kind.max_size:
            notes.append(
                f"{kind.members} is left out above {kind.max_size} latents: the steps on either side of it are one"
            )
    return tuple(notes)


def _fingerprint(block: Block) -> NDArray[np.int64]:
    """A hash of each row's numbers, covariates included and in single precision: did two runs with the same ids see the
    same data?
    """
    parts = [block.x[key] for key in sorted(block.x)] if isinstance(block.x, Mapping) else [block.x]
    flat = torch.cat([part.reshape(len(part), -1).float().double().cpu() for part in parts], dim=1)
    weights = torch.linspace(1.0, 2.0, flat.shape[1], dtype=torch.float64)
    return ((flat * weights).sum(1) * 2**20).round().to(torch.int64).numpy()
