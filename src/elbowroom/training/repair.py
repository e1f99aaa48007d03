"""The verdict as an experiment: retrain the encoder alone, and see how much of the gap that was found is recovered.

With the decoder frozen, log p(x) and every L[q*] stay what they are, so L[q_new] - L[q_old] is recovered amortization.
The part of the held-out amortization gap that also shows on training data is capacity or optimization, which a better
encoder recovers; the rest is generalization, which it may not recover.
"""

from __future__ import annotations  # signatures in help() then show types by their names

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..core import Data, Rows, as_data, n_data, read_rows, seeded
from ..evidence import elbo
from ..measure import PlanLike, decompose
from ..models import LatentModel, modules_of
from ..posteriors import PosteriorLike
from ..results import Estimate, Gaps
from .architecture import AmortizedPosterior
from .fit import fit
from .settings import Epoch, Settings

__all__ = ["Repair", "repair"]

REPAIR_SAMPLES = 64


@dataclass(frozen=True)
class Repair:
    """What the ladder found, and what the new encoder recovered.

    Attributes:
        before: ladders of the old encoder on a random sample of each set, under "train" and "heldout".
        recovered: L[q_new] - L[q_old] in nats on the same data, paired, under the same names.
        epochs: the epochs of the new encoder's training.
    """

    before: Mapping[str, Gaps]
    recovered: Mapping[str, Estimate]
    epochs: tuple[Epoch, ...]

    @property
    def capacity(self) -> tuple[float, float]:
        """Mean and error, in nats, of the capacity part: the smaller of the held-out and training amortization gaps."""
        there, heldout = self.before["train"].amortization, self.before["heldout"].amortization
        smaller = min(there, heldout, key=lambda estimate: estimate.mean)
        return smaller.mean, smaller.se

    @property
    def share(self) -> float:
        """Recovered held-out nats as a share of the capacity part; NaN where that part is not positive."""
        part = self.capacity[0]
        return self.recovered["heldout"].mean / part if part > 0 else float("nan")

    def to_json(self) -> dict[str, Any]:
        """The figures in nats as JSON can hold them, each as (mean, standard error)."""
        before = {name: gaps.amortization for name, gaps in self.before.items()}
        return {
            "amortization_before": {name: (e.mean, e.se) for name, e in before.items()},
            "capacity": self.capacity,
            "recovered": {name: (e.mean, e.se) for name, e in self.recovered.items()},
        }

    def __str__(self) -> str:
        part, error = self.capacity
        lines = [f"{'':20}{'held out':>20}{'training':>20}"]
        for label, estimates in (
            ("amortization before", {name: gaps.amortization for name, gaps in self.before.items()}),
            ("recovered", self.recovered),
        ):
            cells = [f"{e.mean:.3f} (se {e.se:.3f})" for e in (estimates["heldout"], estimates["train"])]
            lines.append(f"{label:20}{cells[0]:>20}{cells[1]:>20}")
        heldout, back = self.before["heldout"].amortization, self.recovered["heldout"]
        of = f"Of {heldout.mean:.2f} nats of amortization on held-out data"
        lines += ["", f"{of}, {part:.2f} (se {error:.2f}) are there on training data too: capacity or optimization."]
        if part < 2 * error:
            lines.append("That is within two errors of zero: there was nothing for a new encoder to recover.")
        else:
            lines.append(f"The new encoder recovers {back.mean:.2f} (se {back.se:.2f}): {self.share:.0%} of that part.")
        return "\n".join(lines)


def repair(
    model: LatentModel,
    q: PosteriorLike,
    new_q: AmortizedPosterior,
    train: Data,
    heldout: Data,
    settings: Settings,
    *,
    n: int = 250,
    plan: PlanLike = "quick",
    out: str | Path | None = None,
    config: Mapping[str, Any] | None = None,
    stop_by: Data | None = None,
    done: tuple[Epoch, ...] = (),
    progress: Callable[[Epoch], None] | None = None,
    check: bool = True,
) -> Repair:
    """Train `new_q` in place on the frozen `model`, and compare it with `q` on a random sample of each set.

    Args:
        model: a `LatentModel`.
        q: the posterior to repair; it is not changed.
        new_q: the posterior to train: a copy of q, or one with an encoder of another size or of another family.
        train: data to train on.
        heldout: data to report on; they take no part in the training.
        settings: the settings of the training, as for `fit`.
        n: how many data of each set are measured, at most.
        plan: plan of the ladders.
        out, config, progress: as for `fit`.
        stop_by: held-out data of the training, for `settings.patience`.
        done: epochs of a `new_q` that is already trained; it is then only measured.
        check: look at the first rows before anything is measured, and refuse what cannot be right.
    Raises:
        TypeError: the family of q is unknown, so its amortization cannot be measured.
        ValueError, FloatingPointError: what `decompose` and `fit` raise.
    """
    samples = {name: _sample(x, n, settings.seed, name) for name, x in (("train", train), ("heldout", heldout))}
    before = {}
    for offset, (name, x) in enumerate(samples.items()):
        ids = np.arange(n_data(x)) + offset * n_data(as_data(train))
        before[name] = decompose(model, q, x, plan=plan, seed=settings.seed, ids=ids.tolist(), check=check)
    if not all(gaps.ladder for gaps in before.values()):
        raise TypeError("repair needs a q whose family is known: the amortization gap of this one cannot be measured")
    with _frozen(model):
        epochs = done or fit(model, new_q, train, settings, heldout=stop_by, out=out, config=config, progress=progress)
    recovered = {name: _elbo(model, new_q, x, settings) - _elbo(model, q, x, settings) for name, x in samples.items()}
    return Repair(before, {name: gain.named("recovered") for name, gain in recovered.items()}, epochs)


def _elbo(model: LatentModel, q: PosteriorLike, x: Rows, settings: Settings) -> Estimate:
    return elbo(model, q, x, n_samples=REPAIR_SAMPLES, seed=settings.seed, check=False)


def _sample(x: Data, n: int, seed: int, name: str) -> Rows:
    """A seeded random sample of at most n rows."""
    data = as_data(x)
    return read_rows(data, torch.randperm(n_data(data), generator=seeded(seed, "repair", name))[:n])


@contextmanager
def _frozen(model: LatentModel) -> Iterator[None]:
    """The model's parameters without gradients inside, as they were afterwards."""
    parameters = [p for module in modules_of(model) for p in module.parameters() if p.requires_grad]
    for p in parameters:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in parameters:
            p.requires_grad_(True)
