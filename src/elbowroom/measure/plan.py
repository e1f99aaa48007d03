"""Plans by name: which rungs of the ladder are fitted, and how many samples and temperatures the bounds may use.

The budget of a local fit is its family's own (`posteriors`), unless the plan has one for it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from ..evidence import AnnealingSchedule, EvidencePlan
from ..fits import MULTISTART
from ..posteriors import FAMILIES, Budget, CouplingFlow, DiagonalGaussian, Family, FullGaussian, rung_families
from ..results import suggestion

__all__ = ["PLANS", "Plan", "PlanLike", "PlanName", "adds_flows", "as_plan", "what_decides_gaussians"]

PlanName: TypeAlias = Literal["quick", "standard", "flow", "precise", "published"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which rungs are fitted, and what each stage may spend.

    Attributes:
        name: name of the plan.
        rungs: names of the families to fit; "diagonal" must be one of them.
        n_elbo: samples for each reported ELBO.
        budgets: budgets of local fits by the name of the family, in place of the family's own.
        evidence: budget of the estimators of log p(x).
        multistart: budget of two short fits, the better of which is where the others start; None to start at q's
            answer.
    Raises:
        ValueError: a rung that is no family of the ladder, or no "diagonal" among them.
    """

    name: str = "custom"
    rungs: tuple[str, ...] = (DiagonalGaussian.name, FullGaussian.name)
    n_elbo: int = 512
    budgets: Mapping[str, Budget] = field(default_factory=dict)
    evidence: EvidencePlan = field(default_factory=EvidencePlan)
    multistart: Budget | None = MULTISTART

    def __post_init__(self) -> None:
        known = [family.name for family in rung_families()]
        if not set(self.rungs) <= set(known) or DiagonalGaussian.name not in self.rungs:
            raise ValueError(
                f'rungs must be of {known} and hold "{DiagonalGaussian.name}", which all plans fit; got {self.rungs}'
            )

    def budget(self, family: Family) -> Budget:
        """The budget of local fits of `family`."""
        return self.budgets.get(family.name, family.budget)


PlanLike: TypeAlias = PlanName | Plan

_PUBLISHED = Budget(
    n_steps=100, n_samples=100, learning_rate=1e-3, max_rounds=100, n_evaluation=96, decay=1.0, patience=10, plain=True
)
_STANDARD = EvidencePlan(n_importance=1500, n_pilot=256, n_others=64, annealed_share=0.1, second_opinion=True)
PLANS: dict[PlanName, Plan] = {
    "quick": Plan(
        name="quick",
        rungs=(DiagonalGaussian.name,),
        n_elbo=256,
        evidence=EvidencePlan(n_importance=1000, n_pilot=256, annealing=None),
    ),
    "standard": Plan(name="standard", n_elbo=448, evidence=_STANDARD),
    "flow": Plan(name="flow", rungs=(DiagonalGaussian.name, FullGaussian.name, CouplingFlow.name), evidence=_STANDARD),
    "precise": Plan(
        name="precise",
        n_elbo=1024,
        budgets={
            DiagonalGaussian.name: replace(DiagonalGaussian.budget, tolerance=0.003, n_evaluation=128, min_rounds=2),
            FullGaussian.name: replace(FullGaussian.budget, tolerance=0.003, n_evaluation=128, min_rounds=6),
        },
        evidence=EvidencePlan(
            n_importance=4000,
            n_pilot=1024,
            annealing=AnnealingSchedule(n_temperatures=24, n_leapfrog=2, n_chains=32),
            n_others=512,
            target=0.05,
            second_opinion=True,
        ),
    ),
    "published": Plan(
        name="published",
        rungs=(DiagonalGaussian.name,),
        n_elbo=5000,
        budgets={DiagonalGaussian.name: _PUBLISHED},
        evidence=EvidencePlan(
            n_importance=5000,
            n_pilot=512,
            annealing=AnnealingSchedule(n_temperatures=10_000, n_leapfrog=10, n_chains=100, kind="linear", n_pilots=4),
            n_others=5000,
            base="prior",
        ),
    ),
}


def as_plan(plan: PlanLike) -> Plan:
    """The plan of this name; a `Plan` is returned as it is.

    Raises:
        ValueError: the name of no plan.
    """
    if isinstance(plan, Plan):
        return plan
    if plan not in PLANS:
        raise ValueError(f"plan must be one of {sorted(PLANS)} or a Plan; got {plan!r}.{suggestion(str(plan), PLANS)}")
    return PLANS[plan]


def what_decides_gaussians(plan: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a plan, given as a dictionary, on which its fits of Gaussians depend: all of them start from the
    widest, and flows start from theirs.
    """
    gaussians = sorted(name for name in plan["rungs"] if FAMILIES[name].is_gaussian)
    budgets = {name: budget for name, budget in plan["budgets"].items() if name in gaussians or name not in FAMILIES}
    return {"gaussians": gaussians, "budgets": budgets, "multistart": plan["multistart"]}


def adds_flows(before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the plans of a run, given as dictionaries, fit what other plans fitted, and flows besides."""
    pairs = list(zip(before, now, strict=False))
    same = [_without_name(one) == _without_name(other) for one, other in pairs]
    more = [
        set(one["rungs"]) < set(other["rungs"]) and what_decides_gaussians(one) == what_decides_gaussians(other)
        for one, other in pairs
    ]
    return len(before) == len(now) and any(more) and all(map(any, zip(same, more, strict=True)))


def _without_name(plan: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in plan.items() if key != "name"}
