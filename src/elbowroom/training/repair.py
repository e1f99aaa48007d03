"""The verdict as an experiment: retrain the encoder alone, and see whether the nats that the ladder found come back.

With the decoder frozen, log p(x) and every L[q*] stay what they are, so L[q_new] - L[q_old] is amortization recovered.
Of the amortization gap of held-out data, what is there on training data too is capacity or optimization, which a better
encoder recovers; the rest is generalization, which it may not.
"""

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
    """What the ladder said was there, and what came back.

    Attributes:
        before: the ladders of the old encoder, "train" and "heldout", on a random sample of each.
        recovered: L[q_new] - L[q_old] of the same data, paired.
        epochs: of the new encoder's training.
    """

    before: Mapping[str, Gaps]
    recovered: Mapping[str, Estimate]
    epochs: tuple[Epoch, ...]

    @property
    def capacity(self) -> tuple[float, float]:
        """Capacity part of the held-out amortization gap, and its error: at most the training data's, in nats."""
        there, heldout = self.before["train"].amortization, self.before["heldout"].amortization
        smaller = min(there, heldout, key=lambda estimate: estimate.mean)
        return smaller.mean, smaller.se

    @property
    def share(self) -> float:
        """Held-out nats recovered, as a share of the capacity part; NaN where there is none."""
        part = self.capacity[0]
        return self.recovered["heldout"].mean / part if part > 0 else float("nan")

    def to_json(self) -> dict[str, Any]:
        """The figures as JSON can hold them, in nats: (mean, se) of each."""
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
        q: the posterior to repair, not touched. new_q: its successor: a copy, or an encoder of another size or family.
        train: data to train on. heldout: data to report on; they decide nothing.
        settings, out, config, progress: as of `fit`. stop_by: its `heldout`, for `settings.patience`.
        done: the epochs of a new_q that is trained already; it is then only measured.
        n: how many of each set are measured. plan: by which plan the ladder is. check: look at the first rows first.
    Raises:
        TypeError: q has no known family, so no amortization can be told. What `fit` raises.
    """
    samples = {name: _sample(x, n, settings.seed, name) for name, x in (("train", train), ("heldout", heldout))}
    before = {}
    for offset, (name, x) in enumerate(samples.items()):
        ids = np.arange(n_data(x)) + offset * n_data(as_data(train))
        before[name] = decompose(model, q, x, plan=plan, seed=settings.seed, ids=ids.tolist(), check=check)
    if not all(gaps.ladder for gaps in before.values()):
        raise TypeError("repair needs a q of a known family: of this one the amortization cannot be told")
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
