r"""The ladder of an ELBO: where it loses nats against log p(x), step by step, each step named after the assumption it costs.

    L[q] | amortization | L[q*_diagonal] | factorization | L[q*_full] | gaussianity | L[q*_flow] | remainder | log p(x)

Each rung is an ELBO of a better q for the same datum and the same decoder (Cremer, Li and Duvenaud 2018). A rung that is not
fitted merges its step into the next. Where q is not a diagonal Gaussian, amortization is measured against the best
member of q's own family, and smaller families are shown beside the ladder.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from . import store
from .ais import Schedule
from .blocks import Block, as_data, n_data
from .bounds import block_log_weights, elbo_of, prepared
from .checks import data_notes
from .estimate import Array, Estimate, concatenate
from .evidence import EvidencePlan, Flag, block_evidence
from .families import CouplingFlow, DiagonalGaussian, Family, FullGaussian, Params
from .local import BUDGETS, Budget, Fit, Outcome, fit_block, start_of
from .model import Tempered, latent_size
from .posteriors import Conditioned
from .table import ladder_table

__all__ = ["PLANS", "Gaps", "Plan", "compare", "decompose", "load_gaps"]

MAX_FULL_SIZE = 300
LADDERS = {
    "diagonal": ("diagonal", "full", "flow"),
    "full": ("full", "flow"),
    "flow": ("flow",),
    "auxiliary": ("auxiliary",),
}
LEAVING = {"diagonal": "factorization", "full": "gaussianity", "flow": "remainder", "auxiliary": "remainder"}


@dataclass(frozen=True)
class Plan:
    """Which rungs are fitted and what each stage may spend.

    `rungs`: of "diagonal", "full", "flow"; `n_elbo`: samples of each reported ELBO; `budgets`: of the local fits;
    `evidence`: of the log-evidence estimators.
    """

    name: str = "custom"
    rungs: tuple[str, ...] = ("diagonal", "full")
    n_elbo: int = 512
    budgets: Mapping[str, Budget] = field(default_factory=lambda: dict(BUDGETS))
    evidence: EvidencePlan = EvidencePlan()

    def __post_init__(self) -> None:
        unknown = set(self.rungs) - {"diagonal", "full", "flow"}
        if unknown or "diagonal" not in self.rungs:
            raise ValueError(f'rungs must hold "diagonal" and may hold "full" and "flow"; got {self.rungs}')


_THOROUGH = dict(BUDGETS) | {
    "full": Budget(200, 16, 0.007),
    "diagonal": Budget(200, 8, 0.2, tolerance=0.03, n_evaluation=64),
}
PLANS = {
    "quick": Plan("quick", ("diagonal",), 256, evidence=EvidencePlan(1000, 256, None)),
    "standard": Plan("standard"),
    "precise": Plan("precise", n_elbo=1024, budgets=_THOROUGH, evidence=EvidencePlan(8000, 1024, Schedule(30, 2, 32))),
}


@dataclass(frozen=True)
class Gaps:
    """What `decompose` found. Estimates are per datum, in nats; data without a finite value on a fitted rung are NaN in all.

    Attributes:
        elbo: L[q]. local: the fitted rungs by family. log_evidence: the best lower bound of log p(x).
        fits: outcome of each local fit. flags: (N,) `Flag` of each datum, 0 where fine.
        chosen: (N,) which estimator gave each log evidence. candidates: all of them. k_hat: (N,) of the importance weights.
        work: work units per datum by stage. family: of q, or None. kl_weight: declared. groups: (N,) labels or None.
    """

    elbo: Estimate
    local: dict[str, Estimate]
    log_evidence: Estimate
    fits: dict[str, Fit]
    flags: NDArray[np.int64]
    chosen: NDArray[np.str_]
    candidates: dict[str, Estimate]
    k_hat: Array
    work: dict[str, float]
    family: str | None
    plan: str
    seed: int
    kl_weight: float = 1.0
    groups: NDArray[Any] | None = None
    notes: tuple[str, ...] = ()
    fingerprint: NDArray[np.int64] | None = None

    @property
    def ladder(self) -> tuple[str, ...]:
        """The fitted rungs that form the ladder, from q's own family upwards."""
        return tuple(name for name in LADDERS.get(self.family or "", ()) if name in self.local)

    @property
    def inference(self) -> Estimate:
        """log p(x) - L[q]: all that the ELBO loses."""
        return (self.log_evidence - self.elbo).named("inference")

    @property
    def amortization(self) -> Estimate:
        """L[q*] - L[q] in q's own family: what one network for all data costs."""
        if not self.ladder:
            raise AttributeError("amortization needs a q whose family is known: a Gaussian or one of er's flows")
        return (self.local[self.ladder[0]] - self.elbo).named("amortization")

    @property
    def approximation(self) -> Estimate:
        """log p(x) - L[q*] in q's own family: what the family costs."""
        if not self.ladder:
            raise AttributeError("approximation needs a q whose family is known: a Gaussian or one of er's flows")
        return (self.log_evidence - self.local[self.ladder[0]]).named("approximation")

    @property
    def steps(self) -> dict[str, Estimate]:
        """The steps of the ladder in order; they add up to the inference gap, datum by datum."""
        if not self.ladder:
            return {"inference": self.inference}
        own = self.ladder[0]
        found: dict[str, Estimate] = {}
        if "tempered" in self.local:
            found["encoder"] = (self.local["tempered"] - self.elbo).named("encoder")
            found["mismatch"] = (self.local[own] - self.local["tempered"]).named("mismatch")
        else:
            found["amortization"] = self.amortization
        for lower, upper in zip(self.ladder, (*self.ladder[1:], None), strict=True):
            name = self._step_name(lower, upper)
            top = self.log_evidence if upper is None else self.local[upper]
            found[name] = (top - self.local[lower]).named(name)
        return found

    def _step_name(self, lower: str, upper: str | None) -> str:
        """The assumptions between two rungs, joined where rungs in between were not fitted."""
        order = LADDERS[self.family or ""]
        stop = len(order) if upper is None else order.index(upper)
        names = [LEAVING[rung] for rung in order[order.index(lower) : stop]]
        if upper is None and names[-1] != "remainder":
            names.append("remainder")
        return " + ".join(names)

    def __getattr__(self, name: str) -> Estimate:
        if name in ("factorization", "gaussianity", "remainder", "mismatch", "encoder"):
            if name in self.steps:
                return self.steps[name]
            how = (
                "kl_weight="
                if name in ("mismatch", "encoder")
                else 'a plan with the rungs around it, such as "standard"'
            )
            if name in ("gaussianity", "remainder"):
                how = 'a plan with rungs ("diagonal", "full", "flow")'
            raise AttributeError(
                f"{name} was not measured on its own; steps are {list(self.steps)}. Ask for it with {how}."
            )
        raise AttributeError(f"Gaps has no attribute {name!r}")

    @property
    def ids(self) -> NDArray[np.int64]:
        """(N,) identity of each datum."""
        return self.elbo.ids

    @property
    def n_excluded(self) -> int:
        """How many data are left out of every mean."""
        return self.log_evidence.n_excluded

    def __len__(self) -> int:
        return len(self.elbo)

    def __str__(self) -> str:
        return ladder_table(self)

    def save(self, folder: str | Path, overwrite: bool = False) -> None:
        """Write a run folder that `load_gaps` reads. Raises `store.RunError` where the folder is in use."""
        columns: dict[str, NDArray[Any]] = {
            "id": self.ids,
            "flags": self.flags,
            "chosen": self.chosen,
            "k_hat": self.k_hat,
        }
        if self.groups is not None:
            columns["group"] = self.groups
        if self.fingerprint is not None:
            columns["fingerprint"] = self.fingerprint
        sides, keys = {}, {}
        for name, estimate in self._named().items():
            columns[name], sides[name], keys[name] = estimate.values, [estimate.name, estimate.side], []
            for i, (key, noise) in enumerate(estimate.noise.items()):
                columns[f"{name}.noise{i}"] = noise.T
                keys[name].append(list(key) if isinstance(key, tuple) else key)
        for name, fit in self.fits.items():
            columns[f"outcome.{name}"], columns[f"steps.{name}"] = fit.outcome, fit.steps
            columns[f"work.{name}"] = fit.work
        meta = {
            "family": self.family, "plan": self.plan, "seed": self.seed, "kl_weight": self.kl_weight, "work": self.work,
            "notes": list(self.notes), "estimates": sides, "noise": keys, "fits": list(self.fits), "n": len(self),
        }  # fmt: skip
        store.write_run(folder, meta, columns, overwrite)

    def _named(self) -> dict[str, Estimate]:
        """Every measured estimate under the name of its column."""
        rungs = {f"local.{name}": estimate for name, estimate in self.local.items()}
        others = {f"candidate.{name}": estimate for name, estimate in self.candidates.items()}
        return {"elbo": self.elbo, **rungs, "log_evidence": self.log_evidence, **others}


def load_gaps(folder: str | Path) -> Gaps:
    """A saved `Gaps`, its errors and their covariances included. Raises `store.RunError` where there is none."""
    meta, columns = store.read_run(folder)
    found: dict[str, Estimate] = {}
    for name, (label, side) in meta["estimates"].items():
        noise = {_key(key): columns[f"{name}.noise{i}"].T for i, key in enumerate(meta["noise"][name])}
        found[name] = Estimate(label, columns[name], side, noise, columns["id"])
    fits = {
        name: Fit(None, columns[f"outcome.{name}"], columns[f"steps.{name}"], columns[f"work.{name}"])
        for name in meta["fits"]
    }
    return Gaps(
        found["elbo"], _under("local.", found), found["log_evidence"], fits, columns["flags"], columns["chosen"].astype(str),
        _under("candidate.", found), columns["k_hat"], meta["work"], meta["family"], meta["plan"], meta["seed"],
        meta["kl_weight"], columns.get("group"), tuple(meta["notes"]), columns.get("fingerprint"),
    )  # fmt: skip


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
) -> Gaps:
    """Measure each datum's ladder.

    Args:
        model: a `LatentModel`, such as `DecoderModel`. q: a posterior, or a callable x -> torch Distribution.
        x: N data. plan: "quick", "standard", "precise" or a `Plan`. seed: of every draw.
        kl_weight: the beta that q was trained with; other than 1, amortization is split into encoder and mismatch.
        objective: a label for any other objective ("iwae", "free bits"), printed with the table.
        groups: N labels, summed up apart in the table. ids: N integers; row numbers by default.
        progress: called with (data done, data in all) after each block.
    Raises:
        ValueError: no data, an unknown plan, labels that do not match, or a model without one finite number.
    """
    plan = _plan(plan)
    x = as_data(x)
    n = n_data(x)
    if kl_weight <= 0:
        raise ValueError(f"kl_weight must be positive; got {kl_weight}")
    for name, given in (("groups", groups), ("ids", ids)):
        if given is not None and len(given) != n:
            raise ValueError(f"{name} must have one entry per datum, {n}; got {len(given)}")
    parts = []
    with prepared(model, q, x) as (posterior, all_blocks):
        for block in all_blocks:
            parts.append(_decompose_block(model, posterior, block, plan, seed, kl_weight))
            if progress is not None:
                progress(min(n, int(block.index[block.rows - 1]) + 1), n)
    gaps = _assemble(parts, plan, seed, kl_weight)
    notes = _notes(model, x, kl_weight, objective, gaps, plan)
    labels = None if groups is None else np.asarray(groups)
    return _masked(_with_ids(replace(gaps, groups=labels, notes=notes), ids))


def compare(a: Gaps, b: Gaps) -> dict[str, Estimate | tuple[float, float]]:
    """a - b: the difference of ELBOs, split into a difference of log p(x) and one of inference.

    Paired (an `Estimate` per datum) where both hold the same data under the same ids; where no id is shared, each entry is
    the difference of means with its standard error.

    Raises:
        ValueError: ids that coincide while the data differ, or that overlap in part.
    """
    shared = np.intersect1d(a.ids, b.ids)
    terms = {
        "elbo": (a.elbo, b.elbo),
        "log_evidence": (a.log_evidence, b.log_evidence),
        "inference": (a.inference, b.inference),
    }
    if len(shared) == 0:
        return {name: (p.mean - r.mean, float(np.hypot(p.se, r.se))) for name, (p, r) in terms.items()}
    if len(shared) != len(a.ids) or len(shared) != len(b.ids):
        raise ValueError(f"{len(shared)} ids are shared of {len(a)} and {len(b)}: compare the same data, or data apart")
    order = np.argsort(b.ids)[np.searchsorted(np.sort(b.ids), a.ids)]
    if (
        a.fingerprint is not None
        and b.fingerprint is not None
        and not np.array_equal(a.fingerprint, b.fingerprint[order])
    ):
        raise ValueError(
            "the ids coincide but the data differ; give decompose ids= of their own to compare them unpaired"
        )
    return {name: (p - r[order]).named(name) for name, (p, r) in terms.items()}


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
        rung = elbo_of(log_w, ids, label, "lower", key=("rung", name, seed))
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
    """Fit the plan's rungs of one block, each from the one below it, and q's own family from the encoder's answer."""
    start = start_of(DiagonalGaussian(latent_size(model)), posterior, model, block, seed)
    size = latent_size(model)
    fits: dict[str, Fit] = {}
    params: dict[str, Params] = {}

    def fit(name: str, kind: Family, target: Any, begin: Params) -> None:
        budget = plan.budgets.get(kind.name)
        params[name], outcome, steps, work = fit_block(kind, target, block, begin, seed, budget)
        fits[name] = Fit(None, outcome, steps, work)

    fit("diagonal", DiagonalGaussian(size), model, start)
    own_full = family is not None and family.name == "full"
    if ("full" in plan.rungs or own_full) and size <= MAX_FULL_SIZE:
        fit("full", FullGaussian(size), model, params["diagonal"])
    if family is not None and family.name in ("flow", "auxiliary"):
        fit(family.name, family, model, start_of(family, posterior, model, block, seed))
    elif "flow" in plan.rungs and "full" in params and size > 1:
        fit("flow", CouplingFlow(size), model, params["full"])
    if kl_weight != 1.0 and family is not None:
        fit("tempered", family, Tempered(model, kl_weight), start_of(family, posterior, model, block, seed))
    return fits, params


def _family(name: str, model: Any, own: Family | None) -> Family:
    """The family of a rung: q's own where the rung is q's, else the plain one."""
    if own is not None and (name in (own.name, "tempered")):
        return own
    size = latent_size(model)
    return {"diagonal": DiagonalGaussian, "full": FullGaussian, "flow": CouplingFlow}[name](size)


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
        np.concatenate([part.chosen for part in parts]), candidates, np.concatenate([part.k_hat for part in parts]), work,
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
    """A hash of each row's numbers: whether two runs with the same ids saw the same data."""
    data = block.x["x"] if isinstance(block.x, dict) else block.x
    flat = data.flatten(1).double().cpu()
    weights = torch.linspace(1.0, 2.0, flat.shape[1], dtype=torch.float64)
    return ((flat * weights).sum(1) * 2**20).round().to(torch.int64).numpy()


def _under(prefix: str, found: dict[str, Estimate]) -> dict[str, Estimate]:
    return {name.removeprefix(prefix): estimate for name, estimate in found.items() if name.startswith(prefix)}


def _key(key: Any) -> object:
    return tuple(key) if isinstance(key, list) else key
