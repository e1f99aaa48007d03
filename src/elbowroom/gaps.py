r"""The ladder of an ELBO: where it loses nats against log p(x), step by step, each step named after the assumption it
costs.

    L[q] | amortization | L[q*_diagonal] | factorization | L[q*_full] | gaussianity | L[q*_flow] | remainder | log p(x)

Each rung is an ELBO of a better q for the same datum and the same decoder (Cremer, Li and Duvenaud 2018). A rung that
is not fitted merges its step into the next. Where q is not a diagonal Gaussian, amortization is measured against the
best member of q's own family, and smaller families are shown beside the ladder. With `refine_on` a cheap plan measures
all data, a dear one a random sample of them (`twophase`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .ais import Schedule
from .blocks import Block, as_data, n_data, take
from .bounds import block_log_weights, elbo_of, prepared
from .checks import data_notes
from .estimate import Array, Estimate, concatenate
from .evidence import EvidencePlan, Flag, block_evidence
from .families import CouplingFlow, DiagonalGaussian, Family, FullGaussian, Params
from .ladder import Gaps
from .local import BUDGETS, RACE, Budget, Fit, Outcome, fit_block, raced_start, start_of
from .model import Tempered, latent_size
from .posteriors import Conditioned, Local
from .twophase import combine, refined_rows, second_seed

__all__ = ["PLANS", "Plan", "decompose", "fit_rungs"]

MAX_FULL_SIZE = 300
FLOW_RANK = 16  # directions that the rung "flow" may bend
RUNGS = ("diagonal", "full", "flow", "auxiliary", "tempered")  # in the order of the ladder


@dataclass(frozen=True)
class Plan:
    """Which rungs are fitted and what each stage may spend.

    `rungs`: of "diagonal", "full", "flow"; `n_elbo`: samples of each reported ELBO; `budgets`: of the local fits;
    `race`: of the two short fits whose better end the others start from; None to start at q's answer; `evidence`: of
    the log-evidence estimators.
    """

    name: str = "custom"
    rungs: tuple[str, ...] = ("diagonal", "full")
    n_elbo: int = 512
    budgets: Mapping[str, Budget] = field(default_factory=lambda: dict(BUDGETS))
    evidence: EvidencePlan = field(default_factory=EvidencePlan)
    race: Budget | None = RACE

    def __post_init__(self) -> None:
        unknown = set(self.rungs) - {"diagonal", "full", "flow"}
        if unknown or "diagonal" not in self.rungs:
            raise ValueError(f'rungs must hold "diagonal" and may hold "full" and "flow"; got {self.rungs}')


_THOROUGH = dict(BUDGETS) | {"full": replace(BUDGETS["full"], n_samples=24, tolerance=0.03)}
_PUBLISHED = Budget(100, 100, 1e-3, max_rounds=100, n_evaluation=96, decay=1.0, patience=10, plain=True)
PLANS = {
    "quick": Plan("quick", ("diagonal",), 256, evidence=EvidencePlan(1000, 256, None)),
    "standard": Plan("standard"),
    "flow": Plan("flow", ("diagonal", "full", "flow")),
    "precise": Plan(
        "precise", n_elbo=1024, budgets=_THOROUGH,
        evidence=EvidencePlan(4000, 1024, Schedule(24, 2, 32), n_others=512, target=0.05),
    ),
    "published": Plan(
        "published", ("diagonal",), 5000, {"diagonal": _PUBLISHED},
        EvidencePlan(5000, 512, Schedule(10_000, 10, 100, "linear", n_pilots=4), n_others=5000, base="prior"),
    ),
}  # fmt: skip


def decompose(
    model: Any,
    q: Any,
    x: Any,
    plan: str | Plan = "standard",
    seed: int = 0,
    kl_weight: float = 1.0,
    objective: str | None = None,
    groups: Sequence[Any] | None = None,
    ids: Sequence[int] | None = None,
    progress: Callable[[int, int], None] | None = None,
    refine_on: int | None = None,
    refine_plan: str | Plan = "standard",
) -> Gaps:
    """Measure each datum's ladder.

    Args:
        model: a `LatentModel`, such as `DecoderModel`. q: a posterior, or a callable x -> torch Distribution.
        x: N data. seed: of every draw.
        plan: "quick" (screening: no full Gaussian, no annealing), "standard" (log p(x) within 0.03 nats of a datum on
            average, where nothing is flagged), "flow" (and a local flow), "precise" (an error of log p(x) of at most
            0.05 nats for each datum, or a flag), "published" (the paper's protocol: 10 million gradients per datum), or
            a `Plan`.
        kl_weight: the beta that q was trained with; other than 1, amortization is split into encoder and mismatch.
        objective: a label for any other objective ("iwae", "free bits"), printed with the table.
        groups: N labels, summed up apart in the table. ids: N integers; row numbers by default.
        progress: called with (data done, data in all) after each block; data that are refined count twice.
        refine_on: how many data, drawn at random, `refine_plan` measures too. The others are measured by `plan` alone
            and corrected by the mean difference: means are those of `refine_plan`, single values predictions of it.
    Raises:
        ValueError: no data, an unknown plan, labels that do not match, a number to refine that is not between 2 and
            that of the data, or a model without one finite number.
    """
    plan, refine_plan = _plan(plan), _plan(refine_plan)
    x = as_data(x)
    n = n_data(x)
    if kl_weight <= 0:
        raise ValueError(f"kl_weight must be positive; got {kl_weight}")
    for name, given in (("groups", groups), ("ids", ids)):
        if given is not None and len(given) != n:
            raise ValueError(f"{name} must have one entry per datum, {n}; got {len(given)}")
    if refine_on is not None and not 2 <= refine_on <= n:
        raise ValueError(f"refine_on must be between 2 and {n}, the number of data; got {refine_on}")
    if refine_on == n:
        plan, refine_on = refine_plan, None
    total = n + (refine_on or 0)

    def report(done: int) -> None:
        if progress is not None:
            progress(done, total)

    gaps = _with_ids(_measure(model, q, x, plan, seed, kl_weight, report), ids)
    if refine_on is not None:
        rows, plan = refined_rows(n, refine_on, seed), refine_plan
        own, draws = q.rows(rows) if isinstance(q, Local) else q, second_seed(seed)
        dear = _measure(model, own, take(x, rows), plan, draws, kl_weight, lambda done: report(n + done))
        gaps = combine(gaps, dear, rows.numpy())
    notes = gaps.notes + _notes(model, x, kl_weight, objective, gaps, plan)
    return replace(gaps, groups=None if groups is None else np.asarray(groups), notes=notes)


def _measure(
    model: Any, q: Any, x: Any, plan: Plan, seed: int, kl_weight: float, report: Callable[[int], None]
) -> Gaps:
    """One plan on all of x, without notes; `report` is called with the number of data done."""
    parts = []
    with prepared(model, q, x) as (posterior, all_blocks):
        for block in all_blocks:
            parts.append(_decompose_block(model, posterior, block, plan, seed, kl_weight))
            report(int(block.index[block.rows - 1]) + 1)
    return _masked(_assemble(parts, plan, seed, kl_weight))


@dataclass(frozen=True)
class _BlockResult:
    """One block's estimates and diagnostics, cut to its real rows."""

    estimates: dict[str, Estimate]
    candidates: dict[str, Estimate]
    fits: dict[str, Fit]
    flags: NDArray[np.int64]
    chosen: NDArray[np.str_]
    k_hat: Array
    work: dict[str, float]
    rows: int
    family: str | None
    fingerprint: NDArray[np.int64]


def _decompose_block(model: Any, posterior: Any, block: Block, plan: Plan, seed: int, kl_weight: float) -> _BlockResult:
    with torch.no_grad():
        encoder = posterior.rows(block.index)(block.x)
    family = getattr(encoder, "family", None)
    ids, work = block.index.numpy(), {"elbo": 0.5 * plan.n_elbo}
    log_w = block_log_weights(model, encoder, block, plan.n_elbo, seed, "elbo")
    estimates = {"elbo": elbo_of(log_w, ids, "L[q]", key=("elbo", seed))}
    fits, params = fit_rungs(model, posterior, block, plan, seed, family, kl_weight)
    flags = np.zeros(len(ids), dtype=np.int64)
    for name, fit in fits.items():
        dist = Conditioned(_family(name, model, family), params[name])
        log_w = block_log_weights(model, dist, block, plan.n_elbo, seed, f"final-{name}")
        label = "L[q*_b]" if name == "tempered" else f"L[q*_{name}]"
        side = "neither" if name == "tempered" else "lower"  # not the best q of its ELBO, and no bound of that
        rung = elbo_of(log_w, ids, label, side, key=("rung", name, seed))
        estimates[name] = rung.where(fit.outcome != Outcome.DIVERGED)
        flags |= np.where(fit.outcome == Outcome.DIVERGED, int(Flag.FIT_DIVERGED), 0)
        flags |= np.where(fit.outcome == Outcome.RAN_OUT, int(Flag.FIT_RAN_OUT), 0)
        work[f"fit {name}"] = float(fit.work[: block.rows].mean()) + 0.5 * plan.n_elbo
    best = params.get("full", params["diagonal"])
    others = {"encoder": encoder}
    if "flow" in params:
        others["flow"] = Conditioned(_family("flow", model, family), params["flow"])
    evidence = block_evidence(model, block, best, plan.evidence, seed, others)
    estimates["log_evidence"] = evidence.estimate
    for estimate in estimates.values():
        flags |= np.where(estimate.finite, 0, int(Flag.NOT_FINITE))
    keep = slice(0, block.rows)
    return _BlockResult(
        {name: estimate[keep] for name, estimate in estimates.items()},
        {name: estimate[keep] for name, estimate in evidence.candidates.items()},
        {
            name: replace(fit, outcome=fit.outcome[keep], steps=fit.steps[keep], work=fit.work[keep])
            for name, fit in fits.items()
        },
        (flags | evidence.flags)[keep],
        evidence.chosen[keep],
        evidence.k_hat[keep],
        work | {f"evidence {name}": units for name, units in evidence.work.items()},
        block.rows,
        None if family is None else family.name,
        _fingerprint(block)[keep],
    )


def fit_rungs(
    model: Any, posterior: Any, block: Block, plan: Plan, seed: int, family: Family | None, kl_weight: float = 1.0
) -> tuple[dict[str, Fit], dict[str, Params]]:
    """Fit the plan's rungs of one block, and q's own family from the encoder's answer.

    The full Gaussian comes first, from a raced start: its steps are blind to the posterior's scales and correlations.
    The diagonal one begins at the best diagonal of that, and the flow at that itself.
    """
    size = latent_size(model)
    fits: dict[str, Fit] = {}
    params: dict[str, Params] = {}

    def fit(name: str, kind: Family, target: Any, begin: Params) -> None:
        budget = plan.budgets.get(kind.name)
        params[name], outcome, steps, work = fit_block(kind, target, block, begin, seed, budget)
        fits[name] = Fit(None, outcome, steps, work)

    start, raced = raced_start(posterior, model, block, seed, plan.race)
    own_full = family is not None and family.name == "full"
    if ("full" in plan.rungs or own_full) and size <= MAX_FULL_SIZE:
        fit("full", FullGaussian(size), model, start)
        start = params["full"]
    fit("diagonal", DiagonalGaussian(size), model, start)
    fits["diagonal"] = replace(fits["diagonal"], work=fits["diagonal"].work + raced)
    if family is not None and family.name in ("flow", "auxiliary"):
        fit(family.name, family, model, start_of(family, posterior, model, block, seed))
    elif "flow" in plan.rungs and "full" in params and size > 1:
        fit("flow", _family("flow", model, family), model, params["full"])
    if kl_weight != 1.0 and family is not None:
        fit("tempered", family, Tempered(model, kl_weight), start_of(family, posterior, model, block, seed))
    return {name: fits[name] for name in RUNGS if name in fits}, params


def _family(name: str, model: Any, own: Family | None) -> Family:
    """The family of a rung: q's own where the rung is q's, else the plain one."""
    if own is not None and (name in (own.name, "tempered")):
        return own
    size = latent_size(model)
    if name == "flow":
        return CouplingFlow(size, n_couplings=8, rank=FLOW_RANK)
    return {"diagonal": DiagonalGaussian, "full": FullGaussian}[name](size)


def _plan(plan: str | Plan) -> Plan:
    if isinstance(plan, Plan):
        return plan
    if plan not in PLANS:
        raise ValueError(f"plan must be one of {sorted(PLANS)} or a Plan; got {plan!r}")
    return PLANS[plan]


def _assemble(parts: list[_BlockResult], plan: Plan, seed: int, kl_weight: float) -> Gaps:
    """Blocks as one. A block's estimates all have the same names, so columns concatenate."""
    joined = {name: concatenate([part.estimates[name] for part in parts]) for name in parts[0].estimates}
    candidates = {name: concatenate([part.candidates[name] for part in parts]) for name in parts[0].candidates}
    fits = {
        name: Fit(
            None,
            *(
                np.concatenate([getattr(part.fits[name], what) for part in parts])
                for what in ("outcome", "steps", "work")
            ),
        )
        for name in parts[0].fits
    }
    rows = np.array([part.rows for part in parts], dtype=np.float64)
    work = {name: float(np.average([part.work[name] for part in parts], weights=rows)) for name in parts[0].work}
    local = {name: joined[name] for name in joined if name not in ("elbo", "log_evidence")}
    return Gaps(
        joined["elbo"], local, joined["log_evidence"], fits, np.concatenate([part.flags for part in parts]),
        np.concatenate([part.chosen for part in parts]), candidates,
        np.concatenate([part.k_hat for part in parts]), work,
        parts[0].family, plan.name, seed, kl_weight, fingerprint=np.concatenate([part.fingerprint for part in parts]),
    )  # fmt: skip


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
    local = {name: rung.where(keep) for name, rung in gaps.local.items()}
    return replace(gaps, elbo=gaps.elbo.where(keep), local=local, log_evidence=gaps.log_evidence.where(keep))


def _with_ids(gaps: Gaps, ids: Sequence[int] | None) -> Gaps:
    if ids is None:
        return gaps
    named = np.asarray(ids, dtype=np.int64)
    if len(np.unique(named)) != len(named):
        raise ValueError("ids must be unique")

    def put(found: dict[str, Estimate]) -> dict[str, Estimate]:
        return {name: replace(estimate, ids=named) for name, estimate in found.items()}

    elbo, log_evidence = replace(gaps.elbo, ids=named), replace(gaps.log_evidence, ids=named)
    return replace(gaps, elbo=elbo, log_evidence=log_evidence, local=put(gaps.local), candidates=put(gaps.candidates))


def _notes(model: Any, x: Any, kl_weight: float, objective: str | None, gaps: Gaps, plan: Plan) -> tuple[str, ...]:
    """What a reader of the table must know."""
    notes = list(data_notes(model, x))
    if objective is not None:
        notes.append(f"q was trained on another objective ({objective}): amortization includes that mismatch")
    elif kl_weight == 1.0:
        notes.append("assumes training on the ELBO (declare kl_weight= or objective= otherwise)")
    if gaps.family is None:
        notes.append("the family of q is unknown: only its inference gap is a step, other families are shown beside it")
    if "full" in plan.rungs and "full" not in gaps.local:
        notes.append(
            f"the full Gaussian is left out above {MAX_FULL_SIZE} latents: factorization is merged into the next step"
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
