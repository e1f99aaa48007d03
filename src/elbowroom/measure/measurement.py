"""A measurement as it was asked for: a model, a q and data, and by which plans."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from ..core import BLOCK, Data, MapStyle, Rows, as_data, n_data, read_rows
from ..models import LatentModel, latent_size
from ..posteriors import FAMILIES, Local, PosteriorLike
from ..results import Estimate, Gaps
from .check import data_notes
from .double_sampling import combine, refined_rows, second_phase_seed
from .plan import Plan, PlanLike, as_plan
from .provenance import described, described_data

__all__ = ["Measurement", "Phase", "measurement"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Phase:
    """Data that are measured by one plan. A measurement has one phase, or two if a sample of the data is refined.

    Attributes:
        name: "first" or "second".
        before: how many data are measured by the phases before it.
    """

    name: str
    model: LatentModel
    q: PosteriorLike
    x: Rows | MapStyle
    plan: Plan
    seed: int
    kl_weight: float
    before: int = 0

    @property
    def n_blocks(self) -> int:
        """The number of its blocks."""
        return -(-n_data(self.x) // BLOCK)


@dataclass(frozen=True, kw_only=True, eq=False)
class Measurement:
    """What `decompose` was asked for, checked; `measurement` makes it. The attributes are the arguments of both."""

    model: LatentModel
    q: PosteriorLike
    x: Rows | MapStyle
    plan: Plan
    seed: int
    kl_weight: float
    objective: str | None
    groups: Sequence[object] | None
    ids: Sequence[int] | None
    refine_on: int | None
    refine_plan: Plan

    @property
    def n(self) -> int:
        """The number of data."""
        return n_data(self.x)

    @property
    def total(self) -> int:
        """The number of data to measure, those that are refined counted twice."""
        return self.n + (self.refine_on or 0)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What is measured but for the data, and by what, as JSON can hold it."""
        plans = [self.plan] if self.refine_on is None else [self.plan, self.refine_plan]
        return described(self.model, self.q) | {
            "arguments": {
                "seed": int(self.seed), "kl_weight": self.kl_weight, "objective": self.objective,
                "refine_on": self.refine_on,
            },
            "plans": [asdict(plan) for plan in plans],
        }  # fmt: skip

    @cached_property
    def phases(self) -> tuple[Phase, ...]:
        """The phases, which do not depend on each other's results."""
        first = Phase(
            name="first", model=self.model, q=self.q, x=self.x, plan=self.plan, seed=self.seed, kl_weight=self.kl_weight
        )
        if self.refine_on is None:
            return (first,)
        rows = refined_rows(self.n, self.refine_on, self.seed)
        own = self.q.rows(rows) if isinstance(self.q, Local) else self.q
        draws = second_phase_seed(self.seed)
        x = read_rows(self.x, rows)
        return first, replace(first, name="second", q=own, x=x, plan=self.refine_plan, seed=draws, before=self.n)

    def result(self, found: Sequence[Gaps], unverified: Sequence[str], seconds: float) -> Gaps:
        """The `Gaps` of all data, with labels, notes and provenance.

        Args:
            found: what each phase measured.
            unverified: notes of what `check` could not verify.
            seconds: the time that it took.
        """
        gaps = _with_ids(found[0], self.ids)
        if self.refine_on is not None:
            gaps = combine(gaps, found[1], refined_rows(self.n, self.refine_on, self.seed).numpy())
        labels = None if self.groups is None else np.asarray(self.groups)
        notes = (*gaps.notes, *unverified, *self._notes(gaps))
        provenance = {**self.identity, "data": described_data(self.x), "seconds": round(seconds, 3)}
        return replace(gaps, groups=labels, notes=notes, provenance=provenance)

    def _notes(self, gaps: Gaps) -> tuple[str, ...]:
        """What a reader of the table must know."""
        plan = self.plan if self.refine_on is None else self.refine_plan
        notes = list(data_notes(self.model, self.x))
        if self.objective is not None:
            notes.append(f"q was trained on another objective ({self.objective}): amortization includes that mismatch")
        elif self.kl_weight == 1.0:
            notes.append("assumes training on the ELBO (declare kl_weight= or objective= otherwise)")
        if gaps.family is None:
            notes.append(
                "the family of q is unknown: only its inference gap is a step, other families are shown beside it"
            )
        elif not gaps.ladder:
            notes.append(
                f"q's own family ({gaps.family}) is not fitted to {latent_size(self.model)} latents: only its "
                "inference gap is a step, other families are shown beside it"
            )
        steps = [rung.name for rung in gaps.possible_rungs if rung.name in plan.rungs and rung.name not in gaps.local]
        for kind in (FAMILIES[name] for name in steps):
            if kind.max_size is not None and latent_size(self.model) > kind.max_size:
                notes.append(
                    f"{kind.members} is left out above {kind.max_size} latents: the steps on either side of it are one"
                )
        return tuple(notes)


def measurement(
    model: LatentModel,
    q: PosteriorLike,
    x: Data,
    plan: PlanLike = "standard",
    seed: int = 0,
    kl_weight: float = 1.0,
    objective: str | None = None,
    groups: Sequence[object] | None = None,
    ids: Sequence[int] | None = None,
    refine_on: int | None = None,
    refine_plan: PlanLike = "standard",
) -> Measurement:
    """The measurement with these arguments, which are those of `decompose`.

    Raises:
        TypeError: data that can only be iterated.
        ValueError: no data, an unknown plan, a kl_weight that is not positive, groups or ids of another number than N,
            ids that are not unique, or a `refine_on` that is not between 2 and N.
    """
    first_plan, second_plan = as_plan(plan), as_plan(refine_plan)
    data = as_data(x)
    n = n_data(data)
    if kl_weight <= 0:
        raise ValueError(f"kl_weight must be positive; got {kl_weight}")
    for name, given in (("groups", groups), ("ids", ids)):
        if given is not None and len(given) != n:
            raise ValueError(f"{name} must have one entry per datum, {n}; got {len(given)}")
    repeated = 0 if ids is None else n - len(np.unique(np.asarray(ids, dtype=np.int64)))
    if repeated:
        raise ValueError(f"ids must be unique; got {repeated} that occur before")
    if refine_on is not None and not 2 <= refine_on <= n:
        raise ValueError(f"refine_on must be between 2 and {n}, the number of data; got {refine_on}")
    if refine_on == n:
        first_plan, refine_on = second_plan, None
    return Measurement(
        model=model, q=q, x=data, plan=first_plan, seed=seed, kl_weight=kl_weight, objective=objective, groups=groups,
        ids=ids, refine_on=refine_on, refine_plan=second_plan,
    )  # fmt: skip


def _with_ids(gaps: Gaps, ids: Sequence[int] | None) -> Gaps:
    if ids is None:
        return gaps
    named = np.asarray(ids, dtype=np.int64)

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
