"""What an experiment is: a question, the models that answer it, and what is made of their ladders."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from numpy.typing import NDArray
from torch import Tensor

from ..measure import PLANS, PlanLike
from ..models import DecoderModel
from ..posteriors import Amortized, AuxiliaryFlow, CouplingFlow
from ..results import Gaps
from .claims import Claim, Decision

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["LADDERS", "SCALES", "NamedArrays", "Experiment", "Findings", "Lab", "Scale", "Trained", "measurable"]

NamedArrays: TypeAlias = Mapping[str, NDArray[Any]]
LADDERS = "ladders"  # what is kept of a model, beside arrays with names: its ladders on both sets


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is measured.

    Attributes:
        name: its name.
        n: the number of data of each set of a model of small images.
        n_large: the same for models of CIFAR-10.
        plan: the plan.
    """

    name: str
    n: int
    n_large: int
    plan: PlanLike


_FEW_STEPS = {  # for the best flow of each datum where q is one, so that most of these fits run out
    CouplingFlow.name: replace(CouplingFlow.budget, n_steps=250, max_rounds=1),
    AuxiliaryFlow.name: replace(AuxiliaryFlow.budget, n_steps=40, max_rounds=2),
}
SCALES = {
    "quick": Scale(name="quick", n=12, n_large=2, plan=replace(PLANS["quick"], name="paper-quick", budgets=_FEW_STEPS)),
    "cpu": Scale(name="cpu", n=250, n_large=100, plan="standard"),
    "full": Scale(name="full", n=1000, n_large=100, plan="published"),
}


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A model of the zoo.

    Attributes:
        model, q: the model and its encoder.
        images: those on which it is measured, (N, *event) each, under "train" and "heldout".
    """

    model: DecoderModel
    q: Amortized
    images: Mapping[str, Tensor]


class Lab(Protocol):
    """Where models are measured, once for all experiments."""

    scale: Scale

    def has(self, models: Sequence[str], takes: Sequence[str] = (LADDERS,)) -> bool:
        """Whether each of these models can be measured, or all that `takes` names is kept of it: `LADDERS`, or names of
        arrays. Of a further training models may be missing.
        """

    def gaps(self, model: str) -> Mapping[str, Gaps]:
        """The ladders of a model of the zoo on training data, "train", and on others, "heldout"; the same data for all
        models of one data set.
        """

    def gaps_of(self, models: Sequence[str]) -> Mapping[str, Mapping[str, Gaps]]:
        """The same of several models, by their names; workers share what is to be measured of all of them."""

    def arrays(self, model: str, name: str, make: Callable[[Trained], NamedArrays]) -> NamedArrays:
        """What `make` computes of a model of the zoo. It is computed once, and kept beside the ladders under `name`."""

    def arrays_of(
        self, models: Sequence[str], name: str, make: Callable[[Trained], NamedArrays]
    ) -> Mapping[str, NamedArrays]:
        """The same of several models, by their names; `make` is a function that other processes can import."""


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What an experiment found.

    Attributes:
        header: the names of the columns of its table.
        rows: the rows of its table.
        decisions: what it says of each of its claims.
        draw: draws its figure, given a figure of matplotlib.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    decisions: Sequence[Decision]
    draw: Callable[["Figure"], None]


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """An experiment.

    Attributes:
        name: its name on the command line.
        section: the section of the paper.
        question: what is asked.
        how: what is measured, and on which models.
        models: the names of the models in the zoo.
        claims: the claims that it decides.
        run: measures the models in a lab.
        takes: what it needs of every model: `LADDERS`, or names of arrays.
    """

    name: str
    section: str
    question: str
    how: str
    models: Sequence[str]
    claims: Sequence[Claim]
    run: Callable[[Lab], Findings]
    takes: Sequence[str] = (LADDERS,)


def measurable(experiment: Experiment, lab: Lab) -> list[str]:
    """Its models, or, where a further training lacks some, those of the claims that it can decide."""
    if lab.has(experiment.models):
        return list(experiment.models)
    decided = [claim.models for claim in experiment.claims if lab.has(claim.models)]
    return [model for model in experiment.models if any(model in each for each in decided)]
