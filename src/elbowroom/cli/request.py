"""What `gaps` or `paper` is asked to measure, in words, with which any process opens the same model and data."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..core import MapStyle, Rows
from ..measure import Measurement, PlanLike, PlanName, measurement
from .data_spec import Sample, Sets, open_sets, samples
from .model_spec import LoadedModel, load_weights, open_model, to_device
from .options import DataChoice
from .terminal import UserError

__all__ = ["Opened", "Request", "SentData", "measurement_of", "measurements_of", "opened", "sent"]

Arrays: TypeAlias = NDArray[Any] | Mapping[str, NDArray[Any]] | None
SentData: TypeAlias = Mapping[str, tuple[Arrays, NDArray[np.int64]]]  # the data and the ids of each set


@dataclass(frozen=True, kw_only=True)
class Request:
    """The options of `elbowroom gaps` that say what is measured; the command's help explains them."""

    model: str
    choice: DataChoice
    n: int | None
    first: int | None
    seed: int
    plan: PlanLike
    refine_on: int | None
    refine_plan: PlanName
    device: str | None
    kl_weight: float
    objective: str | None
    weights: Path | None
    unfinished: bool


@dataclass(frozen=True, kw_only=True)
class Opened:
    """The model and the data behind a request, and what is to be measured of each set, by its name.

    The sets of which the data were chosen are not kept.
    """

    request: Request
    loaded: LoadedModel
    found: Sets
    chosen: Mapping[str, Sample]
    measurements: Mapping[str, Measurement]


def opened(request: Request, last: Opened | None = None) -> Opened:
    """Open what a request names. UserError for what cannot be opened or is not there.

    Args:
        last: what was opened last. If its data are the same, they are not read again.
    """
    loaded = _loaded(request)
    if last is not None and _asks_for_the_data_of(last, request, loaded):
        found, chosen = last.found, last.chosen
    else:
        found = open_sets(loaded, request.choice, request.model, request.seed)
        chosen = samples(found, request.n, request.first, request.seed)
    for name, sample in chosen.items():
        if request.refine_on is not None and not 2 <= request.refine_on <= len(sample.ids):
            many = len(sample.ids)
            raise UserError(f"--refine-on {request.refine_on}: expected 2 to {many}, the number of data of {name}")
    measurements = {name: _measurement(request, loaded, sample) for name, sample in chosen.items()}
    loaded, found = replace(loaded, sets={}), replace(found, sets={})  # what was not chosen need not stay in memory
    return Opened(request=request, loaded=loaded, found=found, chosen=chosen, measurements=measurements)


def sent(chosen: Mapping[str, Sample]) -> SentData:
    """Data as arrays that other processes can be sent; None for a set that is read row by row."""
    return {name: (_arrays(sample.x), sample.ids) for name, sample in chosen.items()}


def measurement_of(request: Request, name: str, data: SentData) -> Measurement:
    """What is measured of one set, of data that were sent; a process opens a request once."""
    global _ready
    if _ready is None or _ready[0] != request:
        _ready = request, measurements_of(request, data)
    return _ready[1][name]


def measurements_of(request: Request, data: SentData) -> Mapping[str, Measurement]:
    """What is measured of each set, of data that were sent."""
    if any(arrays is None for arrays, _ in data.values()):
        return opened(request).measurements
    loaded = _loaded(request)
    samples_of = {name: Sample(_tensors(arrays), ids) for name, (arrays, ids) in data.items()}
    return {name: _measurement(request, loaded, sample) for name, sample in samples_of.items()}


_ready: tuple[Request, Mapping[str, Measurement]] | None = None  # in a worker: what it has opened


def _asks_for_the_data_of(last: Opened, request: Request, loaded: LoadedModel) -> bool:
    """Whether a request takes the same rows of the sets that its model and the last one were both trained on."""
    before = last.request
    return (
        bool(loaded.trained_on)
        and loaded.trained_on == last.loaded.trained_on
        and request.choice.data is None
        and (request.choice, request.n, request.first, request.seed)
        == (before.choice, before.n, before.first, before.seed)
    )


def _loaded(request: Request) -> LoadedModel:
    loaded = open_model(request.model, request.unfinished)
    if request.weights is not None:
        load_weights(loaded, request.weights)
    if request.device is not None:
        to_device(loaded, request.device)
    return loaded


def _measurement(request: Request, loaded: LoadedModel, sample: Sample) -> Measurement:
    return measurement(
        loaded.model, loaded.q, sample.x, request.plan, request.seed, request.kl_weight, request.objective,
        ids=sample.ids.tolist(), refine_on=request.refine_on, refine_plan=request.refine_plan,
    )  # fmt: skip


def _arrays(x: Rows | MapStyle) -> Arrays:
    if isinstance(x, Tensor):
        return x.cpu().numpy()
    return {key: value.cpu().numpy() for key, value in x.items()} if isinstance(x, Mapping) else None


def _tensors(arrays: Arrays) -> Rows:
    """Tensors of arrays that are shared with other processes, and are never written to."""
    assert arrays is not None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        if isinstance(arrays, Mapping):
            return {key: torch.from_numpy(value) for key, value in arrays.items()}
        return torch.from_numpy(arrays)
