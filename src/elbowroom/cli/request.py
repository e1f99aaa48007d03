"""What `elbowroom gaps` was asked to measure, in words, with which any process opens the same model and data."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..measure import Measurement, PlanName, measurement
from .data_spec import Sample, Sets, open_sets, samples
from .model_spec import LoadedModel, load_weights, open_model, to_device
from .options import DataChoice
from .terminal import UserError

__all__ = ["Opened", "Request", "opened"]


@dataclass(frozen=True, kw_only=True)
class Request:
    """The options of `elbowroom gaps` that say what is measured; the command's help explains them."""

    model: str
    choice: DataChoice
    n: int | None
    first: int | None
    seed: int
    plan: PlanName
    refine_on: int | None
    refine_plan: PlanName
    device: str | None
    kl_weight: float
    objective: str | None
    weights: Path | None
    unfinished: bool


@dataclass(frozen=True, kw_only=True)
class Opened:
    """The model and the data behind a request, and what is to be measured of each set, by its name."""

    loaded: LoadedModel
    found: Sets
    chosen: Mapping[str, Sample]
    measurements: Mapping[str, Measurement]


def opened(request: Request) -> Opened:
    """Open what a request names. UserError for what cannot be opened or is not there."""
    loaded = open_model(request.model, request.unfinished)
    found = open_sets(loaded, request.choice, request.model, request.seed)
    if request.weights is not None:
        load_weights(loaded, request.weights)
    if request.device is not None:
        to_device(loaded, request.device)
    chosen = samples(found, request.n, request.first, request.seed)
    for name, sample in chosen.items():
        if request.refine_on is not None and not 2 <= request.refine_on <= len(sample.ids):
            many = len(sample.ids)
            raise UserError(f"--refine-on {request.refine_on}: expected 2 to {many}, the number of data of {name}")
    measurements = {
        name: measurement(
            loaded.model, loaded.q, sample.x, request.plan, request.seed, request.kl_weight, request.objective,
            ids=sample.ids.tolist(), refine_on=request.refine_on, refine_plan=request.refine_plan,
        )
        for name, sample in chosen.items()
    }  # fmt: skip
    return Opened(loaded=loaded, found=found, chosen=chosen, measurements=measurements)
